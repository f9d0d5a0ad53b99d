"""What asking for a session comes to: which bid, what becomes of the one that is there, and in what words it fails."""

import pytest
from morpheus_common.contracts.sessions import SessionState
from morpheus_common.errors import ApiError
from morpheus_common.ids import uuid7

from tests.service.sessions.house import House, until


async def test_asking_for_the_bid_of_the_active_session_is_answered_with_it(house: House) -> None:
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
