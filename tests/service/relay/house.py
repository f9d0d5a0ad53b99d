"""The whole way of a prompt in one process: a real gateway, a session worker, the bus, and a simulated router."""

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from morpheus_common.bus.names import User
from morpheus_gateway import api_keys
from morpheus_sessions.upstream import TimeLimits
from morpheus_sessions.worker import Parts
from proxy_router_sim.clock import SystemClock
from proxy_router_sim.embeddings import embed
from proxy_router_sim.models import DONE, Chunk
from proxy_router_sim.simulator import Settings
from pymongo import AsyncMongoClient

from tests.servers import NatsAccount
from tests.service.gateway.conftest import MANY_CHATS, Gateway, running_gateway
from tests.service.gateway.fakes import FakeAuth, FakeAutomation, connected
from tests.service.sessions.house import House, Simulator, surroundings, until
from tests.unit.proxy_router_sim.harness import USERS, Router, running

MODEL = "llama-3.3-70b"
BLOCK_SECONDS = 0.02
"""Some cases cost a session, and so a new one."""
USAGE = {"completion_tokens": 3, "prompt_tokens": 2, "total_tokens": 5}
WORDS = ("Ships", " of", " the sea")
CHUNKS = len(WORDS) + 3
"""Of a streamed answer whose usage was asked for: the words, the finish reason, the usage, the end mark."""


class FewWords:
    """A model that says the same few words to everybody, under the same id."""

    async def complete(self, request: dict[str, Any], model_name: str) -> dict[str, Any]:
        choice = {"message": {"role": "assistant", "content": "".join(WORDS)}, "finish_reason": "stop"}
        choices = [{"index": index, **choice} for index in range(request.get("n", 1))]
        return {**self._head("chat.completion", model_name), "choices": choices, "usage": USAGE}

    async def stream(self, request: dict[str, Any], model_name: str) -> AsyncGenerator[Chunk, None]:
        head = self._head("chat.completion.chunk", model_name)
        for index in range(request.get("n", 1)):
            for word in WORDS:
                yield {**head, "choices": [{"index": index, "delta": {"content": word}, "finish_reason": None}]}
            yield {**head, "choices": [{"index": index, "delta": {}, "finish_reason": "stop"}]}
        if (request.get("stream_options") or {}).get("include_usage"):
            yield {**head, "choices": [], "usage": USAGE}
        yield DONE

    async def embed(self, request: dict[str, Any], model_name: str) -> dict[str, Any]:
        return embed(request, model_name)

    def _head(self, kind: str, model_name: str) -> dict[str, Any]:
        return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": model_name}


@dataclass
class Key:
    """An API key that has a session."""

    key: str
    key_id: str
    session: str = ""
    """Its current session on chain, as last seen."""


@dataclass
class RelayHouse:
    """One gateway, one worker, one router."""

    sessions: House
    gateway: Gateway
    auth: FakeAuth
    parts: Parts
    router: Router
    idle: list[Key] = field(default_factory=list)

    @property
    def simulator(self) -> Simulator:
        return self.sessions.simulator

    async def prompt(self, key: Key, *, path: str = "chat/completions", **fields: Any) -> httpx2.Response:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], **fields}
        headers = {"Authorization": f"Bearer {key.key}"}
        return await self.gateway.http.post(f"/v1/{path}", json=body, headers=headers)

    def new_key(self) -> Key:
        key = self.auth.add_key()
        return Key(key, self.auth.rows[api_keys.digest(key)].id)

    async def warm_key(self) -> Key:
        """A key whose session has answered and is at rest."""
        if self.idle:
            return self.idle.pop()
        key = self.new_key()
        answer = await self.prompt(key)
        assert answer.status_code == 200, answer.text
        key.session = answer.headers["x-morpheus-session"]
        return key

    @contextmanager
    def patience(self, seconds: float) -> Iterator[None]:
        """Have the worker bear no more silence than this, in either mode."""
        chat = self.parts.chat
        usual, chat._limits = chat._limits, TimeLimits(first_byte=seconds, chunk=seconds, answer=seconds)
        yield
        chat._limits = usual

    async def document(self, session: str) -> dict[str, Any]:
        """What is stored of a session, when no mark of a prompt is left in it."""

        async def free() -> dict[str, Any] | None:
            found = await self.sessions.only_session(chain_session=session)
            return found if found["busy"] is None else None

        return await until(free)

    async def at_rest(self) -> None:
        """Let go what hangs at the router, and wait until no prompt is left anywhere. Raises `TimeoutError` if one stays."""
        await self.simulator.disarm()

        async def none_left() -> bool:
            chat = self.parts.chat
            unfinished = sum(self.router.simulator.node._unfinished.values())
            return not (len(chat) or chat._lines or self.gateway.context.relay._passages or unfinished)

        await until(none_left)


@asynccontextmanager
async def relay_house(
    account: NatsAccount, mongo_url: str, mongo_database: str, folder: Path, **worker: Any
) -> AsyncIterator[RelayHouse]:
    """The whole way while the block runs; `worker` are settings of the session worker."""
    async with AsyncExitStack() as stack:
        settings = Settings(users=USERS, block_seconds=BLOCK_SECONDS, answer_seconds=0)
        router = await stack.enter_async_context(running(settings, SystemClock(), FewWords()))
        house = await stack.enter_async_context(
            surroundings(account, mongo_url, mongo_database, Simulator(router), folder)
        )
        fakes = {}
        for user, fake in ((User.AUTH, FakeAuth), (User.AUTOMATION, FakeAutomation)):
            connection = await stack.enter_async_context(connected(account.url, account.seeds[user], user))
            fakes[user] = fake(connection)
            await fakes[user].start()
        parts = await stack.enter_async_context(house.worker(**worker))
        gateway = await stack.enter_async_context(running_gateway(account, chats_per_minute=MANY_CHATS))
        auth = fakes[User.AUTH]
        assert isinstance(auth, FakeAuth)
        yield RelayHouse(house, gateway, auth, parts, router)
    async with AsyncMongoClient[dict[str, Any]](mongo_url) as client:
        await client.drop_database(mongo_database)


def shown(answer: httpx2.Response) -> str:
    """An answer as golden files show it: status, what its headers tell of it, and its bytes."""
    told = [str(answer.status_code), answer.headers["content-type"]]
    told += [f"{name}: {answer.headers[name]}" for name in ("retry-after", "x-should-retry") if name in answer.headers]
    text = answer.content.decode()
    assert "\r" not in text
    return "\n".join([", ".join(told), *(f"| {line}".rstrip() for line in text.split("\n"))])


def events(content: bytes) -> list[Any]:
    """The objects of a stream."""
    return [json.loads(data) for data in re.findall(rb"^data: (\{.*\})$", content, re.MULTILINE)]
