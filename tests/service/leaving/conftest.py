"""The whole relay in one process: a real gateway, a real session worker, a simulated router; auth is a fake."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import pytest
from morpheus_common.bus.names import User
from morpheus_devstack.waiting import poll
from morpheus_gateway import api_keys
from morpheus_sessions.worker import Parts

from tests.load.client import Client
from tests.service.gateway.conftest import MANY_CHATS, Gateway, running_gateway
from tests.service.gateway.fakes import FakeAuth, FakeAutomation, connected
from tests.service.sessions.conftest import house, simulator
from tests.service.sessions.house import House

__all__ = ["house", "simulator"]

EMPTY_SECONDS = 15.0


OURS = ("morpheus_gateway", "morpheus_sessions", "morpheus_common", "nats", "uvicorn", "starlette", "httpx2")
"""The services and what they stand on; the router is in this process too."""


def _is_ours(task: "asyncio.Task[object]") -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and any(f"/{part}/" in code.co_filename for part in OURS)


@dataclass
class BothEnds:
    """Both ends of the relay, and what is around them."""

    sessions: House
    gateway: Gateway
    worker: Parts
    auth: FakeAuth
    keys: list[str] = field(default_factory=list)
    """Those whose sessions are open already."""

    def client(self) -> Client:
        return Client(self.gateway.port)

    def key_id(self, key: str) -> str:
        return self.auth.rows[api_keys.digest(key)].id

    async def move_to(self, key: str, worker: str) -> None:
        """Have a session that nobody uses now belong to another worker, which its next prompt comes to."""
        owned = self.worker.chat._ownership.owned(self.key_id(key))
        if owned is not None:
            await self.worker.chat._ownership.release(owned)
        self.gateway.context.relay.remember_owner(self.key_id(key), worker)

    async def owner(self, key: str) -> str | None:
        """Which worker a key's session belongs to."""
        session = await self.sessions.only_session(key_id=self.key_id(key))
        return None if session["owner"] is None else str(session["owner"]["worker"])

    def held(self) -> dict[str, int]:
        """All that a prompt takes hold of while it is under way, counted."""
        chat, context = self.worker.chat, self.gateway.context
        return {
            "prompts": len(chat),
            "lines": len(chat._lines),
            "pings": len(chat._pings),
            "body bytes": chat._body_bytes,
            "running": sum(line.running is not None for line in chat._lines.values()),
            "attempts": len(context.inbox),
            "passages": len(context.relay._passages),
            "marks": len(chat._ownership._marks),
            "unfinished at the router": sum(self.sessions.simulator.unfinished().values()),
            "connections": len(self.gateway.server.server_state.connections),
            "tasks": sum(map(_is_ours, asyncio.all_tasks())),
        }

    async def busy(self) -> int:
        """Sessions that are marked as having a prompt."""
        return len(await self.sessions.sessions(busy={"$ne": None}))

    async def comes_to(self, before: dict[str, int]) -> dict[str, tuple[int, int]]:
        """Wait until no more is held than before; return what is, each with the number from before."""
        more: dict[str, tuple[int, int]] = {}

        async def is_nothing() -> bool:
            nonlocal more
            now = {**self.held(), "busy": await self.busy()}
            more = {name: (count, before.get(name, 0)) for name, count in now.items() if count > before.get(name, 0)}
            return not more

        await poll(is_nothing, seconds=EMPTY_SECONDS, every=0.05)
        return more


@pytest.fixture
async def relay(house: House) -> AsyncIterator[BothEnds]:
    async with AsyncExitStack() as stack:
        seeds = house.account.seeds
        auth = FakeAuth(await stack.enter_async_context(connected(house.account.url, seeds[User.AUTH], User.AUTH)))
        await auth.start()
        automation = await stack.enter_async_context(
            connected(house.account.url, seeds[User.AUTOMATION], User.AUTOMATION)
        )
        await FakeAutomation(automation).start()
        worker = await stack.enter_async_context(house.worker())
        gateway = await stack.enter_async_context(running_gateway(house.account, chats_per_minute=MANY_CHATS))
        yield BothEnds(house, gateway, worker, auth)
