"""The circuit to a router: what opens it, for how long, and what closes it."""

from morpheus_sessions.breaker import FAILURES, FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Breaker


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def opened() -> tuple[Breaker, Clock]:
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(FAILURES):
        breaker.failed()
    return breaker, clock


def test_failures_in_a_row_open_it_and_an_open_that_works_between_them_does_not() -> None:
    breaker = Breaker(Clock())
    for _ in range(3):
        for _ in range(FAILURES - 1):
            breaker.failed()
        breaker.succeeded()
    assert breaker.state.value == "closed"
    assert breaker.may_open(running=3)

    for _ in range(FAILURES):
        breaker.failed()
    assert breaker.state.value == "open"
    assert not breaker.may_open(running=0)


def test_refused_credentials_open_it_at_once() -> None:
    breaker = Breaker(Clock())
    breaker.refused()
    assert breaker.state.value == "open"


def test_it_is_left_alone_until_its_pause_is_over_then_half_open_with_one_open_at_a_time() -> None:
    breaker, clock = opened()
    assert not breaker.may_probe
    breaker.answered()
    assert breaker.state.value == "open"

    clock.now += FIRST_PAUSE_SECONDS
    assert breaker.may_probe
    breaker.answered()
    assert breaker.state.value == "half_open"
    assert breaker.may_open(running=0)
    assert not breaker.may_open(running=1)


def test_an_open_that_goes_well_closes_it_and_one_that_does_not_opens_it_for_twice_as_long() -> None:
    breaker, clock = opened()
    clock.now += FIRST_PAUSE_SECONDS
    breaker.answered()
    breaker.failed()
    assert breaker.state.value == "open"
    clock.now += FIRST_PAUSE_SECONDS
    assert not breaker.may_probe
    clock.now += FIRST_PAUSE_SECONDS

    breaker.answered()
    breaker.succeeded()
    assert breaker.state.value == "closed"
    breaker.failed()
    assert breaker.state.value == "closed"


def test_an_open_from_before_says_nothing_of_a_router_that_has_gone_since() -> None:
    breaker, _ = opened()
    breaker.succeeded()
    assert breaker.state.value == "open"


def test_its_pause_has_an_upper_bound() -> None:
    breaker, clock = opened()
    for _ in range(20):
        clock.now += LONGEST_PAUSE_SECONDS
        assert breaker.may_probe
        breaker.answered()
        breaker.failed()
    clock.now += LONGEST_PAUSE_SECONDS - 0.1
    assert not breaker.may_probe


def test_a_router_whose_chain_node_hangs_is_left_alone_though_it_answers_probes() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    for second in range(60):
        clock.now = float(second)
        # it knows its wallet without the chain
        breaker.answered()
        if second % 15 == 0:
            breaker.failed()
    assert breaker.state.value != "closed"


def test_probes_that_fail_now_and_then_add_up_to_nothing() -> None:
    breaker = Breaker(Clock())
    for _ in range(10):
        breaker.unanswered()
        breaker.answered()
    assert breaker.state.value == "closed"
    for _ in range(3):
        breaker.unanswered()
    assert breaker.state.value == "open"
