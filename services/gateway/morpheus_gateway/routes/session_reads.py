"""Looking at the sessions of an API key, at what one would take, and at what is done to them on chain."""

from typing import Annotated

from fastapi import APIRouter, Path, Query
from morpheus_common.contracts.sessions import (
    GET_OPERATION,
    GET_SESSION,
    LIST_SESSIONS,
    QUOTE_SESSION,
    GetOperation,
    GetSession,
    ListKeySessions,
    OperationRow,
    QuoteSession,
    SessionQuote,
)
from morpheus_common.errors import ApiError

from morpheus_gateway.context import ContextOf
from morpheus_gateway.examples import BID_ID, MODEL, UUID
from morpheus_gateway.openapi_parts import errors
from morpheus_gateway.principal import SessionsCaller, key_of
from morpheus_gateway.query import PageSize, Seconds
from morpheus_gateway.session_shapes import AnyCaseChainId, SessionNow
from morpheus_gateway.session_wishes import check_bids_allowed, duration_within, model_for

router = APIRouter(prefix="/api/v1/session", tags=["session"])


@router.get("")
async def get_session(caller: SessionsCaller, context: ContextOf) -> SessionNow | None:
    """The key's current session, null if it has none."""
    answer = await context.rpc.call(GET_SESSION, GetSession(key_id=key_of(caller)[0]))
    return None if answer.session is None else SessionNow.now(answer.session)


@router.get("/list")
async def list_sessions(
    caller: SessionsCaller,
    context: ContextOf,
    limit: PageSize = 50,
    ended: Annotated[bool, Query(description="closed, failed and abandoned ones too", examples=[True])] = False,
) -> list[SessionNow]:
    """The key's sessions, newest first: opening, active, parked and closing; with `ended=true` all there were."""
    question = ListKeySessions(key_id=key_of(caller)[0], limit=limit, ended=ended)
    answer = await context.rpc.call(LIST_SESSIONS, question)
    return [SessionNow.now(row) for row in answer.sessions]


@router.get(
    "/quote",
    responses=errors("model_not_allowed", "model_not_found", "bid_not_found", "open_failed", "no_provider_available"),
)
async def quote_session(
    caller: SessionsCaller,
    context: ContextOf,
    model_id: Annotated[
        str | None, Query(min_length=1, max_length=256, description="name or chain id", examples=[MODEL])
    ] = None,
    bid_id: Annotated[AnyCaseChainId | None, Query(description="instead of `model_id`", examples=[BID_ID])] = None,
    duration: Annotated[Seconds | None, Query(description="seconds", examples=[3_600])] = None,
) -> SessionQuote:
    """What a session would cost and how much MOR it would lock. `stake` is cost × supply ÷ budget of the chain's day.

    An open locks up to 2·10⁹ wei more, which tell our sessions from others'. Nothing is reserved by asking.
    """
    if (model_id is None) == (bid_id is None):
        raise ApiError("validation_error", "Name either model_id or bid_id.", param="model_id")
    seconds = duration_within(context.settings, duration, param="duration")
    if model_id is not None:
        question = QuoteSession(model_id=model_for(context, caller, model_id), duration=seconds)
    else:
        check_bids_allowed(caller)
        question = QuoteSession(bid_id=bid_id, duration=seconds)
    return await context.rpc.call(QUOTE_SESSION, question)


@router.get("/operations/{operation_id}", responses=errors("operation_not_found"))
async def get_operation(
    caller: SessionsCaller,
    context: ContextOf,
    operation_id: Annotated[
        str, Path(max_length=64, description="as an answer named it: `operation_id`, `Location`", examples=[UUID])
    ],
) -> OperationRow:
    """How an operation of this key stands: an open, a close or an approve."""
    question = GetOperation(operation_id=operation_id, key_id=key_of(caller)[0])
    return await context.rpc.call(GET_OPERATION, question)
