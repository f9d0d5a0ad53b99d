"""A process of the sessions service without bus and server: its real journal, loop, reconciler and commands."""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, cast

from morpheus_common.bus.rpc import RpcClient
from morpheus_common.contracts.auth import KeyIds
from morpheus_common.contracts.sessions import SessionState, Slot
from morpheus_common.ids import uuid7
from morpheus_common.store.leases import Holder, Leases
from morpheus_common.store.mongo import Database, MongoClient
from morpheus_common.store.outbox import OutboxRelay
from morpheus_common.store.workers import boot
from morpheus_sessions.breaker import Breaker
from morpheus_sessions.capital import Capital
from morpheus_sessions.catalogue import CatalogueCopy
from morpheus_sessions.documents import OperationDocument, SessionDocument
from morpheus_sessions.fleet import Fleet, Member
from morpheus_sessions.intake import Intake
from morpheus_sessions.journal import SWITCHED, Journal, SlotTaken
from morpheus_sessions.key_watch import KeyWatch
from morpheus_sessions.lifecycle import Lifecycle, is_usable
from morpheus_sessions.limits import Limits
from morpheus_sessions.purse import Purse, PurseReader
from morpheus_sessions.queueing import Head, Till
from morpheus_sessions.settings import SessionsSettings
from morpheus_sessions.turn import Turn
from morpheus_sessions.wallet import WalletLoop
from pydantic import Secret, SecretStr
from pymongo.asynchronous.client_session import AsyncClientSession

from tests.state_machine.actors import Actor, OneAtATime, acting, gate, gated
from tests.state_machine.router import LedgerRouter

USER: Final = "u1"
DURATION: Final = 3_600
FOREVER: Final = float("inf")
NO_LIMIT: Final = str(10**30)


def settings_of(worker: str) -> SessionsSettings:
    """The settings of production: only the waiting is done by moving times."""
    router = '[{"name": "r1", "url": "http://router.example", "user": "u", "password": "p"}]'
    return SessionsSettings(
        worker_id=worker,
        nats_seed=SecretStr("none"),
        mongo_url=SecretStr("none"),
        mongo_database="state_machine",
        proxy_routers=Secret(router),
        # what is allowed is the tests' of the limits; here everything happens more often than people do it
        stake_limit_per_user=NO_LIMIT,
        stake_limit_in_all=NO_LIMIT,
        opens_per_minute=10**6,
        opens_per_day=10**6,
        allowance_stakes=0,
    )


def _is_in_transaction(method: Callable[..., Any]) -> bool:
    """Whether a method is a piece of a transaction, within which nobody may wait."""
    return any(item.annotation is AsyncClientSession for item in inspect.signature(method).parameters.values())


class GatedJournal(Journal):
    """The journal, with a gate before every call."""

    def __init__(self, client: MongoClient, outbox: OutboxRelay) -> None:
        super().__init__(client, outbox)
        for name, method in inspect.getmembers(Journal, inspect.iscoroutinefunction):
            if not name.startswith("_") and name != "ended" and not _is_in_transaction(method):
                setattr(self, name, gated(f"journal.{name}", getattr(self, name)))

    async def ended(self, operation_id: str, *, wait: float) -> OperationDocument | None:
        # several are awaited at once, and an actor is in one place at a time
        with acting(None):
            return await super().ended(operation_id, wait=wait)


class Relay:
    """Nobody publishes: the rows of the outbox are what is looked at."""

    def nudge(self) -> None:
        """There is nothing to wake."""


class Purses:
    """What lies in the wallet, as its router tells it."""

    def __init__(self, router: LedgerRouter) -> None:
        self._router = router

    async def read(self, *, at_most: float = 0.0) -> Purse:  # noqa: ARG002 - nothing is kept
        balance = self._router.in_wallet
        return Purse(mor=balance, gas=10**18, allowance=balance)

    def forget(self) -> None:
        """Nothing is kept."""


class OpenHanded(Till):
    """A wallet that leaves nothing to the idle: there is none but it, and no time to wait."""

    async def take(self, wallet: str, router: str, *, in_hand: int) -> Head:  # noqa: ARG002 - as its base
        return await super().take(wallet, router, in_hand=0)


class Unbroken(Breaker):
    """The circuit to a router: it closes and opens in real time, and here time does not pass by itself."""

    def may_open(self, running: int) -> bool:  # noqa: ARG002 - as its base
        return True

    def failed(self) -> None:
        """It is tried again at once."""


class Auth:
    """The service that knows which keys have ended."""

    def __init__(self) -> None:
        self.ended: set[str] = set()

    async def call(self, _: Any, question: KeyIds) -> KeyIds:
        await gate("rpc.ended_keys")
        return KeyIds(key_ids=[key for key in question.key_ids if key in self.ended])


class DrivenLoop(WalletLoop):
    """The loop of a wallet, of which the test is the clock; each operation it starts is an actor of its own."""

    process: "Process"

    def _start(self, operation: OperationDocument) -> None:
        actor = Actor(f"{self.process.name} carries out {operation.kind} {operation.id[-4:]}", self.process)
        with acting(actor):
            super()._start(operation)
        self.process.started.append((actor, self._running[operation.id]))

    async def _carry_out(self, operation: OperationDocument) -> None:
        await gate("start")
        await super()._carry_out(operation)


@dataclass(kw_only=True, slots=True)
class Surroundings:
    """What all processes share. `catalogue`: no open hangs on how fresh a copy is."""

    client: MongoClient
    database: Database
    router: LedgerRouter
    catalogue: CatalogueCopy
    auth: Auth
    released: Callable[[SessionDocument], Awaitable[bool]]


class Process:
    """One start of a worker. `skew`: seconds its clock is ahead. `asleep`: it was stopped and does not know."""

    def __init__(self, name: str, holder: Holder, around: Surroundings, *, skew: float) -> None:
        settings = settings_of(name)
        self.name = f"{name}.{holder.boot}"
        self.worker = name
        self.holder = holder
        self.skew = skew
        self.asleep = False
        self.started: list[tuple[Actor, Any]] = []
        self.around = around
        leases = Leases(around.database, holder, seconds=settings.lease_seconds)
        self.journal = GatedJournal(around.client, cast("OutboxRelay", Relay()))
        limits = Limits(settings, Capital([], {}))
        self.intake = Intake(around.client, self.journal, limits)
        self.lifecycle = Lifecycle(self.journal, self.intake, around.catalogue, around.router, limits)
        self.turn = Turn(around.router, around.database, holder, longest_call=settings.chain_timeout)
        self.turn._lock = OneAtATime()  # type: ignore[assignment]  # waits where the test sees it
        till = OpenHanded(cast("PurseReader", Purses(around.router)), least_gas=0)
        member = Member(around.router, till, Unbroken(), deployment=settings.deployment_number)
        # who it is was asked before any of the rules began
        member._is_known = member._was_known = True
        self.loop = DrivenLoop(
            member,
            Fleet([member]),
            self.journal,
            leases,
            around.catalogue,
            settings,
            self.turn,
            around.released,
            limits,
        )
        self.loop.process = self
        self.reconciler = self.loop.reconciler
        self.keys = KeyWatch(cast("RpcClient", around.auth), self.journal, leases, seconds=settings.key_check_seconds)

    @classmethod
    async def start(cls, name: str, around: Surroundings, *, skew: float = 0.0) -> Self:
        """Start a worker, or start it anew."""
        return cls(name, await boot(around.database, name), around, skew=skew)

    @property
    def holds(self) -> bool:
        """Whether it takes the wallet for its own."""
        return self.turn.holds

    @holds.setter
    def holds(self, value: bool) -> None:
        self.turn.held_until = FOREVER if value else -FOREVER

    async def beat(self) -> None:
        """Show a sign of life."""
        await self.around.database.get_collection("workers").update_one(
            {"_id": self.worker, "boot": self.holder.boot}, [{"$set": {"beat_at": "$$NOW"}}]
        )

    async def prompt(self, key: str, model: str, *, rests: bool) -> None:
        """What a prompt does to a key's sessions when automation opens them (chat.py, `_open_for`).

        `rests`: the current session is quarantined, or its provider cannot be reached.
        """
        owned = await self.journal.session_in(key, Slot.CURRENT)
        if owned is not None and owned.state is SessionState.OPENING:
            return
        now = await self.journal.now()
        if owned is not None and not is_usable(owned, now):
            await self.journal.park(owned.id, "expired")
            owned = None
        rests = rests and owned is not None and owned.model_id == model
        if owned is not None and owned.model_id == model and not rests:
            return
        if not rests:
            for parked in await self.journal.sessions_of(key, (SessionState.PARKED,)):
                if parked.model_id == model and parked.reason == SWITCHED and is_usable(parked, now):
                    await self._resume(parked, owned)
                    return
        await self.lifecycle.begin(
            operation_id=uuid7(),
            user_id=USER,
            key_id=key,
            key_prefix="sk-abc",
            model_id=model,
            bid_id=None,
            duration=DURATION,
            old_becomes=SessionState.PARKED,
            even_if_usable=rests,
        )

    async def _resume(self, parked: SessionDocument, owned: SessionDocument | None) -> None:
        try:
            await self.journal.resume(parked.id, instead_of=None if owned is None else owned.id, owner=None)
        except SlotTaken:
            return

    async def lose(self, key: str) -> None:
        """The provider of a key's session does not know it any more."""
        owned = await self.journal.session_in(key, Slot.CURRENT)
        if owned is not None and owned.state is SessionState.ACTIVE:
            await self.journal.park(owned.id, "lost")


class ReadBack:
    """The time in which an open is read back: no test waits for it."""

    def __init__(self) -> None:
        self._now = 0.0

    def get_running_loop(self) -> Self:
        return self

    def time(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        self._now += seconds


class Listener:
    """Stands in for the logs. What a loop calls unexpected is kept."""

    def __init__(self) -> None:
        self.unexpected: list[BaseException] = []

    def debug(self, *_: Any, **__: Any) -> None:
        """Nothing to keep."""

    info = warning = error = critical = debug

    def exception(self, *_: Any, **__: Any) -> None:
        import sys

        problem = sys.exc_info()[1]
        if problem is not None:
            self.unexpected.append(problem)


def shown(problem: BaseException) -> str:
    """Name an exception and the place that raised it."""
    trace: TracebackType | None = problem.__traceback__
    place = ""
    while trace is not None:
        code = trace.tb_frame.f_code
        if "morpheus_" in code.co_filename:
            place = f" at {code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"{type(problem).__name__}: {problem}{place}"
