"""What auth is asked about accounts and their passwords once they exist, and by operators.

Invite codes and tokens for a new password are made by the operator's command; auth is told their SHA-256 only.
"""

from pydantic import Field

from morpheus_common.bus.names import User
from morpheus_common.contracts.auth import Sha256Hex
from morpheus_common.contracts.base import GATEWAY_ONLY, REGISTRY, Empty, Message, UtcTime
from morpheus_common.contracts.operator import OPS_ONLY
from morpheus_common.sealing import Sealed

INVITES_AT_ONCE = 1_000


class GetAccount(Message):
    """Ask for an account. Gone or disabled: `invalid_token`."""

    user_id: str


class Account(Message):
    """An account as its owner sees it. `active_keys`: how many API keys can be used now."""

    id: str
    email: str
    name: str | None
    created_at: UtcTime
    active_keys: int


class EndLogins(Message):
    """End logins of a user; repeatable. `login_id` None: all of them."""

    user_id: str
    login_id: str | None


class PasswordChange(Message):
    """What is sealed in `ChangePassword`, as JSON."""

    current_password: str = Field(repr=False)
    new_password: str = Field(repr=False)


class ChangePassword(Message):
    """Set a user's password and end all logins but `login_id`. `passwords`: a sealed `PasswordChange`.

    A wrong current password, `invalid_credentials`, is a failed login from `address`.
    """

    user_id: str
    login_id: str
    passwords: Sealed
    address: str | None = Field(None, max_length=64)


class PasswordReset(Message):
    """What is sealed in `ResetPassword`, as JSON."""

    token: str = Field(repr=False)
    new_password: str = Field(repr=False)


class ResetPassword(Message):
    """Set the password of the user whose one-time token this is, and end all logins. `reset`: a sealed `PasswordReset`.

    `invalid_reset_token` if it is unknown, was used, or has expired.
    """

    reset: Sealed


class AllowReset(Message):
    """Let the bearer of the token with this SHA-256 set a new password once, within an hour. No such account:
    `not_found`.
    """

    email: str = Field(max_length=320)
    sha256: Sha256Hex


class MakeInvites(Message):
    """Record invite codes. `days`: how long they are good for; None: until they are used."""

    sha256: list[Sha256Hex] = Field(min_length=1, max_length=INVITES_AT_ONCE)
    days: int | None = Field(None, ge=1, le=3_650)


GET_ACCOUNT = REGISTRY.rpc(User.AUTH, "get_account", GetAccount, Account, callers=GATEWAY_ONLY)
END_LOGINS = REGISTRY.rpc(User.AUTH, "end_logins", EndLogins, Empty, callers=GATEWAY_ONLY)
# argon2 twice
CHANGE_PASSWORD = REGISTRY.rpc(User.AUTH, "change_password", ChangePassword, Empty, callers=GATEWAY_ONLY, timeout=15.0)
RESET_PASSWORD = REGISTRY.rpc(User.AUTH, "reset_password", ResetPassword, Empty, callers=GATEWAY_ONLY, timeout=15.0)
ALLOW_RESET = REGISTRY.rpc(User.AUTH, "operator_allow_reset", AllowReset, Empty, callers=OPS_ONLY)
MAKE_INVITES = REGISTRY.rpc(User.AUTH, "operator_make_invites", MakeInvites, Empty, callers=OPS_ONLY, timeout=15.0)
