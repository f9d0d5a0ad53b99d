"""What the auth service is asked, and the events it tells.

Passwords, refresh tokens and tokens just made are `Sealed`: to auth's public key on the way in, to the request's own
key (`answer_key`, base64 of 32 bytes) on the way out.
"""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from morpheus_common.bus.names import User
from morpheus_common.contracts.base import GATEWAY_ONLY, REGISTRY, Message, UtcTime
from morpheus_common.sealing import Sealed

Sha256Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256 of a presented API key, lower-case hex: the key itself never travels."""


class Scope(StrEnum):
    """What an API key may be used for."""

    CHAT = "chat"
    SESSIONS = "sessions"
    AUTOMATION = "automation"
    USAGE = "usage"


class PublicKeysQuestion(Message):
    """Ask for auth's public keys."""


class PublicKeys(Message):
    """`jwks`: a JSON Web Key Set (RFC 7517) of the Ed25519 keys that sign access tokens.
    `sealing_key`: what secrets for auth are sealed to (base64 of 32 bytes).
    """

    jwks: dict[str, Any]
    sealing_key: str


class Register(Message):
    """Make an account. `password` is the sealed UTF-8 password, `invite_sha256` the SHA-256 of an invite code."""

    email: str = Field(max_length=320)
    name: str | None = Field(None, max_length=200)
    password: Sealed
    invite_sha256: Sha256Hex | None = None


class UserRow(Message):
    """An account as its owner sees it."""

    id: str
    email: str
    name: str | None
    is_active: bool
    created_at: UtcTime


class Login(Message):
    """Exchange e-mail and password for tokens. `address`: the client's, for the throttle of failed logins."""

    email: str = Field(max_length=320)
    password: Sealed
    answer_key: str
    address: str | None = Field(None, max_length=64)


class Refresh(Message):
    """Exchange a refresh token for its successor and a new access token."""

    refresh_token: Sealed
    answer_key: str


class TokenPair(Message):
    """`tokens`: sealed JSON `{"access_token", "refresh_token", "expires_in"}` (seconds)."""

    tokens: Sealed


class CreateKey(Message):
    """Record a new API key. The gateway made it; auth learns its public prefix and SHA-256 only."""

    user_id: str
    key_prefix: str = Field(max_length=16)
    sha256: Sha256Hex
    name: str | None = Field(None, max_length=100)
    expires_at: UtcTime | None = None
    scopes: list[Scope] | None = None
    allowed_models: list[str] | None = Field(None, max_length=100)


class KeyRow(Message):
    """An API key as its owner sees it."""

    id: str
    user_id: str
    key_prefix: str
    name: str | None
    is_active: bool
    created_at: UtcTime
    expires_at: UtcTime | None
    last_used_at: UtcTime | None
    scopes: list[Scope]
    allowed_models: list[str] | None


class KeyRows(Message):
    """Newest first."""

    keys: list[KeyRow]


class KeyField(StrEnum):
    """What can be changed of an API key."""

    NAME = "name"
    EXPIRES_AT = "expires_at"
    SCOPES = "scopes"
    ALLOWED_MODELS = "allowed_models"


class ChangeKey(Message):
    """Change the `fields` of a key; all others stay. None clears a name, an end or the models.

    Unknown or another user's: `key_not_found`; revoked or expired: `key_inactive`.
    """

    user_id: str
    key_id: str
    fields: list[KeyField]
    name: str | None = Field(None, max_length=100)
    expires_at: UtcTime | None = None
    scopes: list[Scope] = Field(default_factory=list)
    allowed_models: list[str] | None = Field(None, max_length=100)


MAX_GRACE_SECONDS = 30 * 86_400


class RotateKey(Message):
    """Give a key another secret, made by the gateway. The one in use stays good for `grace_seconds`, and one that was
    replaced before no longer than that.

    Unknown or another user's: `key_not_found`; revoked or expired: `key_inactive`; `key_rotation_limit` with too many secrets
    in their grace.
    """

    user_id: str
    key_id: str
    key_prefix: str = Field(max_length=16)
    sha256: Sha256Hex
    grace_seconds: int = Field(ge=0, le=MAX_GRACE_SECONDS)


class RotatedKey(Message):
    """`previous_until`: when the secret that was in use stops working."""

    row: KeyRow
    previous_until: UtcTime


class GetKey(Message):
    """Ask for one key of a user. Unknown or another user's: `key_not_found`."""

    user_id: str
    key_id: str


class ListKeys(Message):
    """Ask for all keys of a user."""

    user_id: str


class DeactivateKey(Message):
    """Make a key useless; repeatable. Unknown or another user's: `key_not_found`."""

    user_id: str
    key_id: str


class CheckKey(Message):
    """Ask who presents the API key with this SHA-256. Unknown, revoked, expired: `invalid_api_key`."""

    sha256: Sha256Hex


class CheckToken(Message):
    """Ask whether a verified access token still counts: its user is active and its login was not ended."""

    user_id: str
    login_id: str


class KeyIds(Message):
    """Ids of API keys. As a question: which of them are revoked, expired, of a disabled user, or unknown?"""

    key_ids: list[str] = Field(max_length=1_000)


class Caller(Message):
    """Who is asking. `key_id`, `key_prefix`, `scopes` and `allowed_models` are there for API keys only, `login_id` for
    access tokens only.
    """

    user_id: str
    login_id: str | None = None
    key_id: str | None = None
    key_prefix: str | None = None
    scopes: list[Scope] = Field(default_factory=list)
    allowed_models: list[str] | None = None


class UserRegistered(Message):
    """Ids only: events never carry personal data."""

    user_id: str


class KeyChanged(Message):
    """An API key was created, changed, rotated or deactivated."""

    key_id: str
    user_id: str
    is_active: bool


PUBLIC_KEYS = REGISTRY.rpc(User.AUTH, "public_keys", PublicKeysQuestion, PublicKeys, callers=GATEWAY_ONLY)
# argon2 takes a tenth of a second and waits its turn
REGISTER = REGISTRY.rpc(User.AUTH, "register", Register, UserRow, callers=GATEWAY_ONLY, timeout=15.0)
LOGIN = REGISTRY.rpc(User.AUTH, "login", Login, TokenPair, callers=GATEWAY_ONLY, timeout=15.0)
REFRESH = REGISTRY.rpc(User.AUTH, "refresh", Refresh, TokenPair, callers=GATEWAY_ONLY)
CREATE_KEY = REGISTRY.rpc(User.AUTH, "create_key", CreateKey, KeyRow, callers=GATEWAY_ONLY)
LIST_KEYS = REGISTRY.rpc(User.AUTH, "list_keys", ListKeys, KeyRows, callers=GATEWAY_ONLY)
GET_KEY = REGISTRY.rpc(User.AUTH, "get_key", GetKey, KeyRow, callers=GATEWAY_ONLY)
CHANGE_KEY = REGISTRY.rpc(User.AUTH, "change_key", ChangeKey, KeyRow, callers=GATEWAY_ONLY)
ROTATE_KEY = REGISTRY.rpc(User.AUTH, "rotate_key", RotateKey, RotatedKey, callers=GATEWAY_ONLY)
DEACTIVATE_KEY = REGISTRY.rpc(User.AUTH, "deactivate_key", DeactivateKey, KeyRow, callers=GATEWAY_ONLY)
CHECK_KEY = REGISTRY.rpc(User.AUTH, "check_key", CheckKey, Caller, callers=GATEWAY_ONLY, timeout=2.0)
ENDED_KEYS = REGISTRY.rpc(User.AUTH, "ended_keys", KeyIds, KeyIds, callers=frozenset({User.SESSIONS}))
CHECK_TOKEN = REGISTRY.rpc(User.AUTH, "check_token", CheckToken, Caller, callers=GATEWAY_ONLY, timeout=2.0)

USER_REGISTERED = REGISTRY.event(User.AUTH, "user", "registered", UserRegistered, description="An account was made.")
KEY_CREATED = REGISTRY.event(User.AUTH, "key", "created", KeyChanged, description="An API key was made.")
KEY_CHANGED = REGISTRY.event(
    User.AUTH, "key", "changed", KeyChanged, description="An API key's name, end, scopes or models were changed."
)
KEY_ROTATED = REGISTRY.event(
    User.AUTH,
    "key",
    "rotated",
    KeyChanged,
    description="An API key got another secret; id, sessions and limits are the same.",
)
KEY_DEACTIVATED = REGISTRY.event(
    User.AUTH,
    "key",
    "deactivated",
    KeyChanged,
    description="An API key was revoked; its sessions are no longer wanted.",
)
