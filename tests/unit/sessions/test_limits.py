"""The arithmetic of the limits: shares of amounts, windows of time, and when enough is free."""

from datetime import UTC, datetime, timedelta

import pytest
from morpheus_sessions.limits import DAY, MINUTE, Bounds, frees_at, opens_left, share_of, wait_for_room

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def ago(*seconds: float) -> list[datetime]:
    return [NOW - timedelta(seconds=item) for item in seconds]


@pytest.mark.parametrize(
    ("limit", "total", "expected"),
    [
        ("1", 10**30, 1),
        ("123456789012345678901234567890", 0, 123456789012345678901234567890),
        ("10%", 10**21 + 9, 10**20),
        ("100%", 7, 7),
        ("0%", 7, 0),
        ("12.5%", 1000, 125),
        ("0.001%", 10**5, 1),
        ("0.05%", 10**4, 5),
    ],
)
def test_a_limit_is_an_amount_or_a_share_rounded_down(limit: str, total: int, expected: int) -> None:
    assert share_of(limit, total) == expected


def test_each_wallet_has_its_own_limit_and_one_that_is_not_known_has_no_room() -> None:
    bounds = Bounds(1, 1, "50%", {"a": 100, "b": 30})
    assert [bounds.of_wallet(wallet) for wallet in ("a", "b", "c")] == [50, 15, 0]
    assert Bounds(1, 1, "70").of_wallet("any") == 70
    assert Bounds(1, 1).of_wallet("any") is None


def test_there_is_room_until_so_many_are_within_the_window() -> None:
    assert wait_for_room([], 1, MINUTE, NOW) == 0
    assert wait_for_room(ago(1, 2), 3, MINUTE, NOW) == 0
    assert wait_for_room(ago(1, 2, 3), 3, MINUTE, NOW) == 57
    # only the newest of them count
    assert wait_for_room(ago(1, 2, 3, 50), 3, MINUTE, NOW) == 57
    assert wait_for_room(ago(60), 1, MINUTE, NOW) == 0
    assert wait_for_room(ago(59.5), 1, MINUTE, NOW) == 0.5
    assert wait_for_room(ago(3600), 1, DAY, NOW) == 23 * 3600


def test_what_is_left_of_the_opens_comes_back_when_the_newest_is_out_of_the_window() -> None:
    def told(newest_first: list[datetime]) -> tuple[int, int, float]:
        left = opens_left(newest_first, 3, MINUTE, NOW)
        return left.limit, left.remaining, left.reset

    assert told([]) == (3, 3, 0)
    assert told(ago(10, 50)) == (3, 1, 50)
    assert told(ago(1, 2, 3)) == (3, 0, 59)
    # more than are allowed, after the limit was lowered; an open of a clock that is ahead
    assert told(ago(-1, 2, 3, 4)) == (3, 0, 61)


def test_enough_is_free_when_the_earliest_that_suffice_have_ended() -> None:
    rows = [(NOW + timedelta(hours=3), 5), (NOW + timedelta(hours=1), 2), (NOW + timedelta(hours=2), 4)]
    assert frees_at(rows, 1) == frees_at(rows, 2) == NOW + timedelta(hours=1)
    assert frees_at(rows, 3) == frees_at(rows, 6) == NOW + timedelta(hours=2)
    assert frees_at(rows, 11) == NOW + timedelta(hours=3)
    assert frees_at(rows, 12) is None
    assert frees_at([], 1) is None
