"""Auth as the gateway sees it, and what an eavesdropper or a thief of the database would see."""

import asyncio
import hashlib
import json
import os
import secrets
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import bson
import jwt
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from morpheus_auth.audit import Audit, load_audit_keys
from morpheus_auth.key_encryption import KeyEncryption
from morpheus_auth.keyring import Keyring
from morpheus_auth.settings import AuthSettings
from morpheus_common.bus.names import User
from morpheus_common.bus.rpc import RpcClient
from morpheus_common.clock import utc_now
from morpheus_common.contracts.accounts import (
    ALLOW_RESET,
    CHANGE_PASSWORD,
    END_LOGINS,
    GET_ACCOUNT,
    MAKE_INVITES,
    RESET_PASSWORD,
    Account,
    AllowReset,
    ChangePassword,
    EndLogins,
    GetAccount,
    MakeInvites,
    PasswordChange,
    PasswordReset,
    ResetPassword,
)
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
    KeyField,
    KeyRow,
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
from morpheus_common.contracts.base import Empty, Rpc
from morpheus_common.contracts.delegations import (
    ACTIVE_DELEGATION,
    DELETE_DELEGATION,
    LIST_DELEGATIONS,
    STORE_DELEGATION,
    ActiveDelegationQuestion,
    DelegationRow,
    DeleteDelegation,
    ListDelegations,
    StoreDelegation,
)
from morpheus_common.contracts.health import PING
from morpheus_common.errors import ApiError
from morpheus_common.ids import uuid7
from morpheus_common.request_context import request_id
from morpheus_common.sealing import Sealed, public_key_from_text, public_key_to_text, seal, unseal
from morpheus_common.store.mongo import Database, MongoClient, connect, database_of

PASSWORD = "correct horse battery staple"


@dataclass(frozen=True)
class Tokens:
    access_token: str
    refresh_token: str
    expires_in: int

    @property
    def user_id(self) -> str:
        return str(self._claims["sub"])

    @property
    def login_id(self) -> str:
        return str(self._claims["sid"])

    @property
    def _claims(self) -> dict[str, Any]:
        claims: dict[str, Any] = jwt.decode(self.access_token, options={"verify_signature": False})
        return claims


@dataclass
class Operator:
    """Asks auth as the user `ops` does."""

    rpc: RpcClient

    async def invite(self, *, days: int | None = None) -> str:
        code = f"invite-{secrets.token_urlsafe(32)}"
        await self.rpc.call(MAKE_INVITES, MakeInvites(sha256=[sha256(code)], days=days))
        return code

    async def reset_token(self, email: str) -> str:
        token = f"reset-{secrets.token_urlsafe(32)}"
        await self.rpc.call(ALLOW_RESET, AllowReset(email=email, sha256=sha256(token)))
        return token


@dataclass
class Gateway:
    """Asks auth, each question as a request of its own."""

    rpc: RpcClient
    _sealing_key: X25519PublicKey | None = None

    async def public_keys(self) -> PublicKeys:
        return await self.rpc.call(PUBLIC_KEYS, PublicKeysQuestion())

    async def seal(self, secret: str, rpc: Rpc[Any, Any]) -> Sealed:
        if self._sealing_key is None:
            self._sealing_key = public_key_from_text((await self.public_keys()).sealing_key)
        return seal(secret.encode(), self._sealing_key, subject=rpc.subject, request_id=request_id.get() or "")

    async def register(
        self, email: str, password: str = PASSWORD, name: str | None = None, *, invite_code: str | None = None
    ) -> UserRow:
        request_id.set(uuid7())
        question = Register(
            email=email,
            name=name,
            password=await self.seal(password, REGISTER),
            invite_sha256=None if invite_code is None else sha256(invite_code),
        )
        return await self.rpc.call(REGISTER, question)

    async def account(self, user_id: str) -> Account:
        return await self.rpc.call(GET_ACCOUNT, GetAccount(user_id=user_id))

    async def end_logins(self, user_id: str, login_id: str | None) -> None:
        await self.rpc.call(END_LOGINS, EndLogins(user_id=user_id, login_id=login_id))

    async def change_password(self, tokens: Tokens, current: str, new: str, *, address: str | None = None) -> None:
        request_id.set(uuid7())
        change = PasswordChange(current_password=current, new_password=new).model_dump_json()
        question = ChangePassword(
            user_id=tokens.user_id,
            login_id=tokens.login_id,
            passwords=await self.seal(change, CHANGE_PASSWORD),
            address=address,
        )
        await self.rpc.call(CHANGE_PASSWORD, question)

    async def reset_password(self, token: str, new: str) -> None:
        request_id.set(uuid7())
        reset = PasswordReset(token=token, new_password=new).model_dump_json()
        await self.rpc.call(RESET_PASSWORD, ResetPassword(reset=await self.seal(reset, RESET_PASSWORD)))

    async def login(
        self, email: str, password: str = PASSWORD, *, address: str | None = None, timeout: float | None = None
    ) -> Tokens:
        request_id.set(uuid7())
        own_key = X25519PrivateKey.generate()
        question = Login(
            email=email,
            password=await self.seal(password, LOGIN),
            answer_key=public_key_to_text(own_key.public_key()),
            address=address,
        )
        return _open(await self.rpc.call(LOGIN, question, timeout=timeout), own_key, LOGIN)

    async def refresh(self, token: str) -> Tokens:
        request_id.set(uuid7())
        own_key = X25519PrivateKey.generate()
        question = Refresh(
            refresh_token=await self.seal(token, REFRESH), answer_key=public_key_to_text(own_key.public_key())
        )
        return _open(await self.rpc.call(REFRESH, question), own_key, REFRESH)

    async def create_key(
        self,
        user_id: str,
        key: str,
        *,
        name: str | None = None,
        scopes: list[Scope] | None = None,
        expires_at: datetime | None = None,
    ) -> KeyRow:
        question = CreateKey(
            user_id=user_id,
            key_prefix=key[:9],
            sha256=hashlib.sha256(key.encode()).hexdigest(),
            name=name,
            scopes=scopes,
            expires_at=expires_at,
        )
        return await self.rpc.call(CREATE_KEY, question, timeout=15)

    async def list_keys(self, user_id: str) -> list[KeyRow]:
        return (await self.rpc.call(LIST_KEYS, ListKeys(user_id=user_id))).keys

    async def get_key(self, user_id: str, key_id: str) -> KeyRow:
        return await self.rpc.call(GET_KEY, GetKey(user_id=user_id, key_id=key_id))

    async def change_key(self, user_id: str, key_id: str, **changes: Any) -> KeyRow:
        fields = [KeyField(name) for name in changes]
        return await self.rpc.call(CHANGE_KEY, ChangeKey(user_id=user_id, key_id=key_id, fields=fields, **changes))

    async def rotate_key(self, user_id: str, key_id: str, key: str, *, grace_seconds: int = 86_400) -> RotatedKey:
        question = RotateKey(
            user_id=user_id,
            key_id=key_id,
            key_prefix=key[:9],
            sha256=hashlib.sha256(key.encode()).hexdigest(),
            grace_seconds=grace_seconds,
        )
        return await self.rpc.call(ROTATE_KEY, question, timeout=15)

    async def deactivate_key(self, user_id: str, key_id: str) -> KeyRow:
        return await self.rpc.call(DEACTIVATE_KEY, DeactivateKey(user_id=user_id, key_id=key_id))

    async def store_delegation(self, user_id: str, delegation: str, **fields: Any) -> DelegationRow:
        wish = {"delegate_address": json.loads(delegation)["delegate"], "sent_as_text": True} | fields
        question = StoreDelegation(user_id=user_id, signed_delegation=delegation, **wish)
        return await self.rpc.call(STORE_DELEGATION, question)

    async def list_delegations(self, user_id: str, *, skip: int = 0, limit: int = 10) -> list[DelegationRow]:
        question = ListDelegations(user_id=user_id, skip=skip, limit=limit)
        return (await self.rpc.call(LIST_DELEGATIONS, question)).delegations

    async def active_delegation(self, user_id: str) -> DelegationRow | None:
        return (await self.rpc.call(ACTIVE_DELEGATION, ActiveDelegationQuestion(user_id=user_id))).delegation

    async def delete_delegation(self, user_id: str, delegation_id: str) -> None:
        question = DeleteDelegation(user_id=user_id, delegation_id=delegation_id)
        await self.rpc.call(DELETE_DELEGATION, question)

    async def check_key(self, key: str) -> Caller:
        return await self.rpc.call(CHECK_KEY, CheckKey(sha256=hashlib.sha256(key.encode()).hexdigest()))

    async def check_token(self, user_id: str, login_id: str) -> Caller:
        return await self.rpc.call(CHECK_TOKEN, CheckToken(user_id=user_id, login_id=login_id))


def _open(answer: TokenPair, own_key: X25519PrivateKey, rpc: Rpc[Any, Any]) -> Tokens:
    text = unseal(answer.tokens, own_key, subject=rpc.subject, request_id=request_id.get() or "")
    return Tokens(**json.loads(text))


@asynccontextmanager
async def opened(settings: AuthSettings) -> AsyncIterator[Database]:
    """Open the database of a worker with these settings."""
    client = connect(settings, "test")
    yield database_of(client, settings.mongo_database)
    await client.close()


async def audit_of(client: MongoClient, keys: KeyEncryption) -> Audit:
    """The audit log as a process that starts now opens it."""
    audit = Audit(client, await load_audit_keys(Keyring(keys), utc_now))
    await audit.begin()
    return audit


@asynccontextmanager
async def process(settings: AuthSettings, worker: str, log: Path, **variables: str) -> AsyncIterator[Process]:
    """Run the service as it is started for real."""
    environment = {
        "PATH": os.environ["PATH"],
        "LOG_LEVEL": "DEBUG",
        "MONGO_URL": settings.mongo_url.get_secret_value(),
        "MONGO_DATABASE": settings.mongo_database,
        "NATS_URL": settings.nats_url,
        "NATS_SEED": settings.nats_seed.get_secret_value(),
        "WORKER_ID": worker,
        "ARGON2_PASSES": "1",
        "ARGON2_MEMORY_KIB": "8",
        "ARGON2_LANES": "1",
        **variables,
    }
    with log.open("ab") as output:
        started = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "morpheus_auth", env=environment, stdout=output, stderr=output
        )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


def sha256(secret: str) -> str:
    """Return what auth is told of a code or token (hex)."""
    return hashlib.sha256(secret.encode()).hexdigest()


def new_key() -> str:
    """Return something that looks like an API key."""
    return f"sk-{secrets.token_hex(3)}.{secrets.token_urlsafe(36)[:49]}"


async def age(database: Database, collection: str, field: str, *, seconds: int) -> None:
    """Let everything in a collection be that much older."""
    moved = {"$dateSubtract": {"startDate": f"${field}", "unit": "second", "amount": seconds}}
    await database.get_collection(collection).update_many({field: {"$ne": None}}, [{"$set": {field: moved}}])


async def dump(database: Database) -> bytes:
    """Return every document of a database as it is stored."""
    documents = []
    for name in await database.list_collection_names():
        documents += [bson.encode(document) async for document in database.get_collection(name).find()]
    return b"\n".join(documents)


class Wiretap:
    """Stands between a service and a server, keeps all that passes, can be slow (seconds) and can be cut."""

    def __init__(self, server: tuple[str, int]) -> None:
        self.traffic = bytearray()
        self.address = ""
        self.delay = 0.0
        self._server = server
        self._is_cut = False
        self._writers: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """Break all connections and accept no new ones."""
        self._is_cut = True
        for writer in self._writers:
            writer.transport.abort()

    def mend(self) -> None:
        """Accept connections again."""
        self._is_cut = False

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Join a client with the server until one of them hangs up."""
        if self._is_cut:
            writer.transport.abort()
            return
        server_reader, server_writer = await asyncio.open_connection(*self._server)
        self._writers |= {writer, server_writer}
        await asyncio.gather(self._pump(reader, server_writer), self._pump(server_reader, writer))
        self._writers -= {writer, server_writer}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65_536):
                self.traffic.extend(data)
                await asyncio.sleep(self.delay)
                writer.write(data)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def wiretap(server: str) -> AsyncIterator[Wiretap]:
    """Listen to everything between clients of the tap's address and the server at this URL."""
    parts = urlsplit(server)
    assert parts.hostname is not None
    assert parts.port is not None
    tap = Wiretap((parts.hostname, parts.port))
    listener = await asyncio.start_server(tap.connect, "127.0.0.1", 0)
    async with listener:
        tap.address = f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        yield tap


async def until(condition: Callable[[], Awaitable[bool]], *, within: float = 15.0) -> None:
    """Wait for a condition that nothing announces, for at most `within` seconds."""
    async with asyncio.timeout(within):
        met = False
        while not met:
            met = await condition()
            await asyncio.sleep(0.02)


def answered_by(gateway: Gateway, *workers: str) -> Callable[[], Awaitable[bool]]:
    """Tell whether all of `workers` answer."""
    seen: set[str] = set()

    async def heard() -> bool:
        try:
            seen.add((await gateway.rpc.call(PING[User.AUTH], Empty())).worker)
        except ApiError:
            return False
        return seen.issuperset(workers)

    return heard
