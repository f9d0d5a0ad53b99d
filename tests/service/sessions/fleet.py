"""Several simulated routers, each with a wallet of its own, on chains that are alike."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any

from aiohttp import web
from morpheus_common.contracts.sessions import OpenOutcome
from morpheus_common.ids import uuid7
from proxy_router_sim.app import create_app
from proxy_router_sim.clock import SystemClock
from proxy_router_sim.simulator import Settings

from tests.service.sessions.house import House, Simulator
from tests.unit.proxy_router_sim.harness import USERS, running

BLOCK_SECONDS = 0.05
MOR = 10**18


class Fleet:
    """The simulators, and what PROXY_ROUTERS says of them."""

    def __init__(self, house: House, simulators: list[Simulator]) -> None:
        self.house = house
        self.simulators = simulators

    def settings(self, **changed: dict[str, str]) -> dict[str, Any]:
        """PROXY_ROUTERS; `r2={"password": "wrong"}` changes what it says of the second."""
        routers = []
        for number, simulator in enumerate(self.simulators, 1):
            name = f"r{number}"
            told = {"name": name, "url": simulator.url, "user": "admin", "password": "correct"}
            routers.append(told | changed.get(name, {}))
        return {"proxy_routers": json.dumps(routers)}

    async def opened(self) -> list[int]:
        """How many sessions were ever opened on each wallet."""
        return [int((await simulator.state())["opens_total"]) for simulator in self.simulators]

    async def queue(self, keys: Iterable[str], *, user: str = "u1", **wish: Any) -> list[str]:
        """Have opens written, one after the other, and wait for none."""
        asked = []
        for key in keys:
            outcome = await self.house.gateway.ask_open(key, user=user, wait=0, **wish)
            asked.append(outcome.operation_id)
        return asked

    async def ask(self, key: str, **wish: Any) -> OpenOutcome:
        return await self.house.gateway.ask_open(key, operation_id=uuid7(), **wish)

    async def order(self) -> list[dict[str, Any]]:
        """The opens that were sent, in the order in which they were."""
        found = await self.house.operations(kind="open", sent_at={"$type": "date"})
        return sorted(found, key=lambda item: item["sent_at"])


@contextlib.asynccontextmanager
async def fleet(house: House, routers: int, *, mor: Iterable[int] = (), **more: Any) -> AsyncIterator[Fleet]:
    """So many routers; `mor`: what their wallets have (MOR), in their order."""
    wealth = dict(enumerate(mor, 1))
    async with contextlib.AsyncExitStack() as stack:
        simulators = []
        for number in range(1, routers + 1):
            chosen: dict[str, Any] = {
                "block_seconds": BLOCK_SECONDS,
                "answer_seconds": 0.02,
                "wallet_seed": 100 + number,
            }
            if number in wealth:
                chosen["mor"] = wealth[number] * MOR
            settings = Settings(users=USERS, **(chosen | more))
            simulators.append(Simulator(await stack.enter_async_context(running(settings, SystemClock()))))
        yield Fleet(house, simulators)


class Gone:
    """A simulator whose server can be away and come back at the same address."""

    def __init__(self, settings: Settings) -> None:
        from proxy_router_sim.simulator import build

        self.simulator = build(settings, SystemClock())
        self._runner: web.AppRunner | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def come(self) -> None:
        self._runner = web.AppRunner(create_app(self.simulator), shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]

    async def go(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()
        self._runner = None


@contextlib.asynccontextmanager
async def coming_and_going(**more: Any) -> AsyncIterator[Gone]:
    """A router that is there at first."""
    gone = Gone(Settings(users=USERS, block_seconds=BLOCK_SECONDS, answer_seconds=0.02, **more))
    await gone.come()
    try:
        yield gone
    finally:
        with contextlib.suppress(AssertionError):
            await gone.go()
        await gone.simulator.close()


async def all_ended(house: House, operations: Iterable[str], *, within: float) -> list[dict[str, Any]]:
    """Wait until operations have ended, and return them."""
    wanted = list(operations)
    query = {"_id": {"$in": wanted}, "state": {"$in": ["done", "failed", "abandoned"]}}
    async with asyncio.timeout(within):
        while await house.database["operations"].count_documents(query) < len(wanted):  # noqa: ASYNC110 - it is a count
            await asyncio.sleep(0.1)
    return await house.operations(_id={"$in": wanted})
