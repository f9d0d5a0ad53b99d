"""Automation workers beside session workers: real processes with a database of their own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime

from morpheus_automation.documents import DOCUMENTS as AUTOMATION_DOCUMENTS
from morpheus_common.bus.names import User
from morpheus_common.contracts.automation import LIST_DECISIONS, PUT_SETTINGS, DecisionRow, ListDecisions, PutSettings
from morpheus_common.contracts.base import Empty
from morpheus_common.contracts.health import PING
from morpheus_common.errors import ApiError
from morpheus_common.store.mongo import Database, apply_indexes, init_documents
from morpheus_sessions.documents import DOCUMENTS

from tests.service.sessions.house import House, Process, until

PASS_SECONDS = 0.1


@dataclass
class Automating:
    """The automation workers of one test, by their names."""

    house: House
    database: Database
    workers: dict[str, Process] = field(default_factory=dict)
    seen: set[datetime] = field(default_factory=set)

    def add(self, name: str, **more: str) -> Process:
        """Start a worker. It need not answer yet."""
        account = self.house.account
        environment = {
            "MONGO_URL": self.house.mongo_url,
            "MONGO_DATABASE": self.database.name,
            "NATS_URL": account.url,
            "NATS_SEED": account.seeds[User.AUTOMATION],
            "WORKER_ID": name,
            "RENEWAL_SECONDS": str(PASS_SECONDS),
            **more,
        }
        process = Process(environment, self.house.folder / f"{name}.log", module="morpheus_automation")
        self.workers[name] = process
        process.start()
        return process

    async def is_up(self) -> None:
        """Wait until one of them answers."""

        async def answers() -> bool:
            try:
                await self.house.gateway.rpc.call(PING[User.AUTOMATION], Empty(), timeout=1.0)
            except ApiError:
                return False
            return True

        await until(answers)

    async def switch(self, *, on: bool, user: str = "u1", duration: int = 330) -> None:
        """Have a user's sessions managed or not."""
        change = PutSettings(user_id=user, is_enabled=on, session_duration=duration)
        await self.house.gateway.rpc.call(PUT_SETTINGS, change)

    async def decisions(self, key: str = "k1", *, user: str = "u1") -> list[DecisionRow]:
        """What was decided for a key, oldest first."""
        question = ListDecisions(user_id=user, key_id=key, limit=100)
        return (await self.house.gateway.rpc.call(LIST_DECISIONS, question)).decisions[::-1]

    async def holder(self) -> str | None:
        """The worker that looks at sessions near their end."""
        lease = await self.database["leases"].find_one({"_id": "renewals", "$expr": {"$gt": ["$until", "$$NOW"]}})
        return None if lease is None else lease["worker"]


@asynccontextmanager
async def automating(house: House, *names: str, **more: str) -> AsyncIterator[Automating]:
    """Run automation workers of these names, or have them added by the test. To be entered before a session worker of this
    process is.
    """
    database = house.database.client.get_database(f"{house.database.name}_automation", house.database.codec_options)
    await apply_indexes(database, AUTOMATION_DOCUMENTS)
    # some documents are those of both services, and in this process of the database they were bound to last
    await init_documents(house.database, DOCUMENTS)
    found = Automating(house, database)
    try:
        for name in names:
            found.add(name, **more)
        if names:
            await found.is_up()
        yield found
    finally:
        for process in found.workers.values():
            process.kill()
