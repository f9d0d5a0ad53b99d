"""Closing a session on chain: again and again until the chain confirms it. The contract refuses a second close."""

import asyncio
from collections.abc import Awaitable, Callable

from morpheus_common.logs import get_logger, mask_secrets
from morpheus_common.steps import Step, reached

from morpheus_sessions.documents import OperationDocument, SessionDocument, wei
from morpheus_sessions.journal import Journal
from morpheus_sessions.listing import fingerprint
from morpheus_sessions.router import ALREADY_CLOSED, ROUTER_ERRORS, ChainSession, Router, RouterRefused
from morpheus_sessions.settings import SessionsSettings
from morpheus_sessions.stake import deployment_of
from morpheus_sessions.turn import Turn

log = get_logger(__name__)

STUCK_AFTER = 3
"""Calls without an answer before a close is taken for stuck: its provider gives no closing report, and each call holds
the wallet for as long as we wait."""


RELEASE_SECONDS = 0.5
"""So soon it is looked again whether a session's prompt has ended; meanwhile others are closed."""
AT_ONCE = 2
"""Closes that stand in line for the wallet's turn: an open comes after these few, however many are to be closed."""


class Closing:
    """Closes sessions of the wallet behind one router."""

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
        self._few = asyncio.Semaphore(AT_ONCE)

    async def close(self, operation: OperationDocument) -> None:
        """Carry a close on."""
        await reached(Step.CLOSE_TAKEN, operation.id)
        session = await self._journal.session(operation.session)
        if session is None or session.chain_session is None:
            log.error("close of a session that is not on chain", operation_id=operation.id)
            await self._journal.postpone(operation, retry_in=self._settings.backoff(operation.attempts))
            return
        if not await self._released(session):
            # its worker finishes the running prompt first
            await self._journal.postpone(operation, retry_in=RELEASE_SECONDS, counted=False)
            return
        async with self._few:
            await self._carry_on(operation, session, session.chain_session)

    async def _carry_on(self, operation: OperationDocument, session: SessionDocument, chain_session: str) -> None:
        await reached(Step.CLOSE_RELEASED, operation.id)
        if deployment_of(wei(session.stake) or 0) != self._settings.deployment_number:
            log.critical("a session without our tag is not ours to close", session=session.chain_session)
            await self._journal.mark_stuck(operation, retry_in=self._settings.stuck_seconds)
            return
        seen = await self._look(session)
        if seen is not None and fingerprint(seen) != fingerprint(session):
            # blocks were undone, and ids hang on their order: the next pass finds out what its id is now
            log.error("a session's id on chain is another's by now", session=session.chain_session)
            await self._journal.postpone(operation, retry_in=self._settings.backoff(operation.attempts), counted=False)
            return
        if await self._settled(operation, session, seen):
            return
        answer = await self._call(operation, chain_session)
        if answer != "refused" and await self._settled(operation, session, await self._look(session)):
            return
        # the node lags, or the call was lost: closing again is safe, the contract refuses the second
        if operation.attempts + 1 >= STUCK_AFTER and answer == "refused":
            # the chain's refusal (no gas, the protocol's funds are empty): no fault of its provider's
            log.error("close_refused: tried again seldom", session=session.chain_session)
            await self._journal.postpone(operation, retry_in=self._settings.stuck_seconds)
        elif operation.attempts + 1 >= STUCK_AFTER:
            if not operation.stuck:
                log.error("close_stuck: its provider gives no closing report", session=session.chain_session)
            await self._journal.mark_stuck(operation, retry_in=self._settings.stuck_seconds)
        else:
            await self._journal.postpone(operation, retry_in=self._settings.backoff(operation.attempts))

    async def _call(self, operation: OperationDocument, chain_session: str) -> str:
        """Make the call and note what came back; return it in a word."""
        async with self._turn.call(operation.id):
            await reached(Step.CLOSE_SENDING, operation.id)
            what = "closed"
            details: dict[str, str | int | None] = {}
            try:
                details = {"tx": await self._router.close(chain_session, timeout=self._settings.chain_timeout)}
            except RouterRefused as error:
                what = "already closed" if ALREADY_CLOSED in error.text else "refused"
                details = {"status": error.status, "text": mask_secrets(error.text)[:500]}
            except ROUTER_ERRORS as error:
                what = "no clear answer"
                details = {"problem": mask_secrets(str(error))[:300]}
        await reached(Step.CLOSE_ANSWERED, operation.id)
        await self._journal.append_fact(operation.id, what, **details)
        return what

    async def _look(self, session: SessionDocument) -> ChainSession | None:
        """Return what the chain has under a session's id."""
        seen = await self._router.session(session.chain_session or "")
        await reached(Step.CLOSE_LISTED, session.id)
        return seen

    async def _settled(self, operation: OperationDocument, session: SessionDocument, seen: ChainSession | None) -> bool:
        """Tell whether the chain says that it is closed, and record that it is."""
        if seen is None or seen.is_open or fingerprint(seen) != fingerprint(session):
            return False
        await self._journal.settle_close(session.id, seen.closed_at, operation=operation)
        log.info("session closed", session=session.chain_session, key_id=session.key_id)
        await reached(Step.CLOSE_SETTLED, operation.id)
        return True
