"""What the owner of an operation is told of it."""

import asyncio
import re

import pytest
from morpheus_common.contracts.sessions import OperationKind, OperationProgress
from morpheus_common.errors import ApiError
from morpheus_common.ids import uuid7

from tests.service.sessions.house import House, until


async def test_an_open_and_a_close_are_shown_as_they_go(house: House) -> None:
    opening, closing = uuid7(), uuid7()
    await house.simulator.arm("open", "hang")
    async with house.worker():
        task = asyncio.create_task(house.gateway.open(operation_id=opening))
        await until(lambda: house.simulator.struck("open"))
        running = await house.gateway.operation(opening)
        assert (running.kind, running.state, running.session_id) == (
            OperationKind.OPEN,
            OperationProgress.RUNNING,
            None,
        )
        await house.simulator.disarm()
        session = await task
        done = await house.gateway.operation(opening)
        assert (done.id, done.state, done.session_id, done.error) == (
            opening,
            OperationProgress.SUCCEEDED,
            session.session_id,
            None,
        )
        assert done.created_at <= done.updated_at

        await house.gateway.close(operation_id=closing)
        closed = await house.gateway.operation(closing)
    # of an open the router does not tell it
    assert done.tx is None
    assert re.fullmatch("0x[0-9a-f]{64}", closed.tx or "")
    assert (closed.kind, closed.state, closed.session_id) == (
        OperationKind.CLOSE,
        OperationProgress.SUCCEEDED,
        session.session_id,
    )


async def test_an_operation_of_another_key_is_as_good_as_none(house: House) -> None:
    operation_id = uuid7()
    async with house.worker():
        await house.gateway.open(operation_id=operation_id)
        for asked, key in ((operation_id, "k2"), (uuid7(), "k1")):
            with pytest.raises(ApiError) as caught:
                await house.gateway.operation(asked, key)
            assert caught.value.code == "operation_not_found"


async def test_an_open_that_came_to_nothing_says_why(house: House) -> None:
    operation_id = uuid7()
    async with house.worker():
        await house.simulator.fund(0)
        assert await house.gateway.attempt_open(operation_id=operation_id) == "insufficient_balance"
        shown = await house.gateway.operation(operation_id)

    assert shown.state is OperationProgress.FAILED
    assert shown.error is not None
    assert shown.error.code == "insufficient_balance"
    assert shown.error.details is not None
    assert int(shown.error.details["required_stake"]) > 0


async def test_a_close_asked_for_while_the_session_opens_is_an_operation_from_the_start(house: House) -> None:
    closing = uuid7()
    await house.simulator.arm("open", "hang")
    async with house.worker():
        opening = asyncio.create_task(house.gateway.ask_open())
        await until(lambda: house.simulator.struck("open"))
        pending = await house.gateway.close(operation_id=closing, wait=0.1)
        assert (pending.session_id, pending.confirmed, pending.operations) == (None, False, [closing])
        assert (await house.gateway.operation(closing)).state is OperationProgress.RUNNING

        await house.simulator.disarm()
        overtaken = await opening
        closed = await house.gateway.close(operation_id=closing)
        assert closed.confirmed
        assert (await house.gateway.operation(closing)).state is OperationProgress.SUCCEEDED
    # whoever asked for the session is not told that it can be used
    assert overtaken.session is None
    assert overtaken.error is not None
    assert overtaken.error.code == "open_cancelled"
    state = await house.simulator.state()
    assert (state["opens_total"], state["open_count"]) == (1, 0)
    assert [item["_id"] for item in await house.operations(kind="close")] == [closing]


async def test_a_close_of_what_then_failed_to_open_has_succeeded(house: House) -> None:
    closing = uuid7()
    await house.simulator.arm("initiate", "hang")
    async with house.worker():
        opening = asyncio.create_task(house.gateway.ask_open())
        await until(lambda: house.simulator.struck("initiate"))
        await house.gateway.close(operation_id=closing, wait=0.1)
        for provider in house.simulator.market.providers:
            await house.simulator.offline(provider)
        await house.simulator.disarm()
        outcome = await opening
        closed = await house.gateway.close(operation_id=closing)

    assert outcome.session is None
    assert (closed.session_id, closed.confirmed) == (None, True)
    assert (await house.simulator.state())["opens_total"] == 0


async def test_an_open_after_a_close_while_opening_is_not_closed_by_it(house: House) -> None:
    """The same command again, after its answer was lost, waits for what it began and closes nothing else."""
    closing = uuid7()
    async with house.worker():
        await house.gateway.open()
        await house.gateway.close(operation_id=closing)
        later = await house.gateway.open()
        again = await house.gateway.close(operation_id=closing)

    assert again.confirmed
    assert [item["Id"] for item in await house.simulator.open_sessions()] == [later.session_id]
