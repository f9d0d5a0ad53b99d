"""What the services are asked when an account is deleted, and the event that tells of it.

Every command here is safe to repeat: a deletion is carried on after any crash by asking again.
"""

from enum import StrEnum

from pydantic import Field

from morpheus_common.bus.names import User
from morpheus_common.contracts.auth import Sha256Hex
from morpheus_common.contracts.base import GATEWAY_ONLY, REGISTRY, Message, UtcTime


class DeleteAccount(Message):
    """Delete an account. All its credentials are dead with the first answer, whatever that is.

    The gateway made the token by which the deletion can be asked about; auth learns its SHA-256 only. The same
    `token_sha256` again joins that deletion. `wait` is how long the caller waits for all to be done (seconds).
    """

    user_id: str
    token_sha256: Sha256Hex
    wait: float = Field(ge=0, le=60)


class GetDeletion(Message):
    """Ask how a deletion stands. Unknown, or over for longer than it is kept: `deletion_not_found`."""

    token_sha256: Sha256Hex


class DeletionState(StrEnum):
    """`pending`: the credentials are dead, something is still to be closed or erased."""

    PENDING = "pending"
    COMPLETE = "complete"


class DeletedData(Message):
    """What there was of a user and is no more: how many, or whether any."""

    sessions: int
    api_keys: int
    private_key: bool
    automation_settings: bool
    delegations: int


class AccountDeletion(Message):
    """How a deletion stands. `deleted_at` and `deleted_data` once it is complete."""

    status: DeletionState
    requested_at: UtcTime
    deleted_at: UtcTime | None = None
    deleted_data: DeletedData | None = None


class CloseUser(Message):
    """Close everything of a user on chain, and open nothing of his ever again."""

    user_id: str


class UserClosing(Message):
    """`open`: how many sessions of the user are, or may still come to be, open on chain."""

    open: int


class EraseUser(Message):
    """Erase what is stored of a user, and refuse whatever comes of him later."""

    user_id: str


class UserErased(Message):
    """`count`: how many records there were, the same on every repeat; None: something is left, ask again."""

    count: int | None


class UserDeleted(Message):
    """An account and all that belonged to it is gone."""

    user_id: str


_AUTH_ONLY = frozenset({User.AUTH})

DELETE_ACCOUNT = REGISTRY.rpc(
    User.AUTH, "delete_account", DeleteAccount, AccountDeletion, callers=GATEWAY_ONLY, timeout=10.0
)
GET_DELETION = REGISTRY.rpc(User.AUTH, "get_deletion", GetDeletion, AccountDeletion, callers=GATEWAY_ONLY)
CLOSE_USER = REGISTRY.rpc(User.SESSIONS, "close_user", CloseUser, UserClosing, callers=_AUTH_ONLY, timeout=15.0)
# goes on for ten seconds at most, with what a last transaction takes
ERASE_USER_SESSIONS = REGISTRY.rpc(User.SESSIONS, "erase_user", EraseUser, UserErased, callers=_AUTH_ONLY, timeout=28.0)
ERASE_USER_SETTINGS = REGISTRY.rpc(User.AUTOMATION, "erase_user", EraseUser, UserErased, callers=_AUTH_ONLY)

USER_DELETED = REGISTRY.event(
    User.AUTH, "user", "deleted", UserDeleted, description="An account is gone, with all that belonged to it."
)
