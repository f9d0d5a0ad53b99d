"""Sessions of an API key: open and close."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from morpheus_common.contracts.auth import Caller
from morpheus_common.contracts.sessions import (
    CLOSE_SESSION,
    OPEN_SESSION,
    OPENS_LEFT,
    CloseResult,
    CloseSession,
    Idempotency,
    OpenOutcome,
    OpenSession,
    OpensLeft,
)
from morpheus_common.errors import ApiError
from morpheus_common.ids import uuid7
from morpheus_common.steps import Step, reached

from morpheus_gateway.commands import carried_out
from morpheus_gateway.context import Context, ContextOf
from morpheus_gateway.errors import REPLAYED_HEADER, OperationFailed, operation_path
from morpheus_gateway.examples import BID_ID, MODEL
from morpheus_gateway.idempotency import Wish
from morpheus_gateway.limits import Standing
from morpheus_gateway.openapi_parts import errors
from morpheus_gateway.principal import SessionsCaller, key_of
from morpheus_gateway.routes.session_body import OPEN_BODY, OpenBody, SoundBody
from morpheus_gateway.session_shapes import (
    AnyCaseChainId,
    ClosePending,
    OpenRequest,
    SessionClosed,
    SessionShown,
)
from morpheus_gateway.session_wishes import check_bids_allowed, duration_within, model_for

router = APIRouter(prefix="/api/v1/session", tags=["session"])

_MAY_HAVE_BEGUN = "No answer has come yet: the open may have begun, and goes on then. Ask for the operation; if there is none, it did not."
_NOT_OPENED = (
    "direct_payment_unsupported",
    "attestation_unsupported",
    "model_type_mismatch",
    "insufficient_balance",
    "model_not_allowed",
    "stake_limit_reached",
    "price_limit_reached",
    "open_cancelled",
    "session_open_limit",
    "open_failed",
    "stake_capacity",
    "session_opening",
    "session_queue_full",
    "no_provider_available",
    "session_pending",
)


@router.post("/modelsession", responses=errors("model_not_found", *_NOT_OPENED), openapi_extra=OPEN_BODY)
async def create_model_session(
    request: Request,
    response: Response,
    caller: SessionsCaller,
    context: ContextOf,
    body: OpenBody,
    wish: Wish,
    model_id: Annotated[str, Query(min_length=1, max_length=256, description="name or chain id", examples=[MODEL])],
) -> SessionShown:
    """Open a session with the best provider of a model (name or chain id), or answer the one that is open."""
    command = _command(context, caller, body, wish, model_id=model_for(context, caller, model_id))
    return await _open(request, response, context, command)


@router.post("/bidsession", responses=errors("bid_not_found", *_NOT_OPENED), openapi_extra=OPEN_BODY)
async def create_bid_session(
    request: Request,
    response: Response,
    caller: SessionsCaller,
    context: ContextOf,
    body: OpenBody,
    wish: Wish,
    bid_id: Annotated[AnyCaseChainId, Query(description="id of the bid on chain", examples=[BID_ID])],
) -> SessionShown:
    """Open a session on one bid."""
    check_bids_allowed(caller)
    command = _command(context, caller, body, wish, bid_id=bid_id)
    return await _open(request, response, context, command)


@router.post(
    "/closesession",
    responses={202: {"model": ClosePending, "description": "The chain has not confirmed it yet; that goes on."}},
    response_model=SessionClosed,
    dependencies=[SoundBody],
)
async def close_session(
    request: Request, response: Response, caller: SessionsCaller, context: ContextOf, wish: Wish
) -> SessionClosed | Response:
    """Close the key's current and parked sessions. 200 when the chain has confirmed it, else 202."""
    wait = context.settings.close_wait
    first = CloseSession(
        operation_id=uuid7(), user_id=caller.user_id, key_id=key_of(caller)[0], wait=wait, idempotency=wish
    )
    begun: list[str] = []

    async def ask(piece: float, patience: float) -> CloseResult:
        nonlocal begun
        # what was opened since the first answer is not to be closed
        command = first.model_copy(update={"wait": piece, "joins": begun or None})
        result = await context.rpc.call(CLOSE_SESSION, command, timeout=patience)
        begun = result.operations
        return result

    result = await carried_out(request, wait, ask, lambda result: result.confirmed)
    if result is not None and result.replayed:
        response.headers[REPLAYED_HEADER] = "true"
    if result is not None and result.confirmed:
        message = "The session is closed." if result.operations else "There was no session to close."
        return SessionClosed(message=message, session_id=result.session_id)
    operation_id = begun[0] if begun else first.operation_id
    if result is not None and result.replayed:
        raise OperationFailed.in_progress(operation_id)
    pending = ClosePending(operation_id=operation_id, session_id=None if result is None else result.session_id)
    return Response(
        pending.model_dump_json(), 202, {"Location": operation_path(operation_id)}, media_type="application/json"
    )


def _command(
    context: Context,
    caller: Caller,
    body: OpenRequest,
    wish: Idempotency | None,
    *,
    model_id: str | None = None,
    bid_id: str | None = None,
) -> OpenSession:
    duration = duration_within(context.settings, body.duration, param="sessionDuration")
    if body.direct_payment:
        raise ApiError("direct_payment_unsupported", param="directPayment")
    key_id, key_prefix = key_of(caller)
    return OpenSession(
        # made before the first publish: a repeat joins the operation instead of staking twice
        operation_id=uuid7(),
        user_id=caller.user_id,
        key_id=key_id,
        key_prefix=key_prefix,
        model_id=model_id,
        bid_id=bid_id,
        duration=duration,
        wait=context.settings.open_wait,
        patience=context.settings.open_wait,
        idempotency=wish,
    )


async def _open(request: Request, response: Response, context: Context, first: OpenSession) -> SessionShown:
    joined: str | None = None

    async def ask(piece: float, patience: float) -> OpenOutcome:
        nonlocal joined
        command = first.model_copy(update={"wait": piece, "joins": joined})
        outcome = await context.rpc.call(OPEN_SESSION, command, timeout=patience)
        joined = outcome.operation_id
        return outcome

    await reached(Step.OPEN_NAMED, first.operation_id)
    try:
        outcome = await carried_out(request, first.wait, ask, _is_over)
    except ApiError as error:
        _note_opens(request, _opens_told(error))
        raise
    if outcome is None:
        # the command may have arrived: all that is known is its id
        raise ApiError("session_pending", _MAY_HAVE_BEGUN, details={"operation_id": first.operation_id})
    _note_opens(request, outcome.opens)
    if outcome.error is not None:
        raise OperationFailed(outcome.error, replayed=outcome.replayed)
    if outcome.session is None:
        if outcome.replayed:
            raise OperationFailed.in_progress(outcome.operation_id)
        raise ApiError("session_pending", details={"operation_id": outcome.operation_id})
    if outcome.replayed:
        response.headers[REPLAYED_HEADER] = "true"
    return SessionShown.of(outcome.session, "The session is open.")


def _opens_told(error: ApiError) -> OpensLeft | None:
    """Take what the service told beside an error out of its details: that is for the answer's headers."""
    details = dict(error.details or {})
    told = details.pop(OPENS_LEFT, None)
    error.details = details or None
    return None if told is None else OpensLeft.model_validate(told)


def _note_opens(request: Request, left: OpensLeft | None) -> None:
    if left is not None:
        request.state.standing = Standing(left.limit, left.remaining, left.reset)


def _is_over(outcome: OpenOutcome) -> bool:
    return outcome.session is not None or outcome.error is not None
