"""Users ask that the contract may take more of the wallet's MOR. What they ask is written; a wallet's loop carries it out."""

import math
from datetime import datetime
from decimal import Decimal

from morpheus_common.clock import utc_now
from morpheus_common.contracts.sessions import ApproveOutcome, ApproveStake
from morpheus_common.errors import ApiError
from morpheus_common.request_context import traceparent
from morpheus_common.store.mongo import MongoClient
from morpheus_common.store.transactions import run_transaction
from pymongo import DESCENDING
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import DuplicateKeyError

from morpheus_sessions.documents import OperationDocument, OperationKind, OperationState
from morpheus_sessions.idempotency import AlreadyAsked, keep, recorded
from morpheus_sessions.intake import pass_guard
from morpheus_sessions.journal import Journal
from morpheus_sessions.limits import MINUTE, wait_for_room
from morpheus_sessions.operations import failure
from morpheus_sessions.queueing import Place, stand_in_line


class Approvals:
    """The command to approve. `limit` (wei): what no user can raise the allowance over; `per_minute`: how often a user may
    ask, since each can be a transaction that the operator pays for.
    """

    def __init__(self, client: MongoClient, journal: Journal, *, limit: int, per_minute: int) -> None:
        self._client = client
        self._journal = journal
        self._limit = limit
        self._per_minute = per_minute

    async def approve(self, command: ApproveStake) -> ApproveOutcome:
        """Have the allowance raised to what is asked for at least; waits `command.wait` seconds for the chain.

        Raises `approval_limit_reached`, `rate_limit_exceeded`, `invalid_api_key`, `idempotency_key_reused`.
        """
        operation_id, replayed = command.operation_id, False
        try:
            if command.joins is not None:
                operation_id = command.joins
            elif await self._journal.operation(command.operation_id) is None:
                await self._begin(command)
        except AlreadyAsked as asked:
            (operation_id,) = asked.record.operations
            replayed = asked.record.first != command.operation_id
        operation = await self._journal.ended(operation_id, wait=command.wait)
        if operation is None or operation.key_id != command.key_id:
            raise ApiError("operation_not_found")
        return ApproveOutcome(
            operation_id=operation_id,
            done=operation.state is OperationState.DONE,
            tx=operation.tx,
            error=failure(operation),
            replayed=replayed,
        )

    async def _begin(self, command: ApproveStake) -> None:
        wish = command.idempotency
        if wish is not None:
            before = await recorded(wish)
            if before is not None:
                raise AlreadyAsked(before)
        if command.amount > self._limit:
            raise ApiError("approval_limit_reached", param="amount", details={"limit": str(self._limit)})
        now = utc_now()
        asked_at = await self._journal.now()

        async def body(tx: AsyncClientSession) -> bool:
            await pass_guard(command.key_id, command.user_id, tx)
            # by its place an approve takes turns with everybody's opens; the place also orders those of one user
            place = await stand_in_line(tx, user_id=command.user_id, now=asked_at, patience=None, worth_for=None)
            await self._count(command.user_id, asked_at, tx)
            await keep(
                wish,
                user_id=command.user_id,
                first=command.operation_id,
                operations=[command.operation_id],
                session=None,
                now=now,
                tx=tx,
            )
            await _operation(command, place, now).insert(session=tx)
            return True

        try:
            await run_transaction(self._client, body)
        except DuplicateKeyError:
            # a repeat of the command was faster, or another request with this Idempotency-Key
            if wish is not None and (before := await recorded(wish)) is not None:
                raise AlreadyAsked(before) from None
        self._journal.wake()

    async def _count(self, user_id: str, now: datetime, tx: AsyncClientSession) -> None:
        """Raise `rate_limit_exceeded` if the user has asked as often as may be in the last minute."""
        query = {"user_id": user_id, "kind": OperationKind.APPROVE.value, "queued_at": {"$gt": now - MINUTE}}
        cursor = OperationDocument.get_pymongo_collection().find(query, {"queued_at": 1}, session=tx)
        before = [item["queued_at"] async for item in cursor.sort("queued_at", DESCENDING).limit(self._per_minute)]
        wait = wait_for_room(before, self._per_minute, MINUTE, now)
        if wait:
            raise ApiError(
                "rate_limit_exceeded",
                f"You may ask for {self._per_minute} approvals a minute. None is needed: the gateway raises the allowance "
                "by itself.",
                retry_after=min(60, max(1, math.ceil(wait))),
            )


def _operation(command: ApproveStake, place: Place, now: datetime) -> OperationDocument:
    return OperationDocument(
        id=command.operation_id,
        kind=OperationKind.APPROVE,
        user_id=command.user_id,
        key_id=command.key_id,
        amount=Decimal(command.amount),
        place=place.place,
        queued_at=place.queued_at,
        traceparent=traceparent(),
        created_at=now,
        updated_at=now,
    )
