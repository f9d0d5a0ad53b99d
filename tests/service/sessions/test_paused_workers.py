"""Workers that are paused past their lease at a step and go on later: two or four of them behave as one."""

import asyncio
import os
import signal
from contextlib import AsyncExitStack

import pytest

from tests.faults.controller import Arrival, Concerns, Controller, Trap
from tests.service.sessions.house import House, until
from tests.service.sessions.test_operator import audit

LEASE_SECONDS = 1.5
OPENING = ("O8", "O9", "O10", "O16")
"""Approval not stored; stored and not sent; in our turn and not sent; answered and not written down."""
CLOSING = ("K5", "K9")
PATIENCE = 40.0


def carrying_out(house: House, key: str, kind: str) -> Concerns:
    """Whether a worker is at a step of a key's own operation: one that was resumed may still be on its way with another."""

    async def concerns(arrival: Arrival) -> bool:
        return arrival.subject in {row["_id"] for row in await house.operations(key_id=key, kind=kind)}

    return concerns


async def another_has_the_wallet(house: House, worker: str) -> bool:
    running = {"_id": {"$regex": "^wallet:"}, "worker": {"$nin": [None, worker]}, "$expr": {"$gt": ["$until", "$$NOW"]}}
    return await house.database["leases"].count_documents(running) > 0


async def paused(house: House, trap: Trap, key: str, kind: str) -> str:
    """Stop whoever comes to a step, until another has taken over and ended what was begun; return who it was."""
    arrival = await asyncio.wait_for(trap.caught, PATIENCE)

    async def ended() -> bool:
        rows = await house.operations(key_id=key, kind=kind)
        return bool(rows) and all(row["state"] in {"done", "failed", "abandoned"} for row in rows)

    os.kill(arrival.pid, signal.SIGSTOP)
    try:
        await until(lambda: another_has_the_wallet(house, arrival.worker), within=PATIENCE)
        await until(ended, within=PATIENCE)
    finally:
        os.kill(arrival.pid, signal.SIGCONT)
    return arrival.worker


@pytest.mark.timeout(240)
@pytest.mark.parametrize("workers", [2, 4])
async def test_a_worker_paused_past_its_lease_and_resumed_costs_at_most_gas(house: House, workers: int) -> None:
    controller = Controller(house.folder / "probe")
    await controller.start()
    more = {"lease_seconds": LEASE_SECONDS, "reconcile_seconds": 0.5, "step_probe": str(controller.path)}
    async with AsyncExitStack() as stack:
        for number in range(workers):
            await stack.enter_async_context(house.process(f"w{number + 1}", **more))
        for step in OPENING:
            trap = controller.set_trap(step, carrying_out(house, f"k-{step}", "open"))
            opening = asyncio.create_task(house.gateway.ask_open(f"k-{step}", wait=PATIENCE))
            await paused(house, trap, f"k-{step}", "open")
            controller.remove(trap)
            await opening
        for step, key in zip(CLOSING, OPENING, strict=False):
            trap = controller.set_trap(step, carrying_out(house, f"k-{key}", "close"))
            closing = asyncio.create_task(house.gateway.close(f"k-{key}", wait=PATIENCE))
            await paused(house, trap, f"k-{key}", "close")
            controller.remove(trap)
            await closing

        async def at_rest() -> bool:
            return not await house.operations(state={"$in": ["pending", "sent", "unknown"]})

        await until(at_rest, within=PATIENCE)
        said = await audit(house)
    await controller.stop()
    assert said.code == 0, said.out + said.err
    on_chain = await house.simulator.sessions()
    opens = await house.operations(kind="open")
    # one stake an operation, and each known by the session that asked for it
    assert len(on_chain) == len(opens) == len(OPENING)
    assert len({item["Stake"] for item in on_chain}) == len(OPENING)
    assert {item["Id"] for item in on_chain} == {item["chain_session"] for item in await house.sessions()}
    still_open = {item["Id"] for item in await house.simulator.open_sessions()}
    assert still_open == {item["chain_session"] for item in await house.sessions(state="active")}
    assert len(still_open) == len(OPENING) - len(CLOSING)
    # what was forced is counted: calls that a worker may still have had under way when another made one
    (wallet,) = [item async for item in house.database["wallets"].find({})]
    assert wallet["overlaps"] >= 1
