"""What each signing key is for follows from the documents and the time, and from nothing else."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from morpheus_auth.signing import KeyTimes, live_keys
from morpheus_common.contracts.signing_keys import SigningKeyState

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PUBLISHED, SIGNING, RETIRING = SigningKeyState.PUBLISHED, SigningKeyState.SIGNING, SigningKeyState.RETIRING


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


FIRST = KeyTimes("first", 1, NOW, None, None)
SECOND = KeyTimes("second", 2, NOW, after(180), after(2280))
THIRD = KeyTimes("third", 3, after(200), after(380), after(2480))
AT_ONCE = KeyTimes("at once", 3, after(100), after(100), after(100))


def states(*keys: KeyTimes, at: float) -> dict[str, SigningKeyState]:
    return {key.kid: key.state for key in live_keys(keys, after(at))}


def test_the_first_key_signs_from_its_beginning_whatever_the_clocks_said() -> None:
    assert states(FIRST, at=-3600) == {"first": SIGNING}


def test_a_new_key_is_published_then_signs_and_the_old_one_stays_until_its_last_token_has_expired() -> None:
    assert states(FIRST, SECOND, at=0) == {"second": PUBLISHED, "first": SIGNING}
    assert states(FIRST, SECOND, at=179) == {"second": PUBLISHED, "first": SIGNING}
    assert states(FIRST, SECOND, at=180) == {"second": SIGNING, "first": RETIRING}
    assert states(FIRST, SECOND, at=2279) == {"second": SIGNING, "first": RETIRING}
    assert states(FIRST, SECOND, at=2280) == {"second": SIGNING}


def test_several_rotations_can_overlap() -> None:
    keys = FIRST, SECOND, THIRD
    assert states(*keys, at=400) == {"third": SIGNING, "second": RETIRING, "first": RETIRING}
    assert states(*keys, at=2400) == {"third": SIGNING, "second": RETIRING}


def test_a_key_that_signs_at_once_leaves_none_before_it_not_even_one_just_published() -> None:
    assert states(FIRST, SECOND, AT_ONCE, at=100) == {"at once": SIGNING}


def test_a_row_says_when_the_key_retires() -> None:
    assert [(key.kid, key.retires_at) for key in live_keys([FIRST, SECOND], NOW)] == [
        ("second", None),
        ("first", after(2280)),
    ]


@given(st.lists(st.tuples(st.integers(0, 4000), st.booleans()), max_size=6), st.integers(0, 9000))
def test_at_any_moment_exactly_one_key_signs_and_the_newest_is_among_them(
    rotations: list[tuple[int, bool]], at: int
) -> None:
    keys = [FIRST]
    moment = 0
    for pause, at_once in rotations:
        moment += pause
        signs_from, older_until = (
            (after(moment), after(moment)) if at_once else (after(moment + 180), after(moment + 2280))
        )
        keys.append(KeyTimes(str(len(keys)), len(keys) + 1, after(moment), signs_from, older_until))
    made = [key for key in keys if key.created_at <= after(at)]
    live = live_keys(made, after(at))
    assert [key.state for key in live].count(SIGNING) == 1
    assert live[0].kid == made[-1].kid
