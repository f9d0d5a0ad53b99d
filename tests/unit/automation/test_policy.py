from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from morpheus_automation.policy import (
    LONGEST_PAUSE_SECONDS,
    MAX_FAILURES,
    Weighed,
    pause_after,
    plan_chat,
    plan_renewal,
    told,
    weigh,
)
from morpheus_common.contracts.automation import Decision, PlanChat
from morpheus_common.contracts.renewal import OpenFacts

MODEL, PARKED, CURRENT = ("0x" + digit * 64 for digit in "abc")
A_SECOND = 10**15
EXTRA = 2 * 10**9
PLENTY = 10**30


def facts(**more: Any) -> OpenFacts:
    known: dict[str, Any] = {
        "price_per_second": 10**13,
        "stake_per_second": A_SECOND,
        "stake_extra": EXTRA,
        "user_limit": PLENTY,
        "user_at_risk": 0,
        "in_all_room": PLENTY,
        "wallet_room": PLENTY,
        "shortest": 330,
        "longest": 3_600,
    }
    return OpenFacts(**known | more)


def question(**more: Any) -> PlanChat:
    return PlanChat(user_id="u", key_id="k", model_id=MODEL, **more)


def takes(seconds: int) -> int:
    """What a session of so many seconds takes at most, in wei."""
    return seconds * A_SECOND + EXTRA


# how long


@pytest.mark.parametrize(
    ("wished", "known", "weighed"),
    [
        (900, {}, Weighed(900)),
        (3_600, {}, Weighed(3_600)),
        (300, {}, Weighed(300)),
        (86_400, {}, Weighed(3_600, "automatic_duration_limit")),
        (300, {"longest": 300}, Weighed(300)),
        (900, {"user_limit": takes(900)}, Weighed(900)),
        (900, {"user_limit": takes(900) - 1}, Weighed(899, "stake_limit_reached")),
        (900, {"user_limit": takes(900), "user_at_risk": 1}, Weighed(899, "stake_limit_reached")),
        (900, {"user_limit": takes(330)}, Weighed(330, "stake_limit_reached")),
        (900, {"user_limit": takes(330) - 1}, Weighed(None, "stake_limit_reached")),
        (900, {"user_limit": 5, "user_at_risk": 6}, Weighed(None, "stake_limit_reached")),
        (300, {"user_limit": takes(330) - 1}, Weighed(None, "stake_limit_reached")),
        (900, {"wallet_room": takes(500)}, Weighed(500, "insufficient_balance")),
        (900, {"wallet_room": takes(329)}, Weighed(None, "insufficient_balance")),
        (900, {"in_all_room": takes(500)}, Weighed(500, "stake_capacity")),
        (900, {"in_all_room": 0}, Weighed(None, "stake_capacity")),
        # of several bounds the tightest; of several that leave nothing, the one that its user can do something about
        (900, {"user_limit": takes(600), "wallet_room": takes(500)}, Weighed(500, "insufficient_balance")),
        (900, {"user_limit": 0, "wallet_room": 0, "in_all_room": 0}, Weighed(None, "stake_limit_reached")),
        (900, {"stake_per_second": 0}, Weighed(900)),
    ],
)
def test_a_session_is_as_long_as_its_user_wishes_and_as_bounds_allow(
    wished: int, known: dict[str, int], weighed: Weighed
) -> None:
    assert weigh(wished, facts(**known)) == weighed


def test_without_facts_the_wish_stands() -> None:
    assert weigh(900, None) == Weighed(900)


@given(
    wished=st.integers(300, 86_400),
    limit=st.integers(0, takes(100_000)),
    at_risk=st.integers(0, takes(100_000)),
    wallet=st.integers(0, takes(100_000)),
    in_all=st.integers(0, takes(100_000)),
    longest=st.integers(330, 86_400),
)
def test_what_is_planned_fits_every_bound_and_is_the_longest_that_does(
    wished: int, limit: int, at_risk: int, wallet: int, in_all: int, longest: int
) -> None:
    known = facts(user_limit=limit, user_at_risk=at_risk, wallet_room=wallet, in_all_room=in_all, longest=longest)
    room = min(limit - at_risk, wallet, in_all)
    weighed = weigh(wished, known)
    if weighed.duration is None:
        assert takes(330) > room
        return
    asked = max(weighed.duration, 330)
    assert takes(asked) <= room
    assert weighed.duration <= min(wished, longest)
    assert (weighed.bound is None) == (weighed.duration == wished)
    if weighed.bound is not None:
        assert weighed.duration == longest or takes(weighed.duration + 1) > room


# prompts


def test_automation_that_is_off_refuses_and_says_why() -> None:
    plan = plan_chat(is_enabled=False, session_duration=900, question=question(parked=PARKED), facts=None)
    assert (plan.decision, plan.duration, plan.reason, plan.code) == (Decision.REFUSE, None, "automation_off", None)


@pytest.mark.parametrize(
    ("situation", "decision", "reason"),
    [
        ({}, Decision.OPEN, "no_session"),
        ({"current": CURRENT}, Decision.SWITCH, "another_model"),
        ({"current": CURRENT, "rests": True}, Decision.OPEN, "session_rests"),
    ],
)
def test_automation_that_is_on_opens_for_as_long_as_the_user_chose(
    situation: dict[str, Any], decision: Decision, reason: str
) -> None:
    plan = plan_chat(is_enabled=True, session_duration=900, question=question(**situation), facts=facts())
    assert (plan.decision, plan.duration, plan.reason, plan.shortened_by) == (decision, 900, reason, None)


@pytest.mark.parametrize("current", [None, CURRENT])
def test_a_parked_session_is_taken_back_whatever_limits_say(current: str | None) -> None:
    """F3"""
    asked = question(parked=PARKED, current=current)
    plan = plan_chat(is_enabled=True, session_duration=900, question=asked, facts=facts(user_limit=0))
    assert (plan.decision, plan.duration, plan.reason) == (Decision.RESUME, None, "parked_session_fits")


def test_what_was_shortened_says_by_what() -> None:
    plan = plan_chat(is_enabled=True, session_duration=900, question=question(), facts=facts(wallet_room=takes(400)))
    assert (plan.decision, plan.duration, plan.shortened_by) == (Decision.OPEN, 400, "insufficient_balance")


def test_a_refusal_by_the_users_limit_tells_him_his_figures_and_when_it_frees() -> None:
    frees = datetime(2026, 11, 23, 12, tzinfo=UTC)
    known = facts(user_limit=10, user_at_risk=4, frees_at=frees)
    plan = plan_chat(is_enabled=True, session_duration=900, question=question(), facts=known)
    assert (plan.decision, plan.code, plan.reason) == (Decision.REFUSE, "stake_limit_reached", "stake_limit_reached")
    assert plan.details == {
        "limit": "10",
        "at_risk": "4",
        "required_stake": str(takes(330)),
        "frees_at": "2026-11-23T12:00:00Z",
    }


@pytest.mark.parametrize(
    ("bound", "code", "retry_after"),
    [({"wallet_room": 1}, "insufficient_balance", None), ({"in_all_room": 1}, "stake_capacity", 60)],
)
def test_other_refusals_tell_what_is_required_and_nothing_of_the_operators(
    bound: dict[str, int], code: str, retry_after: int | None
) -> None:
    plan = plan_chat(is_enabled=True, session_duration=900, question=question(), facts=facts(**bound))
    assert (plan.code, plan.retry_after, plan.details) == (code, retry_after, {"required_stake": str(takes(330))})


def test_users_are_told_their_own_figures_only() -> None:
    assert told(None) == {}
    assert told(facts(user_limit=7)).keys() == {
        "price_per_second",
        "stake_per_second",
        "user_limit",
        "user_at_risk",
        "longest",
    }


# renewals


@pytest.mark.parametrize(
    ("is_enabled", "idle", "failures", "decision", "reason"),
    [
        (True, 0.0, 0, Decision.RENEW, "ends_soon"),
        (True, 600.0, 0, Decision.RENEW, "ends_soon"),
        (True, 600.1, 0, Decision.LEAVE, "not_used_lately"),
        (True, None, 0, Decision.LEAVE, "never_used"),
        (False, 0.0, 0, Decision.LEAVE, "automation_off"),
        (True, 0.0, MAX_FAILURES - 1, Decision.RENEW, "ends_soon"),
        (True, 0.0, MAX_FAILURES, Decision.LEAVE, "renewal_failed"),
    ],
)
def test_sessions_in_use_are_renewed_and_others_run_out(
    is_enabled: bool, idle: float | None, failures: int, decision: Decision, reason: str
) -> None:
    verdict = plan_renewal(is_enabled=is_enabled, idle=idle, failures=failures)
    assert (verdict.decision, verdict.reason) == (decision, reason)


def test_pauses_double_up_to_a_minute_and_are_no_shorter_than_what_was_told() -> None:
    assert [pause_after(tries) for tries in range(1, 7)] == [5, 10, 20, 40, 60, 60]
    assert pause_after(1, 30) == 30
    assert pause_after(1, 3_600) == LONGEST_PAUSE_SECONDS
    assert pause_after(10**6) == LONGEST_PAUSE_SECONDS
