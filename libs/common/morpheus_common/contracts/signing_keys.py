"""What operators ask about the keys that sign access tokens. Only the user `ops` may (`morpheus keys`)."""

from enum import StrEnum

from pydantic import Field

from morpheus_common.bus.names import User
from morpheus_common.contracts.base import REGISTRY, Empty, Message, UtcTime
from morpheus_common.contracts.operator import OPS_ONLY


class SigningKeyState(StrEnum):
    """What a signing key does. A key that is withdrawn has no state: it is no longer there.

    `published`: everybody can verify with it already, it signs from `signs_from` on. `signing`: all new tokens are signed
    with it. `retiring`: it signs no more, and what it signed is still accepted until `retires_at`.
    """

    PUBLISHED = "published"
    SIGNING = "signing"
    RETIRING = "retiring"


class SigningKey(Message):
    """A signing key; `kid` is its name in tokens. Times by the database's clock; `retires_at` is None until a later key
    is there.
    """

    kid: str
    generation: int
    state: SigningKeyState
    created_at: UtcTime
    signs_from: UtcTime
    retires_at: UtcTime | None


class SigningKeyRows(Message):
    """All signing keys there are, newest first. `now`: the database's time."""

    keys: list[SigningKey]
    now: UtcTime


class RotateSigningKeys(Message):
    """Make a new signing key, unless one is published already that does not sign yet.

    `revoke`: the `kid` of a key that others may have. It and all older keys are withdrawn at once, and the new key signs at
    once; if that key is gone already, nothing is done.
    """

    revoke: str | None = Field(None, max_length=100)


LIST_SIGNING_KEYS = REGISTRY.rpc(User.AUTH, "operator_list_signing_keys", Empty, SigningKeyRows, callers=OPS_ONLY)
ROTATE_SIGNING_KEYS = REGISTRY.rpc(
    User.AUTH, "operator_rotate_signing_keys", RotateSigningKeys, SigningKeyRows, callers=OPS_ONLY, timeout=15.0
)
