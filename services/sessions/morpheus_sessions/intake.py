"""Takes opens in: an operation, its session and the event of it are written in one transaction, or nothing is."""

from typing import Any

from morpheus_common.clock import utc_now
from morpheus_common.contracts.sessions import CatalogueModel, SessionState, Slot
from morpheus_common.errors import ApiError
from morpheus_common.steps import Step, reached
from morpheus_common.store.mongo import MongoClient
from morpheus_common.store.transactions import run_transaction
from pymongo import ReturnDocument
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import DuplicateKeyError

from morpheus_sessions.documents import (
    KeyGuardDocument,
    OperationDocument,
    OperationKind,
    Owner,
    Replaces,
    SessionDocument,
)
from morpheus_sessions.journal import Journal, SlotTaken


class Intake:
    """Writes what was asked for; the wallets' loops carry it out."""

    def __init__(self, client: MongoClient, journal: Journal) -> None:
        self._client = client
        self._journal = journal

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
        owner: Owner | None,
        replaces: Replaces | None,
    ) -> SessionDocument:
        """Write an open and its session. Raises `SlotTaken`, and `invalid_api_key` if the key was revoked meanwhile."""
        now = utc_now()
        slot = Slot.CURRENT if replaces is None else Slot.NEXT
        await reached(Step.OPEN_DECIDED, operation_id)

        async def body(session: AsyncClientSession) -> SessionDocument:
            guard: Any = await KeyGuardDocument.get_pymongo_collection().find_one_and_update(
                {"_id": key_id},
                {"$inc": {"changes": 1}, "$setOnInsert": {"user_id": user_id, "wanted": True}},
                upsert=True,
                return_document=ReturnDocument.AFTER,
                session=session,
            )
            if not guard["wanted"]:
                raise ApiError("invalid_api_key")
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
                owner=owner,
                created_at=now,
                updated_at=now,
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
                created_at=now,
                updated_at=now,
            ).insert(session=session)
            await self._journal.stage("requested", opening, session)
            return opening

        try:
            opening = await run_transaction(
                self._client, body, read_back=lambda: self._journal.session_of_operation(operation_id)
            )
        except DuplicateKeyError:
            raise SlotTaken from None
        await reached(Step.OPEN_INSERTED, operation_id)
        self._journal.wake()
        await reached(Step.OPEN_QUEUED, operation_id)
        return opening
