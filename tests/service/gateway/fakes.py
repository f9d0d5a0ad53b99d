"""Small services that answer on the real bus, with the rights of the real ones."""

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import nats
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from jwt.algorithms import OKPAlgorithm
from morpheus_common.bus.frames import Kind, frame_headers, split_frames
from morpheus_common.bus.names import (
    CHAT_START,
    INBOX,
    Header,
    User,
    chat_body,
    chat_cancel,
    chat_credit,
    chat_start_at,
)
from morpheus_common.bus.rpc import error_envelope
from morpheus_common.contracts.auth import (
    CHANGE_KEY,
    CHECK_KEY,
    CHECK_TOKEN,
    CREATE_KEY,
    DEACTIVATE_KEY,
    GET_KEY,
    LIST_KEYS,
    LOGIN,
    PUBLIC_KEYS,
    REFRESH,
    REGISTER,
    ROTATE_KEY,
    Caller,
    ChangeKey,
    CheckKey,
    CheckToken,
    CreateKey,
    DeactivateKey,
    GetKey,
    KeyRow,
    KeyRows,
    ListKeys,
    Login,
    PublicKeys,
    PublicKeysQuestion,
    Refresh,
    Register,
    RotatedKey,
    RotateKey,
    Scope,
    TokenPair,
    UserRow,
)
from morpheus_common.contracts.automation import (
    GET_SETTINGS,
    LIST_DECISIONS,
    PUT_SETTINGS,
    AutomationSettings,
    DecisionRow,
    Decisions,
    GetSettings,
    ListDecisions,
    PutSettings,
)
from morpheus_common.contracts.base import Empty, Message, Rpc
from morpheus_common.contracts.chat import AcceptFrame, AnswerHead, ErrorFrame, OwnerFrame, PromptHead
from morpheus_common.contracts.delegations import (
    ACTIVE_DELEGATION,
    DELETE_DELEGATION,
    LIST_DELEGATIONS,
    STORE_DELEGATION,
    ActiveDelegation,
    ActiveDelegationQuestion,
    DelegationRow,
    DelegationRows,
    DeleteDelegation,
    ListDelegations,
    StoreDelegation,
    Verification,
)
from morpheus_common.contracts.health import PING, Health
from morpheus_common.contracts.rated_bids import GET_RATED_BIDS, GetRatedBids, RatedBid, RatedBids
from morpheus_common.contracts.sessions import (
    CATALOGUE,
    CLOSE_SESSION,
    GET_SESSION,
    OPEN_SESSION,
    Catalogue,
    CatalogueModel,
    CatalogueQuestion,
    CloseResult,
    CloseSession,
    CurrentSession,
    GetSession,
    ModelType,
    OpenOutcome,
    OpenSession,
    SessionRow,
    SessionState,
    Slot,
)
from morpheus_common.errors import ApiError
from morpheus_common.ids import uuid7
from morpheus_common.sealing import public_key_from_text, public_key_to_text, seal, unseal
from morpheus_gateway import api_keys
from nats.aio.client import Client
from nats.aio.msg import Msg

Answerer = Callable[[Any], Awaitable[Message]]
ISSUER = "morpheus-auth"
AUDIENCE = "morpheus-gateway"
SESSION_ID = "0x" + "5e" * 32
LONG_AGO = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def chain_id(number: int) -> str:
    return f"0x{number:064x}"


class FakeService:
    """Answers questions of one service; a handler may be replaced while it runs."""

    def __init__(self, connection: Client, service: User) -> None:
        self.connection = connection
        self.service = service
        self.handlers: dict[str, Answerer] = {}
        self.asked: defaultdict[str, list[Any]] = defaultdict(list)
        self.request_ids: list[str | None] = []
        self.lacks: set[str] = set()
        self.degraded: list[str] = []

    async def answer(self, rpc: Rpc[Any, Any], handler: Answerer) -> None:
        new = rpc.subject not in self.handlers
        self.handlers[rpc.subject] = handler
        if not new:
            return

        async def respond(msg: Msg) -> None:
            question = rpc.question.model_validate_json(msg.data)
            self.asked[rpc.verb].append(question)
            self.request_ids.append((msg.headers or {}).get(Header.REQUEST_ID))
            try:
                answer = await self.handlers[rpc.subject](question)
                envelope = {"ok": answer.model_dump(mode="json")}
            except ApiError as error:
                envelope = error_envelope(error)
            await self.connection.publish(msg.reply, json.dumps(envelope).encode())

        async def in_background(msg: Msg) -> None:
            task = asyncio.create_task(respond(msg))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        await self.connection.subscribe(rpc.subject, queue=self.service, cb=in_background)

    _tasks: set[asyncio.Task[None]] = set()  # noqa: RUF012 - all fakes of the process share it

    async def answer_pings(self) -> None:
        async def pong(_: Empty) -> Message:
            works = {"database": True, "proxy_router": True} | dict.fromkeys(self.lacks, False)
            return Health(version="0.1.0", worker="w", components=works, degraded=self.degraded)

        await self.answer(PING[self.service], pong)


class FakeAuth(FakeService):
    """Accounts and keys in memory."""

    def __init__(self, connection: Client) -> None:
        super().__init__(connection, User.AUTH)
        self.signing = Ed25519PrivateKey.generate()
        self.sealing = X25519PrivateKey.generate()
        self.kid = "k1"
        self.also_published: dict[str, Ed25519PrivateKey] = {}
        self.rows: dict[str, KeyRow] = {}
        self.check_delay = 0.0
        self.passwords: dict[str, str] = {}
        self.ended_logins: set[str] = set()
        self.delegations: list[DelegationRow] = []

    async def start(self) -> None:
        await self.answer_pings()
        await self.answer(PUBLIC_KEYS, self._public_keys)
        await self.answer(CHECK_KEY, self._check_key)
        await self.answer(CHECK_TOKEN, self._check_token)
        await self.answer(CREATE_KEY, self._create_key)
        await self.answer(LIST_KEYS, self._list_keys)
        await self.answer(GET_KEY, self._get_key)
        await self.answer(CHANGE_KEY, self._change_key)
        await self.answer(ROTATE_KEY, self._rotate_key)
        await self.answer(DEACTIVATE_KEY, self._deactivate_key)
        await self.answer(REGISTER, self._register)
        await self.answer(LOGIN, self._login)
        await self.answer(REFRESH, self._refresh)
        await self.answer(STORE_DELEGATION, self._store_delegation)
        await self.answer(LIST_DELEGATIONS, self._list_delegations)
        await self.answer(ACTIVE_DELEGATION, self._active_delegation)
        await self.answer(DELETE_DELEGATION, self._delete_delegation)

    def add_key(self, **fields: Any) -> str:
        """Record a key as if it had been made, and return it."""
        key = api_keys.make()
        self.rows[api_keys.digest(key)] = _key_row(api_keys.prefix_of(key), **fields)
        return key

    def revoke(self, key: str) -> None:
        digest = api_keys.digest(key)
        self.rows[digest] = self.rows[digest].model_copy(update={"is_active": False})

    def token(self, *, headers: dict[str, Any] | None = None, **claims: Any) -> str:
        now = int(time.time())
        payload = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "user-1",
            "sid": "login-1",
            "iat": now,
            "nbf": now,
            "exp": now + 600,
            "jti": uuid7(),
            "auth_time": now,
        } | claims
        payload = {name: value for name, value in payload.items() if value is not None}
        head = {"typ": "at+jwt", "kid": self.kid} | (headers or {})
        return jwt.encode(payload, self.signing, algorithm="EdDSA", headers=head)

    def _unseal(self, sealed: Any, rpc: Rpc[Any, Any]) -> str:
        return unseal(sealed, self.sealing, subject=rpc.subject, request_id=self.request_ids[-1] or "").decode()

    def _tokens(self, rpc: Rpc[Any, Any], answer_key: str) -> TokenPair:
        tokens = {"access_token": self.token(), "refresh_token": "rt-next", "expires_in": 1800}
        sealed = seal(
            json.dumps(tokens).encode(),
            public_key_from_text(answer_key),
            subject=rpc.subject,
            request_id=self.request_ids[-1] or "",
        )
        return TokenPair(tokens=sealed)

    async def _public_keys(self, _: PublicKeysQuestion) -> PublicKeys:
        entries = [
            OKPAlgorithm.to_jwk(key.public_key(), as_dict=True) | {"kid": kid, "use": "sig", "alg": "EdDSA"}
            for kid, key in ({self.kid: self.signing} | self.also_published).items()
        ]
        return PublicKeys(jwks={"keys": entries}, sealing_key=public_key_to_text(self.sealing.public_key()))

    async def _check_key(self, question: CheckKey) -> Caller:
        await asyncio.sleep(self.check_delay)
        row = self.rows.get(question.sha256)
        if row is None or not row.is_active:
            raise ApiError("invalid_api_key")
        return Caller(
            user_id=row.user_id,
            key_id=row.id,
            key_prefix=row.key_prefix,
            scopes=row.scopes,
            allowed_models=row.allowed_models,
        )

    async def _check_token(self, question: CheckToken) -> Caller:
        if question.login_id in self.ended_logins:
            raise ApiError("invalid_token")
        return Caller(user_id=question.user_id, login_id=question.login_id)

    async def _create_key(self, question: CreateKey) -> KeyRow:
        row = _key_row(
            question.key_prefix,
            user_id=question.user_id,
            name=question.name,
            expires_at=question.expires_at,
            scopes=question.scopes or list(Scope),
            allowed_models=question.allowed_models,
        )
        self.rows[question.sha256] = row
        return row

    async def _list_keys(self, question: ListKeys) -> KeyRows:
        rows = [row for row in self.rows.values() if row.user_id == question.user_id]
        return KeyRows(keys=list(reversed(rows)))

    def _own(self, user_id: str, key_id: str) -> tuple[str, KeyRow]:
        for digest, row in self.rows.items():
            if (row.id, row.user_id) == (key_id, user_id):
                return digest, row
        raise ApiError("key_not_found")

    async def _get_key(self, question: GetKey) -> KeyRow:
        return self._own(question.user_id, question.key_id)[1]

    async def _change_key(self, question: ChangeKey) -> KeyRow:
        digest, row = self._own(question.user_id, question.key_id)
        if not row.is_active:
            raise ApiError("key_inactive")
        self.rows[digest] = row.model_copy(update={field: getattr(question, field) for field in question.fields})
        return self.rows[digest]

    async def _rotate_key(self, question: RotateKey) -> RotatedKey:
        _, row = self._own(question.user_id, question.key_id)
        self.rows[question.sha256] = row = row.model_copy(update={"key_prefix": question.key_prefix})
        return RotatedKey(row=row, previous_until=LONG_AGO + timedelta(seconds=question.grace_seconds))

    async def _deactivate_key(self, question: DeactivateKey) -> KeyRow:
        digest, row = self._own(question.user_id, question.key_id)
        self.rows[digest] = row.model_copy(update={"is_active": False})
        return self.rows[digest]

    async def _register(self, question: Register) -> UserRow:
        if question.email in self.passwords:
            raise ApiError("email_taken")
        self.passwords[question.email] = self._unseal(question.password, REGISTER)
        return UserRow(id="user-1", email=question.email, name=question.name, is_active=True, created_at=LONG_AGO)

    async def _login(self, question: Login) -> TokenPair:
        if self.passwords.get(question.email) != self._unseal(question.password, LOGIN):
            raise ApiError("invalid_credentials")
        return self._tokens(LOGIN, question.answer_key)

    async def _refresh(self, question: Refresh) -> TokenPair:
        if self._unseal(question.refresh_token, REFRESH) != "rt-next":
            raise ApiError("invalid_refresh_token")
        return self._tokens(REFRESH, question.answer_key)

    async def _store_delegation(self, question: StoreDelegation) -> DelegationRow:
        row = DelegationRow(
            id=uuid7(),
            delegator_address="0x" + "5A" * 20,
            delegation_hash="0x" + "ab" * 32,
            verification=Verification.UNVERIFIED,
            chain_id=8453,
            created_at=LONG_AGO,
            **question.model_dump(),
        )
        self.delegations.insert(0, row)
        return row

    async def _list_delegations(self, question: ListDelegations) -> DelegationRows:
        own = [row for row in self.delegations if row.user_id == question.user_id]
        return DelegationRows(delegations=own[question.skip :][: question.limit])

    async def _active_delegation(self, question: ActiveDelegationQuestion) -> ActiveDelegation:
        own = (row for row in self.delegations if row.user_id == question.user_id and row.is_active)
        return ActiveDelegation(delegation=next(own, None))

    async def _delete_delegation(self, question: DeleteDelegation) -> Empty:
        for row in self.delegations:
            if (row.id, row.user_id) == (question.delegation_id, question.user_id):
                self.delegations.remove(row)
                return Empty()
        raise ApiError("delegation_not_found")


def _key_row(prefix: str, **fields: Any) -> KeyRow:
    defaults: dict[str, Any] = {
        "id": uuid7(),
        "user_id": "user-1",
        "key_prefix": prefix,
        "name": None,
        "is_active": True,
        "created_at": LONG_AGO,
        "expires_at": None,
        "last_used_at": None,
        "scopes": list(Scope),
        "allowed_models": None,
    }
    return KeyRow(**(defaults | fields))


def model(number: int, name: str, **fields: Any) -> CatalogueModel:
    defaults: dict[str, Any] = {
        "id": chain_id(number),
        "name": name,
        "owner": "0x" + "0a" * 20,
        "tags": ["llm"],
        "type": ModelType.LLM,
        "created_at": 1_700_000_000 + number,
        "has_bids": True,
    }
    return CatalogueModel(**(defaults | fields))


class FakeSessions(FakeService):
    """A catalogue and a session that opens at once."""

    def __init__(self, connection: Client) -> None:
        super().__init__(connection, User.SESSIONS)
        self.models = [
            model(1, "Llama 3.3 70B", slug="llama-3-3-70b"),
            model(2, "mistral-small"),
            model(3, "nomic-embed", type=ModelType.EMBEDDING),
            model(4, "retired", has_bids=False),
        ]
        self.session: SessionRow | None = None

    async def start(self) -> None:
        await self.answer_pings()
        await self.answer(CATALOGUE, self._catalogue)
        await self.answer(GET_RATED_BIDS, self._rated_bids)
        await self.answer(OPEN_SESSION, self.open)
        await self.answer(CLOSE_SESSION, self._close)
        await self.answer(GET_SESSION, self._get)

    async def _catalogue(self, question: CatalogueQuestion) -> Catalogue:
        version = str(hash(tuple(entry.id for entry in self.models)))
        return Catalogue(version=version, age=2.0, models=None if question.have_version == version else self.models)

    async def _rated_bids(self, question: GetRatedBids) -> RatedBids:
        bids = [
            RatedBid(
                id=chain_id(number),
                provider="0x" + "0b" * 20,
                model_id=question.model_id,
                price_per_second="10000000000000",
                nonce="0",
                created_at="1748000000",
                deleted_at="0",
                score=score,
            )
            for number, score in ((77, 12.5), (75, 12.5), (76, 0.25))
        ]
        return RatedBids(bids=bids, age=1.0)

    async def open(self, question: OpenSession) -> OpenOutcome:
        self.session = SessionRow(
            operation_id=question.operation_id,
            state=SessionState.ACTIVE,
            slot=Slot.CURRENT,
            session_id=SESSION_ID,
            key_prefix=question.key_prefix,
            model_id=question.model_id or chain_id(1),
            model="Llama 3.3 70B",
            bid_id=question.bid_id or chain_id(77),
            provider="0x" + "0b" * 20,
            stake=10**20,
            price_per_second=10**10,
            opened_at=LONG_AGO,
            expires_at=LONG_AGO,
            last_used_at=None,
        )
        return OpenOutcome(operation_id=question.operation_id, session=self.session)

    async def _close(self, question: CloseSession) -> CloseResult:
        session_id = self.session.session_id if self.session is not None else None
        operations = [] if self.session is None else [question.operation_id]
        self.session = None
        return CloseResult(session_id=session_id, confirmed=True, operations=operations)

    async def _get(self, _: GetSession) -> CurrentSession:
        return CurrentSession(session=self.session)


class FakeAutomation(FakeService):
    """Settings of one user."""

    def __init__(self, connection: Client) -> None:
        super().__init__(connection, User.AUTOMATION)
        self.settings: dict[str, Any] = {"is_enabled": False, "session_duration": 3_600}
        self.decisions: list[DecisionRow] = []

    async def start(self) -> None:
        await self.answer_pings()

        async def get(question: GetSettings) -> AutomationSettings:
            return self._shown(question.user_id)

        async def put(question: PutSettings) -> AutomationSettings:
            self.settings |= question.model_dump(include={"is_enabled", "session_duration"}, exclude_none=True)
            return self._shown(question.user_id)

        async def decisions(question: ListDecisions) -> Decisions:
            return Decisions(decisions=self.decisions[: question.limit])

        await self.answer(LIST_DECISIONS, decisions)
        await self.answer(GET_SETTINGS, get)
        await self.answer(PUT_SETTINGS, put)

    def _shown(self, user_id: str) -> AutomationSettings:
        return AutomationSettings(user_id=user_id, created_at=LONG_AGO, updated_at=LONG_AGO, **self.settings)


@dataclass
class FakePrompt:
    """One attempt as a worker sees it."""

    worker: "FakeWorker"
    head: PromptHead
    inbox: str
    addressed: bool
    body: bytearray
    seq: int = 0
    sent: int = 0
    body_seqs: list[int] = field(default_factory=list)
    credits: list[tuple[float, int]] = field(default_factory=list)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, kind: Kind, data: bytes = b"", *, more: bool = False, head: Message | None = None) -> None:
        headers = frame_headers(kind, self.seq, more=more, head=head)
        self.seq += 1
        await self.worker.connection.publish(self.inbox, data, headers=headers)

    async def accept(self) -> None:
        await self.send(Kind.ACCEPT, head=AcceptFrame(worker=self.worker.name))

    async def owner(self, worker: str) -> None:
        await self.send(Kind.OWNER, head=OwnerFrame(worker=worker))

    def lose_a_frame(self) -> None:
        self.seq += 1

    async def data(self, data: bytes, *, first: bool = False, more: bool = False) -> None:
        head = AnswerHead(model="Llama 3.3 70B", session_id=SESSION_ID, provider="0xprovider") if first else None
        pieces = split_frames(data)
        for number, piece in enumerate(pieces):
            await self.until(lambda: self.sent < self.credit)
            await self.send(Kind.DATA, piece, more=more or number < len(pieces) - 1, head=head)
            self.sent += len(piece)
            head = None

    async def beat(self) -> None:
        await self.send(Kind.BEAT)

    async def end(self) -> None:
        await self.send(Kind.END)

    async def error(self, code: str, message: str = "It failed.", **fields: Any) -> None:
        await self.send(Kind.ERROR, head=ErrorFrame(code=code, message=message, **fields))

    async def complete(self) -> None:
        """Wait for the whole body and the first credit."""
        await self.until(lambda: len(self.body) == self.head.body_bytes and bool(self.credits))

    async def credited(self, times: int) -> None:
        """Wait until credit was given so often."""
        await self.until(lambda: len(self.credits) >= times)

    async def until(self, condition: Callable[[], bool], seconds: float = 10.0) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    @property
    def credit(self) -> int:
        return self.credits[-1][1] if self.credits else 0

    @property
    def prompt(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(bytes(self.body))
        return parsed


Script = Callable[[FakePrompt], Awaitable[None]]


async def answer_with_echo(prompt: FakePrompt) -> None:
    """Take the prompt and answer with its last message, as the head asks: a stream or one object."""
    await prompt.accept()
    await prompt.complete()
    text = prompt.prompt["messages"][-1]["content"]
    if prompt.head.stream:
        for position, word in enumerate(text.split(" ")):
            await prompt.data(sse(chunk(word if position == 0 else f" {word}")), first=position == 0)
        await prompt.data(sse(chunk(None, finish="stop")) + b"data: [DONE]\n\n")
    else:
        await prompt.data(json.dumps(completion(text)).encode(), first=True)
    await prompt.end()


def chunk(content: str | None, finish: str | None = None) -> dict[str, Any]:
    delta = {"role": "assistant", "content": content} if content is not None else {}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "Llama 3.3 70B",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }


def completion(content: str) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "Llama 3.3 70B",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


def sse(event: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(event)}\n\n".encode()


class FakeWorker:
    """The chat side of a session worker. `script` says what it does with a prompt."""

    def __init__(self, connection: Client, name: str = "w1", *, shares: bool = True) -> None:
        self.connection = connection
        self.name = name
        self.shares = shares
        self.script: Script = answer_with_echo
        self.prompts: list[FakePrompt] = []
        self.arrived = asyncio.Event()
        self._by_attempt: dict[str, FakePrompt] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._subscriptions: list[Any] = []

    async def start(self) -> None:
        subscribe = self.connection.subscribe
        if self.shares:
            self._subscriptions.append(await subscribe(CHAT_START, queue="sessions", cb=self._on_start))
        self._subscriptions.append(await subscribe(chat_start_at(self.name), cb=self._on_start))
        self._subscriptions.append(await subscribe(chat_body(self.name, "*"), cb=self._on_body))
        self._subscriptions.append(await subscribe(chat_credit(self.name, "*"), cb=self._on_credit))
        self._subscriptions.append(await subscribe(chat_cancel(self.name, "*"), cb=self._on_cancel))
        await self.connection.flush()

    async def stop(self) -> None:
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
        self._subscriptions = []
        await self.connection.flush()

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def nth(self, count: int) -> FakePrompt:
        """Return the attempt number `count`, from 1, when it has come."""
        async with asyncio.timeout(10):
            while len(self.prompts) < count:
                self.arrived.clear()
                await self.arrived.wait()
        return self.prompts[count - 1]

    async def _on_start(self, msg: Msg) -> None:
        head = PromptHead.model_validate_json((msg.headers or {})[Header.HEAD])
        prompt = FakePrompt(self, head, msg.reply, msg.subject != CHAT_START, bytearray(msg.data))
        if head.credit:
            prompt.credits.append((time.monotonic(), head.credit))
        self.prompts.append(prompt)
        self._by_attempt[head.attempt] = prompt
        self.arrived.set()
        task: asyncio.Task[None] = asyncio.ensure_future(self.script(prompt))
        self._tasks.add(task)

    def _prompt(self, msg: Msg) -> FakePrompt:
        return self._by_attempt[msg.subject.rpartition(".")[2]]

    async def _on_body(self, msg: Msg) -> None:
        prompt = self._prompt(msg)
        prompt.body += msg.data
        prompt.body_seqs.append(int((msg.headers or {})[Header.SEQ]))
        prompt.changed.set()

    async def _on_credit(self, msg: Msg) -> None:
        prompt = self._prompt(msg)
        prompt.credits.append((time.monotonic(), int(msg.data)))
        prompt.changed.set()

    async def _on_cancel(self, msg: Msg) -> None:
        prompt = self._prompt(msg)
        prompt.cancelled.set()
        prompt.changed.set()


@asynccontextmanager
async def connected(url: str, seed: str, user: User) -> AsyncIterator[Client]:
    """Connect as `user`. A refused subject is a failed test: nothing else would show it."""
    problems: list[str] = []

    async def on_error(error: Exception) -> None:
        problems.append(str(error))

    connection = await nats.connect(url, nkeys_seed_str=seed, inbox_prefix=INBOX[user], error_cb=on_error)
    try:
        yield connection
        await connection.flush()
    finally:
        await connection.close()
    assert not problems
