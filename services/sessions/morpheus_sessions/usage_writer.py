"""Writes what prompts used, once a second and together: the records, and the event that tells of them.

Nobody waits for it. A record is in memory for a second; a process that is killed takes those with it.
"""

import asyncio
import time
from collections import deque
from datetime import datetime, timedelta
from typing import Any, Final

from morpheus_common.contracts.usage import ERASED, MAX_RECORDS, USAGE_RECORDED, UsageRecord, UsageRecorded
from morpheus_common.ids import uuid7
from morpheus_common.logs import get_logger
from morpheus_common.store.mongo import MongoClient
from morpheus_common.store.outbox import stage
from morpheus_common.store.transactions import run_transaction
from morpheus_common.store.user_guards import ended_users
from pymongo import ReturnDocument
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import PyMongoError

from morpheus_sessions.documents import UsageDocument, UsageSeriesDocument
from morpheus_sessions.usage import Used

log = get_logger(__name__)

WRITE_SECONDS: Final = 1.0
MAX_PAUSE_SECONDS: Final = 15.0
"""Longest pause after a write that failed; the first is `WRITE_SECONDS`, and it doubles."""
MAX_WAITING: Final = 20_000
"""Records that wait for the database, about 1 KB each: over a minute of all that one worker can answer."""
DRAIN_SECONDS: Final = 5.0


class UsageWriter:
    """The records of this worker that are not written yet.

    A worker's batches are a series, counted in a document that each batch raises in its own transaction. The erasure of a
    user raises it too (`erasing.py`), so that of a batch and an erasure at once one is done again and sees the other: a
    batch reads who has been deleted, and writes what is his without him.
    """

    def __init__(self, client: MongoClient, *, kept: timedelta, limit: int = MAX_WAITING) -> None:
        self._client = client
        self._kept = kept
        self._limit = limit
        self._waiting: deque[Used] = deque()
        self._batch: list[Used] = []
        self._tried = False
        """The batch may be written already, and its answer was lost."""
        self._series: str | None = None
        self._lost = 0
        self._added = asyncio.Event()
        self._writing = asyncio.Lock()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._batch)

    def add(self, used: Used) -> None:
        """Have a record written soon. Never waits: if too many wait, the oldest is lost, counted and logged."""
        if len(self) >= self._limit and self._waiting:
            self._waiting.popleft()
            self._lost += 1
        self._waiting.append(used)
        self._added.set()

    async def run(self) -> None:
        """Write until cancelled."""
        pause = WRITE_SECONDS
        while True:
            await self._added.wait()
            await asyncio.sleep(pause)
            try:
                await self.write()
            except PyMongoError as error:
                log.warning("usage not written yet", count=len(self), problem=type(error).__name__)
                pause = min(2 * pause, MAX_PAUSE_SECONDS)
            else:
                pause = WRITE_SECONDS

    async def write(self) -> None:
        """Write what waits. Raises `PyMongoError`; what was not written still waits, and is not written twice."""
        async with self._writing:
            if self._lost:
                log.error("usage records lost: too many waited for the database", count=self._lost)
                self._lost = 0
            # what comes meanwhile is of the next second
            due = len(self)
            while due > 0:
                self._take_batch()
                if await self._write_batch():
                    due -= len(self._batch)
                    self._batch, self._tried = [], False
            if not self._waiting:
                self._added.clear()

    async def drain(self) -> None:
        """Write what waits before this worker ends, if the database answers."""
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await self.write()
        except (PyMongoError, TimeoutError) as error:
            log.error("usage records lost at the end", count=len(self), problem=type(error).__name__)

    def _take_batch(self) -> None:
        if not self._batch:
            self._batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_RECORDS))]

    async def _write_batch(self) -> bool:
        """Write the batch and its event; False if it has to be tried again in a new series."""
        if self._series is None:
            series = uuid7()
            # before the transaction: an erasure that does not see it yet must have begun before this batch's reading
            await UsageSeriesDocument.get_pymongo_collection().update_one(
                {"_id": series}, [{"$set": {"version": 0, "at": "$$NOW"}}], upsert=True
            )
            self._series = series
        is_repeat, self._tried = self._tried, True
        entity, batch = self._series, self._batch

        async def body(tx: AsyncClientSession) -> bool:
            asked_at = time.monotonic()
            usage = UsageDocument.get_pymongo_collection()
            if is_repeat and await usage.find_one({"_id": batch[0].record.id}, {"_id": 1}, session=tx) is not None:
                return True
            series: Any = await UsageSeriesDocument.get_pymongo_collection().find_one_and_update(
                {"_id": entity},
                [{"$set": {"version": {"$add": ["$version", 1]}, "at": "$$NOW"}}],
                return_document=ReturnDocument.AFTER,
                session=tx,
            )
            if series is None:
                # forgotten, because nothing was written for so long
                return False
            now: datetime = series["at"]
            ended = await ended_users({used.record.user_id for used in batch if used.record.user_id}, tx)
            records = [_dated(used, now, asked_at, ended) for used in batch]
            expires_at = now + self._kept
            await usage.insert_many([_stored(record, expires_at) for record in records], session=tx)
            recorded = UsageRecorded.model_construct(records=records)
            await stage(USAGE_RECORDED, recorded, entity=entity, version=series["version"], at=now, session=tx)
            return True

        is_written = await run_transaction(self._client, body)
        if not is_written:
            self._series = None
        return is_written


def _dated(used: Used, now: datetime, asked_at: float, ended: set[str]) -> UsageRecord:
    """Return the record with its time by the database's clock, and without its user if he is being deleted.

    The database said `now` when it was asked at `asked_at` (monotonic seconds).
    """
    age = timedelta(milliseconds=int((asked_at - used.started_at) * 1000))
    changes: dict[str, Any] = {"at": now - age}
    if used.record.user_id in ended:
        changes |= dict.fromkeys(ERASED)
    return used.record.model_copy(update=changes)


def _stored(record: UsageRecord, expires_at: datetime) -> dict[str, Any]:
    fields = record.model_dump()
    return {"_id": fields.pop("id"), **fields, "expires_at": expires_at}
