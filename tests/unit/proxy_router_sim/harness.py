"""A simulator behind a real HTTP server on a free loopback port, on a clock that jumps instead of waiting."""

import asyncio
import contextlib
import dataclasses
import inspect
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
from aiohttp import web
from proxy_router_sim.app import create_app
from proxy_router_sim.auth import User
from proxy_router_sim.clock import Clock, VirtualClock
from proxy_router_sim.marketplace import Bid
from proxy_router_sim.models import LanguageModel
from proxy_router_sim.routes.route import FAULTS, SIMULATOR
from proxy_router_sim.simulator import Settings, build

NOON = 1_795_435_200.0
"""23 November 2026, 12:00 UTC."""
ADMIN = {"Authorization": aiohttp.encode_basic_auth("admin", "correct")}
USERS = (
    User.make("admin", "correct", ["*"]),
    User.make("reader", "reading", ["get_models", "open_session"]),
)
HOUR_STAKE = 11_400_000_000_000_000_000
"""An hour at 1e13 wei per second (proxy-router contract section 3)."""


class Router:
    """A client of one simulator."""

    def __init__(self, app: web.Application, http: aiohttp.ClientSession, url: str) -> None:
        self.simulator = app[SIMULATOR]
        self.faults = app[FAULTS]
        self.http = http
        self.url = url
        self.wallet = self.simulator.node.wallet

    async def get(self, path: str, **params: str) -> Any:
        """The JSON of a 200 answer."""
        async with self.http.get(path, params=params) as response:
            assert response.status == 200, await response.text()
            return await response.json(content_type=None)

    async def post(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and JSON."""
        async with self.http.post(path, json=body, headers=headers) as response:
            return response.status, await response.json(content_type=None)

    def bid(self, model: str = "llama-3.3-70b") -> Bid:
        """The best bid of a model."""
        market = self.simulator.node.marketplace
        model_id = next(found.id for found in market.models.values() if found.name == model)
        return market.rated_bids(model_id)[0][0]

    async def initiate(self, bid: Bid, stake: int = HOUR_STAKE) -> tuple[int, Any]:
        """The first step of an open."""
        return await self.post(
            "/proxy/sessions/initiate",
            {
                "user": self.wallet,
                "provider": bid.provider,
                "spend": str(stake),
                "bidId": bid.id,
                "providerUrl": self.simulator.node.marketplace.providers[bid.provider].endpoint,
            },
        )

    async def agreement(self, bid: Bid, stake: int = HOUR_STAKE) -> dict[str, Any]:
        """The body of the second step."""
        status, agreed = await self.initiate(bid, stake)
        assert status == 200, agreed
        return {"approval": agreed["approval"], "approvalSig": agreed["approvalSig"], "stake": str(stake)}

    async def open(self, model: str = "llama-3.3-70b") -> str:
        """A session of an hour."""
        status, opened = await self.post("/blockchain/sessions", await self.agreement(self.bid(model)))
        assert status == 200, opened
        return str(opened["sessionID"])

    async def arm(self, kind: str, action: str, *, count: int | None = 1, **params: Any) -> None:
        """Arm a fault."""
        status, _ = await self.post("/sim/faults", {"kind": kind, "action": action, "count": count, "params": params})
        assert status == 201

    async def chat(self, session_id: str, text: str = "hello", **fields: Any) -> tuple[int, Any]:
        """A prompt in JSON mode."""
        body = {"messages": [{"role": "user", "content": text}], **fields}
        return await self.post("/v1/chat/completions", body, session_id=session_id)

    async def stream(self, session_id: str, text: str = "hello", **fields: Any) -> bytes:
        """The bytes of a streamed prompt."""
        body = {"messages": [{"role": "user", "content": text}], "stream": True, **fields}
        async with self.http.post("/v1/chat/completions", json=body, headers={"session_id": session_id}) as response:
            return await response.read()


def chunks_of(stream: bytes) -> list[dict[str, Any]]:
    """The JSON objects of a stream's data lines."""
    lines = (line[6:] for line in stream.decode().split("\n\n") if line.startswith("data: {"))
    return [json.loads(line) for line in lines]


async def until(condition: Callable[[], object | Awaitable[object]]) -> None:
    """Let everything else run until the condition, or what it awaits, is true."""
    async with asyncio.timeout(10):
        while True:
            seen = condition()
            if await seen if inspect.isawaitable(seen) else seen:
                return
            await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def running(
    settings: Settings | None = None, clock: Clock | None = None, model: LanguageModel | None = None
) -> AsyncIterator[Router]:
    """A running simulator, by default without any waiting in it, and with its own model."""
    simulator = build(settings or Settings(users=USERS, answer_seconds=0), clock or VirtualClock(NOON, automatic=True))
    if model is not None:
        simulator = dataclasses.replace(simulator, model=model)
    app = create_app(simulator)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with aiohttp.ClientSession(url, headers=ADMIN) as http:
            yield Router(app, http, url)
    finally:
        await runner.cleanup()
        await simulator.close()
