"""Private keys of users.

A private key travels sealed to auth and is never answered, in no form.
"""

from morpheus_common.bus.names import User
from morpheus_common.contracts.base import GATEWAY_ONLY, REGISTRY, Message, UtcTime
from morpheus_common.sealing import Sealed


class StorePrivateKey(Message):
    """Keep a private key in the place of any other of this user. `private_key`: the sealed hex digits."""

    user_id: str
    private_key: Sealed


class PrivateKeyOf(Message):
    """A user whose private key is asked about or deleted."""

    user_id: str


class PrivateKeyStatus(Message):
    """What is told of a private key. `address` has the checksum of EIP-55.

    `used_for_signing` is false as long as the router signs with its own wallet. `created_at`: when the user stored one
    first; `updated_at`: when this one was.
    """

    has_private_key: bool
    address: str | None = None
    used_for_signing: bool = False
    created_at: UtcTime | None = None
    updated_at: UtcTime | None = None


class PrivateKeyDeleted(Message):
    """What was deleted, and when."""

    address: str
    deleted_at: UtcTime


class PrivateKeyChanged(Message):
    """Ids only: an address would lead to a person. `record_id` is another one for each key stored."""

    record_id: str
    user_id: str


STORE_PRIVATE_KEY = REGISTRY.rpc(
    User.AUTH, "store_private_key", StorePrivateKey, PrivateKeyStatus, callers=GATEWAY_ONLY, timeout=15.0
)
PRIVATE_KEY_STATUS = REGISTRY.rpc(User.AUTH, "private_key_status", PrivateKeyOf, PrivateKeyStatus, callers=GATEWAY_ONLY)
DELETE_PRIVATE_KEY = REGISTRY.rpc(
    User.AUTH, "delete_private_key", PrivateKeyOf, PrivateKeyDeleted, callers=GATEWAY_ONLY
)

PRIVATE_KEY_STORED = REGISTRY.event(
    User.AUTH, "private_key", "stored", PrivateKeyChanged, description="A user stored a private key."
)
PRIVATE_KEY_DELETED = REGISTRY.event(
    User.AUTH, "private_key", "deleted", PrivateKeyChanged, description="A user's private key was deleted or replaced."
)
