"""A session worker's surroundings: a simulated router, and whoever talks to the worker over the bus."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from morpheus_common.bus import names
from morpheus_common.bus.frames import WINDOW_BYTES, Frame, Kind, encode_head, read_head
from morpheus_common.bus.inbox import Attempt, RelayInbox
from morpheus_common.bus.names import Header, User
from morpheus_common.bus.rpc import RpcClient
from morpheus_common.contracts.audit import RECORD_ACT, RecordAct
from morpheus_common.contracts.auth import KEY_DEACTIVATED, KeyChanged
from morpheus_common.contracts.automation import (
    GET_SETTINGS,
    PLAN_CHAT,
    AutomationSettings,
    Decision,
    GetSettings,
    Plan,
    PlanChat,
)
from morpheus_common.contracts.chat import AcceptFrame, AnswerHead, ErrorFrame, OwnerFrame, PingAnswer, PromptHead
from morpheus_common.contracts.sessions import (
    CATALOGUE,
    CLOSE_SESSION,
    GET_OPERATION,
    GET_SESSION,
    LIST_SESSIONS,
    OPEN_SESSION,
    QUOTE_SESSION,
    CatalogueModel,
    CatalogueQuestion,
    CloseResult,
    CloseSession,
    GetOperation,
    GetSession,
    ListKeySessions,
    OpenOutcome,
    OpenSession,
    OperationRow,
    QuoteSession,
    SessionQuote,
    SessionRow,
)
from morpheus_common.errors import ApiError
from morpheus_common.ids import uuid7
from morpheus_common.store.mongo import Database, apply_indexes, database_of
from morpheus_devstack.processes import die_with
from morpheus_sessions.documents import DOCUMENTS
from morpheus_sessions.settings import SessionsSettings
from morpheus_sessions.worker import Parts, serve
from nats.aio.client import Client
from nats.aio.msg import Msg
from pydantic import SecretStr
from pymongo import AsyncMongoClient

from tests.servers import NatsAccount
from tests.unit.proxy_router_sim.harness import Router

T = TypeVar("T")

PATIENCE = 20.0
"""How long a test waits for what must come, in seconds."""


async def until(condition: Callable[[], Awaitable[T | None]], *, within: float = PATIENCE) -> T:
    """Ask again and again until the answer is true, and return it."""
    async with asyncio.timeout(within):
        while not (answer := await condition()):  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.02)
    return answer


class Tap:
    """Stands between a worker and a server. It can fall silent, or be gone."""

    def __init__(self, server: str) -> None:
        parts = urlsplit(server)
        assert parts.hostname is not None
        assert parts.port is not None
        self._server = (parts.hostname, parts.port)
        self._flows = asyncio.Event()
        self._flows.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._listener: asyncio.Server | None = None
        self.address = ""

    async def open(self) -> None:
        self._listener = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"

    def fall_silent(self) -> None:
        """Keep all connections and pass nothing on."""
        self._flows.clear()

    def speak_again(self) -> None:
        """Pass on what was held back."""
        self._flows.set()

    async def vanish(self) -> None:
        """Break all connections; new ones are refused."""
        if self._listener is not None:
            self._listener.close()
        self._flows.set()
        for writer in self._writers:
            writer.transport.abort()
        await until(self._is_empty)

    async def _is_empty(self) -> bool:
        return not self._writers

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(*self._server)
        self._writers |= {writer, server_writer}
        await asyncio.gather(self._pump(reader, server_writer), self._pump(server_reader, writer))
        self._writers -= {writer, server_writer}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                await self._flows.wait()
                writer.write(data)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def tap(server: str) -> AsyncIterator[Tap]:
    """Stand before the server at a URL."""
    between = Tap(server)
    await between.open()
    try:
        yield between
    finally:
        await between.vanish()


class Simulator:
    """The router's own view of the chain."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self.url = router.url
        self.market = router.simulator.node.marketplace
        self.arm = router.arm

    async def state(self) -> Any:
        return await self._router.get("/sim/state")

    async def sessions(self) -> list[dict[str, Any]]:
        """All sessions there ever were, newest first."""
        found: list[dict[str, Any]] = (await self.state())["sessions"]
        return found

    async def open_sessions(self) -> list[dict[str, Any]]:
        return [session for session in await self.sessions() if not session["ClosedAt"]]

    def race(self, seconds: float) -> None:
        """Have transactions that overlap collide: a nonce is read so long (chain time) before it is used."""
        races = self._router.simulator.node.sender.races
        races.enabled, races.seconds = True, seconds

    def unfinished(self) -> dict[str, int]:
        """Prompts that a session has at the router, by session."""
        return dict(self._router.simulator.node._unfinished)

    async def prompts(self) -> int:
        return int((await self.state())["counters"].get("prompts", 0))

    async def disarm(self) -> None:
        """Remove all faults; what hangs in one goes on."""
        async with self._router.http.delete("/sim/faults") as answer:
            assert answer.status == 200

    async def struck(self, kind: str) -> bool:
        """Whether a fault of this kind holds a call right now."""
        return any(fault["kind"] == kind for fault in (await self.state())["faults"]["striking"])

    async def advance(self, seconds: float) -> None:
        await self._router.post("/sim/advance", {"seconds": seconds})

    async def config(self) -> Any:
        """What the router says of its contracts."""
        return (await self._router.get("/config"))["Config"]

    async def close(self, session_id: str) -> None:
        """Close a session past the gateway, as the wallet's owner could."""
        status, _ = await self._router.post(f"/blockchain/sessions/{session_id}/close")
        assert status == 200

    async def post(self, path: str, body: Any) -> Any:
        """Use one of its controls."""
        status, answer = await self._router.post(path, body)
        assert status in (200, 201), answer
        return answer

    async def open_past_us(self) -> str:
        """Open a session on our wallet as somebody else could, and return its id."""
        return await self._router.open()

    async def close_expired(self) -> None:
        """Let the router's own closer make its round."""
        await self._router.simulator.node.close_expired()

    async def offline(self, address: str) -> None:
        status, _ = await self._router.post("/sim/providers", {"address": address, "online": False})
        assert status == 200

    async def fund(self, mor: int) -> None:
        await self._router.post("/sim/balance", {"mor": str(mor)})

    async def wipe(self) -> None:
        """Lose what the router knows of its sessions; the chain stays."""
        await self._router.post("/sim/wipe", {})


class Automation:
    """Says what is to be done for a prompt without a session."""

    def __init__(self) -> None:
        self.decision = Decision.OPEN
        self.refusal: dict[str, Any] = {}
        self.asked: list[PlanChat] = []
        self.is_enabled = True

    async def answer_settings(self, msg: Msg) -> None:
        long_ago = datetime(2026, 1, 2, tzinfo=UTC)
        settings = AutomationSettings(
            user_id=GetSettings.model_validate_json(msg.data).user_id,
            is_enabled=self.is_enabled,
            session_duration=3600,
            created_at=long_ago,
            updated_at=long_ago,
        )
        await msg.respond(json.dumps({"ok": settings.model_dump(mode="json")}).encode())

    async def answer(self, msg: Msg) -> None:
        self.asked.append(PlanChat.model_validate_json(msg.data))
        opens = self.decision is Decision.OPEN
        plan = Plan(decision=self.decision, duration=3600 if opens else None, reason="test", **self.refusal)
        await msg.respond(json.dumps({"ok": plan.model_dump(mode="json")}).encode())


ENDS = {Kind.END, Kind.LAST}


@dataclass
class Answer:
    """What came back for one attempt."""

    frames: list[Frame] = field(default_factory=list)
    body: bytes = b""
    error: ErrorFrame | None = None
    head: AnswerHead | None = None
    worker: str | None = None
    referred: list[str] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        """Whether the worker said that the answer is complete."""
        return any(frame.kind in ENDS for frame in self.frames)

    @property
    def code(self) -> str | None:
        return None if self.error is None else self.error.code

    @property
    def text(self) -> str:
        """What the model said, in either mode."""
        if self.body.startswith(b"data: "):
            parts = [part[6:] for part in self.body.decode().split("\n\n") if part.startswith("data: {")]
            chunks = [json.loads(part) for part in parts]
            return "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c.get("choices"))
        return str(json.loads(self.body)["choices"][0]["message"]["content"])

    def assert_whole(self) -> None:
        """Nothing is missing, nothing came twice, and the end was said once, last."""
        assert [frame.seq for frame in self.frames] == list(range(len(self.frames)))
        assert self.error is None
        assert self.frames[-1].kind in ENDS
        assert sum(frame.kind in ENDS for frame in self.frames) == 1


class Prompting:
    """One attempt as the gateway sees it, a step at a time."""

    def __init__(self, gateway: "Gateway", attempt: Attempt, head: PromptHead, body: bytes) -> None:
        self._gateway = gateway
        self.attempt = attempt
        self.head = head
        self._body = body
        self.answer = Answer()

    async def start(self, worker: str | None = None) -> None:
        subject = names.CHAT_START if worker is None else names.chat_start_at(worker)
        await self._gateway.connection.publish(
            subject, self._body, reply=self.attempt.inbox, headers={Header.HEAD: encode_head(self.head)}
        )

    async def next(self) -> Frame:
        """The next frame that is no beat."""
        while True:
            frame = await self.attempt.next(PATIENCE)
            assert frame is not None, "silence"
            self._keep(frame)
            if frame.kind is not Kind.BEAT:
                return frame

    async def accepted(self) -> None:
        frame = await self.next()
        assert frame.kind is Kind.ACCEPT, frame

    async def credit(self, absolute: int = WINDOW_BYTES) -> None:
        assert self.answer.worker is not None
        subject = names.chat_credit(self.answer.worker, self.attempt.id)
        await self._gateway.connection.publish(subject, str(absolute).encode())

    async def cancel(self) -> None:
        assert self.answer.worker is not None
        await self._gateway.connection.publish(names.chat_cancel(self.answer.worker, self.attempt.id), b"")

    async def finish(self) -> Answer:
        """Give credit and take what comes until the attempt is over."""
        await self.credit(len(self.answer.body) + WINDOW_BYTES)
        while True:
            frame = await self.next()
            if frame.kind is Kind.DATA:
                await self.credit(len(self.answer.body) + WINDOW_BYTES)
            elif frame.kind is not Kind.ACCEPT:
                return self.answer

    def _keep(self, frame: Frame) -> None:
        answer = self.answer
        answer.frames.append(frame)
        if frame.kind is Kind.ACCEPT:
            answer.worker = read_head(AcceptFrame, frame).worker
        elif frame.kind is Kind.OWNER:
            answer.referred.append(read_head(OwnerFrame, frame).worker)
        elif frame.kind in {Kind.DATA, Kind.LAST}:
            answer.body += frame.data
            if frame.head is not None:
                assert answer.head is None
                answer.head = read_head(AnswerHead, frame)
        elif frame.kind is Kind.ERROR:
            answer.error = read_head(ErrorFrame, frame)


class Gateway:
    """Asks and prompts as the gateway does."""

    def __init__(self, connection: Client, name: str = "g1") -> None:
        self.connection = connection
        self.rpc = RpcClient(connection)
        self.inbox = RelayInbox(connection, name)
        self.models: dict[str, CatalogueModel] = {}

    async def ready(self) -> None:
        """Wait until a worker answers and knows the marketplace."""

        async def known() -> bool:
            try:
                found = await self.rpc.call(CATALOGUE, CatalogueQuestion(), timeout=1.0)
            except ApiError:
                return False
            self.models = {model.name: model for model in found.models or ()}
            return True

        await until(known)

    def model(self, name: str = "llama-3.3-70b") -> str:
        return self.models[name].id

    async def ask_open(self, key: str = "k1", *, user: str = "u1", **wish: Any) -> OpenOutcome:
        """Open, and return what it has come to when the wait is over."""
        if "bid_id" not in wish:
            wish.setdefault("model_id", self.model())
        command = {"operation_id": uuid7(), "duration": 3600, "wait": PATIENCE, **wish}
        return await self.rpc.call(
            OPEN_SESSION, OpenSession(user_id=user, key_id=key, key_prefix="sk-abc", **command), timeout=PATIENCE + 5
        )

    async def open(self, key: str = "k1", **wish: Any) -> SessionRow:
        """Open, or raise why not."""
        outcome = await self.ask_open(key, **wish)
        if outcome.error is not None:
            raise ApiError(outcome.error.code, outcome.error.message, details=outcome.error.details)
        if outcome.session is None:
            raise ApiError("session_pending", details={"operation_id": outcome.operation_id})
        return outcome.session

    async def operation(self, operation_id: str, key: str = "k1") -> OperationRow:
        return await self.rpc.call(GET_OPERATION, GetOperation(operation_id=operation_id, key_id=key))

    async def close(
        self, key: str = "k1", *, wait: float = PATIENCE, operation_id: str | None = None, **more: Any
    ) -> CloseResult:
        command = CloseSession(operation_id=operation_id or uuid7(), user_id="u1", key_id=key, wait=wait, **more)
        return await self.rpc.call(CLOSE_SESSION, command, timeout=PATIENCE + 5)

    async def attempt_open(self, key: str = "k1", **wish: Any) -> str | None:
        """Open, and return the code of the error it ends with."""
        try:
            await self.open(key, **wish)
        except ApiError as error:
            return error.code
        return None

    async def current(self, key: str = "k1") -> SessionRow | None:
        return (await self.rpc.call(GET_SESSION, GetSession(key_id=key))).session

    async def list(self, key: str = "k1", *, limit: int = 50, ended: bool = False) -> list[SessionRow]:
        question = ListKeySessions(key_id=key, limit=limit, ended=ended)
        return (await self.rpc.call(LIST_SESSIONS, question)).sessions

    async def quote(self, *, duration: int = 3600, **wish: Any) -> SessionQuote:
        if "bid_id" not in wish:
            wish.setdefault("model_id", self.model())
        return await self.rpc.call(QUOTE_SESSION, QuoteSession(duration=duration, **wish))

    async def ping(self, key: str = "k1", *, worker: str | None = None) -> PingAnswer:
        """Ping a key's session, at the worker that owns it; raises what the worker says instead."""
        with self.inbox.attempt() as attempt:
            head = PromptHead(
                attempt=attempt.id,
                gateway=self.inbox.gateway,
                request_id=uuid7(),
                user_id="u1",
                key_id=key,
                key_prefix="sk-abc",
                stream=False,
                body_bytes=0,
                open_wait=0,
                ping=True,
            )
            prompting = Prompting(self, attempt, head, b"")
            await prompting.start(worker)
            frame = await prompting.next()
            if frame.kind is not Kind.ACCEPT:
                return await self.ping(key, worker=prompting.answer.referred[0])
            answer = await prompting.finish()
        if answer.error is not None:
            raise ApiError(answer.error.code)
        answer.assert_whole()
        return PingAnswer.model_validate_json(answer.body)

    @contextlib.contextmanager
    def _prompting(self, text: str, key: str, stream: bool, wish: dict[str, Any]) -> Any:
        body = json.dumps(
            {"model": "x", "messages": [{"role": "user", "content": text}], "stream": stream, **wish.pop("body", {})}
        ).encode()
        wish.setdefault("model_id", self.model())
        with self.inbox.attempt() as attempt:
            head = PromptHead(
                attempt=attempt.id,
                gateway=self.inbox.gateway,
                request_id=uuid7(),
                user_id="u1",
                key_id=key,
                key_prefix="sk-abc",
                stream=stream,
                body_bytes=len(body),
                **{"open_wait": PATIENCE, **wish},
            )
            yield Prompting(self, attempt, head, body)

    @asynccontextmanager
    async def prompting(
        self, text: str = "hello", *, key: str = "k1", stream: bool = True, worker: str | None = None, **wish: Any
    ) -> AsyncIterator[Prompting]:
        """An attempt that was started, to be driven by the test."""
        with self._prompting(text, key, stream, wish) as prompting:
            await prompting.start(worker)
            yield prompting

    async def attempt(self, text: str = "hello", *, stream: bool = True, **wish: Any) -> Answer:
        """One attempt, credited as soon as it is accepted."""
        async with self.prompting(text, stream=stream, **wish) as prompting:
            frame = await prompting.next()
            if frame.kind is Kind.ACCEPT:
                await prompting.credit()
                return await prompting.finish()
            return prompting.answer

    async def chat(self, text: str = "hello", *, first: str | None = None, **wish: Any) -> Answer:
        """A prompt, sent on to the worker that owns the key's session as long as workers say so."""
        referred: list[str] = []
        worker = first
        for _ in range(6):
            answer = await self.attempt(text, worker=worker, **dict(wish))
            if answer.referred:
                worker = answer.referred[-1]
            elif answer.error is not None and answer.error.not_sent and answer.error.owner:
                worker = answer.error.owner
            else:
                answer.referred = referred
                return answer
            referred.append(worker)
        raise AssertionError(f"sent round in circles: {referred}")


@dataclass
class House:
    """Everything around the workers of one test."""

    account: NatsAccount
    mongo_url: str
    database: Database
    simulator: Simulator
    gateway: Gateway
    automation: Automation
    auth: Client
    folder: Path
    acts: list[RecordAct]

    def settings(self, worker_id: str = "w1", *, router_url: str | None = None, **more: Any) -> SessionsSettings:
        router = {"name": "r1", "url": router_url or self.simulator.url, "user": "admin", "password": "correct"}
        return SessionsSettings.model_validate(
            {
                "worker_id": worker_id,
                "nats_url": self.account.url,
                "nats_seed": SecretStr(self.account.seeds[User.SESSIONS]),
                "mongo_url": SecretStr(self.mongo_url),
                "mongo_database": self.database.name,
                "proxy_routers": json.dumps([router]),
                "deployment_number": 7,
                "drain_seconds": 5.0,
                # what did not work is tried again sooner than a real chain would bear
                "retry_seconds": 0.4,
                "absence_spacing": 0.2,
                # tests open more often than people; those of the limits say what is allowed
                "opens_per_minute": 10_000,
                "opens_per_day": 10_000,
                "approves_per_minute": 10_000,
                # so that opens make the transactions of their own that tests look at
                "allowance_stakes": 0,
                **more,
            }
        )

    @asynccontextmanager
    async def worker(self, worker_id: str = "w1", **more: Any) -> AsyncIterator[Parts]:
        """A worker in this process."""
        async with serve(self.settings(worker_id, **more)) as parts:
            await self.gateway.ready()
            yield parts

    @asynccontextmanager
    async def process(self, worker_id: str = "w1", **more: Any) -> AsyncIterator["Process"]:
        """A worker as a process of its own, which a test can kill."""
        settings = self.settings(worker_id, **more)
        environment = {
            name.upper(): str(value.get_secret_value() if hasattr(value, "get_secret_value") else value)
            for name in type(settings).model_fields
            if (value := getattr(settings, name)) is not None
        }
        process = Process(environment, self.folder / f"{worker_id}.log")
        process.start()
        try:
            try:
                await self.is_up(worker_id)
            except TimeoutError:
                raise AssertionError(process.log()[-4000:]) from None
            yield process
        finally:
            process.kill()

    async def is_up(self, worker_id: str) -> None:
        """Wait until a worker takes prompts."""

        async def listens() -> bool:
            with self.gateway.inbox.attempt() as attempt:
                await self.gateway.connection.publish(names.chat_start_at(worker_id), b"", reply=attempt.inbox)
                # a worker drops what has no head; without one the server says at once that nobody listens
                frame = await attempt.next(0.2)
            return frame is None or frame.kind is not Kind.NOBODY

        await until(listens)
        await self.gateway.ready()

    async def deactivate(self, key: str = "k1") -> None:
        """Publish that a key was revoked, as auth does."""
        event = KeyChanged(key_id=key, user_id="u1", is_active=False)
        await self.auth.jetstream().publish(
            KEY_DEACTIVATED.subject, event.model_dump_json().encode(), headers={Header.MESSAGE_ID: uuid7()}
        )

    # what is stored

    async def database_time(self, later: float = 0.0) -> datetime:
        """The database's clock, some seconds later."""
        now: datetime = (await self.database.command("hello"))["localTime"]
        return now + timedelta(seconds=later)

    async def sessions(self, **query: Any) -> list[dict[str, Any]]:
        return [item async for item in self.database["sessions"].find(query).sort("created_at", 1)]

    async def operations(self, **query: Any) -> list[dict[str, Any]]:
        return [item async for item in self.database["operations"].find(query).sort("created_at", 1)]

    async def only_session(self, **query: Any) -> dict[str, Any]:
        (found,) = await self.sessions(**query)
        return found

    async def only_operation(self, **query: Any) -> dict[str, Any]:
        (found,) = await self.operations(**query)
        return found

    async def session_is(self, state: str, **query: Any) -> dict[str, Any]:
        """Wait until there is a session in this state."""

        async def found() -> dict[str, Any] | None:
            return next(iter(await self.sessions(state=state, **query)), None)

        return await until(found)


class Process:
    """A worker that can be killed and started again."""

    def __init__(self, environment: dict[str, str], log: Path, *, module: str = "morpheus_sessions") -> None:
        self._environment = {**os.environ, **environment}
        self._log = log
        self._module = module
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with(os.getpid()),  # noqa: PLW1509 - it calls prctl and takes no lock
            )

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it runs."""
        if self._process is not None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def terminate(self) -> None:
        """Ask it to go."""
        assert self._process is not None
        self._process.terminate()

    def has_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def log(self) -> str:
        return self._log.read_text()


async def subscribe_acts(connection: Client, acts: list[RecordAct]) -> None:
    """Answer as auth does when an operator's act is entered into the audit log."""

    async def enter(msg: Msg) -> None:
        acts.append(RecordAct.model_validate_json(msg.data))
        await msg.respond(b'{"ok": {}}')

    await connection.subscribe(RECORD_ACT.subject, queue=User.AUTH, cb=enter)


async def subscribe_plans(connection: Client, automation: Automation) -> None:
    await connection.subscribe(PLAN_CHAT.subject, queue=User.AUTOMATION, cb=automation.answer)
    await connection.subscribe(GET_SETTINGS.subject, queue=User.AUTOMATION, cb=automation.answer_settings)


@asynccontextmanager
async def surroundings(
    account: NatsAccount, mongo_url: str, mongo_database: str, simulator: Simulator, folder: Path
) -> AsyncIterator[House]:
    """Everything around session workers while the block runs."""
    async with AsyncExitStack() as stack:
        client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(mongo_url, tz_aware=True)
        stack.push_async_callback(client.close)
        database = database_of(client, mongo_database)
        await apply_indexes(database, DOCUMENTS)
        connections = {}
        for user in (User.GATEWAY, User.AUTOMATION, User.AUTH):
            connections[user] = await account.connect(user)
            stack.push_async_callback(connections[user].close)
        acts: list[RecordAct] = []
        await subscribe_acts(connections[User.AUTH], acts)
        automation = Automation()
        await subscribe_plans(connections[User.AUTOMATION], automation)
        gateway = Gateway(connections[User.GATEWAY])
        await gateway.inbox.start()
        yield House(
            account=account,
            mongo_url=mongo_url,
            database=database,
            simulator=simulator,
            gateway=gateway,
            automation=automation,
            auth=connections[User.AUTH],
            folder=folder,
            acts=acts,
        )
