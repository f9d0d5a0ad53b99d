"""Migrations: what is done once to documents that are stored already. `morpheus apply` carries them out; no service does.

A version ships a migration for what *the version before it no longer writes*, although both still read it. So it can run
while processes of that version do, before the first one of the new version starts, and nobody writes the old form behind its
back. A new form therefore takes two releases: the first writes it and reads both, the second migrates and reads one.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from morpheus_common.ids import uuid7
from morpheus_common.logs import get_logger
from morpheus_common.store.leases import LEASE_SECONDS, Holder, Leases
from morpheus_common.store.mongo import Database

log = get_logger(__name__)

COLLECTION = "migrations"
"""One document for each that is done: its name, and when, by the database's clock."""
LEASE = "migrations"
LOOKS_A_LEASE = 15
"""So often one who waits looks whether the other has ended, in the length of a lease."""


@dataclass(frozen=True, slots=True)
class Migration:
    """`name` stands for it for ever and is given to no other.

    `step` does a part, in well under the length of a lease, and tells whether more is left. It is called until nothing is.
    It may be cut off anywhere, run again, and run twice at once: each time it looks for what is still to do, and what it has
    done it no longer finds.
    """

    name: str
    step: Callable[[Database], Awaitable[bool]]


class LeaseLostError(Exception):
    """Another process carries the migrations on, because this one stood still for too long."""


async def missing_migrations(database: Database, migrations: Sequence[Migration]) -> list[str]:
    """Return the names of those that are not done, in order."""
    if not migrations:
        return []
    names = [migration.name for migration in migrations]
    done = {row["_id"] async for row in database.get_collection(COLLECTION).find({"_id": {"$in": names}}, {"_id": 1})}
    return [name for name in names if name not in done]


async def migrate(database: Database, migrations: Sequence[Migration], *, seconds: float = LEASE_SECONDS) -> list[str]:
    """Carry out those that are not done, in order; return their names. Repeatable, also after it was killed anywhere.

    One process at a time does it; another waits until it has ended or its lease of so many `seconds` has run out.

    Raises:
        LeaseLostError: another process has taken over.
    """
    if not await missing_migrations(database, migrations):
        return []
    holder = Holder(f"apply-{uuid7()}", 1)
    leases = Leases(database, holder, seconds=seconds)
    while await leases.acquire(LEASE) is None:
        log.info("migrations wait for the process that carries them out", database=database.name)
        await asyncio.sleep(seconds / LOOKS_A_LEASE)
    try:
        missing = await missing_migrations(database, migrations)
        for migration in migrations:
            if migration.name in missing:
                await _carry_out(database, migration, leases)
        return missing
    finally:
        await leases.retire(LEASE)


async def _carry_out(database: Database, migration: Migration, leases: Leases) -> None:
    log.info("migration", name=migration.name, database=database.name)
    more = True
    while more:
        # each step begins with the whole length of the lease before it
        if await leases.acquire(LEASE) is None:
            raise LeaseLostError(migration.name)
        more = await migration.step(database)
    await database.get_collection(COLLECTION).update_one(
        {"_id": migration.name}, [{"$set": {"done_at": "$$NOW"}}], upsert=True
    )
