"""Private keys of users, and the keys that wrap everything auth stores.

A private key travels sealed to auth and is never answered, in no form.
"""

from enum import StrEnum

from pydantic import Field

from morpheus_common.bus.names import User
from morpheus_common.contracts.base import GATEWAY_ONLY, REGISTRY, Empty, Message, UtcTime
from morpheus_common.contracts.operator import OPS_ONLY
from morpheus_common.sealing import Sealed

BATCH_KEYS = 200
"""Keys of a batch at most: with a provider that answers in 20 ms, about half a second."""


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


class WrappedKind(StrEnum):
    """What is wrapped; the value is the collection's name."""

    SIGNING_KEYS = "signing_keys"
    SEALING_KEYS = "sealing_keys"
    AUDIT_KEYS = "audit_keys"
    PRIVATE_KEYS = "private_keys"


class KekUse(Message):
    """A version of a key-encryption key and how many records it wraps. `key`: the provider's name for it, may be ''.

    `current`: wraps from now on.
    """

    provider: str
    key: str
    version: str
    records: int
    current: bool


class KekName(Message):
    """What a version of a key-encryption key is called. `key`: the provider's name for it, may be ''; None: any."""

    provider: str
    key: str | None = None
    version: str

    def fits(self, other: "KekName") -> bool:
        """Tell whether `other`, which names its key, is meant."""
        return (self.provider, self.version) == (other.provider, other.version) and self.key in {None, other.key}


class KekUses(Message):
    """The current version first."""

    uses: list[KekUse]


class RewrapKeys(Message):
    """Rewrap the next batch of a kind to the current version. `after`: the last id of the batch before.

    `expected`: a process where another version is current does nothing. Processes are replaced one by one, and each
    question is answered by any of them.
    """

    kind: WrappedKind
    after: str | None = None
    limit: int = Field(BATCH_KEYS, ge=1, le=BATCH_KEYS)
    expected: KekName | None = None


class KeysRewrapped(Message):
    """`failed`: records that do not open. `last`: ask again after it; None when the kind is through.

    `current`: what this process wraps with; None from one of an earlier version, which looks at no `expected` either.
    """

    rewrapped: int
    failed: list[str]
    last: str | None
    current: KekName | None = None


STORE_PRIVATE_KEY = REGISTRY.rpc(
    User.AUTH, "store_private_key", StorePrivateKey, PrivateKeyStatus, callers=GATEWAY_ONLY, timeout=15.0
)
PRIVATE_KEY_STATUS = REGISTRY.rpc(User.AUTH, "private_key_status", PrivateKeyOf, PrivateKeyStatus, callers=GATEWAY_ONLY)
DELETE_PRIVATE_KEY = REGISTRY.rpc(
    User.AUTH, "delete_private_key", PrivateKeyOf, PrivateKeyDeleted, callers=GATEWAY_ONLY
)
KEK_USES = REGISTRY.rpc(User.AUTH, "operator_kek_uses", Empty, KekUses, callers=OPS_ONLY, timeout=60.0)
REWRAP_KEYS = REGISTRY.rpc(
    User.AUTH, "operator_rewrap_keys", RewrapKeys, KeysRewrapped, callers=OPS_ONLY, timeout=120.0
)

PRIVATE_KEY_STORED = REGISTRY.event(
    User.AUTH, "private_key", "stored", PrivateKeyChanged, description="A user stored a private key."
)
PRIVATE_KEY_DELETED = REGISTRY.event(
    User.AUTH, "private_key", "deleted", PrivateKeyChanged, description="A user's private key was deleted or replaced."
)
