"""The stack that is fuzzed: every service a real process, with limits so high that no flood of requests is a reason to refuse."""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx2
import nats
from morpheus_common.bus.names import INBOX, User
from morpheus_common.bus.rpc import RpcClient
from morpheus_common.contracts.accounts import ALLOW_RESET, AllowReset

from tests.faults.records import Records
from tests.faults.stack import GATEWAY, WORKERS, FaultStack, Plan, fault_stack
from tests.load.soundness import unsound

T = TypeVar("T")

MANY: Final = 10_000_000
INSIDE_SECONDS: Final = 30.0

SETTINGS: Final = {
    "LOG_LEVEL": "WARNING",
    "REGISTRATIONS_PER_HOUR": MANY,
    "REGISTRATIONS_PER_DAY": MANY,
    "FAILED_LOGINS_PER_TEN_MINUTES": MANY,
    "FAILED_LOGINS": MANY,
    "REFRESHES_PER_MINUTE": MANY,
    "REFUSED_CREDENTIALS_PER_MINUTE": MANY,
    "PINGS_PER_MINUTE": MANY,
    "APPROVES_PER_MINUTE": MANY,
    "CHATS_PER_MINUTE": MANY,
    "PUBLIC_GETS_PER_MINUTE": MANY,
    "CONNECTIONS_PER_ADDRESS": 4_096,
    # nothing is struck here: what is slow is the machine, and not to be taken for broken
    "CHAIN_TIMEOUT": 20.0,
    "ABANDON_AFTER": 60.0,
    "MONGO_TIMEOUT_MS": 10_000,
    "RELAY_SILENCE": 15.0,
}


class Inside:
    """A running stack past its gateway: what its operator does and what its databases say. To be asked from other threads."""

    def __init__(self, stack: FaultStack, operator: RpcClient) -> None:
        self._stack = stack
        self._operator = operator
        self._records = Records(stack.mongo, stack.places.observer_url)
        self._loop = asyncio.get_running_loop()

    @property
    def base_url(self) -> str:
        """The gateway's address, without a path."""
        return self._stack.places.base_url.removesuffix("/api/v1")

    def reset_token(self, email: str) -> str:
        """Return a token for a new password, as `morpheus admin reset-link` makes it."""
        token = f"reset-{secrets.token_urlsafe(32)}"
        allowed = AllowReset(email=email, sha256=hashlib.sha256(token.encode()).hexdigest())
        self._wait(self._operator.call(ALLOW_RESET, allowed))
        return token

    def operation_of(self, key_id: str) -> str:
        """Return the id of an operation of an API key."""
        return str(self._wait(self._records.operations(key_id))[0]["_id"])

    def never_to_be_told(self) -> list[str]:
        """Return what no answer may hold: the stack's secrets, its inner addresses, and the wallet that stakes are paid from."""
        places, made = self._stack.places, self._stack.places.secrets
        return [
            *made.nats_seeds.values(),
            *made.mongo_passwords.values(),
            *(made.observer_password, made.mongo_key, made.auth_pepper, made.auth_key, made.router_password),
            *(places.mongo.address, f":{places.nats.port}", places.router.url.partition("//")[2]),
            self._wallet(),
        ]

    def _wallet(self) -> str:
        router = self._stack.places.router
        told = httpx2.get(f"{router.url}/wallet", auth=(router.user, router.password), timeout=INSIDE_SECONDS)
        return str(told.json()["address"])

    async def unsound(self) -> list[str]:
        """Return which invariants do not hold once all is at rest, and what the operators' audit found."""
        try:
            return await unsound(self._stack, self._records, killed=False)
        finally:
            await self._records.aclose()

    def _wait(self, doing: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(doing, self._loop).result(INSIDE_SECONDS)


@asynccontextmanager
async def fuzzed_stack(folder: Path, *, seed: int) -> AsyncIterator[Inside]:
    """Run a stack while the block runs."""
    plan = Plan(gateways=(GATEWAY,), workers=WORKERS[:1], settings=SETTINGS, answer_seconds=0.0, struck=False)
    async with fault_stack(folder, seed=seed, plan=plan) as stack:
        ops = stack.places.secrets.nats_seeds[User.OPS]
        bus = await nats.connect(stack.places.nats.url, nkeys_seed_str=ops, inbox_prefix=INBOX[User.OPS])
        try:
            yield Inside(stack, RpcClient(bus))
        finally:
            await bus.close()
