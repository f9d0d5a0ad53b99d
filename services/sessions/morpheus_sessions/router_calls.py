"""What the calls to a router are called where they are measured: few names, known beforehand."""

from typing import Final

OTHER: Final = "other"
_CALLS: Final = {
    "wallet": "identity",
    "config": "identity",
    "blockchain/balance": "funds",
    "blockchain/allowance": "funds",
    "blockchain/latestBlock": "height",
    "blockchain/token/supply": "supply",
    "blockchain/sessions/budget": "supply",
    "blockchain/models": "market",
    "blockchain/providers": "market",
    "blockchain/providers/*/bids/active": "market",
    "blockchain/bids/*": "market",
    "blockchain/models/*/bids/rated": "rated_bids",
    "blockchain/sessions/*": "session",
    "blockchain/sessions/user": "sessions",
    "proxy/sessions/initiate": "initiate",
    "blockchain/sessions": "open",
    "blockchain/sessions/*/close": "close",
    "blockchain/approve": "approve",
}
CALLS: Final = (*dict.fromkeys(_CALLS.values()), OTHER)
READ_FROM_CHAIN: Final = frozenset({"funds", "height", "supply", "market", "rated_bids", "session", "sessions"})
"""Calls for which a router reads its chain and does nothing else: if it answers with an error, the chain is what it lacks."""


def call_of(path: str) -> str:
    """Return what a call to this path is called."""
    parts = path.partition("?")[0].strip("/").split("/")
    return _CALLS.get("/".join("*" if part.startswith("0x") else part for part in parts), OTHER)
