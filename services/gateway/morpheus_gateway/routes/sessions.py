"""Sessions of an API key: open, close, look."""

import asyncio
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request, Response
from morpheus_common.contracts.auth import Caller
from morpheus_common.contracts.base import Message, Rpc
from morpheus_common.contracts.sessions import (
    CLOSE_SESSION,
    GET_SESSION,
    OPEN_SESSION,
    CloseSession,
    GetSession,
    OpenSession,
    SessionRow,
)
from morpheus_common.errors import ApiError
from morpheus_common.ids import CHAIN_ID_PATTERN, uuid7
from morpheus_common.steps import Step, reached
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt

from morpheus_gateway.client_watch import ClientWatch
from morpheus_gateway.context import Context, ContextOf
from morpheus_gateway.principal import SessionsCaller

router = APIRouter(prefix="/api/v1/session", tags=["session"])

Question = TypeVar("Question", bound=Message)
Answer = TypeVar("Answer", bound=Message)

ANSWER_MARGIN_SECONDS = 5.0
"""The service answers when the wait is over; this is for the way there and back."""
REPEAT_PAUSE_SECONDS = 0.5


class OpenRequest(BaseModel):
    """How the session shall be. `sessionDuration` in seconds. `failover` is accepted and not passed on."""

    model_config = ConfigDict(populate_by_name=True)

    duration: StrictInt | None = Field(None, alias="sessionDuration", ge=300)
    direct_payment: StrictBool = Field(False, alias="directPayment")
    failover: StrictBool = False


@router.post("/modelsession")
async def open_by_model(
    request: Request,
    caller: SessionsCaller,
    context: ContextOf,
    model_id: Annotated[str, Query(min_length=1, max_length=256)],
    body: OpenRequest | None = None,
) -> dict[str, Any]:
    """Open a session with the best provider of a model (name or chain id), or answer the one that is open."""
    model = context.catalogue.models.find(model_id)
    if caller.allowed_models is not None and model.id not in caller.allowed_models:
        raise ApiError("model_not_allowed", param="model_id")
    return await _open(request, context, caller, body, model_id=model.id)


@router.post("/bidsession")
async def open_by_bid(
    request: Request,
    caller: SessionsCaller,
    context: ContextOf,
    bid_id: Annotated[str, Query(pattern=CHAIN_ID_PATTERN)],
    body: OpenRequest | None = None,
) -> dict[str, Any]:
    """Open a session on one bid."""
    if caller.allowed_models is not None:
        raise ApiError("model_not_allowed", "This API key is limited to certain models: open its sessions by model.")
    return await _open(request, context, caller, body, bid_id=bid_id)


@router.post("/closesession")
async def close(request: Request, response: Response, caller: SessionsCaller, context: ContextOf) -> dict[str, Any]:
    """Close the key's current and parked sessions. 200 when the chain has confirmed it, else 202."""
    key_id, _ = _key_of(caller)
    wait = context.settings.close_wait
    command = CloseSession(operation_id=uuid7(), user_id=caller.user_id, key_id=key_id, wait=wait)
    try:
        result = await _carry_out(request, context, CLOSE_SESSION, command, wait)
    except ApiError as error:
        if error.code != "service_timeout":
            raise
        response.status_code = 202
        return _pending_close(command.operation_id, None)
    if not result.confirmed:
        response.status_code = 202
        return _pending_close(result.operation_id, result.session_id)
    message = "There was no session to close." if result.session_id is None else "The session is closed."
    return {"success": True, "message": message, "session_id": result.session_id}


@router.get("")
async def current(caller: SessionsCaller, context: ContextOf) -> dict[str, Any] | None:
    """The key's current session, null if it has none."""
    key_id, _ = _key_of(caller)
    answer = await context.rpc.call(GET_SESSION, GetSession(key_id=key_id))
    if answer.session is None:
        return None
    row = answer.session.model_dump(mode="json", include={"state", "last_used_at"})
    return {**_shown(answer.session), **row, "automation": None}


async def _open(
    request: Request,
    context: Context,
    caller: Caller,
    body: OpenRequest | None,
    *,
    model_id: str | None = None,
    bid_id: str | None = None,
) -> dict[str, Any]:
    asked = body or OpenRequest()
    settings = context.settings
    duration = asked.duration or settings.session_duration
    if duration > settings.session_duration_limit:
        raise ApiError(
            "validation_error",
            f"sessionDuration can be {settings.session_duration_limit} seconds at most.",
            param="sessionDuration",
        )
    if asked.direct_payment:
        raise ApiError("direct_payment_unsupported", param="directPayment")
    key_id, key_prefix = _key_of(caller)
    command = OpenSession(
        # made before the first publish: a repeat joins the operation instead of staking twice
        operation_id=uuid7(),
        user_id=caller.user_id,
        key_id=key_id,
        key_prefix=key_prefix,
        model_id=model_id,
        bid_id=bid_id,
        duration=duration,
        wait=settings.open_wait,
    )
    await reached(Step.OPEN_NAMED, command.operation_id)
    try:
        row = await _carry_out(request, context, OPEN_SESSION, command, settings.open_wait)
    except ApiError as error:
        if error.code == "service_timeout":
            # the command may have arrived: all that is known is its id
            raise ApiError("session_pending", details={"operation_id": command.operation_id}) from None
        raise
    return {"success": True, "message": "The session is open.", **_shown(row)}


async def _carry_out(
    request: Request, context: Context, rpc: Rpc[Question, Answer], command: Question, wait: float
) -> Answer:
    """Send a command, once more if nobody was there. A client that leaves only stops the waiting, not the work."""
    async with ClientWatch(request.receive):
        for last in (False, True):
            try:
                return await context.rpc.call(rpc, command, timeout=wait + ANSWER_MARGIN_SECONDS)
            except ApiError as error:
                if last or error.code != "service_unavailable":
                    raise
                await asyncio.sleep(REPEAT_PAUSE_SECONDS)
    raise AssertionError


def _key_of(caller: Caller) -> tuple[str, str]:
    if caller.key_id is None or caller.key_prefix is None:
        msg = "a session belongs to an API key"
        raise RuntimeError(msg)
    return caller.key_id, caller.key_prefix


def _shown(row: SessionRow) -> dict[str, Any]:
    fields = row.model_dump(
        mode="json",
        include={"session_id", "model", "bid_id", "provider", "stake", "price_per_second", "opened_at", "expires_at"},
    )
    return {**fields, "api_key_prefix": row.key_prefix}


def _pending_close(operation_id: str, session_id: str | None) -> dict[str, Any]:
    return {
        "status": "pending",
        "operation_id": operation_id,
        "session_id": session_id,
        "message": "The session is being closed; that goes on by itself.",
    }
