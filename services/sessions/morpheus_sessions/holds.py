"""What stays locked after a session is closed before its time, and until when.

Sources disagree about the contract that is deployed: by its source (tried on a local chain) what the seconds used on the
day of the close cost stays on hold until the next midnight UTC, at most the stake; other accounts say that all of it does.
So the rule stands here alone, and an operator chooses it. Whoever chooses none gets the one that never counts too little.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from enum import StrEnum


class HoldRule(StrEnum):
    """How much of a stake an early close leaves on hold: the whole of it, or the share of the time used that day."""

    WHOLE = "whole"
    USED = "used"


@dataclass(frozen=True, slots=True)
class Hold:
    """`amount` (wei) is not free again before `until`."""

    amount: int
    until: datetime


def next_midnight(at: datetime) -> datetime:
    """Return the first midnight UTC after a time; after a midnight, the one of the next day."""
    day = at.astimezone(UTC).date() + timedelta(days=1)
    return datetime.combine(day, time(), UTC)


def hold_after(
    rule: HoldRule, *, stake: int, opened_at: datetime, ends_at: datetime, closed_at: datetime
) -> Hold | None:
    """Return what a close at `closed_at` leaves on hold of `stake` wei, None if nothing: the session had run out.

    Times are those of the chain.
    """
    if closed_at >= ends_at or stake <= 0:
        return None
    until = next_midnight(closed_at)
    if rule is HoldRule.WHOLE:
        return Hold(stake, until)
    since = max(opened_at, until - timedelta(days=1))
    used = max(0, _seconds(closed_at - since))
    # rounded up: what is counted is never less than what is held
    amount = min(stake, -(-stake * used // _seconds(ends_at - opened_at)))
    return Hold(amount, until) if amount else None


@dataclass(frozen=True, slots=True)
class Holds:
    """What counts as at risk of a session that has ended. `given_up`: for how long that of an open which may still appear."""

    rule: HoldRule = HoldRule.WHOLE
    given_up: timedelta = timedelta(hours=1)

    def after_close(self, *, stake: int, opened_at: datetime, ends_at: datetime, closed_at: datetime) -> Hold | None:
        """Return what a close leaves on hold of `stake` wei."""
        return hold_after(self.rule, stake=stake, opened_at=opened_at, ends_at=ends_at, closed_at=closed_at)

    def after_giving_up(self, *, stake: int, now: datetime) -> Hold | None:
        """Return what is still at risk of an open, or a session, that the chain does not show: its transaction may come.

        It is watched for for ever; only its weight has an end, or a user would never get over a lost block.
        """
        return Hold(stake, now + self.given_up) if stake > 0 else None


def _seconds(length: timedelta) -> int:
    return length // timedelta(seconds=1)
