"""Carries migrations out in a process of its own for each command that they send, and kills it there: for test_migrations.

A command whose answer nobody hears is to the database as if the process were killed before its next one. The last line that
is printed is JSON: how the killed ones ended, how those ended that carried on, and which databases are not as they should be.
"""

import asyncio
import json
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from bson.codec_options import CodecOptions
from morpheus_common.store.migrations import COLLECTION, Migration, migrate
from morpheus_common.store.mongo import Database
from pymongo import AsyncMongoClient, MongoClient
from pymongo.monitoring import CommandListener, CommandStartedEvent

LEASE_SECONDS = 0.1
ROWS = 3
MORE_THAN_ALL = 24
"""So many commands are tried: more than a run sends, so that the last ones end by themselves."""
KILLED, DONE, FAILED = 9, 0, 1
NOT_COUNTED = frozenset({"hello", "ismaster", "endSessions", "ping"})


async def _split(database: Database) -> bool:
    """Two rows at a time: the subject's kind becomes a field."""
    rows = database.get_collection("rows")
    found = [row async for row in rows.find({"kind": {"$exists": False}}).limit(2)]
    for row in found:
        await rows.update_one({"_id": row["_id"]}, {"$set": {"kind": row["subject"].split(".")[0]}})
    return bool(found)


async def _count(database: Database) -> bool:
    """Once a row, although a number is raised: the same write says that it was."""
    rows = database.get_collection("rows")
    changed = await rows.update_many(
        {"counted": {"$exists": False}}, {"$inc": {"version": 1}, "$set": {"counted": True}}
    )
    return changed.modified_count > 0


MIGRATIONS = (Migration("kind", _split), Migration("counted", _count))


class Killer(CommandListener):
    """Ends the process before its command `at` is sent."""

    def __init__(self, at: int) -> None:
        self._count = 0
        self._at = at

    def started(self, event: CommandStartedEvent) -> None:
        if event.command_name not in NOT_COUNTED:
            self._count += 1
            if self._count == self._at:
                os._exit(KILLED)

    def succeeded(self, event: Any) -> None:
        """Nothing of it is told."""

    def failed(self, event: Any) -> None:
        """Nothing of it is told."""


async def _run(url: str, name: str, killer: Killer) -> list[str]:
    async with AsyncMongoClient[dict[str, Any]](url, event_listeners=[killer], w="majority") as client:
        database = client.get_database(name, codec_options=CodecOptions(tz_aware=True))
        return await migrate(database, MIGRATIONS, seconds=LEASE_SECONDS)


def _start(url: str, name: str, at: int) -> int:
    child = os.fork()
    if child == 0:
        try:
            asyncio.run(_run(url, name, Killer(at)))
        except BaseException as error:  # noqa: BLE001 - a child must not go on as its parent
            sys.stderr.write(f"{error!r}\n")
            os._exit(FAILED)
        os._exit(DONE)
    return child


def _all(url: str, names: Mapping[int, str]) -> dict[int, int]:
    """Run in every database at once, each killed before the command of its number; return how each ended."""
    children = {at: _start(url, name, at) for at, name in names.items()}
    return {at: os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for at, child in children.items()}


def _fill(url: str, names: Iterable[str]) -> None:
    with MongoClient[dict[str, Any]](url) as client:
        for name in names:
            client[name]["rows"].insert_many({"_id": n, "subject": f"evt.{n}", "version": 1} for n in range(ROWS))


def _wrong(url: str, names: Iterable[str]) -> list[str]:
    right = [{"_id": n, "subject": f"evt.{n}", "version": 2, "kind": "evt", "counted": True} for n in range(ROWS)]
    found = []
    with MongoClient[dict[str, Any]](url) as client:
        for name in names:
            rows = list(client[name]["rows"].find().sort("_id"))
            done = {row["_id"] for row in client[name][COLLECTION].find() if row["done_at"]}
            if rows != right or done != {"kind", "counted"}:
                found.append(f"{name}: {rows}, {done}")
    return found


def main() -> int:
    """Kill at each command, and carry on by another run."""
    url, prefix = sys.argv[1:]
    names = {at: f"{prefix}_{at}" for at in range(1, MORE_THAN_ALL + 1)}
    _fill(url, names.values())
    first = _all(url, names)
    again = _all(url, {at + MORE_THAN_ALL: name for at, name in names.items()})
    said = {"first": list(first.values()), "again": list(again.values()), "wrong": _wrong(url, names.values())}
    sys.stdout.write(json.dumps(said) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
