"""Step two of an open: send what the journal holds, and find out what became of it.

Nothing here gives an open up because of an error: an outcome is read from the chain, and until the chain shows the
session the same approval is sent again, which opens one session at most, ever.
"""

import asyncio
from collections.abc import Awaitable, Callable

from morpheus_common.contracts.sessions import SessionState
from morpheus_common.errors import ApiError
from morpheus_common.logs import get_logger, mask_secrets
from morpheus_common.steps import Step, reached
from nats.errors import Error as NatsError
from pymongo.errors import PyMongoError

from morpheus_sessions.documents import OperationDocument, OperationState, SessionDocument
from morpheus_sessions.failures import nothing_was_sent
from morpheus_sessions.journal import AlreadyAdopted, Journal, SlotTaken
from morpheus_sessions.listing import look_for, opened_by
from morpheus_sessions.router import (
    ROUTER_ERRORS,
    Approval,
    ChainSession,
    Router,
    RouterRefused,
    RouterUnreachable,
)
from morpheus_sessions.settings import SessionsSettings
from morpheus_sessions.turn import Turn

log = get_logger(__name__)

READ_BACK_SECONDS = 10.0
"""A node may lag behind the one that mined the open; then the listing settles it later."""
READ_BACK_PAUSE_SECONDS = 0.25
FIRST_LOOK_SECONDS = 1.0
COUNTED_ABSENCES = 2
"""So often must the chain, well past the height at which an open was last sent, not show it before it is given up."""


class Opening:
    """Sends and settles the opens of the wallet behind one router."""

    def __init__(
        self,
        router: Router,
        journal: Journal,
        settings: SessionsSettings,
        turn: Turn,
        released: Callable[[SessionDocument], Awaitable[bool]],
    ) -> None:
        self._router = router
        self._journal = journal
        self._settings = settings
        self._turn = turn
        self._released = released

    async def send(self, operation: OperationDocument) -> None:
        """Send an open for the first time. Whatever is not a clear success, or clearly never sent, is unknown."""
        await reached(Step.OPEN_RECORDED, operation.id)
        session_id = None
        async with self._turn.call(operation.id):
            if not await self._journal.is_wanted(operation):
                # it may have waited for minutes; not a byte went out
                await self._journal.fail_open(operation, ApiError("open_cancelled"))
                return
            await reached(Step.OPEN_SENDING, operation.id)
            try:
                session_id = await self._call(operation)
            except RouterUnreachable:
                await self._journal.append_fact(operation.id, "router unreachable")
                await self._journal.fail_open(operation, ApiError("service_unavailable", retry_after=5))
                return
            except RouterRefused as error:
                if nothing_was_sent(error.status, error.text):
                    log.error("router refuses to open for us", router=self._router.name, status=error.status)
                    await self._journal.fail_open(operation, ApiError("open_failed"))
                    return
            except ROUTER_ERRORS:
                log.info("open not clearly answered", operation_id=operation.id)
        await self._settle(operation, session_id)

    async def resolve(self, operation: OperationDocument) -> None:
        """Find out what became of an open that may have been sent: look for it on chain, else send the same again.

        Sending again is safe because the contract takes an approval once, ever; no error proves that it was not taken.
        """
        seen = await look_for(self._router, operation)
        await reached(Step.OPEN_LISTED, operation.id)
        if seen.session is not None:
            await self.adopt(operation, seen.session)
            return
        first_look = operation.state is OperationState.SENT
        retry_in = FIRST_LOOK_SECONDS if first_look else self._settings.backoff(operation.attempts)
        absent = await self._journal.note_absence(
            operation, height=seen.height, spacing=self._settings.absence_spacing, retry_in=retry_in
        )
        if first_look:
            # the node that answers the listing may lag behind the one that mines
            return
        if not await self._journal.is_wanted(absent):
            # what nobody wants is not sent again; should it be on its way, it will be seen and closed
            await self._abandon(absent, ApiError("open_cancelled"))
        elif await self._journal.is_overdue(absent, self._settings.abandon_after):
            if absent.absences >= COUNTED_ABSENCES:
                await self._abandon(absent, ApiError("open_failed"))
        elif seen.height > absent.sent_block:
            await self._send_again(absent)

    async def _abandon(self, operation: OperationDocument, error: ApiError) -> None:
        log.error("open not seen on chain; given up, and watched for", operation_id=operation.id)
        await self._journal.abandon_open(operation, error)
        await reached(Step.OPEN_ABANDONED, operation.id)

    async def _send_again(self, operation: OperationDocument) -> None:
        session_id = None
        async with self._turn.call(operation.id):
            again = await self._journal.record_resend(operation, await self._router.latest_block())
            await reached(Step.OPEN_SENDING, again.id)
            try:
                session_id = await self._call(again)
            except ROUTER_ERRORS:
                log.info("open sent again, not clearly answered", operation_id=again.id)
        await reached(Step.OPEN_SENT_AGAIN, again.id)
        await self._settle(again, session_id)

    async def _call(self, operation: OperationDocument) -> str:
        """Make the call and keep what came back as a fact, whoever holds the lease by then."""
        approval = Approval(operation.approval or "", operation.approval_signature or "")
        try:
            session_id = await self._router.open(
                approval, int(operation.stake or 0), timeout=self._settings.chain_timeout
            )
        except RouterRefused as error:
            await self._answered(operation, "refused", status=error.status, text=mask_secrets(error.text)[:500])
            raise
        except ROUTER_ERRORS as error:
            await self._answered(operation, "no clear answer", problem=mask_secrets(str(error))[:300])
            raise
        await self._answered(operation, "opened", session=session_id)
        return session_id

    async def _answered(self, operation: OperationDocument, what: str, **details: str | int) -> None:
        await reached(Step.OPEN_ANSWERED, operation.id)
        await self._journal.append_fact(operation.id, what, **details)
        await reached(Step.OPEN_NOTED, operation.id)

    async def _settle(self, operation: OperationDocument, session_id: str | None) -> None:
        """Adopt what was opened; what the chain does not show yet is looked for again later."""
        found = None
        if session_id is not None:
            found = await self._read_back(operation, session_id)
        elif operation.state is not OperationState.SENT:
            found = (await look_for(self._router, operation)).session
        if found is not None:
            await self.adopt(operation, found)
        elif operation.state is OperationState.SENT:
            await self.resolve(operation)

    async def _read_back(self, operation: OperationDocument, session_id: str) -> ChainSession | None:
        """Return the session that an open was answered with, None if it is not seen, or is not what that open opened."""
        loop = asyncio.get_running_loop()
        until = loop.time() + READ_BACK_SECONDS
        while loop.time() < until:
            try:
                found = await self._router.session(session_id)
            except ROUTER_ERRORS:
                return None
            if found is not None and opened_by(operation, found):
                return found
            if found is not None:
                # ids hang on the order of opens on chain: in a block mined in place of another they change
                log.error("answered with another's session", session=session_id, operation_id=operation.id)
                return None
            await asyncio.sleep(READ_BACK_PAUSE_SECONDS)
        return None

    async def adopt(self, operation: OperationDocument, found: ChainSession) -> None:
        """Make the chain session that an operation opened a session of ours."""
        block = await self._router.latest_block()
        await reached(Step.OPEN_ADOPTING, operation.id)
        try:
            opened = await self._journal.settle_open(
                operation,
                found,
                chain=self._router.chain,
                wallet=self._router.wallet,
                router=self._router.name,
                block=block,
            )
        except AlreadyAdopted:
            log.error("chain session belongs to another session of ours", session=found.id, operation_id=operation.id)
            await self._journal.postpone(operation, retry_in=self._settings.backoff(operation.attempts))
            return
        except SlotTaken:
            await self._journal.postpone(operation, retry_in=FIRST_LOOK_SECONDS, counted=False)
            return
        log.info(
            "session opened",
            session=found.id,
            key_id=opened.key_id,
            model=opened.model_id,
            provider=opened.provider,
            stake=str(found.stake),
        )
        await reached(Step.OPEN_SETTLED, operation.id)
        if operation.replaces is not None and operation.replaces.becomes is SessionState.PARKED:
            await self._hand_over(operation.replaces.session)

    async def _hand_over(self, replaced: str) -> None:
        """Have the owner of a session that is not current any more go on in its successor."""
        try:
            old = await self._journal.session(replaced)
            if old is not None:
                await self._released(old)
        except (PyMongoError, NatsError) as error:
            # an owner looks at its sessions with every sign of life, too
            log.info("the owner of a replaced session not told", session=replaced, problem=type(error).__name__)
