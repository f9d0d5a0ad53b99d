"""Opening a session: one open, one stake, whatever happens on the way."""

import asyncio
from typing import Any

import pytest
from morpheus_common.contracts.sessions import SessionState, Slot
from morpheus_common.errors import ApiError
from morpheus_common.ids import uuid7
from morpheus_sessions.stake import deployment_of

from tests.service.sessions.house import House, until


async def test_an_open_by_model_locks_exactly_the_stake_in_the_journal(house: House) -> None:
    async with house.worker():
        row = await house.gateway.open()

        (on_chain,) = await house.simulator.sessions()
        operation = await house.only_operation()
        stored = await house.only_session()
    stake = int(on_chain["Stake"])
    assert row.state is SessionState.ACTIVE
    assert row.slot is Slot.CURRENT
    assert row.session_id == on_chain["Id"] == stored["chain_session"]
    assert row.stake == stake == int(operation["stake"].to_decimal()) == int(stored["stake"].to_decimal())
    assert deployment_of(stake) == 7
    assert row.opened_at is not None
    assert row.expires_at is not None
    assert int(row.opened_at.timestamp()) == on_chain["OpenedAt"]
    assert int(row.expires_at.timestamp()) == on_chain["EndsAt"]
    assert on_chain["EndsAt"] - on_chain["OpenedAt"] >= 3600
    assert operation["state"] == "done"


async def test_an_open_by_bid_takes_that_bid(house: House) -> None:
    async with house.worker():
        best = await house.gateway.open("k1")
        dearer = next(
            bid.id
            for bid in house.simulator.market.bids.values()
            if bid.model_id == house.gateway.model() and bid.id != best.bid_id
        )

        row = await house.gateway.open("k2", bid_id=dearer)

    assert row.bid_id == dearer
    assert {s["BidID"] for s in await house.simulator.sessions()} == {best.bid_id, dearer}


async def test_the_approval_and_the_stake_are_in_the_journal_before_the_router_is_asked_to_open(house: House) -> None:
    await house.simulator.arm("open", "hang")
    async with house.worker():
        opening = asyncio.create_task(house.gateway.open())
        await until(lambda: house.simulator.struck("open"))

        operation = await house.only_operation()
        assert operation["state"] == "sent"
        assert operation["approval"].startswith("0x")
        assert operation["approval_signature"].startswith("0x")
        assert await house.simulator.sessions() == []

        await house.simulator.disarm()
        row = await opening
    (on_chain,) = await house.simulator.sessions()
    assert row.stake == int(on_chain["Stake"]) == int(operation["stake"].to_decimal())
    assert on_chain["BidID"] == operation["bid_id"]


async def test_a_repeat_of_an_open_joins_it(house: House) -> None:
    operation_id = uuid7()
    async with house.worker():
        rows = await asyncio.gather(*(house.gateway.open(operation_id=operation_id) for _ in range(3)))
        later = await house.gateway.open(operation_id=operation_id)

    assert {row.session_id for row in (*rows, later)} == {rows[0].session_id}
    assert (await house.simulator.state())["opens_total"] == 1
    assert len(await house.operations()) == 1


async def test_a_second_open_of_the_same_model_is_answered_with_the_first(house: House) -> None:
    async with house.worker():
        first = await house.gateway.open()
        second = await house.gateway.open()

    assert second.session_id == first.session_id
    assert (await house.simulator.state())["opens_total"] == 1


async def test_parallel_opens_of_one_key_open_one_session(house: House) -> None:
    async with house.worker():
        rows = await asyncio.gather(*(house.gateway.open() for _ in range(10)))

    assert len({row.session_id for row in rows}) == 1
    assert (await house.simulator.state())["opens_total"] == 1


async def test_opens_of_many_keys_never_call_the_chain_at_the_same_time_and_never_share_a_stake(house: House) -> None:
    async with house.worker():
        rows = await asyncio.gather(*(house.gateway.open(f"k{number}") for number in range(8)))

    state = await house.simulator.state()
    assert len({row.session_id for row in rows}) == state["open_count"] == 8
    assert len({row.stake for row in rows}) == 8
    assert state["max_concurrent_chain_calls"] == 1


async def test_an_open_that_takes_too_long_for_its_caller_goes_on(house: House) -> None:
    operation_id = uuid7()
    await house.simulator.arm("open", "hang")
    async with house.worker():
        with pytest.raises(ApiError) as caught:
            await house.gateway.open(operation_id=operation_id, wait=0.3)
        assert caught.value.code == "session_pending"
        assert caught.value.details == {"operation_id": operation_id}

        await house.simulator.disarm()
        row = await house.gateway.open(operation_id=operation_id)
    assert row.state is SessionState.ACTIVE
    assert (await house.simulator.state())["opens_total"] == 1


# what the router and the chain make of it


@pytest.mark.parametrize(
    ("action", "params"),
    [
        ("error_after", {}),
        ("error_after", {"text": "failed to get session: session not found"}),
        ("error_after", {"text": "failed to send transaction: EVM error: SessionDuplicateApproval() []"}),
        ("drop", {"when": "after"}),
        ("drop", {"when": "before"}),
        ("error_before", {"text": "failed to send transaction: approve failed: nonce too low"}),
        ("error_before", {"status": 502, "text": "bad gateway"}),
    ],
)
async def test_an_unclear_answer_to_an_open_never_costs_a_second_stake(
    house: House, action: str, params: dict[str, Any]
) -> None:
    await house.simulator.arm("open", action, **params)
    async with house.worker():
        row = await house.gateway.open()

        state = await house.simulator.state()
        operation = await house.only_operation()
    assert row.state is SessionState.ACTIVE
    assert state["opens_total"] == state["open_count"] == 1
    assert state["staked"] == str(row.stake)
    assert row.session_id == state["sessions"][0]["Id"]
    assert operation["state"] == "done"


@pytest.mark.parametrize("when", ["before", "after"])
async def test_an_open_that_hangs_longer_than_we_wait_is_resolved_and_opens_one_session(
    house: House, when: str
) -> None:
    await house.simulator.arm("open", "hang", when=when)
    async with house.worker(chain_timeout=0.5):
        row = await house.gateway.open()
        await house.simulator.disarm()
        # the first call goes on now, hours late so to speak: its approval is used up
        assert (await house.gateway.chat()).ended

    state = await house.simulator.state()
    assert state["opens_total"] == state["open_count"] == 1
    assert state["staked"] == str(row.stake)


async def test_a_router_that_refuses_us_before_any_transaction_fails_the_open_and_frees_the_key(house: House) -> None:
    await house.simulator.arm("open", "error_before", status=403, text="method not allowed")
    async with house.worker():
        with pytest.raises(ApiError) as caught:
            await house.gateway.open()
        assert caught.value.code == "open_failed"
        assert await house.gateway.current() is None

        assert (await house.gateway.open()).state is SessionState.ACTIVE
    assert (await house.simulator.state())["opens_total"] == 1


async def test_a_provider_that_does_not_answer_is_passed_over(house: House) -> None:
    market = house.simulator.market
    async with house.worker():
        best, _ = market.rated_bids(house.gateway.model())[0]
        await house.simulator.offline(best.provider)

        row = await house.gateway.open()
    assert row.provider != best.provider


async def test_when_no_provider_agrees_the_caller_is_told_why_in_words_without_addresses(house: House) -> None:
    async with house.worker():
        for provider in house.simulator.market.providers:
            await house.simulator.offline(provider)

        with pytest.raises(ApiError) as caught:
            await house.gateway.open()
    assert caught.value.code == "no_provider_available"
    assert caught.value.details is not None
    assert {reason["reason"] for reason in caught.value.details["reasons"]} <= {"unreachable", "timed_out"}
    assert (await house.simulator.state())["opens_total"] == 0


async def test_a_wallet_without_enough_mor_says_how_much_is_needed(house: House) -> None:
    await house.simulator.fund(10**18)
    async with house.worker():
        with pytest.raises(ApiError) as caught:
            await house.gateway.open()

    assert caught.value.code == "insufficient_balance"
    assert caught.value.details is not None
    assert int(caught.value.details["required_stake"]) > 10**18
    assert (await house.simulator.state())["counters"].get("initiated", 0) == 0


async def test_an_unknown_model_and_an_unknown_bid_are_not_found(house: House) -> None:
    async with house.worker():
        with pytest.raises(ApiError) as model:
            await house.gateway.open(model_id="0x" + "1" * 64)
        with pytest.raises(ApiError) as bid:
            await house.gateway.open(bid_id="0x" + "1" * 64)
        with pytest.raises(ApiError) as unoffered:
            await house.gateway.open(model_id=house.gateway.model("tts-kokoro"))

    assert (model.value.code, bid.value.code, unoffered.value.code) == (
        "model_not_found",
        "bid_not_found",
        "no_provider_available",
    )
    assert await house.operations() == []
