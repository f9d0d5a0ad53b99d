"""The bids of a model as the router rates them, for whoever asks, credentials or not.

A rating costs the router two questions to the chain for each bid, so they are made on demand: one at a time for a model, shared by all
who ask for it meanwhile and for a while after, and at most one a second is begun, by all workers together.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from morpheus_common.contracts.rated_bids import MAX_RATED_BIDS, RatedBid, RatedBids
from morpheus_common.errors import ApiError
from morpheus_common.logs import get_logger
from morpheus_common.store.mongo import Database
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from morpheus_sessions.catalogue import CatalogueCopy
from morpheus_sessions.documents import LONG_AGO, TurnsDocument
from morpheus_sessions.router import ROUTER_ERRORS, Router
from morpheus_sessions.sharing import Shared

log = get_logger(__name__)

FRESH_SECONDS: Final = 30.0
"""So old may be what is told here. Gateways keep it until it is 60 s old."""
REMEMBERED: Final = 64
"""Models whose bids are remembered. More than one a second is never read, so that of those that are fresh all are."""
PAUSE_SECONDS: Final = 1.0
LONGEST_WAIT_SECONDS: Final = 4.0
"""Who would wait longer for a turn is told to come again."""


class Turns(Protocol):
    """When the router may be asked."""

    async def take(self) -> float:
        """Take the next turn and return the seconds until then. Raises `rate_limit_exceeded` if too many wait."""


class StoredTurns:
    """The turns of all workers together, by the database's clock."""

    def __init__(self, database: Database, kind: str) -> None:
        self._turns = database.get_collection(TurnsDocument.get_collection_name())
        self._kind = kind

    async def take(self) -> float:
        """Take the next turn and return the seconds until then. Raises `rate_limit_exceeded` if too many wait."""
        turn = await self._take()
        if turn is None and await self._make():
            turn = await self._take()
        if turn is None:
            raise ApiError("rate_limit_exceeded", retry_after=int(LONGEST_WAIT_SECONDS))
        return float(turn["wait"]) / 1000

    async def _take(self) -> dict[str, Any] | None:
        is_near = {"$lte": [{"$subtract": ["$next_at", "$$NOW"]}, int(LONGEST_WAIT_SECONDS * 1000)]}
        turn = {"$max": ["$next_at", "$$NOW"]}
        update = [
            {
                "$set": {
                    "wait": {"$subtract": [turn, "$$NOW"]},
                    "next_at": {"$add": [turn, int(PAUSE_SECONDS * 1000)]},
                }
            }
        ]
        return await self._turns.find_one_and_update(
            {"_id": self._kind, "$expr": is_near}, update, return_document=ReturnDocument.AFTER
        )

    async def _make(self) -> bool:
        """Make the record; False if it was there. An upsert refuses the `$expr` of its own filter."""
        try:
            await self._turns.insert_one({"_id": self._kind, "next_at": LONG_AGO, "wait": 0})
        except DuplicateKeyError:
            return False
        return True


@dataclass(frozen=True, slots=True)
class _Rating:
    """What the router said, and when it was asked (monotonic seconds)."""

    bids: list[RatedBid]
    asked_at: float


class Ratings:
    """Answers which bids a model has."""

    def __init__(
        self,
        reader: Router,
        catalogue: CatalogueCopy,
        turns: Turns,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._reader = reader
        self._catalogue = catalogue
        self._turns = turns
        self._clock = clock
        self._sleep = sleep
        self._ratings: Shared[str, _Rating] = Shared(self._ask, seconds=FRESH_SECONDS, most=REMEMBERED, clock=clock)

    async def of(self, model_id: str) -> RatedBids:
        """Return the active bids of a model, best first.

        Raises `model_not_found` without asking the router, `rate_limit_exceeded` if too many others wait for it, and
        `service_unavailable` while it does not answer.
        """
        if model_id not in self._catalogue.copy.models:
            raise ApiError("model_not_found", param="model_id")
        rating = await self._ratings.get(model_id)
        return RatedBids(bids=rating.bids, age=max(0.0, self._clock() - rating.asked_at))

    async def _ask(self, model_id: str) -> _Rating:
        if (wait := await self._turns.take()) > 0:
            await self._sleep(wait)
        asked_at = self._clock()
        try:
            return _Rating(await self._reader.ratings(model_id, most=MAX_RATED_BIDS), asked_at)
        except ROUTER_ERRORS as error:
            log.warning("no rated bids: the router does not answer", problem=str(error)[:200])
            raise ApiError("service_unavailable", retry_after=5) from None
