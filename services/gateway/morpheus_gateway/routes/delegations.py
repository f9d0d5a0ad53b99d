"""Delegations: what a user lets the gateway's address do on chain."""

import json
from typing import Annotated, Any, Self

from fastapi import APIRouter, Path, Response
from morpheus_common.contracts.delegations import (
    ACTIVE_DELEGATION,
    DELETE_DELEGATION,
    LIST_DELEGATIONS,
    ROWS_AT_ONCE,
    STORE_DELEGATION,
    ActiveDelegationQuestion,
    DelegationRow,
    DeleteDelegation,
    ListDelegations,
    StoreDelegation,
)
from pydantic import BaseModel, Field, StrictBool

from morpheus_gateway.context import ContextOf
from morpheus_gateway.examples import DELEGATION, UUID, example
from morpheus_gateway.openapi_parts import errors
from morpheus_gateway.principal import TokenCaller
from morpheus_gateway.query import PageSize, Skip
from morpheus_gateway.times import Moment

router = APIRouter(prefix="/api/v1/auth/delegation", tags=["auth"])

MAX_CHARACTERS = 32 * 1024
_AS_SENT = "one signed delegation of MetaMask's Delegation Framework, as an object or as a string of JSON"


class NewDelegation(BaseModel):
    """A delegation to keep. If it is active, which is the default, the user's others no longer are."""

    model_config = example(DELEGATION)

    delegate_address: str = Field(max_length=64, description="this gateway's address")
    # auth measures bytes; without any bound pydantic lets lone surrogates through, which the bus has no word for
    signed_delegation_data: dict[str, Any] | Annotated[str, Field(max_length=MAX_CHARACTERS)] = Field(
        description=_AS_SENT
    )
    expiry: Moment | None = None
    is_active: StrictBool = True


class ShownDelegation(DelegationRow):
    """A stored delegation; `signed_delegation_data` as it was sent.

    `unverified`: the delegator may be a contract account, whose signature only the chain can judge.
    """

    signed_delegation: str = Field("", exclude=True)
    sent_as_text: bool = Field(False, exclude=True)
    signed_delegation_data: dict[str, Any] | str = Field(description=_AS_SENT)

    @classmethod
    def of(cls, row: DelegationRow) -> Self:
        """Show a delegation."""
        sent = row.signed_delegation
        return cls(**row.model_dump(), signed_delegation_data=sent if row.sent_as_text else json.loads(sent))


@router.post(
    "",
    status_code=201,
    responses=errors("delegation_unrestricted", "delegation_taken", "delegation_limit_reached"),
)
async def store_delegation(body: NewDelegation, caller: TokenCaller, context: ContextOf) -> ShownDelegation:
    """Keep a signed delegation; the same one again is the one that is there."""
    sent = body.signed_delegation_data
    row = await context.rpc.call(
        STORE_DELEGATION,
        StoreDelegation(
            user_id=caller.user_id,
            delegate_address=body.delegate_address,
            signed_delegation=sent if isinstance(sent, str) else json.dumps(sent, separators=(",", ":")),
            sent_as_text=isinstance(sent, str),
            expiry=body.expiry,
            is_active=body.is_active,
        ),
    )
    return ShownDelegation.of(row)


@router.get("")
async def get_user_delegations(
    caller: TokenCaller,
    context: ContextOf,
    skip: Skip = 0,
    limit: PageSize = 100,
) -> list[ShownDelegation]:
    """The user's delegations, newest first."""
    rows: list[DelegationRow] = []
    while len(rows) < limit:
        wanted = min(ROWS_AT_ONCE, limit - len(rows))
        question = ListDelegations(user_id=caller.user_id, skip=skip + len(rows), limit=wanted)
        found = (await context.rpc.call(LIST_DELEGATIONS, question)).delegations
        rows += found
        if len(found) < wanted:
            break
    return [ShownDelegation.of(row) for row in rows]


@router.get("/active")
async def get_active_user_delegation(caller: TokenCaller, context: ContextOf) -> ShownDelegation | None:
    """The delegation that counts now, or null."""
    row = (await context.rpc.call(ACTIVE_DELEGATION, ActiveDelegationQuestion(user_id=caller.user_id))).delegation
    return ShownDelegation.of(row) if row is not None else None


@router.delete("/{delegation_id}", status_code=204, response_class=Response, responses=errors("delegation_not_found"))
async def delete_delegation(
    delegation_id: Annotated[str, Path(max_length=64, description="id of the delegation", examples=[UUID])],
    caller: TokenCaller,
    context: ContextOf,
) -> None:
    """Forget a delegation. What it allows on chain is ended there, by its delegator."""
    question = DeleteDelegation(user_id=caller.user_id, delegation_id=delegation_id)
    await context.rpc.call(DELETE_DELEGATION, question)
