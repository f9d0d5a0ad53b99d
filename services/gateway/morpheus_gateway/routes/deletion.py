"""Deleting an account, and how a deletion stands."""

import hashlib
import secrets
from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response
from morpheus_common.contracts.base import UtcTime
from morpheus_common.contracts.deletion import (
    DELETE_ACCOUNT,
    GET_DELETION,
    AccountDeletion,
    DeleteAccount,
    DeletedData,
    DeletionState,
    GetDeletion,
)
from morpheus_common.errors import ApiError
from pydantic import BaseModel

from morpheus_gateway.commands import carried_out
from morpheus_gateway.context import ContextOf
from morpheus_gateway.openapi_parts import errors
from morpheus_gateway.principal import RecentCaller

router = APIRouter(prefix="/api/v1/auth", tags=["auth"])

TOKEN_BYTES = 32


class AccountDeleted(BaseModel):
    """The account is gone; what there was of it."""

    message: str = "The account and everything that belonged to it is deleted."
    user_id: str
    deleted_at: UtcTime
    deleted_data: DeletedData


class DeletionPending(BaseModel):
    """The credentials are dead; what is left to do goes on by itself. `status_url` needs no authentication."""

    message: str = "The account is being deleted: sessions are still being closed on chain."
    user_id: str
    status: DeletionState = DeletionState.PENDING
    status_url: str


@router.delete(
    "/register",
    response_model=AccountDeleted,
    responses={202: {"model": DeletionPending, "description": "Something still waits; ask `status_url`."}},
)
async def delete_user_account(request: Request, caller: RecentCaller, context: ContextOf) -> AccountDeleted | Response:
    """Delete the account: its credentials at once, then its sessions on chain, then all its data."""
    # made here, so that nobody who reads the bus or a database can ask in its owner's place
    token = secrets.token_urlsafe(TOKEN_BYTES)
    status_url = f"/api/v1/auth/deletions/{token}"

    async def ask(piece: float, patience: float) -> AccountDeletion:
        command = DeleteAccount(user_id=caller.user_id, token_sha256=_digest(token), wait=piece)
        return await context.rpc.call(DELETE_ACCOUNT, command, timeout=patience)

    wait = context.settings.deletion_wait
    answer = await carried_out(request, wait, ask, lambda answer: answer.status is DeletionState.COMPLETE)
    if answer is None:
        raise ApiError(
            "service_timeout",
            "Nobody knows whether the deletion has begun. Repeat it: if it has, the answer is 401, and status_url tells more.",
            details={"status_url": status_url},
        )
    if answer.deleted_at is not None and answer.deleted_data is not None:
        return AccountDeleted(user_id=caller.user_id, deleted_at=answer.deleted_at, deleted_data=answer.deleted_data)
    pending = DeletionPending(user_id=caller.user_id, status_url=status_url)
    return Response(pending.model_dump_json(), 202, {"Location": status_url}, media_type="application/json")


@router.get("/deletions/{token}", responses=errors("deletion_not_found", "service_timeout"))
async def get_account_deletion(
    token: Annotated[
        str, Path(max_length=64, description="what `status_url` ends with", examples=["<deletion_token>"])
    ],
    context: ContextOf,
) -> AccountDeletion:
    """How a deletion stands, for whoever has the address that its 202 named. Kept for 30 days once complete."""
    return await context.rpc.call(GET_DELETION, GetDeletion(token_sha256=_digest(token)))


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
