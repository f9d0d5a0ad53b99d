"""The processes of a service: how many times each was started, and which are alive, by the database's clock."""

import asyncio
import time
from typing import Any

from pymongo import ReturnDocument
from pymongo.errors import PyMongoError

from morpheus_common.logs import get_logger
from morpheus_common.store.leases import Holder
from morpheus_common.store.mongo import Database

log = get_logger(__name__)

COLLECTION = "workers"
BEAT_SECONDS = 5.0
RETRY_SECONDS = 0.5
"""After a sign of life that was not written: whoever lost the database takes work again as soon as it is back."""
ADMIT_SECONDS = 10.0
"""A worker that could not renew for this long takes no new work."""
DEAD_SECONDS = 15.0
"""A worker not heard of for this long is taken for dead; later than it stops by itself."""


async def boot(database: Database, worker: str) -> Holder:
    """Count a start of `worker` and return who it is now. An older process of the same name is fenced by this."""
    document: Any = await database.get_collection(COLLECTION).find_one_and_update(
        {"_id": worker},
        [{"$set": {"boot": {"$add": [{"$ifNull": ["$boot", 0]}, 1]}, "beat_at": "$$NOW"}}],
        upsert=True,
        return_document=ReturnDocument.AFTER,
    )
    return Holder(worker, int(document["boot"]))


class Heartbeat:
    """Renews this worker's sign of life."""

    def __init__(self, database: Database, holder: Holder) -> None:
        self._collection = database.get_collection(COLLECTION)
        self.holder = holder
        self._renewed_at = time.monotonic()
        self.fenced = False

    @property
    def admits(self) -> bool:
        """Tell whether this worker may take new work: others still know it to be alive."""
        return not self.fenced and time.monotonic() - self._renewed_at < ADMIT_SECONDS

    async def beat(self) -> bool:
        """Renew once; tell whether the database answered. A newer process of the same name fences this one for good."""
        sent_at = time.monotonic()
        try:
            result = await self._collection.update_one(
                {"_id": self.holder.worker, "boot": self.holder.boot}, [{"$set": {"beat_at": "$$NOW"}}]
            )
        except PyMongoError as error:
            log.warning("sign of life not renewed", problem=type(error).__name__)
            return False
        if result.matched_count:
            self._renewed_at = sent_at
        elif not self.fenced:
            self.fenced = True
            log.error("another process of the same name was started; this one takes no more work")
        return True

    async def run(self) -> None:
        """Renew until cancelled."""
        pause = BEAT_SECONDS
        while True:
            await asyncio.sleep(pause)
            pause = BEAT_SECONDS if await self.beat() else RETRY_SECONDS


async def is_alive(database: Database, holder: Holder) -> bool:
    """Tell whether `holder` may still be at work: it was heard of in time and was not started anew since."""
    alive: dict[str, Any] | None = await database.get_collection(COLLECTION).find_one(
        {
            "_id": holder.worker,
            "boot": holder.boot,
            "$expr": {
                "$gt": [
                    "$beat_at",
                    {
                        "$dateSubtract": {
                            "startDate": "$$NOW",
                            "unit": "millisecond",
                            "amount": int(DEAD_SECONDS * 1000),
                        }
                    },
                ]
            },
        }
    )
    return alive is not None
