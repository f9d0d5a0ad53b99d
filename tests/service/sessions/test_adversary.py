"""Attacks on stakes: orders of events in which one was lost, doubled, forgotten or closed for nothing."""

import asyncio
from typing import Any

import pytest
from morpheus_common.contracts.sessions import SessionState
from morpheus_common.errors import ApiError
from morpheus_sessions.documents import OperationDocument, Replaces
from morpheus_sessions.intake import Intake
from morpheus_sessions.journal import SlotTaken
from morpheus_sessions.worker import Parts

from tests.service.sessions.house import House, until


async def abandoned(house: House, parts: Parts, **query: Any) -> OperationDocument:
    """Give up an open that was sent, as the loop does after ten minutes."""
    operation: OperationDocument = OperationDocument.model_validate(await house.only_operation(kind="open", **query))
    await parts.journal.abandon_open(operation, ApiError("open_failed"))
    return operation


async def begun(house: House, parts: Parts, operation_id: str, *, replaces: Replaces | None) -> None:
    """Write an open as it was decided, whatever has become true since."""
    await Intake(parts.journal._client, parts.journal).open(
        operation_id=operation_id,
        user_id="u1",
        key_id="k1",
        key_prefix="sk-abc",
        model=house.gateway.models["llama-3.3-70b"],
        bid_id=None,
        duration=3600,
        owner=None,
        replaces=replaces,
    )


async def test_a_switch_that_comes_late_leaves_the_session_that_is_used_alone(house: House) -> None:
    async with house.worker(reconcile_seconds=0.2) as parts:
        used = await house.gateway.open()
        other = house.gateway.model("qwen3-235b")
        await house.simulator.arm("open", "hang", when="after")
        switching = asyncio.create_task(house.gateway.ask_open(model_id=other, wait=0.5))
        await until(lambda: house.simulator.struck("open"))
        await switching
        await abandoned(house, parts, model_id=other)
        await house.simulator.disarm()
        await house.session_is("closed", model_id=other)
        current = await house.gateway.current()
        assert current is not None
        assert current.session_id == used.session_id
        assert [item["Id"] for item in await house.simulator.open_sessions()] == [used.session_id]


async def test_a_session_that_ends_while_its_successor_opens_is_not_replaced_twice(house: House) -> None:
    async with house.worker(reconcile_seconds=3600):
        await house.gateway.open()
        other = house.gateway.model("qwen3-235b")
        await house.simulator.arm("open", "hang")
        first = asyncio.create_task(house.gateway.open(model_id=other))
        await until(lambda: house.simulator.struck("open"))
        await house.database["sessions"].update_one(
            {"slot": "current"}, {"$set": {"ends_at": await house.database_time(-1)}}
        )
        second = asyncio.create_task(house.gateway.open(model_id=other))
        await until(lambda: house.sessions(state="parked"))
        await house.simulator.disarm()
        rows = await asyncio.gather(first, second)
        assert rows[0].session_id == rows[1].session_id
    assert (await house.simulator.state())["opens_total"] == 2


async def test_an_open_decided_before_the_current_session_ended_is_decided_anew(house: House) -> None:
    async with house.worker(reconcile_seconds=3600) as parts:
        await house.gateway.open()
        current = await house.only_session(slot="current")
        await parts.journal.park(current["_id"], "expired")
        stale = Replaces(session=current["_id"], becomes=SessionState.PARKED)
        with pytest.raises(SlotTaken):
            await begun(house, parts, "o1", replaces=stale)
        other = await house.gateway.open(model_id=house.gateway.model("qwen3-235b"))
        assert other.slot == "current"
        # its successor opens, and somebody who has not seen it thinks that there is neither
        running = Replaces(session=(await house.only_session(slot="current"))["_id"], becomes=SessionState.PARKED)
        await house.simulator.arm("initiate", "hang")
        await begun(house, parts, "o2", replaces=running)
        await parts.journal.park(running.session, "expired")
        with pytest.raises(SlotTaken):
            await begun(house, parts, "o3", replaces=None)
        await house.simulator.disarm()
