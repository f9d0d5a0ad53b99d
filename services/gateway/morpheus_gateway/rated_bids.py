"""The gateway's copies of rated bids: kept for a minute, and longer while sessions or the routers are away."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from morpheus_common.bus.rpc import RpcClient
from morpheus_common.contracts.rated_bids import GET_RATED_BIDS, GetRatedBids, RatedBid
from morpheus_common.errors import ApiError
from morpheus_common.logs import get_logger

from morpheus_gateway.catalogue import Listing

log = get_logger(__name__)

FRESH_SECONDS: Final = 60.0
KEPT_BYTES: Final = 32 * 1024 * 1024
"""Of all copies together; those not asked for for longest are forgotten first."""
ASKED_AT_ONCE: Final = 64
"""Models that sessions is asked about at a time; it takes one of them in a second."""
_AWAY: Final = frozenset({"service_unavailable", "service_timeout"})


@dataclass(frozen=True, slots=True)
class RatedListing:
    """The bids of a model as they are served, and when the router was asked (monotonic seconds)."""

    listing: Listing
    asked_at: float


class RatedBidsCopies:
    """Serves the bids of models as the router rates them. Many who ask at once are one question."""

    def __init__(self, rpc: RpcClient, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rpc = rpc
        self._clock = clock
        self._kept: OrderedDict[str, RatedListing] = OrderedDict()
        self._bytes = 0
        self._asked: dict[str, asyncio.Task[RatedListing]] = {}

    def age(self, rated: RatedListing) -> float:
        """Return the seconds since the router was asked."""
        return max(0.0, self._clock() - rated.asked_at)

    async def of(self, model_id: str) -> RatedListing:
        """Return the bids of a model: at most a minute old, or the last that were known while the router is away.

        Raises `model_not_found`, `rate_limit_exceeded` while too many others ask, `service_unavailable` or
        `service_timeout` if nothing is known.
        """
        known = self._kept.get(model_id)
        if known is not None and self.age(known) < FRESH_SECONDS:
            self._kept.move_to_end(model_id)
            return known
        try:
            # whoever leaves takes the answer from nobody
            return await asyncio.shield(self._asking(model_id))
        except ApiError as error:
            if known is None or error.code not in _AWAY:
                raise
            log.info("rated bids are not to be had; serving the last copy", code=error.code)
            return known

    def _asking(self, model_id: str) -> asyncio.Task[RatedListing]:
        task = self._asked.get(model_id)
        if task is None:
            if len(self._asked) >= ASKED_AT_ONCE:
                raise ApiError("rate_limit_exceeded", retry_after=5)
            task = asyncio.create_task(self._ask(model_id))
            self._asked[model_id] = task
            task.add_done_callback(lambda done: self._ended(model_id, done))
        return task

    def _ended(self, model_id: str, task: asyncio.Task[RatedListing]) -> None:
        del self._asked[model_id]
        if not task.cancelled():
            # nobody may be left who would look at it
            task.exception()

    async def _ask(self, model_id: str) -> RatedListing:
        answer = await self._rpc.call(GET_RATED_BIDS, GetRatedBids(model_id=model_id))
        rated = RatedListing(Listing.of({"bids": [_as_router(bid) for bid in answer.bids]}), self._clock() - answer.age)
        self._keep(model_id, rated)
        return rated

    def _keep(self, model_id: str, rated: RatedListing) -> None:
        former = self._kept.pop(model_id, None)
        self._bytes += len(rated.listing.body) - (0 if former is None else len(former.listing.body))
        self._kept[model_id] = rated
        while self._bytes > KEPT_BYTES:
            _, forgotten = self._kept.popitem(last=False)
            self._bytes -= len(forgotten.listing.body)


def _as_router(bid: RatedBid) -> dict[str, Any]:
    """Return a bid with the router's own names and kinds of values; the router itself leaves the outer `ID` empty."""
    return {
        "ID": bid.id,
        "Bid": {
            "Id": bid.id,
            "Provider": bid.provider,
            "ModelAgentId": bid.model_id,
            "PricePerSecond": bid.price_per_second,
            "Nonce": bid.nonce,
            "CreatedAt": bid.created_at,
            "DeletedAt": bid.deleted_at,
        },
        "Score": bid.score,
    }
