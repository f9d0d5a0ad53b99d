"""Leases: one holder at a time for a named piece of work, by the database's clock.

A lease saves work done twice; it is never what keeps money safe, because a paused process may act after it has lost it.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError, PyMongoError

from morpheus_common.logs import get_logger
from morpheus_common.store.mongo import Database

log = get_logger(__name__)

COLLECTION = "leases"
LEASE_SECONDS = 15.0

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Holder:
    """A process. `boot` counts its starts, so that a restarted process takes over from its former self at once."""

    worker: str
    boot: int


class Leases:
    """The leases of one service."""

    def __init__(self, database: Database, holder: Holder, *, seconds: float = LEASE_SECONDS) -> None:
        self._collection = database.get_collection(COLLECTION)
        self._holder = holder
        self.seconds = seconds
        """How long a lease lasts that is not renewed."""

    async def acquire(self, name: str) -> int | None:
        """Take or renew the lease `name`. Return its fencing token, which grows with each new holder, or None if
        another process holds it.
        """
        mine = {
            "$and": [
                {"$eq": ["$worker", self._holder.worker]},
                {"$lte": ["$boot", self._holder.boot]},
            ]
        }
        still_me = {
            "$and": [{"$eq": ["$worker", self._holder.worker]}, {"$eq": ["$boot", self._holder.boot]}],
        }
        free_or_mine = {"$or": [{"$lt": ["$until", "$$NOW"]}, mine]}
        update: list[dict[str, Any]] = [
            {
                "$set": {
                    "token": {"$cond": [still_me, "$token", {"$add": [{"$ifNull": ["$token", 0]}, 1]}]},
                    "worker": self._holder.worker,
                    "boot": self._holder.boot,
                    "until": {
                        "$dateAdd": {"startDate": "$$NOW", "unit": "millisecond", "amount": int(self.seconds * 1000)}
                    },
                }
            }
        ]
        query = {"_id": name, "$expr": free_or_mine}
        document = await self._collection.find_one_and_update(query, update, return_document=ReturnDocument.AFTER)
        if document is None and await self._make(name):
            document = await self._collection.find_one_and_update(query, update, return_document=ReturnDocument.AFTER)
        return int(document["token"]) if document is not None else None

    async def _make(self, name: str) -> bool:
        """Make a lease that nobody holds; False if it was there. An upsert refuses the `$expr` of its own filter."""
        try:
            await self._collection.insert_one({"_id": name, "token": 0, "worker": None, "boot": 0, "until": _LONG_AGO})
        except DuplicateKeyError:
            return False
        return True

    async def is_held(self, name: str) -> bool:
        """Tell whether any process holds the lease `name`."""
        held = {"_id": name, "$expr": {"$gte": ["$until", "$$NOW"]}}
        return await self._collection.find_one(held, {"_id": 1}) is not None

    async def release(self, name: str) -> None:
        """Give the lease up, if it still is ours."""
        await self._collection.update_one(
            {"_id": name, "worker": self._holder.worker, "boot": self._holder.boot},
            [{"$set": {"until": "$$NOW", "worker": None}}],
        )

    async def retire(self, name: str) -> None:
        """Leave the work to another process at once instead of when the lease has run out, if the database answers."""
        try:
            await self.release(name)
        except PyMongoError as error:
            log.warning("lease not given up", lease=name, problem=type(error).__name__)
