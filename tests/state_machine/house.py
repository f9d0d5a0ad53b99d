"""What lasts for a whole run: the database, the event loop, and the product's hooks that the machine holds."""

import asyncio
import sys
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, TypeVar

import morpheus_sessions.opening
import pytest
from morpheus_common import steps
from morpheus_common.clock import utc_now
from morpheus_common.steps import Step
from morpheus_common.store.mongo import Database, MongoClient, apply_indexes, database_of
from morpheus_common.store.mongo import connect as connect_as_product
from morpheus_sessions.documents import DOCUMENTS
from pydantic import SecretStr

from tests import servers
from tests.state_machine.actors import current, gate
from tests.state_machine.invariants import Records, Violation
from tests.state_machine.process import Listener, ReadBack, settings_of

T = TypeVar("T")

TIMED: Final = ("sessions", "operations", "workers", "findings")
"""Where moments are stored that somebody compares. Time passes by moving all of them back."""
MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a folder in memory: nothing of a test has to survive


class House:
    """One database server, one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, client: MongoClient, listener: Listener) -> None:
        self.loop = loop
        self.client = client
        self.database: Database = database_of(client, "state_machine")
        self.listener = listener
        self.examples = 0
        self.rules = 0
        self.gates = 0
        self.violation: Violation | None = None
        """The first that was found. Hypothesis runs its example again, and tells of nothing else if that ends otherwise."""
        self.seen: Counter[str] = Counter()
        """How often each step was passed, each fault struck and each event was written."""

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run some work to its end."""
        return self.loop.run_until_complete(work)

    async def clear(self) -> None:
        """Forget everything."""
        for name in await self.database.list_collection_names():
            await self.database.get_collection(name).delete_many({})

    async def age(self, seconds: int) -> None:
        """Let time pass for all that is stored."""
        is_date = {"$eq": [{"$type": "$$this.v"}, "date"]}
        moved = {"k": "$$this.k", "v": {"$cond": [is_date, _back("$$this.v", seconds), "$$this.v"]}}
        everything = {"$map": {"input": {"$objectToArray": "$$ROOT"}, "in": moved}}
        for name in TIMED:
            await self.database.get_collection(name).update_many({}, [{"$replaceWith": {"$arrayToObject": everything}}])
        wallets = self.database.get_collection("wallets")
        await wallets.update_many(
            {"calling.until": {"$type": "date"}}, [{"$set": {"calling.until": _back("$calling.until", seconds)}}]
        )
        await wallets.update_many({"read_to": {"$type": "number"}}, {"$inc": {"read_to": -seconds}})

    async def count_events(self) -> None:
        """Add the events of an example to what was seen, and the chain calls that overlapped."""
        for row in (await self.records()).outbox:
            self.seen["event: " + row["subject"].split(".")[3]] += 1
        for row in await self.database.get_collection("wallets").find({}).to_list():
            self.seen["overlaps"] += row.get("overlaps", 0)

    async def records(self) -> Records:
        """Read all that is stored."""
        names = ("sessions", "operations", "outbox", "key_guards", "findings")
        return Records(*[await self.database.get_collection(name).find({}).to_list() for name in names])


def _back(moment: str, seconds: int) -> dict[str, Any]:
    return {"$dateSubtract": {"startDate": moment, "unit": "second", "amount": seconds}}


def _now() -> datetime:
    """The clock of the process that runs."""
    actor = current()
    return utc_now() + timedelta(seconds=0.0 if actor is None else actor.process.skew)


@contextmanager
def _held(listener: Listener, seen: Counter[str]) -> Iterator[None]:
    """Take hold of the product's clock, logs and steps."""

    async def counting(step: Step, _: str) -> None:
        seen[step.value] += 1
        await gate(step.value)

    with pytest.MonkeyPatch.context() as patch:
        for name, module in list(sys.modules.items()):
            if name.startswith("morpheus_sessions."):
                for attribute, stand_in in (("utc_now", _now), ("log", listener)):
                    if hasattr(module, attribute):
                        patch.setattr(module, attribute, stand_in)
        patch.setattr(morpheus_sessions.opening, "asyncio", ReadBack())
        patch.setattr(morpheus_sessions.opening, "READ_BACK_PAUSE_SECONDS", 5.0)
        steps.install(counting)
        try:
            yield
        finally:
            steps.install(None)


@contextmanager
def house() -> Iterator[House]:
    """Start a database server in memory and take hold of the product."""
    listener = Listener()
    with TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder, servers.mongo(Path(folder)) as server:
        settings = settings_of("w1").model_copy(update={"mongo_url": SecretStr(server.url())})
        with asyncio.Runner() as runner:
            found = House(runner.get_loop(), connect_as_product(settings, "sessions"), listener)
            with _held(listener, found.seen):
                found.run(apply_indexes(found.database, DOCUMENTS))
                yield found
            found.run(found.client.close())
