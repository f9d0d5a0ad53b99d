"""What users ask of their sessions: open, close, look. Writes what is wanted; the wallets' loops carry it out."""

import asyncio
from datetime import datetime, timedelta

from morpheus_common.contracts.chat import Endpoint
from morpheus_common.contracts.sessions import (
    OPENS_LEFT,
    AutomationWord,
    CloseResult,
    CloseSession,
    Failure,
    GetOperation,
    Idempotency,
    KeySessions,
    ListKeySessions,
    OpenOutcome,
    OpenSession,
    OpensLeft,
    OperationRow,
    SessionRow,
    SessionState,
    Slot,
)
from morpheus_common.errors import ApiError
from morpheus_common.logs import get_logger
from morpheus_common.steps import Step, reached
from pymongo.errors import PyMongoError

from morpheus_sessions.catalogue import CatalogueCopy, is_attested
from morpheus_sessions.documents import (
    LIVE_STATES,
    OperationKind,
    OperationState,
    Owner,
    Replaces,
    SessionDocument,
)
from morpheus_sessions.idempotency import AlreadyAsked, recorded
from morpheus_sessions.intake import Closes, Intake
from morpheus_sessions.journal import Journal, SlotTaken
from morpheus_sessions.limits import Limits
from morpheus_sessions.operations import failure, operation_of
from morpheus_sessions.router import Bid, Router, RouterRefused, RouterUnclear, RouterUnreachable
from morpheus_sessions.waiting import PATIENCE_SECONDS

log = get_logger(__name__)

TRIES = 5
"""How often an open looks again after somebody else took the slot."""
BID_SECONDS = 4.0
"""A caller asks in pieces of five seconds: within one it has to learn that the router says nothing of a bid."""
USABLE_SECONDS = 5
"""A session with less time left than this is taken for expired."""


def is_usable(session: SessionDocument, now: datetime, *, at_least: float = USABLE_SECONDS) -> bool:
    """Tell whether an active or parked session has time left at `now`, the database's time."""
    return session.ends_at is not None and session.ends_at > now + timedelta(seconds=at_least)


class Lifecycle:
    """The commands about sessions."""

    def __init__(
        self, journal: Journal, intake: Intake, catalogue: CatalogueCopy, reader: Router, limits: Limits
    ) -> None:
        self._journal = journal
        self._intake = intake
        self._limits = limits
        self._catalogue = catalogue
        self._reader = reader

    async def answer_open(self, command: OpenSession) -> OpenOutcome:
        """Open, and tell how many opens the user has left, in a refusal's details too."""
        try:
            outcome = await self.open(command)
        except ApiError as error:
            if (
                OPENS_LEFT not in (error.details or {})
                and (left := await self._opens_left(command.user_id)) is not None
            ):
                error.details = {**(error.details or {}), OPENS_LEFT: left.model_dump()}
            raise
        return outcome.model_copy(update={"opens": await self._opens_left(command.user_id)})

    async def _opens_left(self, user_id: str) -> OpensLeft | None:
        try:
            return await self._limits.opens(user_id, await self._journal.now())
        except PyMongoError as error:
            # what the open came to is worth more than what is told beside it
            log.warning("nobody knows how many opens are left", problem=type(error).__name__)
            return None

    async def open(self, command: OpenSession) -> OpenOutcome:
        """Open the session asked for, or answer the one that fits; waits `command.wait` seconds for the chain.

        What it has come to by then is told, and goes on if it is not over. What is refused before anything is written
        is raised.
        """
        await reached(Step.OPEN_RECEIVED, command.operation_id)
        operation_id, replayed = command.joins, False
        if operation_id is None and await self._journal.operation(command.operation_id) is not None:
            # the same command again: its first copy got here, its answer did not get back
            operation_id = command.operation_id
        wish = command.idempotency
        try:
            if wish is not None:
                before = await recorded(wish)
                if before is not None and before.first != command.operation_id:
                    raise AlreadyAsked(before)
            if operation_id is None:
                operation_id = await self._begin_asked(command)
        except AlreadyAsked as asked:
            (operation_id,) = asked.record.operations
            replayed = asked.record.first != command.operation_id
        return await self._come_to(operation_id, command, replayed=replayed)

    async def _begin_asked(self, command: OpenSession) -> str:
        """Return the operation of the session asked for, newly written or not."""
        price = None
        if command.bid_id is not None:
            bid = await self._bid(command.bid_id)
            model_id, price = bid.model_id, bid.price
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
            price=price,
            idempotency=command.idempotency,
            patience=command.wait if command.patience is None else command.patience,
        )
        if command.idempotency is not None and session.operation_id != command.operation_id:
            await self._intake.join(command.idempotency, first=command.operation_id, session=session)
        return session.operation_id

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
        price: int | None = None,
        owner: Owner | None = None,
        old_becomes: SessionState = SessionState.CLOSING,
        even_if_usable: bool = False,
        without: str | None = None,
        automation: AutomationWord | None = None,
        idempotency: Idempotency | None = None,
        patience: float | None = None,
    ) -> SessionDocument:
        """Return the session that serves this wish: the current one, one that is opening, or a new one now queued.

        `old_becomes`: what happens to a current session that does not fit, once the new one is on chain.
        `price` (wei a second): that of the bid, if one was asked for. `even_if_usable`: open another although the current one
        fits (it is quarantined, or its provider of no use). `without`: a provider that shall not serve the new one.
        `automation`: the decision that asks for it, None if its user does. `patience`: how long its caller waits (seconds),
        None if that is not to matter.
        """
        self._catalogue.model(model_id)
        for _ in range(TRIES):
            replaces = None
            current = await self._journal.session_in(key_id, Slot.CURRENT)
            if current is not None and await self._is_over(current):
                await self._journal.park(current.id, "expired")
                continue
            if current is not None:
                fits = current.model_id == model_id and bid_id in {None, current.bid_id} and current.wanted
                if fits and not (even_if_usable and current.state is SessionState.ACTIVE):
                    return current
                if current.state is not SessionState.ACTIVE:
                    raise ApiError("session_opening", retry_after=5)
                replaces = Replaces(session=current.id, becomes=old_becomes, without=without)
            # the current one may have ended while its successor was opening
            coming = await self._journal.session_in(key_id, Slot.NEXT)
            if coming is not None and (coming.wanted or current is not None):
                if coming.model_id == model_id and bid_id in {None, coming.bid_id} and coming.wanted:
                    return coming
                raise ApiError("session_opening", retry_after=5)
            try:
                return await self.open_anew(
                    operation_id=operation_id,
                    user_id=user_id,
                    key_id=key_id,
                    key_prefix=key_prefix,
                    model_id=model_id,
                    bid_id=bid_id,
                    duration=duration,
                    price=price,
                    owner=owner,
                    replaces=replaces,
                    automation=automation,
                    idempotency=idempotency,
                    patience=patience,
                    worth_for=None if automation is None else PATIENCE_SECONDS,
                )
            except SlotTaken:
                continue
        raise ApiError("session_opening", retry_after=5)

    async def open_anew(
        self,
        *,
        operation_id: str,
        user_id: str,
        key_id: str,
        key_prefix: str,
        model_id: str,
        bid_id: str | None,
        duration: int,
        price: int | None,
        owner: Owner | None,
        replaces: Replaces | None,
        automation: AutomationWord | None,
        idempotency: Idempotency | None,
        patience: float | None,
        worth_for: float | None,
    ) -> SessionDocument:
        """Write an open, whatever the key has: into `next` if it replaces something. The rest as `begin` and `Intake.open`.

        Raises what they do; `SlotTaken` if the key's sessions are not as its caller saw them.
        """
        model = self._catalogue.model(model_id)
        if automation is not None:
            duration = self._limits.automatic_duration(duration)
        if is_attested(model):
            raise ApiError("attestation_unsupported", param="model_id" if bid_id is None else "bid_id")
        if not model.has_bids:
            raise ApiError("no_provider_available", retry_after=30, details={"reasons": []})
        if not any(endpoint.takes(model.type) for endpoint in Endpoint):
            # its stake would be locked for nothing
            raise ApiError(
                "model_type_mismatch",
                f"This model is of type {model.type}, for which there is no endpoint here: choose another.",
                param="model_id" if bid_id is None else "bid_id",
                details={"type": model.type},
            )
        cheapest = self._catalogue.least_price(model_id) if price is None else price
        self._limits.check(duration=duration, price=cheapest, automatic=automation is not None)
        return await self._intake.open(
            operation_id=operation_id,
            user_id=user_id,
            key_id=key_id,
            key_prefix=key_prefix,
            model=model,
            bid_id=bid_id,
            duration=duration,
            stake=self._catalogue.stake(cheapest, duration),
            owner=owner,
            replaces=replaces,
            automation=automation,
            idempotency=idempotency,
            patience=patience,
            worth_for=worth_for,
        )

    async def close(self, command: CloseSession) -> CloseResult:
        """Close all sessions of a key; waits `command.wait` seconds for the chain.

        What is closing already is waited for too: asked again, nothing is confirmed before the chain has confirmed it.
        """
        await reached(Step.CLOSE_TRIGGERED, command.operation_id)
        replayed = False
        try:
            closes = await self._closes_asked(command)
        except AlreadyAsked as asked:
            closes = Closes(asked.record.operations, asked.record.session)
            replayed = asked.record.first != command.operation_id
        ended = await asyncio.gather(*(self._journal.ended(item, wait=command.wait) for item in closes.operations))
        await reached(Step.CLOSE_REPLYING, command.operation_id)
        shown = None if closes.session is None else await self._journal.session(closes.session)
        return CloseResult(
            session_id=None if shown is None else shown.chain_session,
            confirmed=all(item is not None and item.state is OperationState.DONE for item in ended),
            operations=closes.operations,
            replayed=replayed,
        )

    async def _closes_asked(self, command: CloseSession) -> Closes:
        """Return the closes of a command, newly written unless an earlier copy of it was here."""
        if command.idempotency is not None:
            before = await recorded(command.idempotency)
            if before is not None:
                raise AlreadyAsked(before)
        known = await self._journal.operations_of(command.operation_id)
        begun = [item.id for item in known if item.key_id == command.key_id and item.kind is OperationKind.CLOSE]
        if command.joins is not None:
            joined = [await self._journal.operation(item) for item in command.joins]
            begun = [item.id for item in joined if item is not None and item.key_id == command.key_id]
        if not begun:
            return await self._intake.close(command)
        first = await self._journal.operation(begun[0])
        return Closes(begun, None if first is None else first.session)

    async def operation(self, question: GetOperation) -> OperationRow:
        """Return an operation of a key. Raises `operation_not_found`."""
        return await operation_of(self._journal, question.operation_id, question.key_id)

    async def current(self, key_id: str) -> SessionRow | None:
        """Return a key's current session."""
        session = await self._journal.session_in(key_id, Slot.CURRENT)
        if session is None or await self._is_over(session, at_least=0):
            return None
        return session.row()

    async def _is_over(self, session: SessionDocument, *, at_least: float = USABLE_SECONDS) -> bool:
        return session.state is SessionState.ACTIVE and not is_usable(
            session, await self._journal.now(), at_least=at_least
        )

    async def list(self, question: ListKeySessions) -> KeySessions:
        """Return the sessions of a key, newest first."""
        states = SessionState if question.ended else LIVE_STATES
        found = await self._journal.newest_sessions_of(question.key_id, states, limit=question.limit)
        return KeySessions(sessions=[session.row() for session in found])

    async def _come_to(self, operation_id: str, command: OpenSession, *, replayed: bool) -> OpenOutcome:
        operation = await self._journal.ended(operation_id, wait=command.wait)
        await reached(Step.OPEN_REPLYING, operation_id)
        if operation is None:
            raise ApiError("internal_error")
        if operation.key_id != command.key_id:
            raise ApiError("operation_not_found")
        session = None
        error = failure(operation)
        if operation.state is OperationState.DONE:
            session = await self._journal.session(operation.session)
        if session is not None and not session.wanted:
            # it is on chain, and closed as soon as it was: of no use to whoever asked for it
            told = ApiError("open_cancelled")
            session, error = None, Failure(code=told.code, message=told.message)
        return OpenOutcome(
            operation_id=operation_id,
            session=None if session is None else session.row(),
            error=error,
            replayed=replayed,
        )

    async def _bid(self, bid_id: str) -> Bid:
        try:
            async with asyncio.timeout(BID_SECONDS):
                bid = await self._reader.bid(bid_id)
        except (RouterUnreachable, RouterRefused, RouterUnclear, TimeoutError):
            raise ApiError("service_unavailable", retry_after=5) from None
        if bid is None:
            raise ApiError("bid_not_found", param="bid_id")
        return bid
