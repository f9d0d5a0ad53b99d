"""What auth is asked about delegations, and the events it tells.

A delegation lets the gateway's address act for its delegator on chain, within its caveats (MetaMask's Delegation
Framework, ERC-7710).
"""

from enum import StrEnum

from pydantic import Field

from morpheus_common.bus.names import User
from morpheus_common.contracts.base import GATEWAY_ONLY, REGISTRY, Empty, Message, UtcTime

ROWS_AT_ONCE = 10
"""A row can hold 64 KiB of JSON in JSON, and a message on the bus has 1 MiB at most."""


class Verification(StrEnum):
    """What is known of a delegation's signature.

    Most delegators are contract accounts whose signature only the chain can judge. Here it cannot be told from a forgery,
    so `unverified` means no more than what it says.
    """

    VERIFIED = "verified"
    UNVERIFIED = "unverified"


class StoreDelegation(Message):
    """Keep a delegation. `signed_delegation` is it as JSON text, `sent_as_text` whether it came as a string of JSON."""

    user_id: str
    delegate_address: str
    signed_delegation: str
    sent_as_text: bool
    expiry: UtcTime | None = None
    is_active: bool = True


class DelegationRow(Message):
    """A delegation as its owner sees it. Addresses as EIP-55 writes them."""

    id: str
    user_id: str
    delegate_address: str
    delegator_address: str
    delegation_hash: str
    signed_delegation: str
    sent_as_text: bool
    expiry: UtcTime | None
    is_active: bool
    verification: Verification
    chain_id: int
    created_at: UtcTime


class ListDelegations(Message):
    """Ask for a user's delegations, newest first."""

    user_id: str
    skip: int = Field(0, ge=0)
    limit: int = Field(ROWS_AT_ONCE, ge=1, le=ROWS_AT_ONCE)


class DelegationRows(Message):
    """Newest first."""

    delegations: list[DelegationRow]


class ActiveDelegationQuestion(Message):
    """Ask for the delegation of a user that counts now."""

    user_id: str


class ActiveDelegation(Message):
    """None if there is none, or if it has expired."""

    delegation: DelegationRow | None


class DeleteDelegation(Message):
    """Forget a delegation. Unknown or another user's: `delegation_not_found`."""

    user_id: str
    delegation_id: str


class DelegationChanged(Message):
    """A delegation was stored, became active or inactive, or was deleted."""

    delegation_id: str
    user_id: str
    is_active: bool


# the first one imports what knows Ethereum, which takes seconds on a busy machine
STORE_DELEGATION = REGISTRY.rpc(
    User.AUTH, "store_delegation", StoreDelegation, DelegationRow, callers=GATEWAY_ONLY, timeout=15.0
)
LIST_DELEGATIONS = REGISTRY.rpc(User.AUTH, "list_delegations", ListDelegations, DelegationRows, callers=GATEWAY_ONLY)
ACTIVE_DELEGATION = REGISTRY.rpc(
    User.AUTH, "active_delegation", ActiveDelegationQuestion, ActiveDelegation, callers=GATEWAY_ONLY
)
DELETE_DELEGATION = REGISTRY.rpc(User.AUTH, "delete_delegation", DeleteDelegation, Empty, callers=GATEWAY_ONLY)

DELEGATION_STORED = REGISTRY.event(
    User.AUTH, "delegation", "stored", DelegationChanged, description="A delegation was stored."
)
DELEGATION_ACTIVATED = REGISTRY.event(
    User.AUTH, "delegation", "activated", DelegationChanged, description="A stored delegation became the active one."
)
DELEGATION_DEACTIVATED = REGISTRY.event(
    User.AUTH,
    "delegation",
    "deactivated",
    DelegationChanged,
    description="A delegation is no longer the active one of its user.",
)
DELEGATION_DELETED = REGISTRY.event(
    User.AUTH, "delegation", "deleted", DelegationChanged, description="A delegation was deleted."
)
