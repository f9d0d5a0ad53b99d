"""What users ask of their sessions: open, close, look. Writes what is wanted; the wallets' loops carry it out."""

import asyncio
from datetime import timedelta

from morpheus_common.clock import utc_now
from morpheus_common.contracts.sessions import (
    CloseResult,
    CloseSession,
    OpenSession,
    SessionRow,
    SessionState,
    Slot,
)
from morpheus_common.errors import ApiError
from morpheus_common.steps import Step, reached

from morpheus_sessions.catalogue import CatalogueCopy
from morpheus_sessions.documents import (
    ENDED,
    OperationDocument,
    OperationState,
    Owner,
    Replaces,
    SessionDocument,
)
from morpheus_sessions.intake import Intake
from morpheus_sessions.journal import Journal, SlotTaken
from morpheus_sessions.router import Router, RouterRefused, RouterUnclear, RouterUnreachable

TRIES = 5
"""How often an open looks again after somebody else took the slot."""
USABLE_SECONDS = 5
"""A session with less time left than this is taken for expired."""


def is_usable(session: SessionDocument, *, at_least: float = USABLE_SECONDS) -> bool:
    """Tell whether an active or parked session has time left."""
    return session.ends_at is not None and session.ends_at > utc_now() + timedelta(seconds=at_least)


def outcome(operation: OperationDocument | None) -> None:
    """Raise what a caller is told of an operation, unless it is done."""
    if operation is None:
        raise ApiError("internal_error")
    if operation.state is OperationState.DONE:
        return
    if operation.state in ENDED:
        told = operation.error or {"code": "open_failed"}
        raise ApiError(
            told["code"], told.get("message"), retry_after=told.get("retry_after"), details=told.get("details")
        )
    raise ApiError("session_pending", details={"operation_id": operation.id})


class Lifecycle:
    """The commands about sessions."""

    def __init__(self, journal: Journal, intake: Intake, catalogue: CatalogueCopy, reader: Router) -> None:
        self._journal = journal
        self._intake = intake
        self._catalogue = catalogue
        self._reader = reader

    async def open(self, command: OpenSession) -> SessionRow:
        """Open the session asked for, or answer the one that fits; waits `command.wait` seconds for the chain.

        Raises `session_pending` (the open goes on), or what the chain or the providers made of it.
        """
        await reached(Step.OPEN_RECEIVED, command.operation_id)
        if await self._journal.operation(command.operation_id) is not None:
            # the same command again: its first copy got here, its answer did not get back
            return await self._finished(command.operation_id, command.wait)
        if command.bid_id is not None:
            model_id = await self._model_of_bid(command.bid_id)
        elif command.model_id is not None:
            model_id = command.model_id
        else:
            raise ApiError("missing_required_parameter", param="model_id")
        session = await self.begin(
            operation_id=command.operation_id,
            user_id=command.user_id,
            key_id=command.key_id,
            key_prefix=command.key_prefix,
            model_id=model_id,
            bid_id=command.bid_id,
            duration=command.duration,
        )
        if session.state is SessionState.ACTIVE:
            return session.row()
        return await self._finished(session.operation_id, command.wait)

    async def begin(
        self,
        *,
        operation_id: str,
        user_id: str,
        key_id: str,
        key_prefix: str,
        model_id: str,
        bid_id: str | None,
        duration: int,
        owner: Owner | None = None,
        old_becomes: SessionState = SessionState.CLOSING,
        even_if_usable: bool = False,
    ) -> SessionDocument:
        """Return the session that serves this wish: the current one, one that is opening, or a new one now queued.

        `old_becomes`: what happens to a current session that does not fit, once the new one is on chain.
        `even_if_usable`: open another although the current one fits (it is quarantined).
        """
        model = self._catalogue.model(model_id)
        for _ in range(TRIES):
            replaces = None
            current = await self._journal.session_in(key_id, Slot.CURRENT)
            if current is not None and current.state is SessionState.ACTIVE and not is_usable(current):
                await self._journal.park(current.id, "expired")
                continue
            if current is not None:
                fits = current.model_id == model_id and bid_id in {None, current.bid_id} and current.wanted
                if fits and not (even_if_usable and current.state is SessionState.ACTIVE):
                    return current
                if current.state is not SessionState.ACTIVE:
                    raise ApiError("session_opening", retry_after=5)
                coming = await self._journal.session_in(key_id, Slot.NEXT)
                if coming is not None:
                    if coming.model_id == model_id and bid_id in {None, coming.bid_id} and coming.wanted:
                        return coming
                    raise ApiError("session_opening", retry_after=5)
                replaces = Replaces(session=current.id, becomes=old_becomes)
            if not model.has_bids:
                raise ApiError("no_provider_available", retry_after=30, details={"reasons": []})
            try:
                return await self._intake.open(
                    operation_id=operation_id,
                    user_id=user_id,
                    key_id=key_id,
                    key_prefix=key_prefix,
                    model=model,
                    bid_id=bid_id,
                    duration=duration,
                    owner=owner,
                    replaces=replaces,
                )
            except SlotTaken:
                continue
        raise ApiError("session_opening", retry_after=5)

    async def close(self, command: CloseSession) -> CloseResult:
        """Close the current and the parked sessions of a key; waits `command.wait` seconds for the chain.

        What is closing already is waited for too: asked again, nothing is confirmed before the chain has confirmed it.
        """
        await reached(Step.CLOSE_TRIGGERED, command.operation_id)
        known = await self._journal.operation(command.operation_id)
        current = await self._journal.session_in(command.key_id, Slot.CURRENT)
        coming = await self._journal.session_in(command.key_id, Slot.NEXT)
        others = await self._journal.sessions_of(command.key_id, (SessionState.CLOSING, SessionState.PARKED))
        operations: list[str] = []
        still_opening = False
        for session in (current, coming, *others):
            if session is None:
                continue
            if session.state is SessionState.OPENING:
                await self._journal.unwant(session)
                still_opening = True
            # the first close carries the id its caller knows, so that it can be asked about
            wished = command.operation_id if not operations and known is None else None
            started = await self._journal.request_close(session, "requested", operation_id=wished)
            if started is not None:
                operations.append(started)
        ended = await asyncio.gather(*(self._journal.ended(item, wait=command.wait) for item in operations))
        await reached(Step.CLOSE_REPLYING, command.operation_id)
        confirmed = all(item is not None and item.state is OperationState.DONE for item in ended)
        first = current or next((item for item in others if item.state is SessionState.CLOSING), None)
        if known is not None:
            first = await self._journal.session(known.session)
        return CloseResult(
            session_id=None if first is None else first.chain_session,
            confirmed=confirmed and not still_opening,
            operation_id=command.operation_id,
        )

    async def current(self, key_id: str) -> SessionRow | None:
        """Return a key's current session."""
        session = await self._journal.session_in(key_id, Slot.CURRENT)
        if session is None or (session.state is SessionState.ACTIVE and not is_usable(session, at_least=0)):
            return None
        return session.row()

    async def _finished(self, operation_id: str, wait: float) -> SessionRow:
        operation = await self._journal.ended(operation_id, wait=wait)
        await reached(Step.OPEN_REPLYING, operation_id)
        outcome(operation)
        session = None if operation is None else await self._journal.session(operation.session)
        if session is None:
            raise ApiError("internal_error")
        return session.row()

    async def _model_of_bid(self, bid_id: str) -> str:
        try:
            bid = await self._reader.bid(bid_id)
        except (RouterUnreachable, RouterRefused, RouterUnclear):
            raise ApiError("service_unavailable", retry_after=5) from None
        if bid is None:
            raise ApiError("bid_not_found", param="bid_id")
        return bid.model_id
