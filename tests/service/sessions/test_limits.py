"""How much stake may be at risk and how often a user may open: counted where the open is written, seen on the chain (C22, C31)."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from morpheus_common.contracts.automation import Decision
from morpheus_common.contracts.sessions import GET_STAKE_AT_RISK, OPENS_LEFT, GetStakeAtRisk
from morpheus_common.errors import ApiError
from morpheus_common.ids import uuid7
from morpheus_sessions import journal
from morpheus_sessions.holds import next_midnight
from morpheus_sessions.limits import at_risk

from tests.service.sessions.house import House, until

MOR = 10**18
CHEAPEST = 11_400_000_000_000_000_000
"""What an hour of the model takes at its cheapest bid, in wei, without a tag; the next bid takes 13.68 MOR."""
TWO = {"stake_limit_per_user": str(25 * MOR)}
"""Room for two sessions of an hour."""


async def refusal(house: House, key: str, **wish: Any) -> ApiError:
    """Open, and return why not."""
    with pytest.raises(ApiError) as caught:
        await house.gateway.open(key, **wish)
    return caught.value


async def staked(house: House) -> int:
    return sum(int(session["Stake"]) for session in await house.simulator.open_sessions())


async def risk_of(house: House, user: str = "u1") -> int:
    return (await at_risk(await house.database_time(), user_id=user)).user


# the stake of a user


async def test_two_hundred_parallel_opens_of_a_user_stay_within_the_stake_limit(house: House) -> None:
    """C22, C31"""
    limit = 60 * MOR
    more = {"stake_limit_per_user": str(limit), "lease_seconds": 60.0}
    async with house.process("w2", **more), house.worker("w1", **more):
        codes = await asyncio.gather(*(house.gateway.attempt_open(f"k{number}") for number in range(200)))
        on_chain = await staked(house)
        assert on_chain == await risk_of(house)

    # five of the cheapest fit, six do not
    assert on_chain <= limit < on_chain + CHEAPEST
    assert len(await house.simulator.open_sessions()) == (await house.simulator.state())["opens_total"] == 5
    assert sorted(str(code) for code in codes) == ["None"] * 5 + ["stake_limit_reached"] * 195
    assert len(await house.operations()) == 5


async def test_the_limit_is_of_each_user(house: House) -> None:
    async with house.worker(**TWO):
        opened = await asyncio.gather(*(house.gateway.attempt_open(f"a{number}") for number in range(3)))
        others = await asyncio.gather(*(house.gateway.attempt_open(f"b{number}", user="u2") for number in range(3)))
    assert sorted(map(str, opened)) == sorted(map(str, others)) == ["None", "None", "stake_limit_reached"]


async def test_a_refusal_tells_limit_stake_at_risk_what_is_required_and_when_it_frees(house: House) -> None:
    async with house.worker(**TWO):
        first = await house.gateway.open("k1", duration=600)
        await house.gateway.open("k2")
        error = await refusal(house, "k3", duration=5400)
        taken = await risk_of(house)
    assert error.code == "stake_limit_reached"
    assert error.details is not None
    assert (error.details["limit"], error.details["at_risk"]) == (str(25 * MOR), str(taken))
    required = int(error.details["required_stake"])
    assert 0 <= required - CHEAPEST * 3 // 2 < 2 * 10**9
    assert error.message.endswith("Or wait until `details.frees_at`.")
    # the short one alone would not make room
    assert first.expires_at is not None
    assert error.details["frees_at"] > first.expires_at.isoformat(timespec="seconds").replace("+00:00", "Z")


async def test_what_is_refused_leaves_nothing_behind(house: House) -> None:
    async with house.worker(stake_limit_per_user=str(MOR)):
        error = await refusal(house, "k1")
        assert error.code == "stake_limit_reached"
        # no waiting makes room for it
        assert (error.details or {})["frees_at"] is None
        assert "frees_at" not in error.message
        assert (await house.sessions(), await house.operations()) == ([], [])
        assert await house.database["outbox"].count_documents({}) == 0


async def test_parked_sessions_and_model_switches_count(house: House) -> None:
    async with house.worker(stake_limit_per_user=str(30 * MOR)):
        assert (await house.gateway.chat("first")).ended
        other = house.gateway.model("mistral-31-24b")
        assert (await house.gateway.chat("second", model_id=other)).ended
        assert {item["state"] for item in await house.sessions()} == {"active", "parked"}

        answer = await house.gateway.chat("third", model_id=house.gateway.model("hermes-4-14b"))
        assert answer.code == "stake_limit_reached"
        assert answer.error is not None
        assert answer.error.not_sent is False
        # what was there stays in use, and what was parked comes back without a new stake
        assert (await house.gateway.chat("fourth")).ended
    assert (await house.simulator.state())["opens_total"] == 2


async def test_a_session_that_is_being_closed_counts_until_the_chain_has_closed_it(house: House) -> None:
    async with house.worker(**TWO):
        await house.gateway.open("k1")
        await house.gateway.open("k2")
        await house.simulator.arm("close", "hang")
        closing = await house.gateway.close("k1", wait=0.2)
        assert not closing.confirmed
        assert await house.gateway.attempt_open("k3") == "stake_limit_reached"


async def test_a_session_that_has_run_out_is_free_when_it_is_closed(house: House) -> None:
    patient: dict[str, Any] = {"reconcile_seconds": 0.1, "own_close_after": 10.0**6}
    async with house.worker(**TWO, **patient):
        await house.gateway.open("k1", duration=600)
        await house.gateway.open("k2", duration=5400)
        assert await house.gateway.attempt_open("k3", duration=3600) == "stake_limit_reached"
        await house.simulator.advance(700)
        await house.simulator.close_expired()
        await house.session_is("closed", key_id="k1")
        closed = await house.only_session(key_id="k1")
        assert (closed["held"], closed["held_until"]) == (None, None)
        assert await house.gateway.attempt_open("k3", duration=600) is None


async def test_a_stake_is_on_hold_from_an_early_close_until_midnight(house: House) -> None:
    async with house.worker(**TWO):
        row = await house.gateway.open("k1")
        await house.gateway.open("k2")
        assert (await house.gateway.close("k1")).confirmed
        closed = await house.only_session(key_id="k1")
        assert int(closed["held"].to_decimal()) == row.stake
        assert closed["held_until"] == next_midnight(closed["closed_at"])

        await _hold_until(house, later=3600)
        error = await refusal(house, "k3")
        assert error.code == "stake_limit_reached"
        assert error.details is not None
        assert error.details["at_risk"] == str(await risk_of(house))
        await _hold_until(house, later=-1)
        assert await house.gateway.attempt_open("k3") is None


async def _hold_until(house: House, *, later: float) -> None:
    """Move the midnight at which what is on hold is free."""
    await house.database["sessions"].update_one(
        {"key_id": "k1"}, {"$set": {"held_until": await house.database_time(later)}}
    )


async def test_by_the_contracts_own_rule_only_what_was_used_stays_on_hold(house: House) -> None:
    async with house.worker(**TWO, hold_rule="used"):
        row = await house.gateway.open("k1")
        await house.gateway.open("k2")
        await house.simulator.advance(60)
        assert (await house.gateway.close("k1")).confirmed
        held = (await house.only_session(key_id="k1"))["held"]
        (on_chain,) = (await house.simulator.state())["held"]
        assert row.stake is not None
        assert held is not None
        # about a minute of an hour; the seconds in which it was closed, and the day's figures, are the chain's
        assert int(held.to_decimal()) == pytest.approx(int(on_chain["amount"]), rel=1e-3)
        assert int(held.to_decimal()) < row.stake // 30
        assert await house.gateway.attempt_open("k3") is None


async def test_an_open_that_fails_before_anything_is_sent_is_free_at_once(house: House) -> None:
    await house.simulator.arm("initiate", "error_before", count=None)
    async with house.worker(**TWO):
        for number in range(4):
            assert await house.gateway.attempt_open(f"k{number}") == "no_provider_available"
        assert await risk_of(house) == 0
        await house.simulator.disarm()
        assert await house.gateway.attempt_open("k9") is None


async def test_an_open_that_was_given_up_counts_for_a_while(house: House) -> None:
    await house.simulator.arm("open", "drop", count=None)
    more: dict[str, Any] = {"abandon_after": 0.3, "reconcile_seconds": 0.1, "abandoned_at_risk": 3600.0}
    async with house.worker(**TWO, **more):
        assert await house.gateway.attempt_open("k1") == "open_failed"
        given_up = await house.only_session(key_id="k1")
        assert given_up["state"] == "abandoned"
        stake = int((await house.only_operation())["stake"].to_decimal())
        assert await risk_of(house) == stake == int(given_up["held"].to_decimal())
        length = given_up["held_until"] - given_up["updated_at"]
        assert length == timedelta(hours=1)

        await _hold_until(house, later=-1)
        assert await risk_of(house) == 0


async def test_what_appears_after_it_was_given_up_counts_once_again(house: House) -> None:
    # the first looks at the chain too seldom to see what it opened
    async with house.worker(reconcile_seconds=3600, drain_seconds=0.2, **TWO) as parts:
        await house.simulator.arm("open", "hang", when="after")
        opening = asyncio.create_task(house.gateway.ask_open("k1", wait=0.5))
        await until(lambda: house.simulator.struck("open"))
        await opening
        operation = await parts.journal.operation((await house.only_operation())["_id"])
        assert operation is not None
        await parts.journal.abandon_open(operation, ApiError("open_failed"))
        assert await risk_of(house) == int(operation.stake or 0)
    await house.simulator.arm("close", "hang", count=None)
    await house.simulator.disarm()
    async with house.worker("w2", reconcile_seconds=0.1, **TWO):
        await until(lambda: _is_back(house))
        assert await risk_of(house) == int(operation.stake or 0)


async def _is_back(house: House) -> bool:
    return bool((await house.only_session(key_id="k1"))["state"] != "abandoned")


async def test_a_user_is_told_what_is_at_risk_and_the_limit(house: House) -> None:
    async with house.worker(**TWO):
        await house.gateway.open("k1")
        await house.gateway.open("k2", user="u2")
        told = await house.gateway.rpc.call(GET_STAKE_AT_RISK, GetStakeAtRisk(user_id="u1"))
        (mine, _) = await house.sessions()
    assert (told.at_risk, told.limit) == (int(mine["stake"].to_decimal()), 25 * MOR)


# what is decided when the exact stake is known


async def test_a_bid_that_passes_the_limit_is_left_out_for_a_cheaper_one(house: House) -> None:
    """F13"""
    dearer = next(
        bid.id
        for bid in house.simulator.market.bids.values()
        if bid.price_per_second == 12 * 10**12 and house.simulator.market.models[bid.model_id].name == "llama-3.3-70b"
    )
    async with house.worker(stake_limit_per_user=str(13 * MOR)):
        assert await house.gateway.attempt_open("k1", bid_id=dearer) == "stake_limit_reached"
        row = await house.gateway.open("k1")
    assert row.stake is not None
    assert row.stake < 13 * MOR


async def test_a_stake_that_has_grown_since_the_open_was_written_is_checked_again(house: House) -> None:
    async with house.worker(stake_limit_per_user=str(12 * MOR)) as parts:
        copy = parts.catalogue.copy
        object.__setattr__(copy, "budget", copy.budget * 2)
        error = await refusal(house, "k1", duration=7200)
        assert error.code == "stake_limit_reached"
        assert error.details is not None
        assert int(error.details["required_stake"]) > 22 * MOR
        assert (await house.only_operation())["state"] == "failed"
        assert await risk_of(house) == 0
    assert (await house.simulator.state())["opens_total"] == 0


async def test_from_the_approval_on_exactly_the_stake_is_set_aside(house: House) -> None:
    await house.simulator.arm("open", "hang")
    async with house.worker():
        opening = asyncio.create_task(house.gateway.open())
        await until(lambda: house.simulator.struck("open"))
        operation = await house.only_operation()
        assert await risk_of(house) == int(operation["stake"].to_decimal())
        await house.simulator.disarm()
        await opening


async def test_the_limit_of_a_router_is_checked_before_the_stake_is_sent(house: House) -> None:
    async with house.worker(stake_limit_per_router=str(25 * MOR)):
        codes = await asyncio.gather(
            *(house.gateway.attempt_open(f"k{number}", user=f"u{number}") for number in range(6))
        )
    assert sorted(map(str, codes)) == ["None"] * 2 + ["stake_capacity"] * 4
    assert await staked(house) <= 25 * MOR


# the stake of all


async def test_all_users_together_stay_within_the_capacity_and_are_told_to_come_again(house: House) -> None:
    limit = 40 * MOR
    async with house.worker(stake_limit_in_all=str(limit)):
        codes = await asyncio.gather(
            *(house.gateway.attempt_open(f"k{number}", user=f"u{number}") for number in range(30))
        )
        error = await refusal(house, "k99", user="u99")
    on_chain = await staked(house)
    assert on_chain <= limit < on_chain + CHEAPEST
    assert sorted(map(str, codes)) == ["None"] * 3 + ["stake_capacity"] * 27
    assert error.retry_after == 60
    # how much the operator has is not for users
    assert error.details is not None
    assert error.details.keys() == {"required_stake", OPENS_LEFT}


async def test_shares_are_of_what_the_wallets_have_with_what_is_locked(house: House) -> None:
    await house.simulator.fund(100 * MOR)
    async with house.worker(stake_limit_per_user="25%", stake_limit_in_all="90%") as parts:
        for key in ("k1", "k2"):
            assert await house.gateway.attempt_open(key) is None
        await parts.capital.refresh()
        error = await refusal(house, "k3")
        assert error.details is not None
        # within what the two tags and the lag of a reading are
        assert abs(int(error.details["limit"]) - 25 * MOR) <= 10**9
        assert await house.gateway.attempt_open("k3", user="u2") is None


async def test_a_wallet_that_could_never_pay_for_it_is_no_matter_of_limits(house: House) -> None:
    await house.simulator.fund(5 * MOR)
    async with house.worker():
        error = await refusal(house, "k1")
    assert error.code == "insufficient_balance"
    assert error.details is not None
    assert int(error.details["required_stake"]) >= CHEAPEST


# price and duration


async def test_no_bid_over_the_price_limit_is_taken(house: House) -> None:
    async with house.worker(price_limit=11 * 10**12):
        assert (await house.gateway.open("k1")).price_per_second == 10 * 10**12
        error = await refusal(house, "k2", model_id=house.gateway.model("qwen3-235b"))
        dearer = next(bid.id for bid in house.simulator.market.bids.values() if bid.price_per_second == 12 * 10**12)
        assert await house.gateway.attempt_open("k2", bid_id=dearer) == "price_limit_reached"
    assert error.code == "price_limit_reached"
    assert error.details is not None
    assert error.details.keys() == {"limit", "price_per_second", OPENS_LEFT}
    assert (error.details["limit"], error.details["price_per_second"]) == (str(11 * 10**12), str(20 * 10**12))


async def test_a_session_over_the_longest_is_refused_and_automation_cuts_its_own(house: House) -> None:
    async with house.worker(duration_limit=7200, automatic_duration_limit=1800):
        error = await refusal(house, "k1", duration=7201)
        assert error.code == "validation_error"
        assert error.param == "sessionDuration"
        # automation asks for an hour
        assert (await house.gateway.chat(key="k2")).ended
        assert (await house.only_operation(key_id="k2"))["duration"] == 1800
        assert (await house.gateway.open("k3", duration=7200)).expires_at is not None


# how often


async def test_a_user_opens_so_often_a_minute_with_whatever_keys_by_hand_or_by_automation(house: House) -> None:
    async with house.worker(opens_per_minute=6, opens_per_day=60):
        codes = await asyncio.gather(*(house.gateway.attempt_open(f"k{number}") for number in range(12)))
        error = await refusal(house, "k20")
        answer = await house.gateway.chat(key="k21")
        others = await house.gateway.attempt_open("k30", user="u2")
        assert sorted(map(str, codes)) == ["None"] * 6 + ["session_open_limit"] * 6
        assert error.code == answer.code == "session_open_limit"
        assert error.retry_after is not None
        assert 1 <= error.retry_after <= 60
        assert answer.error is not None
        assert answer.error.retry_after is not None
        assert others is None

        await _ago(house, 61)
        assert (await house.gateway.chat(key="k21")).ended


async def test_every_answer_to_an_open_says_how_many_are_left_of_the_minute(house: House) -> None:
    async with house.worker(opens_per_minute=3):
        first = (await house.gateway.ask_open("k1")).opens
        joined = (await house.gateway.ask_open("k1")).opens
        await house.gateway.open("k2")
        await house.simulator.arm("initiate", "error_before", count=None)
        failed = (await house.gateway.ask_open("k3")).opens
        refused = await refusal(house, "k4")
        unknown = await refusal(house, "k4", model_id="0x" + "1" * 64)
        other = (await house.gateway.ask_open("k9", user="u2")).opens

    for left, remaining in ((first, 2), (joined, 2), (failed, 0), (other, 2)):
        assert left is not None
        assert (left.limit, left.remaining) == (3, remaining)
        assert 0 < left.reset <= 60
    for error, code in ((refused, "session_open_limit"), (unknown, "model_not_found")):
        assert error.code == code
        assert error.details is not None
        assert (error.details[OPENS_LEFT]["limit"], error.details[OPENS_LEFT]["remaining"]) == (3, 0)


async def test_a_user_opens_so_often_a_day_and_what_never_reached_the_chain_does_not_count(house: House) -> None:
    async with house.worker(opens_per_minute=100, opens_per_day=3):
        await house.simulator.arm("initiate", "error_before", count=None)
        for number in range(4):
            assert await house.gateway.attempt_open(f"f{number}") == "no_provider_available"
        await house.simulator.disarm()
        for number in range(3):
            assert await house.gateway.attempt_open(f"k{number}") is None
        await _ago(house, 3600)
        error = await refusal(house, "k9")
        assert error.code == "session_open_limit"
        assert error.retry_after == 60
        assert error.details is not None
        left = error.details[OPENS_LEFT]
        assert (left["limit"], left["remaining"], round(left["reset"], -2)) == (3, 0, 23 * 3600)
        freed = (await house.database_time(23 * 3600)).isoformat(timespec="seconds")
        assert abs(_second(error.details["frees_at"]) - _second(freed)) <= 60
        await _ago(house, 23 * 3600)
        assert await house.gateway.attempt_open("k9") is None


def _second(shown: str) -> int:
    hours, minutes, seconds = shown[11:19].split(":")
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds)


async def _ago(house: House, seconds: float) -> None:
    """Let all opens have been written so much earlier."""
    await house.database["operations"].update_many(
        {}, [{"$set": {"counted_at": {"$subtract": ["$counted_at", int(seconds * 1000)]}}}]
    )


async def test_an_answer_with_the_session_that_is_there_is_no_open(house: House) -> None:
    async with house.worker(opens_per_minute=1, stake_limit_per_user=str(12 * MOR)):
        operation_id = uuid7()
        first = await house.gateway.open(operation_id=operation_id)
        assert (await house.gateway.open(operation_id=operation_id)).session_id == first.session_id
        assert (await house.gateway.open()).session_id == first.session_id


async def test_automation_that_refuses_is_asked_before_any_limit(house: House) -> None:
    house.automation.decision = Decision.REFUSE
    async with house.worker(stake_limit_per_user=str(MOR)):
        assert (await house.gateway.chat()).code == "no_active_session"


async def test_what_was_given_up_weighs_by_the_database_s_clock(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "utc_now", lambda: datetime.now(UTC) - timedelta(hours=2))
    async with house.worker(reconcile_seconds=0.2, abandon_after=1.0):
        await house.simulator.arm("open", "mined_late", count=None)
        assert await house.gateway.attempt_open() == "open_failed"
        risk = await at_risk(await house.database_time(), user_id="u1")
    assert risk.user > 0
