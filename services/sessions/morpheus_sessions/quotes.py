"""What a session would take, read from the router as an open reads it. Nothing is reserved by asking.

Anybody with a key may ask as often as they like: what the router is asked for it is shared for some seconds.
"""

import asyncio
from collections.abc import Sequence

from morpheus_common.contracts.sessions import QuoteSession, SessionQuote
from morpheus_common.errors import ApiError
from morpheus_common.logs import get_logger

from morpheus_sessions.catalogue import CatalogueCopy
from morpheus_sessions.journal import Journal
from morpheus_sessions.router import ROUTER_ERRORS, Bid, Router
from morpheus_sessions.sharing import Shared
from morpheus_sessions.stake import quote

log = get_logger(__name__)


FRESH_SECONDS = 3.0
"""So old may be what a quote is made of; a chain makes a block in two."""
REMEMBERED = 1_000
"""Models or bids of which the last reading is remembered."""


class Quotes:
    """Answers what a session would cost. `reader` tells of market and chain, each of `routers` what its wallet holds."""

    def __init__(self, reader: Router, routers: Sequence[Router], journal: Journal, catalogue: CatalogueCopy) -> None:
        self._reader = reader
        self._routers = routers
        self._journal = journal
        self._catalogue = catalogue
        self._chain: Shared[None, tuple[int, int]] = Shared(
            lambda _: reader.supply_and_budget(), seconds=FRESH_SECONDS, most=1
        )
        self._bid: Shared[str, Bid | None] = Shared(reader.bid, seconds=FRESH_SECONDS, most=REMEMBERED)
        self._bids: Shared[str, list[Bid]] = Shared(self._fit_bids, seconds=FRESH_SECONDS, most=REMEMBERED)
        self._largest: Shared[None, int] = Shared(lambda _: self._largest_balance(), seconds=FRESH_SECONDS, most=1)

    async def quote(self, question: QuoteSession) -> SessionQuote:
        """Return what a session by model or by bid would take: the best bid a wallet can pay, else the cheapest.

        Raises `model_not_found`, `bid_not_found`, `no_provider_available` if nobody offers the model, and
        `service_unavailable` while no router answers.
        """
        try:
            bids = await self._bids_for(question)
            supply, budget = await self._chain.get(None)
        except ROUTER_ERRORS as error:
            log.warning("no quote: the router does not answer", problem=str(error)[:200])
            raise ApiError("service_unavailable", retry_after=5) from None
        largest = await self._largest.get(None)
        try:
            quotes = [
                (bid, quote(price=bid.price, duration=question.duration, supply=supply, budget=budget)) for bid in bids
            ]
        except ValueError as error:
            log.error("no stake can be worked out", problem=str(error))
            raise ApiError("open_failed", "The chain gives no budget for sessions now: none can be opened.") from None
        cheapest = min(quotes, key=lambda pair: pair[1].stake)
        bid, found = next((pair for pair in quotes if pair[1].stake <= largest), cheapest)
        return SessionQuote(
            model_id=bid.model_id,
            bid_id=bid.id,
            provider=bid.provider,
            price_per_second=bid.price,
            duration=found.duration,
            cost=bid.price * found.duration,
            stake=found.stake,
            affordable=found.stake <= largest,
        )

    async def _bids_for(self, question: QuoteSession) -> list[Bid]:
        if question.bid_id is not None:
            bid = await self._bid.get(question.bid_id)
            if bid is None:
                raise ApiError("bid_not_found", param="bid_id")
            return [bid]
        if question.model_id is None:
            raise ApiError("missing_required_parameter", param="model_id")
        self._catalogue.model(question.model_id)
        bids = await self._bids.get(question.model_id)
        if not bids:
            raise ApiError("no_provider_available", retry_after=30, details={"reasons": []})
        return bids

    async def _fit_bids(self, model_id: str) -> list[Bid]:
        """Return the bids that an open would take: none of our own, none of a provider that locks stakes for longer than
        sessions last.
        """
        bids = await self._reader.rated_bids(model_id)
        unfit = {router.wallet for router in self._routers}
        for router in self._routers:
            unfit |= await self._journal.stuck_providers(router.wallet)
        return [bid for bid in bids if bid.provider not in unfit]

    async def _largest_balance(self) -> int:
        """Return what the fullest of the wallets holds, in wei."""
        balances = await asyncio.gather(*(router.balance() for router in self._routers), return_exceptions=True)
        known = [balance for balance in balances if isinstance(balance, int)]
        for problem in balances:
            if isinstance(problem, BaseException) and not isinstance(problem, ROUTER_ERRORS):
                raise problem
        if not known:
            raise ApiError("service_unavailable", retry_after=5)
        return max(known)
