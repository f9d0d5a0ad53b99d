"""The transactional outbox: an event is written in the transaction of the change it tells of, and published later.

Each change of an entity raises its `version` by one; the version travels with the event, and a unique index on
(entity, version) makes two events for one version impossible. One process a service publishes (lease), each entity's
events in order of their versions. Delivery is at least once.
"""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from beanie import Document
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError
from nats.js import JetStreamContext
from nats.js.errors import BadRequestError
from nats.js.errors import Error as JetStreamError
from pydantic import Field
from pymongo import ASCENDING, IndexModel
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import PyMongoError

from morpheus_common.bus.events import event_headers
from morpheus_common.contracts.base import EventType, Payload
from morpheus_common.ids import uuid7
from morpheus_common.logs import get_logger
from morpheus_common.request_context import request_id, traceparent
from morpheus_common.steps import Step, reached
from morpheus_common.store.leases import Leases
from morpheus_common.store.metrics import OUTBOX_FAILURES, OUTBOX_OLDEST, OUTBOX_PENDING, OUTBOX_PUBLISHED
from morpheus_common.tracing import PRODUCER, caused, event_attributes

log = get_logger(__name__)

POLL_SECONDS = 0.25
BATCH = 200
PUBLISH_TIMEOUT_SECONDS = 2.0
MEASURED_EVERY_SECONDS = 5.0
MOST_COUNTED = 10_000
"""A longer line is shown as this long: counting it takes the database time that publishing needs."""
MAX_PAUSE_SECONDS = 2.0
"""So often, at least, a stream that takes nothing is tried again: it may be full, or choose its leader."""
MAX_REFUSED_PAUSE_SECONDS = 60.0
"""So often, at least, an event is tried again that the stream refuses for what it is."""
MOST_REFUSED = 1_000
"""A stream that refuses the events of so many entities takes nothing."""
KEPT_SECONDS = 7 * 86_400
"""Published rows stay as long as the stream keeps their events."""


class OutboxRow(Document):
    """An event that has been decided and may not have been published yet."""

    id: str = Field(default_factory=uuid7)  # type: ignore[assignment]  # Beanie types it as an ObjectId
    subject: str
    entity: str
    version: int
    at: datetime
    payload: str
    request_id: str | None = None
    traceparent: str | None = None
    published_at: datetime | None = None

    class Settings:
        """Where and how it is stored."""

        name = "outbox"
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("entity", ASCENDING), ("version", ASCENDING)], name="entity_version", unique=True),
            IndexModel([("published_at", ASCENDING), ("_id", ASCENDING)], name="unpublished"),
            IndexModel([("published_at", ASCENDING)], name="expiry", expireAfterSeconds=KEPT_SECONDS),
        ]


async def stage(
    event_type: EventType[Payload],
    payload: Payload,
    *,
    entity: str,
    version: int,
    at: datetime,
    session: AsyncClientSession,
) -> None:
    """Write an event into the running transaction. `entity` is its id, `version` the entity's after the change."""
    await OutboxRow(
        subject=event_type.subject,
        entity=entity,
        version=version,
        at=at,
        payload=payload.model_dump_json(),
        request_id=request_id.get(),
        traceparent=traceparent(),
    ).insert(session=session)


class StreamAwayError(Exception):
    """The stream takes nothing: its server is away, chooses a leader, or has no room. It is no fault of the event."""


@dataclass
class _Refused:
    """An entity whose next event the stream refuses for what it is. Tried again at `until` (the loop's time)."""

    pause: float
    until: float


class OutboxRelay:
    """Publishes what is staged. `is_connected`: whether this process has the bus; the lease is no use to it without."""

    def __init__(
        self,
        jetstream: JetStreamContext,
        leases: Leases,
        *,
        lease: str = "outbox",
        is_connected: Callable[[], bool] = lambda: True,
    ) -> None:
        self._jetstream = jetstream
        self._leases = leases
        self._lease = lease
        self._is_connected = is_connected
        self._nudged = asyncio.Event()
        self._refused: dict[str, _Refused] = {}

    def nudge(self) -> None:
        """Say that something was staged just now."""
        self._nudged.set()

    async def run(self) -> None:
        """Publish until cancelled."""
        renewed_at = float("-inf")
        pause = POLL_SECONDS
        loop = asyncio.get_running_loop()
        while True:
            if not self._is_connected():
                # another process may have the bus
                if renewed_at > float("-inf"):
                    await self.retire()
                    renewed_at = float("-inf")
                await asyncio.sleep(POLL_SECONDS)
                continue
            try:
                if loop.time() - renewed_at > self._leases.seconds / 3:
                    if await self._leases.acquire(self._lease) is None:
                        await asyncio.sleep(self._leases.seconds / 3)
                        continue
                    renewed_at = loop.time()
                looked_at = await self.publish_batch()
                pause = POLL_SECONDS
                if looked_at == BATCH:
                    continue
            except StreamAwayError:
                # what is staged meanwhile waits too: a nudge would only have it refused sooner
                await asyncio.sleep(pause)
                pause = min(2 * pause, MAX_PAUSE_SECONDS)
                continue
            except PyMongoError as error:
                log.warning(
                    "outbox waits for the database", problem=type(error).__name__, code=getattr(error, "code", None)
                )
                renewed_at = float("-inf")
                await asyncio.sleep(1.0)
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await self._nudged.wait()
            except TimeoutError:
                continue
            self._nudged.clear()

    async def measure(self) -> None:
        """Show how many events wait, until cancelled. Every worker does: whoever should publish them may be the one that hangs."""
        while True:
            try:
                await self.count_waiting()
            except PyMongoError as error:
                log.debug("outbox not counted", problem=type(error).__name__)
                # an old figure would stand above those of workers that can count
                OUTBOX_PENDING.set(math.nan)
                OUTBOX_OLDEST.set(math.nan)
            await asyncio.sleep(MEASURED_EVERY_SECONDS)

    async def count_waiting(self) -> None:
        """Look once how many events wait, and how long the oldest of them does, by the database's clock."""
        cursor = await OutboxRow.get_pymongo_collection().aggregate(
            [
                {"$match": {"published_at": None}},
                {"$sort": {"_id": ASCENDING}},
                {"$limit": MOST_COUNTED},
                {"$group": {"_id": None, "count": {"$sum": 1}, "oldest": {"$min": "$at"}}},
                {"$set": {"waits": {"$subtract": ["$$NOW", "$oldest"]}}},
            ]
        )
        found = await cursor.to_list(1)
        OUTBOX_PENDING.set(found[0]["count"] if found else 0)
        # `at` is by the clock of the worker that wrote it, which may be ahead
        OUTBOX_OLDEST.set(max(0.0, found[0]["waits"] / 1000) if found else 0.0)

    async def republish(self, since: datetime) -> int:
        """Have everything published again that was published since then and is still kept; return how many events.

        They count as unpublished from here on, so that whoever publishes does so in order, and carries on after a crash.
        """
        changed = await OutboxRow.get_pymongo_collection().update_many(
            {"published_at": {"$gte": since}}, {"$set": {"published_at": None}}
        )
        self.nudge()
        return changed.modified_count

    async def retire(self) -> None:
        """Leave the work to another process at once instead of when the lease has run out."""
        await self._leases.retire(self._lease)

    async def publish_batch(self) -> int:
        """Look at the entities of up to a batch of rows, and return how many rows those were.

        An entity's rows go in order of their versions and stop at the first that is refused, which then rests; other
        entities go on. After a third of the lease it ends, with as many rows as a batch has: the rest is of the next.
        Raises `StreamAwayError` at the first that cannot be published now: neither could the others.
        """
        rows = OutboxRow.get_pymongo_collection()
        loop = asyncio.get_running_loop()
        now = loop.time()
        ends = now + self._leases.seconds / 3
        for entity in [entity for entity, refused in self._refused.items() if refused.until <= now]:
            if loop.time() > ends:
                return BATCH
            # its line may be long: only what was refused is tried
            first = await rows.find_one({"published_at": None, "entity": entity}, sort=[("version", ASCENDING)])
            if first is None or await self._send(first):
                del self._refused[entity]
            else:
                self._rest(entity)
        waiting = {"published_at": None, "entity": {"$nin": list(self._refused)}}
        entities = [
            row["entity"] async for row in rows.find(waiting, {"entity": 1}).sort("_id", ASCENDING).limit(BATCH)
        ]
        if not entities:
            return 0
        cursor = rows.find({"published_at": None, "entity": {"$in": list(set(entities))}})
        async for row in cursor.sort([("entity", ASCENDING), ("version", ASCENDING)]):
            if loop.time() > ends:
                return BATCH
            if row["entity"] not in self._refused and not await self._send(row):
                self._rest(row["entity"])
        return len(entities)

    async def _send(self, row: dict[str, Any]) -> bool:
        if not await self._publish(row):
            return False
        await reached(Step.EVENT_PUBLISHED, row["entity"])
        await OutboxRow.get_pymongo_collection().update_one({"_id": row["_id"]}, [{"$set": {"published_at": "$$NOW"}}])
        return True

    def _rest(self, entity: str) -> None:
        before = self._refused.get(entity)
        if before is None and len(self._refused) >= MOST_REFUSED:
            raise StreamAwayError
        pause = POLL_SECONDS if before is None else min(2 * before.pause, MAX_REFUSED_PAUSE_SECONDS)
        self._refused[entity] = _Refused(pause, asyncio.get_running_loop().time() + pause)

    async def _publish(self, row: dict[str, Any]) -> bool:
        headers = event_headers(
            row["subject"],
            event_id=row["_id"],
            entity_id=row["entity"],
            version=row["version"],
            time=row["at"],
            request_id=row.get("request_id"),
            traceparent=row.get("traceparent"),
        )
        try:
            # the event carries on the trace of what caused it, not that of its being sent
            with caused(
                f"send {row['subject']}",
                PRODUCER,
                row.get("traceparent"),
                attributes=event_attributes("send", row["subject"]),
            ):
                await self._jetstream.publish(
                    row["subject"], row["payload"].encode(), timeout=PUBLISH_TIMEOUT_SECONDS, headers=headers
                )
        except (BadRequestError, MaxPayloadError) as error:
            OUTBOX_FAILURES.inc()
            log.warning("event refused", subject=row["subject"], event_id=row["_id"], problem=type(error).__name__)
            return False
        except (NatsError, JetStreamError, TimeoutError) as error:
            OUTBOX_FAILURES.inc()
            log.warning("event not published yet", subject=row["subject"], problem=type(error).__name__)
            raise StreamAwayError from error
        OUTBOX_PUBLISHED.inc()
        return True
