"""What automation decides, and why: pure rules, from facts that others have read.

A session's length is what its user wishes, cut to what limits and wallets leave; sessions enforces them all again.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from morpheus_common.contracts.automation import Decision, Plan, PlanChat
from morpheus_common.contracts.renewal import OpenFacts

AUTOMATION_OFF = "automation_off"
NO_SESSION = "no_session"
ANOTHER_MODEL = "another_model"
SESSION_RESTS = "session_rests"
PARKED_FITS = "parked_session_fits"
ENDS_SOON = "ends_soon"
NEVER_USED = "never_used"
NOT_USED = "not_used_lately"
RENEWAL_FAILED = "renewal_failed"

RENEW_SHARE: Final = 0.1
RENEW_LEAST_SECONDS: Final = 120.0
"""A session is renewed when it has less left than this, or than that share of its time if that is more."""
USED_WITHIN_SECONDS: Final = 600.0
"""Who has sent no prompt for longer pays for no successor."""
MAX_FAILURES: Final = 5
"""So often may the renewal of one session fail on its way to the chain; refusals by limits do not count."""
FIRST_PAUSE_SECONDS: Final = 5.0
LONGEST_PAUSE_SECONDS: Final = 60.0

STAKE_LIMIT = "stake_limit_reached"
BALANCE = "insufficient_balance"
CAPACITY = "stake_capacity"
LONGEST = "automatic_duration_limit"
CAPACITY_RETRY_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class Weighed:
    """How long a session can be. `duration` in seconds, None if not even the shortest is possible: `bound` says what stands
    against it, by its error code. With a duration, `bound` is what made it less than was wished, None if it was not.
    """

    duration: int | None
    bound: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a session near its end: `renew` or `leave`."""

    decision: Decision
    reason: str


def weigh(wished: int, facts: OpenFacts | None) -> Weighed:
    """Return how long a session of `wished` seconds can be. Without facts it is left to sessions to refuse it."""
    if facts is None:
        return Weighed(wished)
    a_second = max(1, facts.stake_per_second)
    rooms = {
        STAKE_LIMIT: facts.user_limit - facts.user_at_risk,
        BALANCE: facts.wallet_room,
        CAPACITY: facts.in_all_room,
    }
    seconds = {bound: (room - facts.stake_extra) // a_second for bound, room in rooms.items()}
    for bound, longest in seconds.items():
        if longest < facts.shortest:
            return Weighed(None, bound)
    seconds[LONGEST] = facts.longest
    bound = min(seconds, key=lambda name: seconds[name])
    return Weighed(wished) if wished <= seconds[bound] else Weighed(seconds[bound], bound)


def plan_chat(*, is_enabled: bool, session_duration: int, question: PlanChat, facts: OpenFacts | None) -> Plan:
    """Decide what happens to a prompt whose key has no session for its model. `session_duration` in seconds."""
    if not is_enabled:
        return Plan(decision=Decision.REFUSE, reason=AUTOMATION_OFF)
    if question.parked is not None:
        # should it be gone by the time it is taken back, the question is asked again
        return Plan(decision=Decision.RESUME, reason=PARKED_FITS)
    weighed = weigh(session_duration, facts)
    if weighed.duration is None:
        return _refusal(weighed, facts)
    if question.current is None:
        decision, reason = Decision.OPEN, NO_SESSION
    elif question.rests:
        decision, reason = Decision.OPEN, SESSION_RESTS
    else:
        decision, reason = Decision.SWITCH, ANOTHER_MODEL
    return Plan(decision=decision, duration=weighed.duration, reason=reason, shortened_by=weighed.bound)


def plan_renewal(*, is_enabled: bool, idle: float | None, failures: int) -> Verdict:
    """Decide about a session near its end. `idle`: seconds since its last prompt, None if it never had one."""
    if not is_enabled:
        return Verdict(Decision.LEAVE, AUTOMATION_OFF)
    if idle is None:
        return Verdict(Decision.LEAVE, NEVER_USED)
    if idle > USED_WITHIN_SECONDS:
        return Verdict(Decision.LEAVE, NOT_USED)
    if failures >= MAX_FAILURES:
        return Verdict(Decision.LEAVE, RENEWAL_FAILED)
    return Verdict(Decision.RENEW, ENDS_SOON)


def pause_after(tries: int, retry_after: int | None = None) -> float:
    """Return the seconds until a renewal is tried again that came to nothing `tries` times."""
    doubled = FIRST_PAUSE_SECONDS * float(1 << min(max(tries - 1, 0), 8))
    return min(LONGEST_PAUSE_SECONDS, max(doubled, float(retry_after or 0)))


def told(facts: OpenFacts | None) -> dict[str, str]:
    """Return what a user may know of the facts: how much the operator has, and others use, is not for users."""
    if facts is None:
        return {}
    names = ("price_per_second", "stake_per_second", "user_limit", "user_at_risk", "longest")
    return {name: str(getattr(facts, name)) for name in names}


def _refusal(weighed: Weighed, facts: OpenFacts | None) -> Plan:
    details: dict[str, Any] = {}
    if facts is not None:
        details["required_stake"] = str(facts.shortest * facts.stake_per_second + facts.stake_extra)
    if facts is not None and weighed.bound == STAKE_LIMIT:
        details |= {
            "limit": str(facts.user_limit),
            "at_risk": str(facts.user_at_risk),
            "frees_at": _shown(facts.frees_at),
        }
    return Plan(
        decision=Decision.REFUSE,
        reason=str(weighed.bound),
        code=weighed.bound,
        details=details,
        retry_after=CAPACITY_RETRY_SECONDS if weighed.bound == CAPACITY else None,
    )


def _shown(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
