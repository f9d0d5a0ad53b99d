"""What the contract may take of the wallet's MOR."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from morpheus_common.contracts.sessions import APPROVE_STAKE, ApproveOutcome, ApproveStake
from morpheus_common.errors import ApiError
from morpheus_common.ids import uuid7
from pydantic import BaseModel

from morpheus_gateway.commands import carried_out
from morpheus_gateway.context import ContextOf
from morpheus_gateway.errors import REPLAYED_HEADER, OperationFailed
from morpheus_gateway.idempotency import Wish
from morpheus_gateway.openapi_parts import errors
from morpheus_gateway.principal import SessionsCaller, key_of
from morpheus_gateway.routes.session_body import SoundBody

router = APIRouter(prefix="/api/v1/session", tags=["session"])


class Approved(BaseModel):
    """`tx`: the transaction that set the allowance; null if it was high enough before this gateway ever set it."""

    tx: str | None


@router.post(
    "/approve",
    responses=errors("approval_limit_reached", "rate_limit_exceeded", "approval_failed", "session_pending"),
    dependencies=[SoundBody],
)
async def approve_spending(
    request: Request,
    response: Response,
    caller: SessionsCaller,
    context: ContextOf,
    wish: Wish,
    amount: Annotated[
        str, Query(pattern=r"^[1-9][0-9]{0,77}$", description="wei of MOR", examples=["1000000000000000000"])
    ],
) -> Approved:
    """Let the marketplace's contract take at least this much MOR of the gateway's wallet. Not needed to open sessions.

    The gateway keeps the allowance high enough by itself. It is shared by all users, so this never lowers it. What a
    session locks is its stake (`GET /session/quote`), many times bid price × duration.
    """
    first = ApproveStake(
        operation_id=uuid7(),
        user_id=caller.user_id,
        key_id=key_of(caller)[0],
        amount=int(amount),
        wait=context.settings.open_wait,
        idempotency=wish,
    )
    joined: str | None = None

    async def ask(piece: float, patience: float) -> ApproveOutcome:
        nonlocal joined
        command = first.model_copy(update={"wait": piece, "joins": joined})
        outcome = await context.rpc.call(APPROVE_STAKE, command, timeout=patience)
        joined = outcome.operation_id
        return outcome

    outcome = await carried_out(request, first.wait, ask, lambda outcome: outcome.done or outcome.error is not None)
    if outcome is None:
        # the command may have arrived: all that is known is its id
        outcome = ApproveOutcome(operation_id=first.operation_id, done=False)
    if outcome.error is not None:
        raise OperationFailed(outcome.error, replayed=outcome.replayed)
    if not outcome.done:
        raise _goes_on(outcome)
    if outcome.replayed:
        response.headers[REPLAYED_HEADER] = "true"
    return Approved(tx=outcome.tx)


def _goes_on(outcome: ApproveOutcome) -> ApiError:
    if outcome.replayed:
        return OperationFailed.in_progress(outcome.operation_id)
    return ApiError(
        "session_pending",
        "The allowance is still being raised on chain; that goes on.",
        details={"operation_id": outcome.operation_id},
    )
