"""What asking for a session comes to: which bid, what becomes of the one that is there, and in what words it fails."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from morpheus_common.contracts.sessions import SessionState
from morpheus_common.errors import ApiError
from morpheus_common.ids import uuid7
from morpheus_sessions.handshake import MAX_BIDS_TRIED
from proxy_router_sim.marketplace import Bid, Model

from tests.service.sessions.house import House, tap, until


async def test_asking_for_the_bid_of_the_active_session_is_answered_with_it(house: House) -> None:
    """F8"""
    async with house.worker():
        session = await house.gateway.open()
        again = await house.gateway.open(bid_id=session.bid_id)

    assert again.session_id == session.session_id
    assert (await house.simulator.state())["opens_total"] == 1


async def test_asking_for_another_bid_of_the_model_opens_it_and_then_closes_the_old(house: House) -> None:
    async with house.worker():
        first = await house.gateway.open()
        other = next(
            bid.id
            for bid in house.simulator.market.bids.values()
            if bid.model_id == house.gateway.model() and bid.id != first.bid_id
        )
        second = await house.gateway.open(bid_id=other)

        async def only_the_second() -> bool:
            return [item["Id"] for item in await house.simulator.open_sessions()] == [second.session_id]

        await until(only_the_second)

    assert second.bid_id == other
    opened = {item["Id"]: item for item in await house.simulator.sessions()}
    # never a moment without one
    assert opened[str(first.session_id)]["ClosedAt"] >= opened[str(second.session_id)]["OpenedAt"]


async def test_an_open_that_comes_to_nothing_leaves_the_session_of_the_other_model_as_it_is(house: House) -> None:
    async with house.worker():
        session = await house.gateway.open()
        await house.simulator.arm("initiate", "error_before", count=None)
        assert await house.gateway.attempt_open(model_id=house.gateway.model("hermes-4-14b")) == "no_provider_available"
        await house.simulator.disarm()
        current = await house.gateway.current()
        assert (await house.gateway.chat()).ended

    assert current is not None
    assert (current.session_id, current.state) == (session.session_id, SessionState.ACTIVE)
    assert len(await house.simulator.open_sessions()) == 1


REASONS = [
    ("failed to initiate session: provider request failed: code: 500, msg: no capacity", "no_capacity"),
    ("provider request failed: failed to connect to provider: dial tcp 10.0.0.1:3333: refused", "unreachable"),
    ("provider request failed: dial tcp 10.0.0.1:3333: i/o timeout", "timed_out"),
    ("failed to open session: p-node tee attestation failed: measurement mismatch", "attestation_failed"),
    ("response error: error: bid not found, result: 0x00", "rejected"),
]


@pytest.mark.parametrize(("text", "reason"), REASONS)
async def test_each_provider_s_reason_is_one_word(house: House, text: str, reason: str) -> None:
    operation_id = uuid7()
    await house.simulator.arm("initiate", "error_before", count=None, text=text)
    async with house.worker():
        with pytest.raises(ApiError) as caught:
            await house.gateway.open(operation_id=operation_id)
        shown = await house.gateway.operation(operation_id)

    assert caught.value.code == "no_provider_available"
    providers = {bid.provider for bid in house.simulator.market.bids.values() if bid.model_id == house.gateway.model()}
    told = (caught.value.details or {})["reasons"]
    assert {item["provider"] for item in told} == providers
    assert {item["reason"] for item in told} == {reason}
    # nobody's address, and the same to whoever asks later
    assert "10.0.0.1" not in str(caught.value.details)
    assert shown.error is not None
    assert shown.error.details == caught.value.details


async def test_a_provider_that_does_not_answer_in_time_has_timed_out(house: House) -> None:
    await house.simulator.arm("initiate", "hang", count=None)
    async with house.worker(handshake_timeout=0.2):
        with pytest.raises(ApiError) as caught:
            await house.gateway.open()
        await house.simulator.disarm()

    assert {item["reason"] for item in (caught.value.details or {})["reasons"]} == {"timed_out"}


def model_named(house: House, name: str = "llama-3.3-70b") -> Model:
    return next(model for model in house.simulator.market.models.values() if model.name == name)


def strangers(house: House, like: Bid, count: int, **changes: Any) -> None:
    """Have so many providers that nobody knows offer what `like` offers, rated above all others."""
    market = house.simulator.market
    for number in range(count):
        address = "0x" + f"{number + 1:02x}" * 20
        market.providers[address] = replace(market.providers[like.provider], address=address, tokens_per_second=1e9)
        bid_id = "0x" + f"{number + 1:02x}" * 32
        market.bids[bid_id] = replace(like, id=bid_id, provider=address, **changes)


async def test_a_model_that_promises_attestation_is_refused_and_nothing_is_staked(house: House) -> None:
    model = model_named(house)
    house.simulator.market.models[model.id] = replace(model, tags=(*model.tags, "TEE"))
    bid = house.simulator.market.model_bids(model.id, active_only=True)[0]
    async with house.worker():
        assert await house.gateway.attempt_open() == "attestation_unsupported"
        assert await house.gateway.attempt_open(bid_id=bid.id) == "attestation_unsupported"
        assert (await house.gateway.attempt()).code == "attestation_unsupported"
        # any other is opened as always
        await house.gateway.open(model_id=house.gateway.model("hermes-4-14b"))

    assert (await house.simulator.state())["opens_total"] == 1


async def test_a_model_that_no_endpoint_here_can_ask_locks_no_stake(house: House) -> None:
    model = model_named(house, "whisper-large-v3").id
    bid = house.simulator.market.model_bids(model, active_only=True)[0]
    async with house.worker():
        assert await house.gateway.attempt_open(model_id=model) == "model_type_mismatch"
        assert await house.gateway.attempt_open(bid_id=bid.id) == "model_type_mismatch"

    assert (await house.simulator.state())["opens_total"] == 0


async def test_a_silent_router_is_told_of_before_anybody_is_promised_an_operation(house: House) -> None:
    bid = house.simulator.market.model_bids(model_named(house).id, active_only=True)[0]
    async with tap(house.simulator.url) as router, house.worker(router_url=f"http://{router.address}"):
        router.fall_silent()
        asked = asyncio.create_task(house.gateway.attempt_open(bid_id=bid.id))
        # the gateway waits so long for each of its questions
        answered, _ = await asyncio.wait({asked}, timeout=8.0)
        router.speak_again()
        assert answered
        assert await asked == "service_unavailable"
        assert await house.operations() == []


async def test_providers_that_refuse_hide_no_other_bid(house: House) -> None:
    market = house.simulator.market
    (honest, *others) = market.model_bids(model_named(house).id, active_only=True)
    for bid in others:
        del market.bids[bid.id]
    # the address they give is another's, who does not sign for them
    strangers(house, honest, MAX_BIDS_TRIED)
    async with house.worker():
        assert await house.gateway.attempt_open() == "no_provider_available"
        # who refused a moment ago is asked last
        session = await house.gateway.open()

    assert session.bid_id == honest.id


async def test_bids_that_the_wallet_cannot_pay_for_are_no_tries(house: House) -> None:
    cheapest = min(house.simulator.market.model_bids(model_named(house).id, active_only=True), key=price_of)
    strangers(house, cheapest, MAX_BIDS_TRIED, price_per_second=1_000_000 * cheapest.price_per_second)
    async with house.worker():
        session = await house.gateway.open()

    assert session.price_per_second is not None
    assert session.price_per_second < 1_000_000 * cheapest.price_per_second


def price_of(bid: Bid) -> int:
    return bid.price_per_second
