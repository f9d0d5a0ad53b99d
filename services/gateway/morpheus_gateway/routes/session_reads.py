"""Looking at the sessions of an API key, and at what is done to them on chain."""

from typing import Annotated

from fastapi import APIRouter, Path
from morpheus_common.contracts.sessions import GET_OPERATION, GET_SESSION, GetOperation, GetSession, OperationRow

from morpheus_gateway.context import ContextOf
from morpheus_gateway.principal import SessionsCaller, key_of
from morpheus_gateway.session_shapes import SessionNow

router = APIRouter(prefix="/api/v1/session", tags=["session"])


@router.get("")
async def current(caller: SessionsCaller, context: ContextOf) -> SessionNow | None:
    """The key's current session, null if it has none."""
    answer = await context.rpc.call(GET_SESSION, GetSession(key_id=key_of(caller)[0]))
    return None if answer.session is None else SessionNow.now(answer.session)


@router.get("/operations/{operation_id}")
async def operation(
    caller: SessionsCaller, context: ContextOf, operation_id: Annotated[str, Path(max_length=64)]
) -> OperationRow:
    """How an operation of this key stands: an open, a close or an approve."""
    question = GetOperation(operation_id=operation_id, key_id=key_of(caller)[0])
    return await context.rpc.call(GET_OPERATION, question)
