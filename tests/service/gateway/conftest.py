"""The real gateway on a real socket and a real bus; fakes for the services behind it."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
import uvicorn
from fastapi import FastAPI
from morpheus_common.bus.names import User
from morpheus_devstack.waiting import poll
from morpheus_gateway.app import create_app
from morpheus_gateway.context import Context
from morpheus_gateway.health import Health
from morpheus_gateway.relay import RelayTimes
from morpheus_gateway.server import Server, configured
from morpheus_gateway.settings import GatewaySettings
from nats.aio.client import Client
from openai import AsyncOpenAI
from pydantic import SecretStr

from tests.openapi import CheckedClient
from tests.servers import NatsAccount
from tests.service.gateway.fakes import FakeAuth, FakeAutomation, FakeSessions, FakeWorker, connected

MANY_CHATS = 100_000
"""Of a key in a minute, for tests that send all their prompts with one."""


class _Server(Server):
    """uvicorn in the test's own loop; signals stay pytest's, and a stop does not wait for the next tick."""

    def __init__(self, config: uvicorn.Config, health: Health, *, notice: float) -> None:
        super().__init__(config, health, notice=notice)
        self.listening = asyncio.Event()
        self._stop = asyncio.Event()

    def stop(self) -> None:
        self.should_exit = True
        self._stop.set()

    async def main_loop(self) -> None:
        await self.on_tick(0)
        self.listening.set()
        await self._stop.wait()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass
class Gateway:
    """A running gateway. `url` has no path."""

    url: str
    port: int
    http: httpx2.AsyncClient
    app: FastAPI
    server: _Server

    @property
    def context(self) -> Context:
        context: Context = self.app.state.context
        return context

    def let_callers_age(self, seconds: float) -> None:
        """Make auth's answers so far `seconds` older."""
        for cache in (self.context.keys, self.context.logins):
            cache._clock = lambda: time.monotonic() + seconds


async def _is_ready(http: httpx2.AsyncClient) -> bool:
    return (await http.get("/ready")).status_code == 200


@asynccontextmanager
async def running_gateway(
    account: NatsAccount, *, times: RelayTimes | None = None, ready: bool = True, **more: Any
) -> AsyncIterator[Gateway]:
    settings = GatewaySettings(
        nats_url=account.url,
        nats_seed=SecretStr(account.seeds[User.GATEWAY]),
        port=0,
        drain_seconds=5,
        **{"worker_id": "gw-test", "drain_notice": 0.0, **more},
    )
    app = create_app(settings, relay_times=times)
    config = configured(app, settings)
    config.timeout_graceful_shutdown = 2
    # what is counted before and after something must not be idle connections of clients
    config.timeout_keep_alive = 5
    server = _Server(config, app.state.health, notice=settings.drain_notice)
    serving = asyncio.create_task(server.serve())
    await server.listening.wait()
    port = server.servers[0].sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    try:
        async with CheckedClient(base_url=url, timeout=20) as http:
            if ready:
                assert await poll(lambda: _is_ready(http), seconds=10)
            yield Gateway(url, port, http, app, server)
    finally:
        server.stop()
        await serving


@dataclass
class House:
    """A gateway, the fakes behind it, and a key that may do everything."""

    gateway: Gateway
    auth: FakeAuth
    sessions: FakeSessions
    automation: FakeAutomation
    worker: FakeWorker
    key: str

    @property
    def http(self) -> httpx2.AsyncClient:
        return self.gateway.http

    @property
    def by_key(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    @property
    def by_token(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.auth.token()}"}

    @property
    def openai(self) -> AsyncOpenAI:
        """OpenAI's own client. It has to be closed."""
        return AsyncOpenAI(
            base_url=f"{self.gateway.url}/api/v1", api_key=self.key, max_retries=0, http_client=CheckedClient()
        )

    async def chat(self, content: str = "one two three", **fields: Any) -> httpx2.Response:
        headers = self.by_key | fields.pop("headers", {})
        body = {"model": "mistral-small", "messages": [{"role": "user", "content": content}], **fields}
        return await self.http.post("/api/v1/chat/completions", json=body, headers=headers)


MakeHouse = Callable[..., Awaitable[House]]


@pytest.fixture
async def make_house(nats_account: NatsAccount) -> AsyncIterator[MakeHouse]:
    """Return a function that starts the fakes and a gateway with the settings of a test."""
    async with AsyncExitStack() as stack:

        async def make(**settings: Any) -> House:
            """Known settings of the gateway, and `times` of its relay."""

            async def connect(user: User) -> Client:
                return await stack.enter_async_context(connected(nats_account.url, nats_account.seeds[user], user))

            auth = FakeAuth(await connect(User.AUTH))
            sessions = FakeSessions(await connect(User.SESSIONS))
            automation = FakeAutomation(await connect(User.AUTOMATION))
            worker = FakeWorker(await connect(User.SESSIONS))
            for fake in (auth, sessions, automation, worker):
                await fake.start()
            stack.push_async_callback(worker.close)
            gateway = await stack.enter_async_context(running_gateway(nats_account, **settings))
            return House(gateway, auth, sessions, automation, worker, auth.add_key())

        yield make


@pytest.fixture
async def house(make_house: MakeHouse) -> House:
    """A gateway with everything as in production."""
    return await make_house()
