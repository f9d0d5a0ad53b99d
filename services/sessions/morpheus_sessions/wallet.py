"""The loop of one wallet: carries out its opens and closes, one chain call at a time, and reads the chain beside them.

One process runs the loop of a wallet (lease). The lease spares work and gas; what keeps stakes safe does not depend on
it: an approval opens one session at most, and a closed session cannot be closed again.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

from morpheus_common.clock import utc_now
from morpheus_common.contracts.sessions import SessionState
from morpheus_common.errors import ApiError
from morpheus_common.logs import get_logger, mask_secrets
from morpheus_common.request_context import request_id
from morpheus_common.store.leases import Leases
from pymongo.errors import PyMongoError

from morpheus_sessions.catalogue import CatalogueCopy
from morpheus_sessions.documents import OperationDocument, OperationKind, OperationState, SessionDocument
from morpheus_sessions.failures import handshake_reason, nothing_was_sent
from morpheus_sessions.journal import AlreadyAdopted, Journal, SlotTaken, StakeTaken, StateChanged
from morpheus_sessions.reconcile import find_session, settle_from_chain
from morpheus_sessions.router import (
    ALREADY_CLOSED,
    Approval,
    Bid,
    ChainSession,
    Router,
    RouterRefused,
    RouterUnclear,
    RouterUnreachable,
)
from morpheus_sessions.settings import SessionsSettings
from morpheus_sessions.stake import Quote, quote, tagged

log = get_logger(__name__)

POLL_SECONDS = 0.25
MAX_BIDS_TRIED = 5
TAG_TRIES = 3
READ_BACK_SECONDS = 10.0
"""A node may lag behind the one that mined the open; then the listing settles it later."""
READ_BACK_PAUSE_SECONDS = 0.25
RETRY_SECONDS = 5.0
MAX_RETRY_SECONDS = 60.0
LEASE_RETRY_SECONDS = 1.0
MIN_ABSENCES = 5
"""Listings without it, each read after it was sent again, before an open is given up however long ago it was sent."""
ROUTER_ERRORS = (RouterUnreachable, RouterRefused, RouterUnclear)


class WalletLoop:
    """Executes the operations of the wallet behind one router."""

    def __init__(
        self,
        router: Router,
        journal: Journal,
        leases: Leases,
        catalogue: CatalogueCopy,
        settings: SessionsSettings,
        released: Callable[[SessionDocument], Awaitable[bool]],
        routers_by_wallet: dict[str, str],
    ) -> None:
        self._router = router
        self._journal = journal
        self._leases = leases
        self._catalogue = catalogue
        self._settings = settings
        self._released = released
        self._turn = asyncio.Lock()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._routers_by_wallet = routers_by_wallet
        self._held_until = float("-inf")

    async def run(self) -> None:
        """Work until cancelled: whenever the lease is ours."""
        try:
            async with asyncio.TaskGroup() as jobs:
                jobs.create_task(self._keep_lease())
                jobs.create_task(self._work())
                jobs.create_task(self._keep_reconciled())
        finally:
            # an operation cut off here is carried on by whoever has the loop next: the journal knows where it was
            running = list(self._running.values())
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await self._let_go()

    @property
    def _holds(self) -> bool:
        """Whether nobody else may take the wallet yet."""
        return asyncio.get_running_loop().time() < self._held_until

    async def _keep_lease(self) -> None:
        # a task of its own: nothing slow may come between two renewals
        loop = asyncio.get_running_loop()
        while True:
            asked_at = loop.time()
            try:
                if await self._hold():
                    self._held_until = asked_at + self._leases.seconds
                else:
                    self._held_until = float("-inf")
            except (PyMongoError, *ROUTER_ERRORS) as error:
                log.warning("lease of the wallet not renewed", router=self._router.name, problem=str(error)[:200])
            await asyncio.sleep(self._leases.seconds / 5 if self._holds else LEASE_RETRY_SECONDS)

    async def _hold(self) -> bool:
        if not self._router.wallet:
            await self._router.identify()
        first = self._routers_by_wallet.setdefault(self._router.wallet, self._router.name)
        if first != self._router.name:
            log.critical("two routers have one wallet; the second is not used", first=first, second=self._router.name)
            return False
        return await self._leases.acquire(self._lease) is not None

    async def _let_go(self) -> None:
        if not self._holds:
            return
        self._held_until = float("-inf")
        try:
            await self._leases.release(self._lease)
        except PyMongoError as error:
            log.warning("lease of the wallet not given back", problem=type(error).__name__)

    @property
    def _lease(self) -> str:
        return f"wallet:{self._router.wallet}"

    async def _work(self) -> None:
        queued = self._journal.listen()
        while True:
            try:
                if self._holds:
                    await self._start_what_is_due()
            except PyMongoError as error:
                log.warning("wallet loop waits", router=self._router.name, problem=type(error).__name__)
                await asyncio.sleep(1.0)
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await queued.wait()
            except TimeoutError:
                continue
            queued.clear()

    async def _keep_reconciled(self) -> None:
        while True:
            try:
                if self._holds:
                    await self._reconcile()
            except (PyMongoError, StateChanged, *ROUTER_ERRORS) as error:
                log.warning("not held beside the chain", router=self._router.name, problem=str(error)[:200])
            await asyncio.sleep(self._settings.reconcile_seconds if self._holds else LEASE_RETRY_SECONDS)

    async def _start_what_is_due(self) -> None:
        for operation in await self._journal.unfinished(self._router.wallet):
            due = operation.not_before is None or operation.not_before <= utc_now()
            if due and operation.id not in self._running:
                self._start(operation)
        while len(self._running) < self._settings.handshakes_at_once:
            taken = await self._journal.take(self._router.wallet, self._router.name)
            if taken is None:
                return
            self._start(taken)

    def _start(self, operation: OperationDocument) -> None:
        task = asyncio.create_task(self._carry_out(operation))
        self._running[operation.id] = task
        task.add_done_callback(lambda _: self._running.pop(operation.id, None))

    async def _carry_out(self, operation: OperationDocument) -> None:
        request_id.set(operation.id)
        try:
            if operation.kind is OperationKind.CLOSE:
                await self._close(operation)
            elif operation.state is OperationState.PENDING:
                await self._open(operation)
            else:
                await self._resolve(operation)
        except StateChanged:
            log.info("another process carries the operation on", operation_id=operation.id)
        except (PyMongoError, *ROUTER_ERRORS) as error:
            log.warning("operation waits", operation_id=operation.id, problem=str(error)[:200])
            await self._try_to_postpone(operation)
        except Exception:
            # the outermost edge of an operation: it must neither kill the loop nor be forgotten
            log.exception("operation failed unexpectedly; it will be tried again", operation_id=operation.id)
            await self._try_to_postpone(operation)

    async def _try_to_postpone(self, operation: OperationDocument) -> None:
        try:
            await self._journal.postpone(operation, retry_in=_backoff(operation.attempts))
        except PyMongoError as error:
            log.warning("operation not postponed", operation_id=operation.id, problem=type(error).__name__)

    # opening

    async def _open(self, operation: OperationDocument) -> None:
        try:
            ready, approval = await self._prepare(operation)
        except ApiError as error:
            log.info("session not opened", operation_id=operation.id, code=error.code)
            await self._journal.fail_open(operation, error)
            return
        async with self._turn:
            await self._send(ready, approval)

    async def _prepare(self, operation: OperationDocument) -> tuple[OperationDocument, Approval]:
        """Choose a bid, have its provider approve, write everything down. No money moves. Raises `ApiError`."""
        try:
            bids = await self._bids_for(operation)
            supply, budget = await self._router.supply_and_budget()
            balance = await self._router.balance()
        except ROUTER_ERRORS as error:
            log.warning("router does not answer", router=self._router.name, problem=str(error)[:200])
            raise ApiError("service_unavailable", retry_after=5) from None
        reasons: list[dict[str, str]] = []
        needed: list[Quote] = []
        for bid in bids[:MAX_BIDS_TRIED]:
            try:
                cost = quote(price=bid.price, duration=operation.duration, supply=supply, budget=budget)
            except ValueError as error:
                log.error("no stake can be worked out", operation_id=operation.id, problem=str(error))
                raise ApiError("open_failed") from None
            if cost.stake > balance:
                needed.append(cost)
                continue
            prepared = await self._approve_and_record(operation, bid, cost, reasons)
            if prepared is not None:
                return prepared
        if needed and not reasons:
            cheapest = min(needed, key=lambda cost: cost.stake)
            raise ApiError("insufficient_balance", details={"required_stake": str(cheapest.stake)})
        raise ApiError("no_provider_available", retry_after=10, details={"reasons": reasons})

    async def _bids_for(self, operation: OperationDocument) -> list[Bid]:
        if operation.wanted_bid is not None:
            bid = await self._router.bid(operation.wanted_bid)
            bids = [] if bid is None else [bid]
        else:
            bids = await self._router.rated_bids(operation.model_id)
        return [bid for bid in bids if bid.provider != self._router.wallet]

    async def _approve_and_record(
        self, operation: OperationDocument, bid: Bid, cost: Quote, reasons: list[dict[str, str]]
    ) -> tuple[OperationDocument, Approval] | None:
        provider = self._catalogue.provider(bid.provider) or (await self._router.providers()).get(bid.provider)
        if provider is None:
            reasons.append({"provider": bid.provider, "reason": "unreachable"})
            return None
        for _ in range(TAG_TRIES):
            if not await self._journal.is_wanted(operation):
                raise ApiError("open_failed", "The session was closed, or its key revoked, before it was open.")
            counter = await self._journal.next_counter(self._router.wallet, self._router.name)
            stake = tagged(cost.stake, deployment=self._settings.deployment_number, counter=counter)
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
            try:
                ready = await self._journal.record_approval(operation, bid, approval, stake, block)
            except StakeTaken:
                # a twin approval from the same millisecond, or a counter that came round: ask anew
                continue
            return ready, approval
        reasons.append({"provider": bid.provider, "reason": "rejected"})
        return None

    async def _send(self, operation: OperationDocument, approval: Approval) -> None:
        """Step two, with the wallet's turn. Whatever is not a clear success, or clearly never sent, is unknown."""
        if not self._holds:
            # another process has the loop now and carries this operation on
            return
        stake = int(operation.stake or 0)
        try:
            session_id = await self._router.open(approval, stake, timeout=self._settings.chain_timeout)
        except RouterUnreachable:
            await self._journal.append_fact(operation.id, "router unreachable")
            await self._journal.fail_open(operation, ApiError("service_unavailable", retry_after=5))
            return
        except RouterRefused as error:
            await self._journal.append_fact(operation.id, "refused", status=error.status, text=_kept(error))
            if nothing_was_sent(error.status, error.text):
                log.error("router refuses to open for us", router=self._router.name, status=error.status)
                await self._journal.fail_open(operation, ApiError("open_failed"))
                return
            await self._resolve(operation)
            return
        except RouterUnclear as error:
            await self._journal.append_fact(operation.id, "no clear answer", problem=str(error))
            await self._resolve(operation)
            return
        await self._journal.append_fact(operation.id, "opened", session=session_id)
        found = await self._read_back(session_id)
        if found is None:
            await self._journal.mark_unknown(operation, retry_in=RETRY_SECONDS)
            return
        await self._adopt(operation, found)

    async def _read_back(self, session_id: str) -> ChainSession | None:
        loop = asyncio.get_running_loop()
        until = loop.time() + READ_BACK_SECONDS
        while loop.time() < until:
            try:
                found = await self._router.session(session_id)
            except ROUTER_ERRORS:
                return None
            if found is not None:
                return found
            await asyncio.sleep(READ_BACK_PAUSE_SECONDS)
        return None

    async def _adopt(self, operation: OperationDocument, found: ChainSession) -> None:
        try:
            opened = await self._journal.settle_open(
                operation, found, chain=self._router.chain, wallet=self._router.wallet, router=self._router.name
            )
        except AlreadyAdopted:
            log.error("chain session belongs to another session of ours", session=found.id, operation_id=operation.id)
            await self._journal.mark_unknown(operation, retry_in=MAX_RETRY_SECONDS)
            return
        except SlotTaken:
            await self._journal.mark_unknown(operation, retry_in=1.0)
            return
        log.info(
            "session opened",
            session=found.id,
            key_id=opened.key_id,
            model=opened.model_id,
            provider=opened.provider,
            stake=str(found.stake),
        )

    async def _resolve(self, operation: OperationDocument) -> None:
        """Find out what became of an open that may have been sent: look for it on chain, else send the same again.

        Sending again is safe because the contract takes an approval once, ever; no error proves that it was not taken.
        """
        found = await find_session(self._router, operation)
        if found is not None:
            await self._adopt(operation, found)
            return
        too_old = timedelta(seconds=self._settings.abandon_after)
        enough = operation.absences >= MIN_ABSENCES
        if enough and operation.sent_at is not None and utc_now() - operation.sent_at > too_old:
            log.error("open not seen on chain in time; given up, and watched for", operation_id=operation.id)
            await self._journal.abandon_open(operation, ApiError("open_failed"))
            return
        if operation.state is OperationState.SENT:
            # the node that answers the listing may lag behind the one that mines: look again before sending again
            await self._journal.mark_unknown(operation, retry_in=1.0, absent=True)
            return
        await self._journal.mark_unknown(operation, retry_in=_backoff(operation.attempts), absent=True)
        approval = Approval(operation.approval or "", operation.approval_signature or "")
        again = await self._journal.operation(operation.id)
        if again is not None:
            async with self._turn:
                await self._send_again(again, approval)

    async def _send_again(self, operation: OperationDocument, approval: Approval) -> None:
        if not self._holds:
            return
        try:
            session_id = await self._router.open(
                approval, int(operation.stake or 0), timeout=self._settings.chain_timeout
            )
        except ROUTER_ERRORS as error:
            await self._journal.append_fact(operation.id, "sent again", problem=mask_secrets(str(error))[:300])
            found = await find_session(self._router, operation)
        else:
            await self._journal.append_fact(operation.id, "opened", session=session_id)
            found = await self._read_back(session_id)
        if found is not None:
            await self._adopt(operation, found)

    # closing

    async def _close(self, operation: OperationDocument) -> None:
        session = await self._journal.session(operation.session)
        if session is None or session.chain_session is None:
            log.error("close of a session that is not on chain", operation_id=operation.id)
            return
        if not await self._released(session):
            # its worker finishes the running prompt first
            await self._journal.postpone(operation, retry_in=0.0, counted=False)
            return
        async with self._turn:
            if not self._holds:
                return
            try:
                await self._router.close(session.chain_session, timeout=self._settings.chain_timeout)
            except RouterRefused as error:
                await self._journal.append_fact(operation.id, "refused", status=error.status, text=_kept(error))
                if ALREADY_CLOSED not in error.text:
                    log.warning("close refused", session=session.chain_session, problem=error.text[:300])
                    await self._journal.postpone(operation, retry_in=_backoff(operation.attempts))
                    return
            except (RouterUnclear, RouterUnreachable) as error:
                await self._journal.append_fact(operation.id, "no clear answer", problem=str(error))
        found = await self._router.session(session.chain_session)
        if found is None or found.is_open:
            # the node lags, or the call was lost: closing again is safe, the contract refuses the second
            await self._journal.postpone(operation, retry_in=_backoff(operation.attempts))
            return
        await self._journal.settle_close(session.id, found.closed_at, operation=operation)
        log.info("session closed", session=session.chain_session, key_id=session.key_id)

    async def _reconcile(self) -> None:
        open_states = (SessionState.ACTIVE, SessionState.PARKED)
        ours = await self._journal.sessions_on(self._router.wallet, open_states)
        await settle_from_chain(self._router, self._journal, ours, own_close_after=self._settings.own_close_after)
        for operation in await self._journal.abandoned(self._router.wallet):
            found = await find_session(self._router, operation)
            if found is not None:
                log.warning("an open that was given up is on chain after all", session=found.id)
                await self._adopt(operation, found)


def _kept(error: RouterRefused) -> str:
    """The router's words as a fact keeps them: an error of its chain node can hold that node's key."""
    return mask_secrets(error.text)[:500]


def _backoff(attempts: int) -> float:
    return min(MAX_RETRY_SECONDS, RETRY_SECONDS * float(1 << min(attempts, 8)) / 2)
