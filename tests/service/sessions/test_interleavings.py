"""Orders of events that once lost or locked a stake: processes that sleep, sessions that overtake each other."""

import asyncio
from datetime import timedelta

import pytest
from morpheus_common.contracts.automation import Decision
from morpheus_common.errors import ApiError
from morpheus_sessions.documents import OperationDocument
from morpheus_sessions.journal import StateChanged

from tests.service.sessions.house import House, until


async def test_a_process_that_slept_cannot_fail_an_open_that_another_has_sent(house: House) -> None:
    async with house.worker() as parts:
        await house.simulator.arm("initiate", "hang")
        opening = asyncio.create_task(house.gateway.open())
        await until(lambda: house.simulator.struck("initiate"))
        # what the sleeping process knows of it: pending, no approval
        stale = OperationDocument.model_validate(await house.only_operation(kind="open"))
        await house.simulator.disarm()
        row = await opening
        with pytest.raises(StateChanged):
            await parts.journal.fail_open(stale, ApiError("service_unavailable"))
    assert (await house.only_session())["chain_session"] == row.session_id
    assert (await house.simulator.state())["opens_total"] == 1


async def test_a_switch_overtaken_by_a_new_session_is_adopted_and_blocks_nothing(house: House) -> None:
    async with house.worker():
        await house.gateway.open()
        await house.simulator.arm("open", "hang")
        switching = asyncio.create_task(house.gateway.open(model_id=house.gateway.model("qwen3-235b"), wait=1.0))
        await until(lambda: house.simulator.struck("open"))
        await house.gateway.close(wait=0.5)
        third = asyncio.create_task(house.gateway.open(model_id=house.gateway.model("mistral-31-24b")))
        await until(lambda: _count(house, 3))
        await house.simulator.disarm()
        await asyncio.gather(switching, return_exceptions=True)
        await third

        async def nothing_is_left_opening() -> bool:
            return not await house.sessions(state="opening")

        await until(nothing_is_left_opening)
        current = await house.gateway.current()
        assert current is not None
        assert current.model == "mistral-31-24b"
        assert (await house.gateway.close()).confirmed

        async def all_closed() -> bool:
            return not await house.simulator.open_sessions()

        await until(all_closed)


async def test_what_was_given_up_and_is_on_chain_after_all_is_closed(house: House) -> None:
    # the first looks at the chain too seldom to see what it opened
    async with house.worker(reconcile_seconds=3600, drain_seconds=0.2) as parts:
        await house.simulator.arm("open", "hang", when="after")
        with pytest.raises(ApiError):
            await house.gateway.open(wait=0.5)
        await until(lambda: house.simulator.struck("open"))
        operation = OperationDocument.model_validate(await house.only_operation(kind="open"))
        await parts.journal.abandon_open(operation, ApiError("open_failed"))
        assert (await house.only_session())["state"] == "abandoned"
    await house.simulator.disarm()
    async with house.worker("w2", reconcile_seconds=0.2):
        await house.session_is("closed")
    assert await house.simulator.open_sessions() == []
    assert (await house.simulator.state())["opens_total"] == 1


async def test_what_was_given_up_and_is_mined_then_is_closed(house: House) -> None:
    async with house.worker(reconcile_seconds=0.2) as parts:
        await house.simulator.arm("open", "hang")
        with pytest.raises(ApiError):
            await house.gateway.open(wait=0.5)
        await until(lambda: house.simulator.struck("open"))
        operation = OperationDocument.model_validate(await house.only_operation(kind="open"))
        await parts.journal.abandon_open(operation, ApiError("open_failed"))
        assert (await house.only_session())["state"] == "abandoned"
        await house.simulator.disarm()
        await house.session_is("closed")
    assert await house.simulator.open_sessions() == []
    assert (await house.simulator.state())["opens_total"] == 1


async def test_an_open_that_nobody_wants_any_more_locks_no_stake(house: House) -> None:
    async with house.worker():
        await house.simulator.arm("rated_bids", "hang")
        opening = asyncio.create_task(house.gateway.open())
        await until(lambda: house.simulator.struck("rated_bids"))
        await house.gateway.close(wait=0.1)
        await house.simulator.disarm()
        with pytest.raises(ApiError) as told:
            await opening
        assert told.value.code == "open_cancelled"
    assert (await house.simulator.state())["opens_total"] == 0
    assert (await house.only_session())["state"] == "failed"


async def test_a_client_that_leaves_before_the_first_chunk_leaves_no_prompt_to_stack_on(house: House) -> None:
    async with house.worker():
        await house.gateway.open()
        await house.simulator.arm("chat", "stall", at=0, seconds=1.0)
        for _ in range(5):
            async with house.gateway.prompting("leaves", stream=True) as prompt:
                await prompt.accepted()
                await prompt.credit()
                await prompt.cancel()
        (await house.gateway.chat("stays")).assert_whole()
    assert (await house.simulator.state())["max_unfinished_prompts_of_a_session"] == 1


async def test_a_provider_that_cannot_be_reached_is_replaced_where_there_is_another(house: House) -> None:
    """F10"""
    async with house.worker():
        first = await house.gateway.chat()
        assert first.head is not None
        await house.simulator.offline(first.head.provider)
        second = await house.gateway.chat("still served")
        second.assert_whole()
        assert second.head is not None
        assert second.head.provider != first.head.provider
        # what replaces is open before what is replaced is parked
        assert {item["state"] for item in await house.sessions()} == {"active", "parked"}


async def test_without_automation_an_unreachable_provider_is_its_own_error_and_keeps_the_session(
    house: House,
) -> None:
    """F10"""
    house.automation.decision = Decision.REFUSE
    async with house.worker():
        row = await house.gateway.open()
        assert row.provider is not None
        await house.simulator.offline(row.provider)
        assert (await house.gateway.chat()).code == "provider_error"
        current = await house.gateway.current()
    assert current is not None
    assert current.session_id == row.session_id


async def test_a_session_id_does_not_stand_in_for_another_model(house: House) -> None:
    async with house.worker():
        row = await house.gateway.open()
        answer = await house.gateway.chat(model_id=house.gateway.model("qwen3-235b"), session_id=row.session_id)
    assert answer.code == "invalid_value"


async def test_a_worker_others_may_take_for_dead_sends_no_prompt(house: House) -> None:
    async with house.worker() as parts:
        await house.gateway.open()
        (await house.gateway.chat()).assert_whole()
        parts.chat._heartbeat._renewed_at -= timedelta(minutes=1).total_seconds()
        assert (await house.gateway.chat()).code == "service_unavailable"
        assert await house.simulator.prompts() == 1


async def _count(house: House, number: int) -> bool:
    return len(await house.sessions()) == number
