"""The bids of a model as the router rates them. Public."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from morpheus_gateway.context import ContextOf
from morpheus_gateway.examples import MODEL_ID
from morpheus_gateway.openapi_parts import errors
from morpheus_gateway.routes.models import CONDITION, OF_A_COPY, UNCHANGED, answer
from morpheus_gateway.session_shapes import AnyCaseChainId

router = APIRouter(tags=["models"])


class BidShown(BaseModel):
    """An active bid, with the router's own names and kinds of values: numbers are strings. Price in wei, times in Unix seconds."""

    Id: str
    Provider: str
    ModelAgentId: str
    PricePerSecond: str
    Nonce: str
    CreatedAt: str
    DeletedAt: str


class RatedBidShown(BaseModel):
    """A bid and its score: more is better. `ID` is that of the bid."""

    ID: str
    Bid: BidShown
    Score: float


class RatedBidsShown(BaseModel):
    """Best first, in the order in which a session by model would try them; at most 1,000."""

    bids: list[RatedBidShown] = Field(max_length=1_000)


# before the route of one model, which would take this for a name
@router.get(
    "/api/v1/models/ratedbids",
    responses=UNCHANGED | {200: {"model": RatedBidsShown, "headers": OF_A_COPY}} | errors("model_not_found"),
    openapi_extra=CONDITION,
)
@router.get("/v1/models/ratedbids", include_in_schema=False)
async def get_rated_bids(
    request: Request,
    context: ContextOf,
    model_id: Annotated[AnyCaseChainId, Query(description="id of the model on chain", examples=[MODEL_ID])],
) -> Response:
    """Active bids of a model (chain id: `blockchainID` of the lists), best first, at most a minute old."""
    model = context.catalogue.models.find(model_id, param="model_id")
    rated = await context.rated_bids.of(model.id)
    # a minute is all the age they may have
    return answer(request, rated.listing, age=context.rated_bids.age(rated), caching="no-cache")
