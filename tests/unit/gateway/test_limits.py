"""Counting what costs."""

import pytest
from morpheus_gateway.limits import MAX_CALLERS, RateLimited, SlidingWindow, Standing, go_duration


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_so_many_in_any_minute_and_no_more() -> None:
    clock = Clock()
    window = SlidingWindow(2, 60.0, clock=clock)
    assert window.take("a") == Standing(limit=2, remaining=1, reset=60.0)
    clock.now += 20
    assert window.take("a") == Standing(limit=2, remaining=0, reset=60.0)
    clock.now += 30.5
    with pytest.raises(RateLimited) as caught:
        window.take("a")
    # the first of the two leaves the minute in 9.5 s, the second in 29.5 s
    assert (caught.value.code, caught.value.retry_after) == ("rate_limit_exceeded", 10)
    assert caught.value.standing == Standing(limit=2, remaining=0, reset=29.5)
    clock.now += 9.5
    assert window.take("a").remaining == 0


def test_what_was_refused_does_not_count() -> None:
    clock = Clock()
    window = SlidingWindow(1, 60.0, clock=clock)
    window.take("a")
    for _ in range(5):
        clock.now += 10
        with pytest.raises(RateLimited):
            window.take("a")
    clock.now += 10
    assert window.take("a").remaining == 0


def test_callers_do_not_count_for_each_other_and_are_forgotten_in_the_end() -> None:
    window = SlidingWindow(1, 60.0, clock=Clock())
    for number in range(MAX_CALLERS + 1):
        window.take(str(number))
    assert len(window._taken) == MAX_CALLERS
    with pytest.raises(RateLimited):
        window.take("1")
    window.take("0")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.85, "850ms"),
        (1, "1s"),
        (1.5, "1.5s"),
        (59.9995, "1m0s"),
        (60.000000000007276, "1m0s"),
        (360, "6m0s"),
        (3600.25, "1h0m0.25s"),
    ],
)
def test_durations_are_written_as_go_does(seconds: float, text: str) -> None:
    assert go_duration(seconds) == text
