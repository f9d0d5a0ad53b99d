"""The bids of a model as a proxy-router rates them, asked of the sessions service."""

from typing import Annotated, Final

from pydantic import Field, StringConstraints

from morpheus_common.bus.names import User
from morpheus_common.contracts.base import GATEWAY_ONLY, REGISTRY, ChainId, Message

MAX_RATED_BIDS: Final = 1_000
"""So many are told, the best: about 400 KiB. A provider has one active bid for a model at most."""

Digits = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,78}$")]
"""A number up to 2^256, written as the router writes those of bids."""


class GetRatedBids(Message):
    """Ask for the active bids of a model. `model_not_found` if there is no such model, and then no router is asked.

    `rate_limit_exceeded` if too many others wait for their turn at the router, `service_unavailable` while it is away.
    """

    model_id: ChainId


class RatedBid(Message):
    """An active bid. `price_per_second` in wei, times in Unix seconds; `score` as the router has it, more is better."""

    id: ChainId
    provider: str
    model_id: ChainId
    price_per_second: Digits
    nonce: Digits
    created_at: Digits
    deleted_at: Digits
    score: float = Field(allow_inf_nan=False)


class RatedBids(Message):
    """Best first, in the order in which the router itself would try them. `age`: seconds since the router was asked."""

    bids: list[RatedBid] = Field(max_length=MAX_RATED_BIDS)
    age: float = Field(ge=0)


# a turn at the router, and then its slowest reading: two questions to the chain for each bid, one after the other
GET_RATED_BIDS = REGISTRY.rpc(
    User.SESSIONS, "get_rated_bids", GetRatedBids, RatedBids, callers=GATEWAY_ONLY, timeout=20.0
)
