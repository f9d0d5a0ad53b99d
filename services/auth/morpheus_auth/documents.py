"""What auth stores."""

from datetime import datetime
from enum import StrEnum
from typing import ClassVar

from beanie import Document
from morpheus_common.contracts.auth import Scope
from morpheus_common.contracts.delegations import Verification
from morpheus_common.ids import uuid7
from morpheus_common.store.migrations import Migration
from morpheus_common.store.outbox import OutboxRow
from pydantic import BaseModel, Field
from pymongo import ASCENDING, DESCENDING, IndexModel

LOCAL_PROVIDER = "local"
"""Keys that auth itself holds; the other providers never show theirs."""

DELETION_KEPT_SECONDS = 30 * 86_400
"""How long a complete deletion can be asked about."""
REFRESH_GRACE_SECONDS = 10
"""How long a spent refresh token still gives the same answer: two tabs refresh at once, a reply gets lost."""


NOT_EXPIRED = {"$gt": ["$expires_at", "$$NOW"]}
"""Compared by the database's clock, because those of the workers may be off."""
NOT_EXPIRED_IF_EVER = {"$or": [{"$eq": ["$expires_at", None]}, NOT_EXPIRED]}
"""The same of what may have no end."""


class KnownAddress(BaseModel):
    """An address that logged in to the account, by a keyed hash, and when it last did."""

    digest: str
    at: datetime


class UserDocument(Document):
    """An account. `email_key` is the normalised e-mail, `email` what its owner typed.

    `key_guard` changes with every change to the set of the user's API keys, and to his private key: two transactions
    that would both count the keys, or both replace it, meet there. `delegation_guard` is the same for the set of the
    user's delegations, `login_guard` for logins, the password and the deletion of the account: none of them can miss
    another.
    """

    id: str = Field(default_factory=uuid7)  # type: ignore[assignment]  # Beanie types it as an ObjectId
    email: str
    email_key: str
    name: str | None
    password_hash: str
    is_active: bool = True
    created_at: datetime
    version: int = 1
    key_guard: int = 0
    login_guard: int = 0
    known_addresses: list[KnownAddress] = Field(default_factory=list)
    delegation_guard: int = 0

    class Settings:
        """Where and how it is stored."""

        name = "users"
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("email_key", ASCENDING)], name="email_key", unique=True),
        ]


class KeySecret(BaseModel):
    """What an API key is known by. `digest` is HMAC-SHA-256(pepper, SHA-256 of the key) as hex; the key was never here.

    `until`: when it stops being accepted, because another one was made in its place; None for the one in use.
    """

    digest: str
    pepper_version: int
    until: datetime | None = None


class ApiKeyDocument(Document):
    """An API key. `secrets`: the one in use last, those in their grace before it. `key_prefix` is of the one in use."""

    id: str = Field(default_factory=uuid7)  # type: ignore[assignment]  # Beanie types it as an ObjectId
    user_id: str
    key_prefix: str
    secrets: list[KeySecret]
    name: str | None
    is_active: bool = True
    created_at: datetime
    expires_at: datetime | None
    deactivated_at: datetime | None = None
    rotated_at: datetime | None = None
    last_used_at: datetime | None = None
    scopes: list[Scope]
    allowed_models: list[str] | None
    version: int = 1

    class Settings:
        """Where and how it is stored."""

        name = "api_keys"
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("secrets.digest", ASCENDING)], name="secret", unique=True),
            IndexModel([("user_id", ASCENDING), ("_id", DESCENDING)], name="user_newest"),
        ]


class LoginDocument(Document):
    """One login: the family of all refresh tokens that descend from it. Its id is the claim `sid`.

    `refreshes` counts; a refresh and a revocation both write here, so that they cannot miss each other.
    """

    id: str = Field(default_factory=uuid7)  # type: ignore[assignment]  # Beanie types it as an ObjectId
    user_id: str
    authenticated_at: datetime
    expires_at: datetime
    refreshes: int = 0
    revoked_at: datetime | None = None

    class Settings:
        """Where and how it is stored."""

        name = "logins"
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("user_id", ASCENDING)], name="user"),
            IndexModel([("expires_at", ASCENDING)], name="expiry", expireAfterSeconds=0),
        ]


class RefreshTokenDocument(Document):
    """A refresh token, by its SHA-256 (hex). A spent one stays until it would have expired, to be recognised."""

    id: str  # type: ignore[assignment]  # Beanie types it as an ObjectId
    login_id: str
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None = None

    class Settings:
        """Where and how it is stored."""

        name = "refresh_tokens"
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("login_id", ASCENDING)], name="login"),
            IndexModel([("expires_at", ASCENDING)], name="expiry", expireAfterSeconds=0),
        ]


class RefreshAnswerDocument(Document):
    """What a refresh token was exchanged for, by the token's SHA-256, sealed under a key that only the token gives."""

    id: str  # type: ignore[assignment]  # Beanie types it as an ObjectId
    sealed: bytes
    created_at: datetime

    class Settings:
        """Where and how it is stored."""

        name = "refresh_answers"
        indexes: ClassVar[list[IndexModel]] = [
            # the database looks once a minute; until then the answer is refused by its age
            IndexModel([("created_at", ASCENDING)], name="expiry", expireAfterSeconds=REFRESH_GRACE_SECONDS),
        ]


class Progress(StrEnum):
    """How far a deletion is."""

    CREDENTIALS_DEAD = "credentials_dead"
    COMPLETE = "complete"


class DeletionDocument(Document):
    """The deletion of an account, by the SHA-256 (hex) of the token it can be asked about with.

    It names the user until it is complete, and nobody afterwards. `counts`: how many records there were, by what they
    were; a part that stands there is erased. `not_before`: when it is carried on (database time).
    """

    id: str  # type: ignore[assignment]  # Beanie types it as an ObjectId
    user_id: str | None
    state: Progress = Progress.CREDENTIALS_DEAD
    counts: dict[str, int] = Field(default_factory=dict)
    attempts: int = 0
    not_before: datetime
    requested_at: datetime
    completed_at: datetime | None = None

    class Settings:
        """Where and how it is stored."""

        name = "deletions"
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("state", ASCENDING), ("not_before", ASCENDING)], name="due"),
            IndexModel([("completed_at", ASCENDING)], name="expiry", expireAfterSeconds=DELETION_KEPT_SECONDS),
        ]


class DelegationDocument(Document):
    """A delegation. `signed_delegation` is the JSON text that was sent: BSON has no number for a salt of 256 bits."""

    id: str = Field(default_factory=uuid7)  # type: ignore[assignment]  # Beanie types it as an ObjectId
    user_id: str
    delegate_address: str
    delegator_address: str
    delegation_hash: str
    signed_delegation: str
    sent_as_text: bool
    expiry: datetime | None
    is_active: bool
    verification: Verification
    chain_id: int
    created_at: datetime
    version: int = 1

    class Settings:
        """Where and how it is stored."""

        name = "delegations"
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("delegation_hash", ASCENDING)], name="delegation_hash", unique=True),
            IndexModel([("user_id", ASCENDING), ("_id", DESCENDING)], name="user_newest"),
            IndexModel(
                [("user_id", ASCENDING)],
                name="one_active",
                unique=True,
                partialFilterExpression={"is_active": True},
            ),
        ]


class InviteDocument(Document):
    """An invite code, by a keyed hash of its SHA-256. It goes when it is used, or has expired."""

    id: str  # type: ignore[assignment]  # Beanie types it as an ObjectId
    created_at: datetime
    expires_at: datetime | None

    class Settings:
        """Where and how it is stored."""

        name = "invites"
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("expires_at", ASCENDING)], name="expiry", expireAfterSeconds=0),
        ]


class PasswordResetDocument(Document):
    """A token that lets its bearer set a user's password once, by a keyed hash of its SHA-256."""

    id: str  # type: ignore[assignment]  # Beanie types it as an ObjectId
    user_id: str
    expires_at: datetime

    class Settings:
        """Where and how it is stored."""

        name = "password_resets"
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("user_id", ASCENDING)], name="user"),
            IndexModel([("expires_at", ASCENDING)], name="expiry", expireAfterSeconds=0),
        ]


class CountedTry(BaseModel):
    """A try to log in. What proves right, or was not made after all, is taken out again."""

    id: str
    at: datetime


class LoginTriesDocument(Document):
    """The last tries to log in to an account, which may not exist, by a keyed hash of its e-mail."""

    id: str  # type: ignore[assignment]  # Beanie types it as an ObjectId
    tries: list[CountedTry]
    expires_at: datetime

    class Settings:
        """Where and how it is stored."""

        name = "login_tries"
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("expires_at", ASCENDING)], name="expiry", expireAfterSeconds=0),
        ]


class LoginWaitDocument(Document):
    """When an address may next try to log in to an account that is being guessed at, by a keyed hash of both.

    `taken_by` is the try that had the last turn.
    """

    id: str  # type: ignore[assignment]  # Beanie types it as an ObjectId
    turn_at: datetime
    taken_by: str | None
    asked_at: datetime
    expires_at: datetime

    class Settings:
        """Where and how it is stored."""

        name = "login_waits"
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("expires_at", ASCENDING)], name="expiry", expireAfterSeconds=0),
        ]


class WrappedSecret(BaseModel):
    """A secret at rest, wrapped by a version of a key-encryption key and bound to its record's id.

    `key` is what the provider calls its key, `nonce` the local provider's only. Records of the first release have
    neither `provider` nor `key`: they are local.
    """

    provider: str = LOCAL_PROVIDER
    key: str = ""
    key_version: int | str
    nonce: bytes = b""
    ciphertext: bytes


class ServiceKeyDocument(Document):
    """A private key of the service itself, one a generation; the highest generation is the one in use."""

    id: str = Field(default_factory=uuid7)  # type: ignore[assignment]  # Beanie types it as an ObjectId
    generation: int
    private_key: WrappedSecret
    created_at: datetime


_ONE_A_GENERATION = IndexModel([("generation", ASCENDING)], name="generation", unique=True)


class SigningKeyDocument(ServiceKeyDocument):
    """An Ed25519 key that signs access tokens. Its id is the `kid`.

    All times are the database's and never change, so that whoever reads them at any moment knows what each key is for.
    `signs_from`: None for the first key, which signs from its beginning. `older_until`: when all keys of lower generations
    stop being accepted.
    """

    signs_from: datetime | None = None
    older_until: datetime | None = None

    class Settings:
        """Where and how it is stored."""

        name = "signing_keys"
        indexes: ClassVar[list[IndexModel]] = [_ONE_A_GENERATION]


class SealingKeyDocument(ServiceKeyDocument):
    """An X25519 key that opens what was sealed for auth."""

    class Settings:
        """Where and how it is stored."""

        name = "sealing_keys"
        indexes: ClassVar[list[IndexModel]] = [_ONE_A_GENERATION]


class AuditKeyDocument(ServiceKeyDocument):
    """32 bytes that seal the audit log. Entries name the one that they were sealed with by its id."""

    class Settings:
        """Where and how it is stored."""

        name = "audit_keys"
        indexes: ClassVar[list[IndexModel]] = [_ONE_A_GENERATION]


class AuditDocument(Document):
    """An entry of the audit log; nothing changes or deletes one. Its id is its sequence number, without gaps from 1 on.

    `previous` is the hash of the entry before it, `hash` the HMAC of everything else here with the key `sealed_by`.
    """

    id: int  # type: ignore[assignment]  # Beanie types it as an ObjectId
    at: datetime
    action: str
    actor: str
    subject: str | None
    facts: dict[str, str | int | bool]
    sealed_by: str
    previous: str
    hash: str

    class Settings:
        """Where and how it is stored."""

        name = "audit"


AUDIT_HEAD = "head"


class AuditHeadDocument(Document):
    """The end of the audit log, the only one of its kind: appends meet here, and a tail cut off shows.

    `touched_at`: the database's time of the last append, written before anything is read.
    """

    id: str = AUDIT_HEAD  # type: ignore[assignment]  # Beanie types it as an ObjectId
    sequence: int
    hash: str
    sealed_by: str
    mac: str
    touched_at: datetime | None = None

    class Settings:
        """Where and how it is stored."""

        name = "audit_head"


class AuditSubjectDocument(Document):
    """What the audit log calls a user. Its id is the user's; it goes when the account goes."""

    id: str  # type: ignore[assignment]  # Beanie types it as an ObjectId
    subject: str

    class Settings:
        """Where and how it is stored."""

        name = "audit_subjects"


class PrivateKeyDocument(Document):
    """A user's private key: AES-256-GCM under a data key of its own, which is wrapped.

    Bound to user, id and version, so that it opens nowhere else. Whoever replaces it makes a new record; without
    `data_key` the ciphertext of the old one is noise. `since`: when the user's first of an unbroken row was stored.
    """

    id: str = Field(default_factory=uuid7)  # type: ignore[assignment]  # Beanie types it as an ObjectId
    user_id: str
    data_key: WrappedSecret
    nonce: bytes
    ciphertext: bytes
    address: str
    since: datetime
    created_at: datetime
    version: int = 1

    class Settings:
        """Where and how it is stored."""

        name = "private_keys"
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("user_id", ASCENDING)], name="user", unique=True),
        ]


DOCUMENTS: tuple[type[Document], ...] = (
    UserDocument,
    ApiKeyDocument,
    LoginDocument,
    RefreshTokenDocument,
    RefreshAnswerDocument,
    InviteDocument,
    PasswordResetDocument,
    LoginTriesDocument,
    LoginWaitDocument,
    DelegationDocument,
    DeletionDocument,
    SigningKeyDocument,
    SealingKeyDocument,
    AuditKeyDocument,
    AuditDocument,
    AuditHeadDocument,
    AuditSubjectDocument,
    PrivateKeyDocument,
    OutboxRow,
)
"""Everything stored, for `morpheus apply` and for the start."""

MIGRATIONS: tuple[Migration, ...] = ()
"""What `morpheus apply` does to documents that are stored already, in order. A name stays here for as long as a version."""
