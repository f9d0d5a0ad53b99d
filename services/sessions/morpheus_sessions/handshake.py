"""Step one of an open: choose a bid, have its provider approve, write everything down. No money moves."""

import time
from collections import OrderedDict

from morpheus_common.errors import ApiError
from morpheus_common.logs import get_logger
from morpheus_common.steps import Step, reached

from morpheus_sessions.catalogue import CatalogueCopy
from morpheus_sessions.documents import OperationDocument
from morpheus_sessions.failures import handshake_reason
from morpheus_sessions.journal import Journal, StakeTaken
from morpheus_sessions.limits import Limits, StakeRefused
from morpheus_sessions.queueing import Till
from morpheus_sessions.router import (
    ROUTER_ERRORS,
    Bid,
    Router,
    RouterRefused,
    RouterUnclear,
    RouterUnreachable,
)
from morpheus_sessions.settings import SessionsSettings
from morpheus_sessions.stake import Quote, most_tagged, quote, tagged

log = get_logger(__name__)

MAX_BIDS_TRIED = 5
"""So many bids that the wallet could pay for are tried for one open; those that it could not do not count."""
COLD_SECONDS = 60.0
"""A provider that did not take a session is asked after all others for so long: cheap bids that refuse hide no model."""
MAX_COLD = 10_000
TAG_TRIES = 3
DISOWNED_TIMES = 3
"""A provider that did not know so many sessions of a key, which it is still paid for, gets no more of it for now."""


class Crowded(Exception):
    """The wallet has enough, but not besides what its other opens will take: later, or another wallet."""


class Handshake:
    """Gets opens approved by providers, for the wallet behind one router."""

    def __init__(
        self,
        router: Router,
        journal: Journal,
        catalogue: CatalogueCopy,
        settings: SessionsSettings,
        limits: Limits,
        till: Till,
    ) -> None:
        self._router = router
        self._till = till
        self._journal = journal
        self._catalogue = catalogue
        self._settings = settings
        self._limits = limits
        self._cold: OrderedDict[str, float] = OrderedDict()

    async def prepare(self, operation: OperationDocument) -> OperationDocument:
        """Choose a bid, have its provider approve, write everything down. No money moves. Raises `ApiError`, `Crowded`."""
        try:
            bids = await self._bids_for(operation)
            supply, budget = await self._router.supply_and_budget()
            balance = await self._router.balance()
        except ROUTER_ERRORS as error:
            log.warning("router does not answer", router=self._router.name, problem=str(error)[:200])
            raise ApiError("service_unavailable", retry_after=5) from None
        reasons: list[dict[str, str]] = []
        needed: list[Quote] = []
        within = [bid for bid in bids if self._limits.is_affordable(bid.price)]
        if bids and not within:
            raise self._limits.too_dear(min(bid.price for bid in bids))
        refused: list[StakeRefused] = []
        is_crowded = False
        tried = 0
        for bid in sorted(within, key=lambda bid: self._is_cold(bid.provider)):
            try:
                cost = quote(price=bid.price, duration=operation.duration, supply=supply, budget=budget)
            except ValueError as error:
                log.error("no stake can be worked out", operation_id=operation.id, problem=str(error))
                raise ApiError("open_failed") from None
            if cost.stake > balance:
                needed.append(cost)
                continue
            if tried == MAX_BIDS_TRIED:
                break
            tried += 1
            if not await self._set_aside(operation, cost):
                is_crowded = True
                continue
            try:
                prepared = await self._approve_and_record(operation, bid, cost, reasons)
            except StakeRefused as error:
                # a cheaper one may fit
                refused.append(error)
                continue
            if prepared is not None:
                return prepared
            self._note_refusal(bid.provider)
        if refused and not reasons:
            raise refused[0]
        if is_crowded and not reasons:
            raise Crowded
        if needed and not reasons:
            cheapest = min(needed, key=lambda cost: cost.stake)
            raise ApiError("insufficient_balance", details={"required_stake": str(cheapest.stake)})
        raise ApiError("no_provider_available", retry_after=10, details={"reasons": reasons})

    def _is_cold(self, provider: str) -> bool:
        return time.monotonic() < self._cold.get(provider, float("-inf"))

    def _note_refusal(self, provider: str) -> None:
        self._cold[provider] = time.monotonic() + COLD_SECONDS
        self._cold.move_to_end(provider)
        if len(self._cold) > MAX_COLD:
            self._cold.popitem(last=False)

    async def _set_aside(self, operation: OperationDocument, cost: Quote) -> bool:
        try:
            return await self._till.set_aside(operation, most_tagged(cost.stake))
        except ROUTER_ERRORS as error:
            log.warning("purse not read", router=self._router.name, problem=str(error)[:200])
            raise ApiError("service_unavailable", retry_after=5) from None

    async def _bids_for(self, operation: OperationDocument) -> list[Bid]:
        if operation.wanted_bid is not None:
            bid = await self._router.bid(operation.wanted_bid)
            bids = [] if bid is None else [bid]
        else:
            bids = await self._router.rated_bids(operation.model_id)
        # a provider that gives no closing report would lock one more stake for longer than its session lasts
        unfit = {self._router.wallet, *await self._journal.stuck_providers(self._router.wallet)}
        # one that again and again does not know what it was paid for would lock a stake with each prompt
        unfit |= await self._journal.disowning_providers(operation.key_id, times=DISOWNED_TIMES)
        if operation.replaces is not None and operation.replaces.without is not None:
            # it would take a second stake for the same failure
            unfit.add(operation.replaces.without)
        return [bid for bid in bids if bid.provider not in unfit]

    async def _approve_and_record(
        self, operation: OperationDocument, bid: Bid, cost: Quote, reasons: list[dict[str, str]]
    ) -> OperationDocument | None:
        provider = self._catalogue.provider(bid.provider) or (await self._router.providers()).get(bid.provider)
        if provider is None:
            reasons.append({"provider": bid.provider, "reason": "unreachable"})
            return None
        bounds = await self._limits.bounds()
        for _ in range(TAG_TRIES):
            if not await self._journal.is_wanted(operation):
                raise ApiError("open_cancelled")
            counter = await self._journal.next_counter(self._router.wallet, self._router.name)
            stake = tagged(cost.stake, deployment=self._settings.deployment_number, counter=counter)
            await reached(Step.HANDSHAKE_SENDING, operation.id)
            try:
                approval = await self._router.initiate(
                    provider=provider, bid_id=bid.id, stake=stake, timeout=self._settings.handshake_timeout
                )
                block = await self._router.latest_block()
            except RouterRefused as error:
                reasons.append({"provider": bid.provider, "reason": handshake_reason(error.text)})
                return None
            except RouterUnclear:
                reasons.append({"provider": bid.provider, "reason": "timed_out"})
                return None
            except RouterUnreachable:
                raise ApiError("service_unavailable", retry_after=5) from None
            if not approval.is_for(bid.id):
                # it would open a session that no record of ours stands for
                log.error("a provider approves another bid than it was asked for", provider=bid.provider)
                reasons.append({"provider": bid.provider, "reason": "rejected"})
                return None
            await reached(Step.HANDSHAKE_DONE, operation.id)
            try:
                ready = await self._journal.record_approval(
                    operation, bid, approval, stake, block, limits=self._limits, bounds=bounds
                )
            except StakeTaken:
                # a twin approval from the same millisecond, or a counter that came round: ask anew
                continue
            return ready
        reasons.append({"provider": bid.provider, "reason": "rejected"})
        return None
