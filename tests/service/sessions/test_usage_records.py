"""Records of what was used in the database: written together and once, without who is deleted, and added up."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from urllib.parse import urlsplit

import bson
import pytest
from morpheus_common.contracts.chat import Endpoint
from morpheus_common.contracts.usage import (
    MAX_GROUPS,
    USAGE_RECORDED,
    GetUsage,
    GroupBy,
    TokensFrom,
    UsageRecord,
    UsageRecorded,
    UsageReport,
)
from morpheus_common.errors import ApiError
from morpheus_common.ids import uuid7
from morpheus_common.steps import Step
from morpheus_common.store import transactions
from morpheus_common.store.mongo import Database, MongoClient, apply_indexes, database_of, init_documents
from morpheus_common.store.outbox import OutboxRow
from morpheus_common.store.transactions import run_transaction
from morpheus_common.store.user_guards import UserGuardDocument, ended_users, pass_user_guard
from morpheus_sessions import erasing, usage_writer
from morpheus_sessions.documents import DOCUMENTS, UsageDocument, UsageSeriesDocument
from morpheus_sessions.erasing import Erasing
from morpheus_sessions.holds import HoldRule, Holds
from morpheus_sessions.journal import Journal
from morpheus_sessions.usage import UNDATED, Used
from morpheus_sessions.usage_report import UsageReports
from morpheus_sessions.usage_writer import UsageWriter
from pymongo import AsyncMongoClient
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import PyMongoError
from structlog.testing import capture_logs

from tests.faults.wires import MongoWire
from tests.service.sessions.house import until

ADA, EVE = uuid7(), uuid7()
KEPT = timedelta(days=90)
INDEXED = (UsageDocument, UsageSeriesDocument, UserGuardDocument, OutboxRow)
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)

Record = dict[str, Any]


@dataclass(frozen=True)
class Store:
    """The database of the sessions service, reached by a wire that a test can cut."""

    wire: MongoWire
    client: MongoClient
    database: Database

    def writer(self, **more: Any) -> UsageWriter:
        return UsageWriter(self.client, kept=KEPT, **more)

    @property
    def journal(self) -> Journal:
        nobody_listens = cast("Any", None)
        return Journal(self.client, nobody_listens, holds=Holds(HoldRule.WHOLE, timedelta()))

    @property
    def erasing(self) -> Erasing:
        return Erasing(self.client, self.journal)

    @property
    def reports(self) -> UsageReports:
        return UsageReports(self.journal)

    async def records(self, **query: Any) -> list[Record]:
        return [item async for item in self.database["usage"].find(query).sort("_id", 1)]

    async def events(self) -> list[Record]:
        found = self.database["outbox"].find({"subject": USAGE_RECORDED.subject})
        return [row async for row in found.sort([("entity", 1), ("version", 1)])]

    async def told(self) -> list[UsageRecord]:
        events = await self.events()
        return [record for row in events for record in UsageRecorded.model_validate_json(row["payload"]).records]

    async def left_of(self, *texts: str) -> list[str]:
        """Which of these texts stand in any document, events included."""
        kept = b""
        for name in await self.database.list_collection_names():
            kept += b"\n".join([bson.encode(item) async for item in self.database[name].find()])
        return [text for text in texts if text.encode() in kept]


@pytest.fixture
async def store(mongo_url: str, mongo_database: str) -> AsyncIterator[Store]:
    port = urlsplit(mongo_url).port
    assert port is not None
    wire = MongoWire(port)
    await wire.start()
    url = f"mongodb://127.0.0.1:{wire.port}/?directConnection=true"
    client: MongoClient = AsyncMongoClient(url, tz_aware=True, w="majority", serverSelectionTimeoutMS=500)
    try:
        database = database_of(client, mongo_database)
        await apply_indexes(database, INDEXED)
        await init_documents(database, DOCUMENTS)
        yield Store(wire, client, database)
    finally:
        await client.close()
        await wire.stop()


def used(*, user: str = ADA, key: str = "k1", **changes: Any) -> Used:
    fields: Record = {
        "id": uuid7(),
        "at": UNDATED,
        "user_id": user,
        "key_id": key,
        "model_id": "0x" + "1" * 64,
        "model": "llama",
        "provider": "0xp",
        "session_id": "session-1",
        "chain_session": "0x" + "2" * 64,
        "endpoint": Endpoint.CHAT,
        "stream": False,
        "prompt_tokens": 1,
        "completion_tokens": 2,
        "total_tokens": 3,
        "tokens_from": TokensFrom.PROVIDER,
        "queue_ms": 0,
        "total_ms": 5,
        "outcome": "ok",
        "request_id": "request-1",
    }
    return Used(time.monotonic(), UsageRecord(**fields | changes))


async def write(writer: UsageWriter, *records: Used) -> None:
    for record in records:
        writer.add(record)
    await writer.write()


def is_commit(command: dict[str, Any]) -> bool:
    return next(iter(command)) == "commitTransaction"


# once


async def test_an_answer_of_the_database_that_is_lost_writes_nothing_twice(store: Store) -> None:
    """B22, C46."""
    writer = store.writer()
    store.wire.lose_answers(1, matches=is_commit)
    await write(writer, used(), used())
    await write(writer, used())

    assert store.wire.lost == ["commitTransaction"]
    records, told = await store.records(), await store.told()
    assert len(records) == 3
    assert [record.id for record in told] == [record["_id"] for record in records]
    assert [row["version"] for row in await store.events()] == [1, 2]


async def test_a_batch_whose_writer_gave_up_on_the_answer_is_repeated_and_left_as_it_is(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B22, C24."""
    failures = 0

    async def lost(*arguments: Any, **more: Any) -> Any:
        nonlocal failures
        result = await run_transaction(*arguments, **more)
        if failures < 2:
            failures += 1
            raise PyMongoError("the answer was lost")
        return result

    monkeypatch.setattr(usage_writer, "run_transaction", lost)
    writer = store.writer()
    for _ in range(2):
        with pytest.raises(PyMongoError):
            await write(writer, used())
    await write(writer, used())

    assert len(writer) == 0
    told = await store.told()
    assert [record.id for record in told] == [record["_id"] for record in await store.records()]
    assert len(told) == 3
    assert [row["version"] for row in await store.events()] == [1, 2]
    assert len({row["entity"] for row in await store.events()}) == 1


async def test_records_wait_while_the_database_is_away_and_are_written_when_it_is_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B22."""
    monkeypatch.setattr(usage_writer, "WRITE_SECONDS", 0.02)
    monkeypatch.setattr(transactions, "MAX_SECONDS", 0.3)
    writer = store.writer()
    with capture_logs() as said:
        running = asyncio.create_task(writer.run())
        writer.add(used())
        await until(lambda: is_empty(writer))
        store.wire.cut()
        for _ in range(9):
            writer.add(used())

        async def complained() -> bool:
            return any("not written yet" in line["event"] for line in said)

        await until(complained)
        assert len(writer) == 9
        store.wire.mend()
        await until(lambda: is_empty(writer))
        running.cancel()

    told = await store.told()
    assert sorted(record.id for record in told) == [record["_id"] for record in await store.records()]
    assert len(told) == 10


async def is_empty(writer: UsageWriter) -> bool:
    return not len(writer)


async def test_when_too_many_wait_the_oldest_are_lost_counted_and_logged(store: Store) -> None:
    """B22: nothing is lost in silence, and nobody is held up."""
    writer = store.writer(limit=5)
    for number in range(8):
        writer.add(used(total_ms=number))
    assert len(writer) == 5
    with capture_logs() as said:
        await writer.write()

    assert [(line["log_level"], line["count"]) for line in said if "lost" in line["event"]] == [("error", 3)]
    assert [record["total_ms"] for record in await store.records()] == [3, 4, 5, 6, 7]


async def test_more_than_an_event_holds_goes_out_in_several(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """B22."""
    monkeypatch.setattr(usage_writer, "MAX_RECORDS", 4)
    await write(store.writer(), *(used() for _ in range(10)))

    assert len(await store.records()) == 10
    sizes = [len(UsageRecorded.model_validate_json(row["payload"]).records) for row in await store.events()]
    assert ([row["version"] for row in await store.events()], sizes) == ([1, 2, 3], [4, 4, 2])


async def test_a_series_that_the_database_has_forgotten_is_followed_by_another(store: Store) -> None:
    writer = store.writer()
    await write(writer, used())
    await store.database["usage_series"].delete_many({})
    await write(writer, used())

    assert [row["version"] for row in await store.events()] == [1, 1]
    assert len({row["entity"] for row in await store.events()}) == len(await store.records()) == 2


async def test_the_database_says_when_it_was_and_until_when_it_is_kept(store: Store) -> None:
    before = await store.journal.now()
    await write(store.writer(), used())
    (record,) = await store.records()

    assert before <= record["at"] <= await store.journal.now()
    assert KEPT <= record["expires_at"] - record["at"] < KEPT + timedelta(seconds=30)
    indexes = await store.database["usage"].index_information()
    assert (indexes["expiry"]["key"], indexes["expiry"]["expireAfterSeconds"]) == ([("expires_at", 1)], 0)


# without who is deleted


def is_nobodys(record: Record) -> bool:
    return all(record[name] is None for name in ("user_id", "key_id", "session_id", "chain_session", "request_id"))


async def test_records_of_a_deleted_user_lose_him_and_stay_and_what_is_written_late_never_had_him(
    store: Store,
) -> None:
    writer = store.writer()
    await write(writer, used(key="key-of-ada"), used(user=EVE))
    writer.add(used(key="key-of-ada"))

    assert await store.erasing.erase(ADA) == 0
    await writer.write()
    await write(store.writer(), used(key="key-of-ada"), used(user=EVE))
    assert await store.erasing.erase(ADA) == 0

    records = await store.records()
    assert [is_nobodys(record) for record in records] == [True, False, True, True, False]
    assert {record["total_tokens"] for record in records} == {3}
    assert [record["user_id"] for record in records if record["user_id"]] == [EVE, EVE]
    assert await store.left_of(ADA, "key-of-ada") == []


async def test_many_records_are_erased_in_parts(store: Store) -> None:
    await write(store.writer(), *(used() for _ in range(7)))
    hasty = Erasing(store.client, store.journal, batch=3, seconds=0.0)
    answers = [await hasty.erase(ADA)]
    while answers[-1] is None:
        assert len(answers) < 10
        answers.append(await hasty.erase(ADA))

    assert answers == [None, None, 0]
    assert all(map(is_nobodys, await store.records()))


@pytest.mark.parametrize("new_series", [False, True])
async def test_a_batch_and_an_erasure_at_once_leave_nothing_of_the_user(
    store: Store, monkeypatch: pytest.MonkeyPatch, new_series: bool
) -> None:
    """The batch has read that nobody is deleted; then he is, before it is written."""
    readings = 0
    read, erased = asyncio.Event(), asyncio.Event()

    async def slowly(user_ids: Sequence[str], tx: AsyncClientSession) -> set[str]:
        nonlocal readings
        ended = await ended_users(user_ids, tx)
        readings += 1
        if readings == 1:
            read.set()
            await erased.wait()
        return ended

    writer = store.writer()
    if not new_series:
        await write(writer, used(user=EVE))
    monkeypatch.setattr(usage_writer, "ended_users", slowly)
    writing = asyncio.create_task(write(writer, used(key="key-of-ada"), used(user=EVE)))
    await read.wait()
    ending = asyncio.create_task(store.erasing.erase(ADA))
    await until(lambda: is_ended(store))
    erased.set()
    await writing
    assert await ending == 0

    assert await store.left_of(ADA, "key-of-ada") == []
    assert [record["user_id"] for record in await store.records() if record["total_tokens"]].count(None) == 1


async def test_a_worker_that_comes_up_while_a_user_is_erased_writes_nothing_of_him(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The erasure began before there was anything of the worker's that both could write."""
    erasing_now, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(step: Step, _: str = "") -> None:
        if step is Step.SESSIONS_ERASING:
            erasing_now.set()
            await go_on.wait()

    monkeypatch.setattr(erasing, "reached", slowly)
    ending = asyncio.create_task(store.erasing.erase(ADA))
    await erasing_now.wait()
    await write(store.writer(), used(key="key-of-ada"))
    go_on.set()
    assert await ending == 0

    assert len(await store.records()) == 1
    assert await store.left_of(ADA, "key-of-ada") == []


async def is_ended(store: Store) -> bool:
    return await store.database["user_guards"].count_documents({"ended": True}) > 0


async def test_an_event_that_is_not_published_yet_loses_a_deleted_user_and_nobody_else(store: Store) -> None:
    writer = store.writer()
    for _ in range(12):
        await write(writer, used(key="key-of-ada"), used(user=EVE))

    assert await store.erasing.erase(ADA) == 0

    told = await store.told()
    assert len(told) == 24
    assert [is_nobodys(record.model_dump()) for record in told] == [True, False] * 12
    assert await store.left_of(ADA, "key-of-ada") == []


async def test_a_batch_stands_in_no_opens_way(store: Store) -> None:
    """Opens of a user write his guard; what he used does not, and so waits for none of them."""
    writer = store.writer()

    async def while_an_open_is_written(tx: AsyncClientSession) -> int:
        await pass_user_guard(ADA, tx)
        async with asyncio.timeout(5):
            await write(writer, used())
        return (await pass_user_guard(ADA, tx)).counted

    assert await run_transaction(store.client, while_an_open_is_written) == 0
    guard = await store.database["user_guards"].find_one({})
    assert guard is not None
    assert guard["changes"] == 2
    assert len(await store.records(user_id=ADA)) == 1


# added up


async def keep(store: Store, *rows: Record) -> None:
    """Store records as they would be after a time."""
    documents = []
    for row in rows:
        record = used(**{name: value for name, value in row.items() if name != "at"}).record.model_dump()
        at = row.get("at", NOON)
        documents.append({**record, "_id": record.pop("id"), "at": at, "expires_at": at + KEPT})
    await store.database["usage"].insert_many(documents)


async def report(store: Store, group_by: GroupBy = GroupBy.DAY, **more: Any) -> UsageReport:
    question = {"user_id": ADA, "begin": NOON - timedelta(days=5), "end": NOON + timedelta(days=5), **more}
    return await store.reports.report(GetUsage(group_by=group_by, **question))


async def test_usage_is_added_up_exactly_by_day_model_and_key_and_is_ones_own(store: Store) -> None:
    """C11: nothing of another user, whatever else is the same."""
    other = "0x" + "9" * 64
    big = 10_000_000
    await keep(
        store,
        {"at": datetime(2026, 11, 20, 23, 59, 59, 999_000, tzinfo=UTC), "prompt_tokens": big, "total_tokens": big + 2},
        {"at": datetime(2026, 11, 21, tzinfo=UTC), "key": "k2", "outcome": "client_gone", "tokens_from": "estimate"},
        {"model_id": other, "model": "qwen", "outcome": "provider_error", "tokens_from": None},
        {"model_id": None, "model": None, "outcome": "no_active_session", "total_tokens": 0},
        {"user": EVE, "total_tokens": 1_000},
        *({"key": "k2", "total_tokens": big} for _ in range(300)),
    )
    days = await report(store)
    models = await report(store, GroupBy.MODEL)
    keys = await report(store, GroupBy.KEY)

    assert [(group.group, group.requests) for group in days.groups] == [("2026-11-20", 303), ("2026-11-21", 1)]
    assert [(group.group, group.model, group.requests) for group in models.groups] == [
        ("0x" + "1" * 64, "llama", 302),
        (other, "qwen", 1),
        (None, None, 1),
    ]
    assert [(group.group, group.requests) for group in keys.groups] == [("k2", 301), ("k1", 3)]
    assert keys.groups[0].total_tokens == 300 * big + 3
    totals = days.totals
    assert (totals.requests, totals.errors, totals.cancelled, totals.estimated) == (304, 2, 1, 1)
    assert totals.total_tokens == 300 * big + big + 2 + 3 + 3
    assert totals.prompt_tokens == big + 303
    assert models.totals == keys.totals == totals
    assert days.complete


async def test_a_key_is_told_of_its_own_requests(store: Store) -> None:
    """C11, C14."""
    await keep(store, {"key": "k1"}, {"key": "k2"}, {"key": "k1", "user": EVE})
    for group_by in GroupBy:
        assert (await report(store, group_by, key_id="k2")).totals.requests == 1
    assert (await report(store, GroupBy.KEY, key_id="k2")).groups[0].group == "k2"
    assert (await report(store, key_id="k3")).groups == []
    assert (await report(store, key_id="k3")).totals.requests == 0


async def test_the_time_begins_with_its_first_moment_and_ends_before_its_last(store: Store) -> None:
    await keep(store, {"at": NOON}, {"at": NOON + timedelta(milliseconds=999)}, {"at": NOON + timedelta(seconds=1)})
    found = await report(store, begin=NOON, end=NOON + timedelta(seconds=1))
    assert found.totals.requests == 2


async def test_without_a_time_it_is_the_last_thirty_days_of_the_databases_clock_with_today(store: Store) -> None:
    now = await store.journal.now()
    await keep(store, *({"at": now - timedelta(days=days)} for days in (0, 29, 30)))
    found = await store.reports.report(GetUsage(user_id=ADA))
    assert found.end - found.begin == timedelta(days=30)
    assert now < found.end <= now + timedelta(days=1)
    assert found.end.isoformat().endswith("T00:00:00+00:00")
    assert found.totals.requests == 2
    since = await store.reports.report(GetUsage(user_id=ADA, begin=now - timedelta(days=89)))
    assert now <= since.end < now + timedelta(minutes=5)
    assert since.totals.requests == 3


async def test_near_the_first_day_of_the_calendar_there_are_fewer_days_before_the_end(store: Store) -> None:
    first = datetime.min.replace(tzinfo=UTC)
    found = await store.reports.report(GetUsage(user_id=ADA, end=first + timedelta(days=4)))
    assert (found.begin, found.totals.requests) == (first, 0)


async def test_a_time_that_is_none_or_too_long_is_refused_with_what_to_do(store: Store) -> None:
    for days in (0, -1, 90.001):
        with pytest.raises(ApiError) as refused:
            await report(store, begin=NOON, end=NOON + timedelta(days=days))
        assert (refused.value.code, refused.value.param) == ("validation_error", "from")
    assert (await report(store, begin=NOON, end=NOON + timedelta(days=90))).groups == []


async def test_groups_are_bounded_and_the_totals_are_of_all(store: Store) -> None:
    await keep(store, *({"key": f"k{number}", "total_tokens": number} for number in range(MAX_GROUPS + 5)))
    found = await report(store, GroupBy.KEY)
    assert len(found.groups) == MAX_GROUPS
    assert found.groups[0].total_tokens == MAX_GROUPS + 4
    assert (found.totals.requests, found.complete) == (MAX_GROUPS + 5, False)


async def test_what_takes_too_long_is_given_up_and_its_asker_told_what_to_do(store: Store) -> None:
    await keep(store, *({"key": f"k{number % 9}"} for number in range(8_000)))
    hasty = UsageReports(store.journal, seconds=0.001)
    with pytest.raises(ApiError, match="shorter time") as refused:
        await hasty.report(GetUsage(user_id=ADA, begin=NOON - timedelta(days=1), end=NOON + timedelta(days=1)))
    assert refused.value.code == "service_unavailable"


async def test_a_report_reads_what_is_asked_for_by_an_index(store: Store) -> None:
    await keep(store, {}, {"user": EVE}, {"at": NOON - timedelta(days=30)})
    plan = await store.database.command(
        "explain",
        {"find": "usage", "filter": {"user_id": ADA, "key_id": "k1", "at": {"$gte": NOON - timedelta(days=1)}}},
        verbosity="executionStats",
    )
    assert plan["executionStats"]["totalDocsExamined"] == 1
