"""Contracts of the bus, one module a domain. Importing this package fills the registry."""

from morpheus_common.contracts import (
    accounts,
    audit,
    auth,
    automation,
    chat,
    delegations,
    deletion,
    events,
    health,
    operator,
    rated_bids,
    renewal,
    sessions,
    signing_keys,
    usage,
    vault,
)
from morpheus_common.contracts.base import REGISTRY

__all__ = [
    "REGISTRY",
    "accounts",
    "audit",
    "auth",
    "automation",
    "chat",
    "delegations",
    "deletion",
    "events",
    "health",
    "operator",
    "rated_bids",
    "renewal",
    "sessions",
    "signing_keys",
    "usage",
    "vault",
]
