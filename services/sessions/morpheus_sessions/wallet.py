"""The loop of one wallet: carries out its opens and closes, one chain call at a time, and reads the chain beside them.

One process runs the loop of a wallet (lease). The lease spares work and gas; what keeps stakes safe does not depend on
it: an approval opens one session at most, and a closed session cannot be closed again.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

from morpheus_common.errors import ApiError
from morpheus_common.logs import get_logger
from morpheus_common.request_context import request_id
from morpheus_common.service import cancel_all
from morpheus_common.steps import Step, reached
from morpheus_common.store.leases import Leases
from morpheus_common.tracing import INTERNAL, Span, begun, caused, current_span
from pymongo.errors import PyMongoError

from morpheus_sessions.approving import Approving
from morpheus_sessions.catalogue import CatalogueCopy
from morpheus_sessions.closing import Closing
from morpheus_sessions.documents import OperationDocument, OperationKind, OperationState, SessionDocument, wei
from morpheus_sessions.fleet import Fleet, Member
from morpheus_sessions.handshake import Crowded, Handshake
from morpheus_sessions.journal import Journal, StateChanged
from morpheus_sessions.limits import Limits
from morpheus_sessions.opening import Opening
from morpheus_sessions.queueing import declined_by, in_line, is_anyone_serving, put_back, serve, taken_long_ago
from morpheus_sessions.reconcile import Reconciler
from morpheus_sessions.router import ROUTER_ERRORS
from morpheus_sessions.settings import SessionsSettings
from morpheus_sessions.turn import NotOurTurn, Turn

log = get_logger(__name__)

POLL_SECONDS = 0.25
LEASE_RETRY_SECONDS = 1.0
HEAD_START_SECONDS = 0.3
"""A worker waits so long for each wallet it leads before it competes for another."""
LONGEST_HEAD_START_SECONDS = 0.6
NOT_OUR_TURN_SECONDS = 1.0
CROWDED_SECONDS = 0.5
CLOSES_IN_HAND = 32
"""So many closes are begun; the others wait in the database."""
OF_THIS_WALLET = ("insufficient_balance", "stake_capacity")
"""Refusals that another wallet may not give."""
ASKED_SECONDS = 1.0
"""How often a loop looks whether an operator asks for a pass."""


def _lease_of(wallet: str) -> str:
    return f"wallet:{wallet}"


def _span_of(operation: OperationDocument, router: str) -> Span:
    """Return the span of one attempt at an operation: of a trace that bears the operation's id, linked to the request that asked,
    which may be over by then. One that nobody asked for (a renewal) is recorded when its turn comes.
    """
    name, trace_id = f"wallet {operation.kind}", operation.id.replace("-", "")
    attributes = {"morpheus.operation_id": operation.id, "morpheus.router": router}
    if operation.traceparent is None:
        return begun(name, INTERNAL, trace_id, attributes=attributes)
    return caused(name, INTERNAL, operation.traceparent, trace_id=trace_id, attributes=attributes)


class WalletLoop:
    """Executes the operations of the wallet behind one router."""

    def __init__(
        self,
        member: Member,
        fleet: Fleet,
        journal: Journal,
        leases: Leases,
        catalogue: CatalogueCopy,
        settings: SessionsSettings,
        turn: Turn,
        released: Callable[[SessionDocument], Awaitable[bool]],
        limits: Limits,
    ) -> None:
        self._member = member
        self._fleet = fleet
        self._router = router = member.router
        self._journal = journal
        self._leases = leases
        self._settings = settings
        self._turn = turn
        self._running: dict[str, asyncio.Task[None]] = {}
        self._opens: set[str] = set()
        self._free_at = 0.0
        self._seconds_per_open: float | None = None
        self._handshake = Handshake(router, journal, catalogue, settings, limits, member.till)
        self._opening = Opening(router, journal, settings, turn, released)
        self._closing = Closing(router, journal, settings, turn, released)
        self._approving = Approving(router, journal, catalogue, settings, turn)
        self.reconciler = Reconciler(router, journal, settings, self._opening)

    async def run(self) -> None:
        """Work until cancelled: whenever the lease is ours."""
        work = (self._keep_lease(), self._work(), self._keep_reconciled(), self._approving.keep_float())
        jobs = [asyncio.create_task(job) for job in work]
        try:
            ended, _ = await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.gather(*ended)
        finally:
            # an operation cut off here is carried on by whoever has the loop next: the journal knows where it was
            await cancel_all(jobs)
            await cancel_all(self._running.values())
            await self._let_go()

    async def _keep_lease(self) -> None:
        # a task of its own: nothing slow may come between two renewals
        while True:
            try:
                asked_at = await self._hold()
                if asked_at is None:
                    self._turn.held_until = float("-inf")
                    self._fleet.led.discard(self._router.name)
                else:
                    self._turn.held_until = asked_at + self._leases.seconds
                    await self._say_whether_it_serves()
            except (PyMongoError, *ROUTER_ERRORS) as error:
                log.warning("lease of the wallet not renewed", router=self._router.name, problem=str(error)[:200])
            await asyncio.sleep(self._leases.seconds / 5 if self._turn.holds else LEASE_RETRY_SECONDS)

    async def _hold(self) -> float | None:
        """Take or renew the lease; return when it was asked for (the loop's time), None if it is not ours."""
        if not self._member.is_fit:
            await self._member.look()
        if not self._member.is_fit:
            return None
        if self._turn.holds:
            return await self._acquire()
        async with self._fleet.competing:
            # who leads few wallets gets the next: workers that start together share them
            leads = len(self._fleet.led - {self._router.name})
            await asyncio.sleep(min(LONGEST_HEAD_START_SECONDS, HEAD_START_SECONDS * leads))
            return await self._acquire()

    async def _acquire(self) -> float | None:
        asked_at = asyncio.get_running_loop().time()
        if await self._leases.acquire(self._lease) is None:
            return None
        self._fleet.led.add(self._router.name)
        return asked_at

    async def _say_whether_it_serves(self) -> None:
        seconds = self._leases.seconds if self._member.may_open(0) else 0.0
        await serve(self._router.wallet, seconds=seconds, seconds_per_open=self._seconds_per_open)

    async def _let_go(self) -> None:
        if not self._turn.holds:
            return
        self._turn.held_until = float("-inf")
        try:
            await self._leases.release(self._lease)
        except PyMongoError as error:
            log.warning("lease of the wallet not given back", problem=type(error).__name__)

    @property
    def _lease(self) -> str:
        return _lease_of(self._router.wallet)

    async def _work(self) -> None:
        queued = self._journal.listen()
        while True:
            try:
                if self._turn.holds:
                    await self._start_what_is_due()
                else:
                    # all may be away since this process began: then no loop has a lease
                    await self._refuse_if_nobody_comes()
            except PyMongoError as error:
                log.warning("wallet loop waits", router=self._router.name, problem=type(error).__name__)
                await asyncio.sleep(1.0)
            except Exception:
                # the outermost edge of the loop: what one operation or one answer brings about must not end all wallets' loops
                log.exception("the line was not looked at; it is again as always", router=self._router.name)
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await queued.wait()
            except TimeoutError:
                continue
            queued.clear()

    async def _keep_reconciled(self) -> None:
        while True:
            try:
                if self._turn.holds:
                    await self._reconcile()
            except (PyMongoError, StateChanged, *ROUTER_ERRORS) as error:
                log.warning("not held beside the chain", router=self._router.name, problem=str(error)[:200])
            except Exception:
                # the outermost edge of a pass: what one record or one answer brings about must not end all wallets' loops
                log.exception("pass failed unexpectedly; the next is made as always", router=self._router.name)
            await self._until_next_pass()

    async def _reconcile(self) -> None:
        await self._put_back_what_nobody_carries()
        asked, made = await self._journal.passes(self._router.wallet)
        findings = await self.reconciler.run_pass(complete=asked > made)
        if asked > made:
            await self._journal.note_pass(self._router.wallet, asked, Counter(finding.act for finding in findings))

    async def _put_back_what_nobody_carries(self) -> None:
        """Give back to the line what a wallet took that has no loop any more: its router is away, or was taken out."""
        for operation in await taken_long_ago():
            if not await self._leases.is_held(_lease_of(str(operation.wallet))) and await put_back(
                operation, declined=False
            ):
                log.warning("put back: its wallet has no loop", operation_id=operation.id, router=operation.router)
                self._journal.wake()

    async def _until_next_pass(self) -> None:
        """Wait for its time, or for an operator who asks for one now."""
        loop = asyncio.get_running_loop()
        until = loop.time() + (self._settings.reconcile_seconds if self._turn.holds else LEASE_RETRY_SECONDS)
        while (left := until - loop.time()) > 0:
            await asyncio.sleep(min(left, ASKED_SECONDS))
            try:
                asked, made = await self._journal.passes(self._router.wallet)
            except PyMongoError as error:
                log.warning("nobody knows whether a pass is asked for", problem=type(error).__name__)
                continue
            if asked > made and self._turn.holds:
                return

    async def _start_what_is_due(self) -> None:
        running = list(self._running)
        closes = CLOSES_IN_HAND - (len(running) - len(self._opens))
        for operation in await self._journal.unfinished(self._router.wallet, besides=running, closes=closes):
            self._start(operation)
        try:
            await self._take_from_the_line()
        except ROUTER_ERRORS as error:
            self._member.breaker.failed()
            log.warning("purse not read: no open is taken", router=self._router.name, problem=str(error)[:200])
        await self._refuse_what_nobody_can_carry_out()

    async def _take_from_the_line(self) -> None:
        while len(self._opens) < self._settings.handshakes_at_once and self._member.may_open(len(self._opens)):
            head = await self._member.till.take(self._router.wallet, self._router.name, in_hand=len(self._opens))
            for operation in head.left:
                await self._try_to_fail(operation, ApiError("open_failed", "Nobody waited for the session any more."))
            if head.taken is None:
                return
            self._start(head.taken)

    async def _refuse_what_nobody_can_carry_out(self) -> None:
        for operation in await declined_by(self._router.wallet):
            if not self._fleet.is_anyone_left(besides=operation.declined):
                details = {"required_stake": str(wei(operation.required_stake) or 0)}
                await self._try_to_fail(operation, ApiError("insufficient_balance", details=details))
        await self._refuse_if_nobody_comes()

    async def _refuse_if_nobody_comes(self) -> None:
        if self._member.may_come or self._fleet.is_anyone_left(besides=()) or await is_anyone_serving():
            return
        # what waited for hours would be opened when nobody thinks of it any more
        for operation in await in_line():
            await self._try_to_fail(operation, ApiError("service_unavailable", retry_after=5))

    async def _try_to_fail(self, operation: OperationDocument, error: ApiError) -> None:
        try:
            await self._journal.fail_open(operation, error)
        except StateChanged:
            # somebody has come to wait for it, or another wallet has it
            return
        log.info("session not opened", operation_id=operation.id, code=error.code)

    def _start(self, operation: OperationDocument) -> None:
        task = asyncio.create_task(self._carry_out(operation))
        self._running[operation.id] = task
        if operation.kind is not OperationKind.CLOSE:
            self._opens.add(operation.id)

        def ended(_: asyncio.Task[None]) -> None:
            self._running.pop(operation.id, None)
            self._opens.discard(operation.id)

        task.add_done_callback(ended)

    async def _carry_out(self, operation: OperationDocument) -> None:
        request_id.set(operation.id)
        with _span_of(operation, self._router.name):
            await self._try_to_carry_out(operation)

    async def _try_to_carry_out(self, operation: OperationDocument) -> None:
        try:
            if operation.kind is OperationKind.CLOSE:
                await self._closing.close(operation)
            elif operation.kind is OperationKind.APPROVE:
                await self._approving.carry_on(operation)
            elif operation.state is OperationState.PENDING:
                await self._open(operation)
            else:
                await self._opening.resolve(operation)
        except StateChanged:
            log.info("another process carries the operation on", operation_id=operation.id)
        except NotOurTurn:
            await self._try_to_postpone(operation, NOT_OUR_TURN_SECONDS, counted=False)
        except (PyMongoError, *ROUTER_ERRORS) as error:
            log.warning("operation waits", operation_id=operation.id, problem=str(error)[:200])
            current_span().fail(error)
            await self._try_to_postpone(operation, self._settings.backoff(operation.attempts))
        except Exception as error:
            # the outermost edge of an operation: it must neither kill the loop nor be forgotten
            current_span().fail(error)
            log.exception("operation failed unexpectedly; it will be tried again", operation_id=operation.id)
            await self._try_to_postpone(operation, self._settings.backoff(operation.attempts))

    async def _open(self, operation: OperationDocument) -> None:
        await reached(Step.OPEN_TAKEN, operation.id)
        try:
            ready = await self._handshake.prepare(operation)
        except Crowded:
            await put_back(operation, declined=False, retry_in=CROWDED_SECONDS)
            return
        except ApiError as error:
            await self._not_opened(operation, error)
            return
        self._member.breaker.succeeded()
        loop = asyncio.get_running_loop()
        began = max(loop.time(), self._free_at)
        try:
            await self._opening.send(ready)
        finally:
            self._member.till.forget()
        self._free_at = loop.time()
        self._note_seconds(max(0.0, self._free_at - began))

    def _note_seconds(self, took: float) -> None:
        known = self._seconds_per_open
        self._seconds_per_open = took if known is None else known + (took - known) / 5

    async def _not_opened(self, operation: OperationDocument, error: ApiError) -> None:
        """Leave an open that was not sent to another wallet, if its trouble is this one's own; else it has failed."""
        current_span().fail(error)
        declined = error.code in OF_THIS_WALLET
        if error.code == "service_unavailable":
            self._member.breaker.failed()
        elif declined:
            self._member.breaker.succeeded()
        besides = [*operation.declined, self._router.wallet]
        if (declined or error.code == "service_unavailable") and self._fleet.is_anyone_left(besides=besides):
            log.info("open left to another wallet", operation_id=operation.id, code=error.code)
            await put_back(operation, declined=declined)
            self._journal.wake()
            return
        log.info("session not opened", operation_id=operation.id, code=error.code)
        await self._journal.fail_open(operation, error)

    async def _try_to_postpone(self, operation: OperationDocument, retry_in: float, *, counted: bool = True) -> None:
        try:
            await self._journal.postpone(operation, retry_in=retry_in, counted=counted)
        except PyMongoError as error:
            log.warning("operation not postponed", operation_id=operation.id, problem=type(error).__name__)
