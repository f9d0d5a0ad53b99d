"""How often the invariants are broken, as far as stored records and the last complete passes tell: 0 each, or people look.

They are those of the architecture, by its numbers. Two of them cannot be told from outside while the system runs, and are
counted where they would break: I4, a frame that reaches another's attempt (`morpheus_frames_refused_total`), and I7, chain
calls that overlap (`morpheus_chain_call_overlaps`; an overlap that a process's death forces is allowed). Of I6 the part is
told that is here: no session stays usable for longer than `CLOSE_SLACK` after its key was known to be revoked; how fast a
gateway refuses the key is its own to count. Of I8 a prompt that began while its session rested is told; one whose worker died
before its mark was written is counted when the session is taken over (`morpheus_sessions_taken_over_total`).

The checkers of the tests (tests/faults, tests/state_machine) write all of this down once more on purpose: they are not to
inherit a mistake of what they check. What audits look for besides is in doubled.py, for both.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from beanie import Document
from morpheus_common.contracts.sessions import SESSION_EVENTS, SessionState
from morpheus_common.logs import get_logger
from morpheus_common.store.mongo import Database
from morpheus_common.store.outbox import OutboxRow
from pymongo import DESCENDING
from pymongo.asynchronous.client_session import AsyncClientSession

from morpheus_sessions.documents import FindingDocument, FindingKind, KeyGuardDocument, SessionDocument
from morpheus_sessions.doubled import APPROVAL, CHAIN_SESSION, SLOT, VERSION, Once, doubled
from morpheus_sessions.stake import TAG_COUNTERS, TAG_SPACE

log = get_logger(__name__)

COMMENT: Final = "gauges"
"""On every command of the gauges, so that a profiler, and tests, know them."""
COMMAND_MS: Final = 2_000
"""The database ends a command that takes longer: with 10,000 live sessions the longest takes 0.1 s (measured)."""
TOLD: Final = ("I1", "I2", "I3", "I5", "I6", "I8", "I9", "I10")
EVENTS_LOOKED_AT: Final = 500
"""The newest events: of what they tell, all versions are looked at."""
CLOSED_LATELY: Final = timedelta(hours=1)
REST_SLACK: Final = timedelta(seconds=60)
"""A worker counts a rest from its beginning, the database from when it was written: while it was away, that much later."""
CLOSE_SLACK: Final = timedelta(seconds=60)
"""A key's end is written first, then the closes of its sessions and of those of its user's other keys, one by one."""
FOUND: Final = 100
"""So many violations of a kind are counted."""

_IN_A_SLOT: Final = [SessionState.OPENING.value, SessionState.ACTIVE.value]


@dataclass(frozen=True, slots=True)
class Broken:
    """What is counted on the way of other figures: see `live_rules`, and what the last complete passes left wrong."""

    misplaced: int
    untagged: int
    restless: int
    lost: int
    undone: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A database as it is at one moment. Each command has `COMMAND_MS`."""

    database: Database
    session: AsyncClientSession

    async def aggregate(
        self, document: type[Document], pipeline: list[dict[str, Any]], *, hint: str | None = None
    ) -> list[dict[str, Any]]:
        """Return what a pipeline finds."""
        more: dict[str, Any] = {} if hint is None else {"hint": hint}
        cursor = await self.database[document.get_collection_name()].aggregate(
            pipeline, session=self.session, maxTimeMS=COMMAND_MS, comment=COMMENT, **more
        )
        return await cursor.to_list()

    async def count(self, document: type[Document], pipeline: list[dict[str, Any]]) -> int:
        """Return how much a pipeline finds."""
        found = await self.aggregate(document, [*pipeline, {"$count": "count"}])
        return int(found[0]["count"]) if found else 0


def live_rules(deployment: int) -> dict[str, Any]:
    """Return by the fields of `Broken` what must be true of no session that is live or stands in a slot, as expressions."""
    has_slot = {"$ne": [{"$ifNull": ["$slot", None]}, None]}
    rest_end = {"$subtract": ["$quarantined_until", REST_SLACK // timedelta(milliseconds=1)]}
    return {
        "misplaced": {"$ne": [{"$in": ["$state", _IN_A_SLOT]}, has_slot]},
        "untagged": _untagged(deployment),
        "restless": {"$and": [{"$gt": ["$busy.since", None]}, {"$lt": ["$busy.since", rest_end]}]},
    }


def _untagged(deployment: int) -> dict[str, Any]:
    """A stake on chain that does not carry our tag."""
    tag = {"$floor": {"$divide": [{"$mod": ["$stake", TAG_SPACE]}, TAG_COUNTERS]}}
    return {"$and": [{"$gt": ["$stake", None]}, {"$ne": [tag, deployment]}]}


async def violations(
    counted: Broken, snapshot: Snapshot, *, now: datetime, wallets: Iterable[str], deployment: int
) -> dict[str, int]:
    """Return how often each of `TOLD` is broken. Raises `PyMongoError`."""
    return {
        "I1": counted.misplaced + await _doubled(snapshot, SLOT),
        "I2": counted.lost + counted.undone,
        "I3": await _doubled(snapshot, APPROVAL) + (await _opened_twice(snapshot) if counted.lost else 0),
        "I5": await _gaps(snapshot) + await _doubled(snapshot, VERSION),
        "I6": await _usable_though_revoked(snapshot, now),
        "I8": counted.restless,
        "I9": await _doubled(snapshot, CHAIN_SESSION),
        "I10": counted.untagged + await _closed_untagged(snapshot, now, wallets, deployment),
    }


async def _doubled(snapshot: Snapshot, once: Once) -> int:
    """Count what more than one record has. A unique index has nothing twice: only without it are all records read."""
    collection = snapshot.database[once.document.get_collection_name()]
    known: Mapping[str, Any] = await collection.index_information(comment=COMMENT)
    if known.get(str(once.index), {}).get("unique"):
        return 0
    log.error("a unique index is missing; run `morpheus apply`", index=once.index)
    return len(await doubled(collection, once, most=FOUND, ids=1, milliseconds=COMMAND_MS))


async def _opened_twice(snapshot: Snapshot) -> int:
    """Count chain sessions without a record whose bid and stake are those of a recorded one: one open staked twice."""
    same = [{"$eq": [f"${name}", f"$${name}"]} for name in ("wallet", "bid_id", "stake")]
    recorded = {
        "from": SessionDocument.get_collection_name(),
        "let": {name: f"${name}" for name in ("wallet", "bid_id", "stake")},
        "pipeline": [{"$match": {"$expr": {"$and": same}}}, {"$limit": 1}, {"$project": {"_id": 1}}],
        "as": "recorded",
    }
    return await snapshot.count(
        FindingDocument,
        [
            {"$match": {"kind": FindingKind.LOST.value}},
            {"$limit": FOUND},
            {"$lookup": recorded},
            {"$match": {"recorded": {"$ne": []}}},
        ],
    )


async def _gaps(snapshot: Snapshot) -> int:
    """Count the sessions told of lately whose events have a gap, or do not end where the session is.

    The first events of a session are not kept for ever.
    """
    told = {
        "from": OutboxRow.get_collection_name(),
        "localField": "_id",
        "foreignField": "entity",
        "pipeline": [
            {
                "$group": {
                    "_id": None,
                    "first": {"$min": "$version"},
                    "last": {"$max": "$version"},
                    "count": {"$sum": 1},
                }
            }
        ],
        "as": "told",
    }
    is_now = {
        "from": SessionDocument.get_collection_name(),
        "localField": "_id",
        "foreignField": "_id",
        "pipeline": [{"$project": {"version": 1}}],
        "as": "is",
    }
    has_gap = {"$ne": ["$told.count", {"$add": [{"$subtract": ["$told.last", "$told.first"]}, 1]}]}
    is_elsewhere = {"$and": [{"$gt": ["$is", None]}, {"$ne": ["$is.version", "$told.last"]}]}
    return await snapshot.count(
        OutboxRow,
        [
            {"$sort": {"_id": DESCENDING}},
            {"$limit": EVENTS_LOOKED_AT},
            # those of usage are a series for each worker, as long as it lives
            {"$match": {"subject": {"$in": [event.subject for event in SESSION_EVENTS.values()]}}},
            {"$group": {"_id": "$entity"}},
            {"$lookup": told},
            {"$lookup": is_now},
            {"$set": {"told": {"$first": "$told"}, "is": {"$first": "$is"}}},
            {"$match": {"$expr": {"$or": [has_gap, is_elsewhere]}}},
        ],
    )


async def _usable_though_revoked(snapshot: Snapshot, now: datetime) -> int:
    guard = {
        "from": KeyGuardDocument.get_collection_name(),
        "localField": "key_id",
        "foreignField": "_id",
        "as": "guard",
    }
    usable = [SessionState.ACTIVE.value, SessionState.PARKED.value]
    # also true if it is not known since when
    long_unwanted = {"wanted": False, "unwanted_at": {"$not": {"$gt": now - CLOSE_SLACK}}}
    return await snapshot.count(
        SessionDocument,
        [
            {"$match": {"state": {"$in": usable}}},
            {"$lookup": guard},
            {"$match": {"guard": {"$elemMatch": long_unwanted}}},
        ],
    )


async def _closed_untagged(snapshot: Snapshot, now: datetime, wallets: Iterable[str], deployment: int) -> int:
    closed_lately = {
        "wallet": {"$in": list(wallets)},
        "state": SessionState.CLOSED.value,
        "updated_at": {"$gt": now - CLOSED_LATELY},
    }
    return await snapshot.count(SessionDocument, [{"$match": {**closed_lately, "$expr": _untagged(deployment)}}])
