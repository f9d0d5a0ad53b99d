"""What an early close leaves on hold, by either rule, around midnight UTC."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from morpheus_sessions.holds import Hold, HoldRule, hold_after, next_midnight

STAKE = 11_400_000_000_000_000_042
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
MIDNIGHT = datetime(2026, 11, 25, tzinfo=UTC)
HOUR = timedelta(hours=1)


def close(rule: HoldRule, after: timedelta, *, opened_at: datetime = NOON, stake: int = STAKE) -> Hold | None:
    """Close a session of an hour so long after its opening."""
    return hold_after(rule, stake=stake, opened_at=opened_at, ends_at=opened_at + HOUR, closed_at=opened_at + after)


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (NOON, MIDNIGHT),
        (MIDNIGHT - timedelta(microseconds=1), MIDNIGHT),
        (MIDNIGHT, MIDNIGHT + timedelta(days=1)),
        (datetime(2026, 12, 31, 23, 59, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)),
        (datetime(2026, 11, 25, 1, tzinfo=timezone(timedelta(hours=2))), MIDNIGHT),
    ],
)
def test_the_next_midnight_is_that_of_utc(at: datetime, expected: datetime) -> None:
    assert next_midnight(at) == expected


@pytest.mark.parametrize("rule", HoldRule)
@pytest.mark.parametrize("late", [timedelta(0), timedelta(seconds=1), timedelta(days=3)])
def test_a_session_that_has_run_out_leaves_nothing_on_hold(rule: HoldRule, late: timedelta) -> None:
    assert close(rule, HOUR + late) is None


def test_by_the_strict_rule_all_of_the_stake_is_held_however_short_the_use() -> None:
    for after in (timedelta(0), timedelta(seconds=1), HOUR - timedelta(seconds=1)):
        assert close(HoldRule.WHOLE, after) == Hold(STAKE, MIDNIGHT)


@pytest.mark.parametrize(
    ("minutes", "share"),
    # ten minutes of an hour at 11.4 MOR: 1.9 MOR were held on the local chain
    [(10, 1 / 6), (30, 1 / 2), (59, 59 / 60)],
)
def test_by_the_contracts_source_the_share_of_the_used_time_is_held(minutes: int, share: float) -> None:
    hold = close(HoldRule.USED, timedelta(minutes=minutes))
    assert hold is not None
    assert hold.until == MIDNIGHT
    assert hold.amount == -(-STAKE * minutes * 60 // 3600)
    assert hold.amount == pytest.approx(STAKE * share)


def test_by_the_contracts_source_a_session_that_was_not_used_leaves_nothing() -> None:
    assert close(HoldRule.USED, timedelta(0)) is None
    assert close(HoldRule.USED, -timedelta(seconds=2)) is None


def test_by_the_contracts_source_only_the_seconds_of_the_day_of_the_close_count() -> None:
    opened_at = MIDNIGHT - timedelta(minutes=30)
    hold = close(HoldRule.USED, timedelta(minutes=40), opened_at=opened_at)
    assert hold == Hold(-(-STAKE * 600 // 3600), MIDNIGHT + timedelta(days=1))
    assert close(HoldRule.USED, timedelta(minutes=30), opened_at=opened_at) is None


def test_never_more_than_the_stake_is_held_and_never_less_than_the_share() -> None:
    for stake in (1, 7, 10**9 + 1, STAKE):
        for seconds in (1, 59, 1801, 3599):
            hold = close(HoldRule.USED, timedelta(seconds=seconds), stake=stake)
            assert hold is not None
            assert stake * seconds <= hold.amount * 3600
            assert hold.amount <= stake
