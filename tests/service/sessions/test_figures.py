"""The figures of a deployment, read from records that were planted: what moves which, and what it costs."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import Decimal128
from morpheus_common.ids import uuid7
from morpheus_common.store.mongo import (
    Database,
    MongoClient,
    apply_indexes,
    database_of,
    init_documents,
    missing_indexes,
)
from morpheus_common.store.outbox import OutboxRow
from morpheus_sessions.documents import DOCUMENTS, OperationDocument, SessionDocument
from morpheus_sessions.figures import FiguresReader, InHand
from morpheus_sessions.invariants import TOLD
from morpheus_sessions.limits import at_risk
from pymongo import AsyncMongoClient

from tests.service.sessions.records import (
    DEPLOYMENT,
    STAKE,
    WALLET,
    event_records,
    operation_record,
    session_record,
    store,
)

SOUND = dict.fromkeys(TOLD, 0)
STATES = {"opening": 0, "active": 0, "parked": 0, "closing": 0}

INDEXED = [SessionDocument, OperationDocument, OutboxRow]
"""Those whose indexes a reading leans on: making all of them takes longer than a test."""


@pytest.fixture
async def database(mongo_url: str, mongo_database: str) -> AsyncIterator[Database]:
    client: MongoClient = AsyncMongoClient(mongo_url, tz_aware=True)
    database = database_of(client, mongo_database)
    await init_documents(database, DOCUMENTS)
    await apply_indexes(database, INDEXED)
    yield database
    await client.close()


@pytest.fixture
def reader(database: Database) -> FiguresReader:
    return FiguresReader(database, routers=["r1"], deployment=DEPLOYMENT)


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


async def test_what_is_in_order_breaks_no_invariant_and_is_counted(database: Database, reader: FiguresReader) -> None:
    at = now()
    sessions = [
        session_record(at, 1),
        session_record(at, 2, state="parked", slot=None, quarantined_until=at + timedelta(minutes=5)),
        session_record(at, 3, state="closing", slot=None),
        session_record(
            at, 4, state="opening", chain_session=None, stake=None, router=None, reserved=Decimal128("500"), bid_id=None
        ),
        session_record(
            at, 5, state="closed", slot=None, held=Decimal128("30"), held_until=at + timedelta(hours=1), router=None
        ),
        session_record(at, 6, state="abandoned", slot=None, held=Decimal128("40"), held_until=at + timedelta(hours=1)),
        # closed yesterday: neither counted nor held
        session_record(at, 7, state="closed", slot=None, held=Decimal128("9"), held_until=at - timedelta(hours=1)),
    ]
    await store(database, sessions)

    figures = await reader.read()

    assert figures.violations == SOUND
    assert figures.sessions == STATES | {"active": 1, "parked": 1, "closing": 1, "opening": 1}
    assert figures.quarantined == 1
    assert figures.stake == {
        "opening": 500,
        "open": STAKE + 1,
        "parked": STAKE + 2,
        "closing": STAKE + 3,
        "held": 30,
        "given_up": 40,
        "at_risk": 3 * STAKE + 6 + 570,
    }
    # what limits reckon with, to the wei
    assert figures.stake["at_risk"] == (await at_risk(at, user_id="u1")).in_all


async def test_operations_are_counted_until_they_end_and_the_oldest_has_an_age(
    database: Database, reader: FiguresReader
) -> None:
    at = now()
    session = session_record(at, 1)
    waits = {"state": "pending", "wallet": None, "approval": None, "stake": None}
    old, older = at - timedelta(seconds=100), at - timedelta(seconds=200)
    await database["operations"].insert_many(
        [
            operation_record(session),
            operation_record(session, _id="o1", **waits, queued_at=old),
            operation_record(session, _id="o2", **waits, queued_at=older),
            operation_record(session, _id="o3", state="sent", approval="a3", sent_at=old, queued_at=older),
            operation_record(session, _id="o4", kind="close", **waits | {"wallet": WALLET}),
        ]
    )

    figures = await reader.read()

    assert figures.queue == 2
    waiting, sent = figures.operations["open", "pending"], figures.operations["open", "sent"]
    assert (waiting.count, sent.count) == (2, 1)
    assert waiting.oldest == pytest.approx(200, abs=30)
    assert sent.oldest == pytest.approx(100, abs=30)
    assert figures.operations["close", "pending"].count == 1
    assert figures.operations["approve", "unknown"] == InHand()


async def test_closes_that_are_stuck_are_counted_with_their_providers(
    database: Database, reader: FiguresReader
) -> None:
    sessions = [session_record(now(), number, state="closing", slot=None) for number in range(3)]
    sessions[2]["provider"] = "0x" + "e" * 40
    await store(database, sessions)
    await database["operations"].insert_many(
        [
            operation_record(item, _id=uuid7(), kind="close", state="unknown", approval=None, stake=None, stuck=True)
            for item in sessions
        ]
    )

    figures = await reader.read()

    assert (figures.stuck, figures.stuck_providers) == (3, 2)


async def test_how_long_closes_have_waited_is_told_of_those_that_are_not_stuck(
    database: Database, reader: FiguresReader
) -> None:
    at = now()
    session = session_record(at, 1, state="closing", slot=None)
    close = {"kind": "close", "state": "pending", "approval": None, "stake": None, "queued_at": None}
    stuck = close | {"stuck": True, "created_at": at - timedelta(hours=8)}
    await database["operations"].insert_one(operation_record(session, **stuck))
    assert (await reader.read()).operations["close", "pending"] == InHand(1, 0.0)

    waits = close | {"created_at": at - timedelta(minutes=5)}
    await database["operations"].insert_one(operation_record(session, _id="o2", **waits))
    told = (await reader.read()).operations["close", "pending"]
    assert told.count == 2
    assert told.oldest == pytest.approx(300, abs=30)


async def test_passes_are_told_by_router_and_those_of_a_router_that_was_taken_out_are_not(
    database: Database, reader: FiguresReader
) -> None:
    at = now()
    made = {"at": at - timedelta(seconds=90), "found": {"close_again": 2, "suspect": 9}, "undone": 0}
    await database["wallets"].insert_many(
        [
            {"_id": WALLET, "router": "r1", "overlaps": 3, "complete_pass": made},
            {"_id": "0x" + "9" * 40, "router": "gone", "overlaps": 5, "complete_pass": made},
        ]
    )
    await database["findings"].insert_many(
        [{"_id": f"0x{number}", "kind": "foreign", "router": "r1", "wallet": WALLET} for number in range(2)]
    )
    await store(database, [session_record(at, 1, absences=1)])

    figures = await reader.read()

    assert figures.pass_ages == {"r1": pytest.approx(90, abs=30)}
    assert figures.overlaps == {"r1": 3}
    found = {finding: count for (_, finding), count in figures.findings.items() if count}
    assert found == {"foreign": 2, "suspect": 1, "close_again": 2}
    assert {router for router, _ in figures.findings} == {"r1"}
    assert figures.violations == SOUND


async def active_without_a_slot(database: Database, _: datetime) -> None:
    await database["sessions"].update_one({"key_id": "k1"}, {"$set": {"slot": None}})


async def ended_in_a_slot(database: Database, _: datetime) -> None:
    await database["sessions"].update_one({"key_id": "k1"}, {"$set": {"state": "closed"}})


async def two_in_a_slot(database: Database, at: datetime) -> None:
    await database["sessions"].drop_index("one_per_key_and_slot")
    await store(database, [session_record(at, 9, key_id="k1")])


async def lost(database: Database, _: datetime) -> None:
    finding = {
        "_id": "0x9",
        "kind": "lost",
        "router": "r1",
        "wallet": WALLET,
        "bid_id": "0xb",
        "stake": Decimal128("7"),
    }
    await database["findings"].insert_one(finding)


async def not_put_right(database: Database, at: datetime) -> None:
    made = {"at": at, "found": {"adopt": 1}, "undone": 1}
    await database["wallets"].insert_one({"_id": WALLET, "router": "r1", "complete_pass": made})


async def approval_used_twice(database: Database, _: datetime) -> None:
    await database["operations"].drop_index("one_use_of_an_approval")
    await database["operations"].update_many({}, {"$set": {"approval": "the same"}})


async def event_is_missing(database: Database, at: datetime) -> None:
    session = session_record(at, 9, version=3)
    first, last = event_records(session)
    await database["sessions"].insert_one(session)
    await database["outbox"].insert_many([first, {**last, "version": 3}])


async def changed_without_an_event(database: Database, _: datetime) -> None:
    await database["sessions"].update_one({"key_id": "k1"}, {"$inc": {"version": 1}})


async def event_told_twice(database: Database, _: datetime) -> None:
    await database["outbox"].drop_index("entity_version")
    session = await database["sessions"].find_one({"key_id": "k1"})
    assert session is not None
    # together they are as many as the versions are: only that one is there twice tells of it
    await database["outbox"].insert_one({**event_records(session)[1], "_id": uuid7()})


async def usable_though_revoked(database: Database, at: datetime) -> None:
    ended = {"wanted": False, "unwanted_at": at - timedelta(minutes=2)}
    await database["key_guards"].insert_one({"_id": "k1", "user_id": "u1", "changes": 1, **ended})


async def usable_though_revoked_long_ago(database: Database, _: datetime) -> None:
    await database["key_guards"].insert_one({"_id": "k1", "user_id": "u1", "wanted": False, "changes": 1})


async def prompted_while_it_rests(database: Database, at: datetime) -> None:
    marked = {"busy": {"attempt": "a", "since": at}, "quarantined_until": at + timedelta(seconds=300)}
    await database["sessions"].update_one({"key_id": "k1"}, {"$set": marked})


async def in_two_records(database: Database, at: datetime) -> None:
    await database["sessions"].drop_index("one_per_chain_session")
    twin = session_record(at, 9, chain_session=f"0x{1:064x}", state="closed", slot=None)
    await store(database, [twin])


async def live_without_our_tag(database: Database, _: datetime) -> None:
    await database["sessions"].update_one({"key_id": "k1"}, {"$set": {"stake": Decimal128(str(10**19 + 8 * 10**6))}})


async def closed_without_our_tag(database: Database, _: datetime) -> None:
    await database["wallets"].insert_one({"_id": WALLET, "router": "r1"})
    closed = {"state": "closed", "slot": None, "stake": Decimal128(str(10**19))}
    await database["sessions"].update_one({"key_id": "k1"}, {"$set": closed})


PLANTS: list[tuple[str, Callable[[Database, datetime], Awaitable[None]]]] = [
    ("I1", active_without_a_slot),
    ("I1", ended_in_a_slot),
    ("I1", two_in_a_slot),
    ("I2", lost),
    ("I2", not_put_right),
    ("I3", approval_used_twice),
    ("I5", event_is_missing),
    ("I5", changed_without_an_event),
    ("I5", event_told_twice),
    ("I6", usable_though_revoked),
    ("I6", usable_though_revoked_long_ago),
    ("I8", prompted_while_it_rests),
    ("I9", in_two_records),
    ("I10", live_without_our_tag),
    ("I10", closed_without_our_tag),
]


async def test_each_violation_that_is_planted_moves_the_gauge_of_its_invariant_and_no_other(
    database: Database, reader: FiguresReader
) -> None:
    assert {invariant for invariant, _ in PLANTS} == set(TOLD)
    for invariant, plant in PLANTS:
        at = now()
        await store(database, [session_record(at, 1), session_record(at, 2)])
        assert (await reader.read()).violations == SOUND, f"before {plant.__name__}"

        await plant(database, at)

        broken = {name: count for name, count in (await reader.read()).violations.items() if count}
        assert list(broken) == [invariant], plant.__name__
        for name in ("sessions", "operations", "outbox", "findings", "wallets", "key_guards"):
            await database[name].delete_many({})
        if await missing_indexes(database, INDEXED):
            await apply_indexes(database, INDEXED)


async def test_a_lost_session_with_bid_and_stake_of_a_recorded_one_is_a_double_stake(
    database: Database, reader: FiguresReader
) -> None:
    session = session_record(now(), 1)
    await store(database, [session])
    same: dict[str, Any] = {name: session[name] for name in ("wallet", "router", "bid_id", "stake")}
    await database["findings"].insert_one({"_id": "0x9", "kind": "lost", **same})

    assert (await reader.read()).violations == SOUND | {"I2": 1, "I3": 1}


async def test_a_prompt_that_began_as_a_rest_ended_breaks_nothing(database: Database, reader: FiguresReader) -> None:
    at = now()
    marked = {"busy": {"attempt": "a", "since": at}, "quarantined_until": at + timedelta(seconds=1)}
    await store(database, [session_record(at, 1, **marked)])

    assert (await reader.read()).violations == SOUND


async def test_a_reading_of_many_sessions_is_done_long_before_its_limit(
    database: Database, reader: FiguresReader
) -> None:
    """As many that have ended, which must cost nothing. Ten times as many live ones take 0.3 s on two idle cores (measured)."""
    at = now()
    live = [session_record(at, number) for number in range(1_000)]
    ended = [session_record(at, number, state="closed", slot=None) for number in range(1_000, 2_000)]
    await store(database, [*live, *ended])

    started = time.monotonic()
    figures = await reader.read()

    assert figures.sessions["active"] == 1_000
    assert figures.violations == SOUND
    assert time.monotonic() - started < 10
