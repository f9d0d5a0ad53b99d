"""What the router writes for a bid, a model, a provider and a session: names, order and kinds of numbers.

Amounts of bids and providers are strings, those of models and sessions are bare integers (contract section 0).
"""

from typing import Any

from proxy_router_sim.chain import Session
from proxy_router_sim.ethereum import ZERO_HASH
from proxy_router_sim.marketplace import Bid, Model, Provider


def bid(bid: Bid) -> dict[str, Any]:
    return {
        "Id": bid.id,
        "Provider": bid.provider,
        "ModelAgentId": bid.model_id,
        "PricePerSecond": str(bid.price_per_second),
        "Nonce": str(bid.nonce),
        "CreatedAt": str(bid.created_at),
        "DeletedAt": str(bid.deleted_at),
    }


def rated_bid(rated: Bid, score: float) -> dict[str, Any]:
    """The outer ``ID`` is never filled by the router."""
    return {"ID": ZERO_HASH, "Bid": bid(rated), "Score": score}


def model(model: Model) -> dict[str, Any]:
    return {
        "Id": model.id,
        "IpfsCID": ZERO_HASH,
        "Fee": 0,
        "Stake": model.stake,
        "Owner": model.owner,
        "Name": model.name,
        "Tags": list(model.tags),
        "CreatedAt": model.created_at,
        "IsDeleted": False,
        "ModelType": model.type,
    }


def provider(provider: Provider) -> dict[str, Any]:
    return {
        "Address": provider.address,
        "Endpoint": provider.endpoint,
        "Stake": str(provider.stake),
        "CreatedAt": str(provider.created_at),
        "IsDeleted": False,
    }


def session(session: Session) -> dict[str, Any]:
    return {
        "Id": session.id,
        "User": session.user,
        "Provider": session.provider,
        "ModelAgentId": session.model_id,
        "BidID": session.bid_id,
        "Stake": session.stake,
        "PricePerSecond": session.price_per_second,
        "CloseoutReceipt": session.closeout_receipt,
        "CloseoutType": session.closeout_type,
        "ProviderWithdrawnAmount": session.provider_withdrawn,
        "OpenedAt": session.opened_at,
        "EndsAt": session.ends_at,
        "ClosedAt": session.closed_at,
    }
