"""Writes that nobody waits for: collected in memory, written together a moment later."""

import asyncio
from collections.abc import Callable
from typing import Any

import pymongo
from morpheus_common.logs import get_logger
from pymongo import UpdateOne
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import BulkWriteError, PyMongoError

log = get_logger(__name__)

PAUSE_SECONDS = 2.0
WRITE_LIMIT_SECONDS = 5.0
MAX_WAITING = 10_000
"""Beyond this a write is dropped: what is deferred here is never worth a worker's memory."""


class DeferredWrites:
    """Updates of one collection, the last one under each name. Lost if the process is killed."""

    def __init__(self, collection: Callable[[], AsyncCollection[dict[str, Any]]]) -> None:
        self._collection = collection
        self._waiting: dict[str, UpdateOne] = {}
        self._dropped = 0

    def put(self, name: str, update: UpdateOne) -> None:
        """Have `update` written soon, in place of one that still waits under this name."""
        if name in self._waiting or len(self._waiting) < MAX_WAITING:
            self._waiting[name] = update
        else:
            self._dropped += 1

    async def run(self) -> None:
        """Write what waits, for ever (a background job)."""
        while True:
            await asyncio.sleep(PAUSE_SECONDS)
            await self.write()

    async def write(self) -> None:
        """Write what waits. What the database could not be told keeps waiting."""
        if self._dropped:
            log.warning("deferred writes dropped", count=self._dropped)
            self._dropped = 0
        if not self._waiting:
            return
        batch, self._waiting = self._waiting, {}
        is_over = False
        try:
            with pymongo.timeout(WRITE_LIMIT_SECONDS):
                await self._collection().bulk_write(list(batch.values()), ordered=False)
            is_over = True
        except BulkWriteError as error:
            # all others are written; repeating these would not help
            log.error("deferred writes refused", count=len(error.details.get("writeErrors", [])))
            is_over = True
        except PyMongoError as error:
            log.warning("deferred writes not written", count=len(batch), problem=type(error).__name__)
        finally:
            if not is_over:
                # also when we are cancelled in the middle: what was written is written again, to the same effect
                self._waiting = dict(list((batch | self._waiting).items())[-MAX_WAITING:])
