"""What an `Idempotency-Key` was first used for, so that a repeat gets the first answer.

The record is written in the transaction of the operation that it names: there is never one without the other.
"""

from datetime import datetime

from morpheus_common.contracts.sessions import Idempotency
from morpheus_common.errors import ApiError
from pymongo.asynchronous.client_session import AsyncClientSession

from morpheus_sessions.documents import IdempotencyDocument, OperationDocument, OperationState


class AlreadyAsked(Exception):
    """The same request was written before."""

    def __init__(self, record: IdempotencyDocument) -> None:
        super().__init__(record.first)
        self.record = record


async def recorded(wish: Idempotency, tx: AsyncClientSession | None = None) -> IdempotencyDocument | None:
    """Return what the `Idempotency-Key` was first used for, None if nothing that counts.

    An operation that failed before the chain was touched does not count. Raises `idempotency_key_reused` if it was for
    another request.
    """
    found = await IdempotencyDocument.get_pymongo_collection().find_one({"_id": wish.digest}, session=tx)
    if found is None:
        return None
    record: IdempotencyDocument = IdempotencyDocument.model_validate(found)
    untouched = await OperationDocument.get_pymongo_collection().find_one(
        {"_id": {"$in": record.operations}, "state": OperationState.FAILED.value}, {"_id": 1}, session=tx
    )
    if untouched is not None:
        return None
    if record.fingerprint != wish.fingerprint:
        raise ApiError("idempotency_key_reused")
    return record


async def keep(
    wish: Idempotency | None,
    *,
    user_id: str,
    first: str,
    operations: list[str],
    session: str | None,
    now: datetime,
    tx: AsyncClientSession,
) -> None:
    """Write what a request began or joined, in its transaction. Raises `AlreadyAsked`, `idempotency_key_reused`."""
    if wish is None:
        return
    before = await recorded(wish, tx)
    if before is not None:
        raise AlreadyAsked(before)
    record = IdempotencyDocument(
        id=wish.digest,
        user_id=user_id,
        fingerprint=wish.fingerprint,
        first=first,
        operations=operations,
        session=session,
        at=now,
    )
    await IdempotencyDocument.get_pymongo_collection().replace_one(
        {"_id": wish.digest}, record.model_dump(exclude={"id"}), upsert=True, session=tx
    )
