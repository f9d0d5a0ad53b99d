"""Takes commands in: an operation, its session, the event of it and its `Idempotency-Key` are written in one
transaction, or nothing is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from morpheus_common.clock import utc_now
from morpheus_common.contracts.sessions import (
    AutomationWord,
    CatalogueModel,
    CloseSession,
    Idempotency,
    SessionState,
    Slot,
)
from morpheus_common.errors import ApiError
from morpheus_common.ids import uuid7
from morpheus_common.request_context import traceparent
from morpheus_common.steps import Step, reached
from morpheus_common.store.mongo import MongoClient
from morpheus_common.store.transactions import run_transaction
from morpheus_common.store.user_guards import pass_user_guard
from pymongo import DESCENDING, ReturnDocument
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import DuplicateKeyError

from morpheus_sessions.documents import (
    ENDED,
    LIVE_STATES,
    KeyGuardDocument,
    OperationDocument,
    OperationKind,
    Owner,
    Replaces,
    SessionDocument,
)
from morpheus_sessions.idempotency import keep
from morpheus_sessions.journal import Journal, SlotTaken
from morpheus_sessions.limits import Limits
from morpheus_sessions.queueing import stand_in_line

_SHOWN_FIRST = (Slot.CURRENT.value, Slot.NEXT.value, SessionState.PARKED.value, SessionState.CLOSING.value)


@dataclass(frozen=True, slots=True)
class Closes:
    """What a command to close began or joined: `operations` in the order of their sessions, `session` (our own id) the
    one its answer names.
    """

    operations: list[str]
    session: str | None


async def pass_guard(key_id: str, user_id: str, tx: AsyncClientSession) -> None:
    """Stand in the way of everything else that is written for the key or its user. Raises `invalid_api_key` if it was
    revoked, or the user deleted.
    """
    if (await pass_user_guard(user_id, tx)).ended:
        raise ApiError("invalid_api_key")
    guard: Any = await KeyGuardDocument.get_pymongo_collection().find_one_and_update(
        {"_id": key_id},
        {"$inc": {"changes": 1}, "$setOnInsert": {"user_id": user_id, "wanted": True}},
        upsert=True,
        return_document=ReturnDocument.AFTER,
        session=tx,
    )
    if not guard["wanted"]:
        raise ApiError("invalid_api_key")


async def _expect_beside(replaces: Replaces | None, key_id: str, tx: AsyncClientSession) -> None:
    """Raise `SlotTaken` if a key's sessions are not as they were when its open was decided: what is to be replaced is
    not current any more, or a successor of the current one is opening. It would be a second stake for one wish.
    """
    if replaces is None:
        query = {"key_id": key_id, "slot": Slot.NEXT.value, "wanted": True}
    else:
        query = {"key_id": key_id, "slot": Slot.CURRENT.value, "_id": replaces.session}
    found = await SessionDocument.get_pymongo_collection().find_one(query, {"_id": 1}, session=tx)
    if (found is None) != (replaces is None):
        raise SlotTaken


class Intake:
    """Writes what was asked for; the wallets' loops carry it out."""

    def __init__(self, client: MongoClient, journal: Journal, limits: Limits) -> None:
        self._client = client
        self._journal = journal
        self._limits = limits

    async def open(
        self,
        *,
        operation_id: str,
        user_id: str,
        key_id: str,
        key_prefix: str,
        model: CatalogueModel,
        bid_id: str | None,
        duration: int,
        stake: int,
        owner: Owner | None,
        replaces: Replaces | None,
        automation: AutomationWord | None = None,
        idempotency: Idempotency | None = None,
        patience: float | None = None,
        worth_for: float | None = None,
    ) -> SessionDocument:
        """Write an open and its session. `automation`: the decision that asks for it, None if its user does. `patience`: how
        long its caller waits for it, `worth_for`: how long it is worth beginning although nobody does (seconds).

        `stake` (wei) is what the cheapest bid takes that could serve it; it is set aside. Raises `SlotTaken`,
        `AlreadyAsked`, `invalid_api_key` if the key was revoked meanwhile, `session_queue_full`, and what `Limits.admit`
        refuses.
        """
        bounds = await self._limits.bounds()
        now = utc_now()
        slot = Slot.CURRENT if replaces is None else Slot.NEXT
        await reached(Step.OPEN_DECIDED, operation_id)

        async def body(session: AsyncClientSession) -> SessionDocument:
            await pass_guard(key_id, user_id, session)
            await _expect_beside(replaces, key_id, session)
            counted_at = await self._limits.admit(session, bounds, user_id=user_id, stake=stake)
            place = await stand_in_line(
                session, user_id=user_id, now=counted_at, patience=patience, worth_for=worth_for
            )
            opening = SessionDocument(
                state=SessionState.OPENING,
                slot=slot,
                user_id=user_id,
                key_id=key_id,
                key_prefix=key_prefix,
                model_id=model.id,
                model_name=model.name,
                duration=duration,
                operation_id=operation_id,
                bid_id=bid_id,
                reserved=Decimal(stake),
                owner=owner,
                automation=automation,
                created_at=now,
                updated_at=now,
            )
            await keep(
                idempotency,
                user_id=user_id,
                first=operation_id,
                operations=[operation_id],
                session=opening.id,
                now=now,
                tx=session,
            )
            await opening.insert(session=session)
            await OperationDocument(
                id=operation_id,
                kind=OperationKind.OPEN,
                session=opening.id,
                user_id=user_id,
                key_id=key_id,
                model_id=model.id,
                wanted_bid=bid_id,
                duration=duration,
                replaces=replaces,
                counted_at=counted_at,
                place=place.place,
                queued_at=place.queued_at,
                patience_until=place.patience_until,
                required_stake=Decimal(stake),
                traceparent=traceparent(),
                created_at=now,
                updated_at=now,
            ).insert(session=session)
            await self._journal.stage("requested", opening, session)
            return opening

        try:
            async with self._limits.turn:
                opening = await run_transaction(
                    self._client, body, read_back=lambda: self._journal.session_of_operation(operation_id)
                )
        except DuplicateKeyError:
            raise SlotTaken from None
        await reached(Step.OPEN_INSERTED, operation_id)
        self._journal.wake()
        await reached(Step.OPEN_QUEUED, operation_id)
        return opening

    async def join(self, wish: Idempotency, *, first: str, session: SessionDocument) -> None:
        """Write that a request was answered with a session that was there. Raises `AlreadyAsked`, `invalid_api_key`."""
        now = utc_now()

        async def body(tx: AsyncClientSession) -> bool:
            await pass_guard(session.key_id, session.user_id, tx)
            await keep(
                wish,
                user_id=session.user_id,
                first=first,
                operations=[session.operation_id],
                session=session.id,
                now=now,
                tx=tx,
            )
            return True

        await run_transaction(self._client, body)

    async def close(self, command: CloseSession) -> Closes:
        """Write the closes of all sessions of a key. Raises `AlreadyAsked`.

        What is opening is closed as soon as it is on chain; what is closing already is joined.
        """
        now = utc_now()

        async def body(tx: AsyncClientSession) -> Closes:
            await pass_guard(command.key_id, command.user_id, tx)
            found = SessionDocument.get_pymongo_collection().find(
                {"key_id": command.key_id, "state": {"$in": [state.value for state in LIVE_STATES]}}, session=tx
            )
            sessions = sorted([item async for item in found.sort("created_at", DESCENDING)], key=_rank)
            operations = [await self._close(item, command, position, now, tx) for position, item in enumerate(sessions)]
            shown = sessions[0]["_id"] if sessions else None
            await keep(
                command.idempotency,
                user_id=command.user_id,
                first=command.operation_id,
                operations=operations,
                session=shown,
                now=now,
                tx=tx,
            )
            return Closes(operations, shown)

        closes = await run_transaction(self._client, body)
        await reached(Step.CLOSE_INSERTED, command.operation_id)
        self._journal.wake()
        return closes

    async def _close(
        self, found: Mapping[str, Any], command: CloseSession, position: int, now: datetime, tx: AsyncClientSession
    ) -> str:
        """Write the close of one session, in the transaction; return its operation."""
        closing: SessionDocument = SessionDocument.model_validate(found)
        running = await OperationDocument.get_pymongo_collection().find_one(
            {
                "session": closing.id,
                "kind": OperationKind.CLOSE.value,
                "state": {"$nin": [state.value for state in ENDED]},
            },
            {"_id": 1},
            session=tx,
        )
        if running is not None:
            return str(running["_id"])
        # the first carries the id its caller knows
        operation_id = uuid7() if position else command.operation_id
        if closing.state is not SessionState.OPENING:
            await self._journal.start_close(
                closing,
                "requested",
                now,
                tx,
                operation_id=operation_id,
                request=command.operation_id,
                expected=(closing.state,),
            )
            return operation_id
        await SessionDocument.get_pymongo_collection().update_one(
            {"_id": closing.id}, {"$set": {"wanted": False}}, session=tx
        )
        await OperationDocument(
            id=operation_id,
            kind=OperationKind.CLOSE,
            session=closing.id,
            user_id=closing.user_id,
            key_id=closing.key_id,
            request=command.operation_id,
            model_id=closing.model_id,
            duration=closing.duration,
            traceparent=traceparent(),
            created_at=now,
            updated_at=now,
        ).insert(session=tx)
        return operation_id


def _rank(found: Mapping[str, Any]) -> int:
    place = found["slot"] or found["state"]
    return _SHOWN_FIRST.index(place) if place in _SHOWN_FIRST else len(_SHOWN_FIRST)
