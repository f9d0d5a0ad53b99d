"""Migrations: once each, one process at a time, whatever it was killed in the middle of; and services that wait for them."""

import asyncio
import json
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from morpheus_common.bus.names import User
from morpheus_common.settings import StoreSettings
from morpheus_common.standing import Standing
from morpheus_common.store.leases import Holder, Leases
from morpheus_common.store.migrations import COLLECTION, LEASE, LeaseLostError, Migration, migrate, missing_migrations
from morpheus_common.store.mongo import Database
from morpheus_common.store.outbox import OutboxRow
from morpheus_common.store.service import store_service
from pydantic import SecretStr

from tests.servers import NatsAccount
from tests.service.common import killed_migrations
from tests.service.common.waiting import until

SHORT = 0.3


async def add_rows(database: Database, *entities: str) -> None:
    """Rows of the outbox as a version stored them that had no `traceparent` yet."""
    now = datetime.now(UTC)
    rows = [OutboxRow(subject="evt.a.b.c.v1", entity=entity, version=1, at=now, payload="{}") for entity in entities]
    stored = [row.model_dump(by_alias=True, exclude={"traceparent"}) for row in rows]
    await database.get_collection("outbox").insert_many(stored)


async def clock(database: Database) -> datetime:
    """The database's time."""
    told: datetime = (await database.command("hello"))["localTime"]
    return told.replace(tzinfo=UTC)


async def fill(database: Database) -> bool:
    outbox = database.get_collection("outbox")
    found = [row["_id"] async for row in outbox.find({"traceparent": {"$exists": False}}, {"_id": 1}).limit(2)]
    await outbox.update_many(
        {"_id": {"$in": found}, "traceparent": {"$exists": False}}, {"$set": {"traceparent": None}}
    )
    return bool(found)


FILLED = Migration("outbox-traceparent", fill)


async def test_what_is_stored_is_changed_once_and_that_is_recorded_by_the_database_s_clock(database: Database) -> None:
    await add_rows(database, *"abcde")
    assert await missing_migrations(database, [FILLED]) == [FILLED.name]
    before = await clock(database)

    assert await migrate(database, [FILLED]) == [FILLED.name]

    assert await database.get_collection("outbox").count_documents({"traceparent": {"$exists": True}}) == 5
    (row,) = [row async for row in database.get_collection(COLLECTION).find()]
    assert row["_id"] == FILLED.name
    assert before <= row["done_at"] <= await clock(database)
    assert await missing_migrations(database, [FILLED]) == []
    await add_rows(database, "f")
    assert await migrate(database, [FILLED]) == []
    assert await database.get_collection("outbox").count_documents({"traceparent": {"$exists": False}}) == 1


async def test_they_come_in_their_order_and_a_new_one_alone(database: Database) -> None:
    ran: list[str] = []

    def named(name: str) -> Migration:
        async def step(_: Database) -> bool:
            ran.append(name)
            return False

        return Migration(name, step)

    first, second, third = (named(name) for name in ("first", "second", "third"))
    assert await migrate(database, [first, second]) == ["first", "second"]
    assert await migrate(database, [first, second, third]) == ["third"]
    assert ran == ["first", "second", "third"]


async def test_killed_at_any_command_the_next_run_comes_to_the_same_end(mongo_url: str, mongo_database: str) -> None:
    program = [sys.executable, "-m", killed_migrations.__name__, mongo_url, mongo_database]
    process = await asyncio.to_thread(subprocess.run, program, capture_output=True, text=True, timeout=120, check=False)
    assert process.returncode == 0, process.stderr
    said = json.loads(process.stdout.splitlines()[-1])
    killed = said["first"].count(killed_migrations.KILLED)
    # all of the first so many, and the others came to the end: none was left out
    assert said["first"] == [killed_migrations.KILLED] * killed + [killed_migrations.DONE] * (
        len(said["first"]) - killed
    )
    assert 12 < killed < len(said["first"])
    assert set(said["again"]) == {killed_migrations.DONE}
    assert said["wrong"] == []


async def test_of_two_at_once_one_waits_and_then_finds_nothing_to_do(database: Database) -> None:
    running, finish = asyncio.Event(), asyncio.Event()
    ran = 0

    async def step(_: Database) -> bool:
        nonlocal ran
        ran += 1
        running.set()
        await finish.wait()
        return False

    slow = Migration("slow", step)
    first = asyncio.create_task(migrate(database, [slow]))
    await running.wait()
    second = asyncio.create_task(migrate(database, [slow]))

    async def second_is_refused() -> bool:
        return await Leases(database, Holder("somebody", 1)).acquire(LEASE) is None and not second.done()

    await until(second_is_refused)
    finish.set()
    assert (await first, await second) == (["slow"], [])
    assert ran == 1


async def test_who_stood_still_past_his_lease_leaves_the_rest_to_the_other(database: Database) -> None:
    async def step(database: Database) -> bool:
        # so long that the lease runs out, and another takes it
        other = Leases(database, Holder("other", 1))

        async def taken() -> bool:
            return await other.acquire(LEASE) is not None

        await until(taken)
        return True

    with pytest.raises(LeaseLostError):
        await migrate(database, [Migration("paused", step)], seconds=SHORT)
    assert await missing_migrations(database, [Migration("paused", step)]) == ["paused"]
    assert await Leases(database, Holder("other", 1)).acquire(LEASE) is not None, "the other's lease was given up"


async def test_a_service_waits_for_the_migrations_it_needs_names_them_and_goes_on_by_itself(
    database: Database, mongo_url: str, nats_streams: NatsAccount
) -> None:
    """C43: what is missing is `apply`, not the database, which answers."""
    settings = StoreSettings(
        worker_id="w1",
        mongo_url=SecretStr(mongo_url),
        mongo_database=database.name,
        nats_url=nats_streams.url,
        nats_seed=SecretStr(nats_streams.seeds[User.AUTH]),
    )
    await add_rows(database, *"abc")
    standing = Standing()
    up, leave = asyncio.Event(), asyncio.Event()

    async def serve() -> None:
        async with store_service(settings, User.AUTH, [OutboxRow], standing, [FILLED]):
            up.set()
            await leave.wait()

    service = asyncio.create_task(serve())

    async def waits_for_apply_alone() -> bool:
        return standing.missing == ["apply"]

    await until(waits_for_apply_alone)
    assert await database.get_collection(COLLECTION).count_documents({}) == 0
    await migrate(database, [FILLED])
    await asyncio.wait_for(up.wait(), 10)
    assert standing.missing == []
    leave.set()
    await service
