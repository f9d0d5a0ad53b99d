"""What the sessions service stores. Money truth: every write is acknowledged by a majority."""

from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, ClassVar

from beanie import Document
from bson import Decimal128
from morpheus_common.contracts.chat import Endpoint
from morpheus_common.contracts.sessions import AutomationWord, SessionChanged, SessionRow, SessionState, Slot
from morpheus_common.contracts.sessions import OperationKind as OperationKind  # noqa: PLC0414 - stored here, told there
from morpheus_common.contracts.usage import TokensFrom
from morpheus_common.ids import uuid7
from morpheus_common.store.migrations import Migration
from morpheus_common.store.outbox import OutboxRow
from morpheus_common.store.user_guards import UserGuardDocument
from pydantic import BaseModel, BeforeValidator, Field
from pymongo import ASCENDING, DESCENDING, IndexModel


def _decimal(value: Any) -> Any:
    return value.to_decimal() if isinstance(value, Decimal128) else value


StoredWei = Annotated[Decimal, BeforeValidator(_decimal)]
"""Wei as BSON Decimal128: exact to 34 digits (all MOR there will ever be has 26), and the database can add it up."""

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
"""For indexes of what has a time: a query for times after one is known to fit, one for any date is not."""

IDEMPOTENCY_KEPT_SECONDS = 86_400
"""How long a repeat gets the first answer."""

LIVE_STATES = (SessionState.OPENING, SessionState.ACTIVE, SessionState.PARKED, SessionState.CLOSING)
"""States in which stake is, or may be, at risk."""


def wei(value: Decimal | None) -> int | None:
    """Return a stored amount as an exact integer of wei."""
    return None if value is None else int(value)


class Owner(BaseModel):
    """The worker that runs a session's prompts."""

    worker: str
    boot: int


class SessionDocument(Document):
    """A session of one API key.

    `chain_session` is its id on chain, once there is one. `wanted` false: asked to close while it was still opening.
    `reserved` (wei) counts as at risk until the stake is on chain: what the cheapest bid takes, then exactly what is sent, on
    the wallet `reserved_on`. Of one that has ended, `held` (wei) counts until `held_until`: what its early close left on
    hold, or what may still appear of an open that was given up.
    `automation`: the decision that made it its key's session. `seen_block`: a height at which the chain had it;
    `absences`: how often it did not show it five blocks later.
    """

    id: str = Field(default_factory=uuid7)  # type: ignore[assignment]  # Beanie types it as an ObjectId
    version: int = 1
    state: SessionState
    slot: Slot | None
    user_id: str
    key_id: str
    key_prefix: str
    model_id: str
    model_name: str
    duration: int
    operation_id: str
    wanted: bool = True
    reason: str | None = None
    automation: AutomationWord | None = None
    router: str | None = None
    wallet: str | None = None
    chain: int | None = None
    chain_session: str | None = None
    bid_id: str | None = None
    provider: str | None = None
    stake: StoredWei | None = None
    price_per_second: StoredWei | None = None
    reserved: StoredWei | None = None
    reserved_on: str | None = None
    held: StoredWei | None = None
    held_until: datetime | None = None
    opened_at: datetime | None = None
    ends_at: datetime | None = None
    closed_at: datetime | None = None
    owner: Owner | None = None
    busy: dict[str, Any] | None = None
    claimed_at: datetime | None = None
    quarantined_until: datetime | None = None
    seen_block: int = 0
    absences: int = 0
    absent_at: datetime | None = None
    last_used_at: datetime | None = None
    created_at: datetime
    updated_at: datetime

    class Settings:
        """Where and how it is stored."""

        name = "sessions"
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel(
                [("key_id", ASCENDING), ("slot", ASCENDING)],
                name="one_per_key_and_slot",
                unique=True,
                partialFilterExpression={"slot": {"$in": [slot.value for slot in Slot]}},
            ),
            IndexModel(
                [("chain", ASCENDING), ("chain_session", ASCENDING)],
                name="one_per_chain_session",
                unique=True,
                partialFilterExpression={"chain_session": {"$type": "string"}},
            ),
            IndexModel([("key_id", ASCENDING), ("state", ASCENDING)], name="key_state"),
            IndexModel([("user_id", ASCENDING), ("state", ASCENDING)], name="user_state"),
            IndexModel([("key_id", ASCENDING), ("created_at", DESCENDING)], name="key_newest"),
            IndexModel([("state", ASCENDING), ("wallet", ASCENDING), ("ends_at", ASCENDING)], name="state_wallet"),
            IndexModel(
                [("ends_at", ASCENDING), ("_id", ASCENDING)],
                name="ending",
                partialFilterExpression={"slot": Slot.CURRENT.value},
            ),
            # all that the sum of what is at risk reads is in these two
            IndexModel(
                [(name, ASCENDING) for name in ("state", "user_id", "wallet", "reserved_on", "stake", "reserved")],
                name="at_risk",
            ),
            IndexModel(
                [(name, ASCENDING) for name in ("held_until", "state", "user_id", "wallet", "held")],
                name="on_hold",
                partialFilterExpression={"held_until": {"$gt": LONG_AGO}},
            ),
            # closed sessions are never deleted: those that were closed lately are found without the others
            IndexModel([("wallet", ASCENDING), ("state", ASCENDING), ("updated_at", ASCENDING)], name="lately_changed"),
            IndexModel([("owner.worker", ASCENDING)], name="owner"),
            IndexModel([("operation_id", ASCENDING)], name="operation"),
            IndexModel([("wallet", ASCENDING), ("bid_id", ASCENDING), ("stake", ASCENDING)], name="fingerprint"),
        ]

    def row(self) -> SessionRow:
        """Return the session as its owner sees it."""
        return SessionRow(
            operation_id=self.operation_id,
            state=self.state,
            slot=self.slot,
            session_id=self.chain_session,
            key_prefix=self.key_prefix,
            model_id=self.model_id,
            model=self.model_name,
            bid_id=self.bid_id,
            provider=self.provider,
            stake=wei(self.stake),
            price_per_second=wei(self.price_per_second),
            opened_at=self.opened_at,
            expires_at=self.ends_at,
            last_used_at=self.last_used_at,
            automation=self.automation,
        )

    def changed(self) -> SessionChanged:
        """Return the payload of an event about the session as it is now."""
        return SessionChanged(
            id=self.id,
            state=self.state,
            slot=self.slot,
            user_id=self.user_id,
            key_id=self.key_id,
            model_id=self.model_id,
            bid_id=self.bid_id,
            provider=self.provider,
            session_id=self.chain_session,
            stake=wei(self.stake),
            price_per_second=wei(self.price_per_second),
            opened_at=self.opened_at,
            expires_at=self.ends_at,
            reason=self.reason,
        )


class OperationState(StrEnum):
    """`sent`: bytes may have gone out. `unknown`: sent, and the outcome has to be read from the chain."""

    PENDING = "pending"
    SENT = "sent"
    UNKNOWN = "unknown"
    DONE = "done"
    FAILED = "failed"
    ABANDONED = "abandoned"


ENDED = (OperationState.DONE, OperationState.FAILED, OperationState.ABANDONED)
SENT_STATES = (OperationState.SENT, OperationState.UNKNOWN, OperationState.ABANDONED)
"""States of an open that may have opened a session which no record stands for yet."""
WATCHED_OPERATIONS = [OperationState.PENDING.value, *(state.value for state in SENT_STATES)]


class Replaces(BaseModel):
    """What happens to the key's current session when the one being opened takes its place.

    `without`: a provider that shall not serve the new one, because its failure is the reason for it.
    """

    session: str
    becomes: SessionState
    without: str | None = None


class OperationDocument(Document):
    """One open, close or approve: the journal. An approval is worth money: stored here, never logged.

    `facts` are what was observed, appended by whoever observed it; `state` is turned by the wallet's loop alone.
    `sent_at`: when it was first sent (database time); `sent_block`: the chain's height when it was last sent; `absences`:
    how often the chain, five blocks later, did not show it since. `stuck`: a close whose provider gives no report.
    `request`: the command of a user that began it, if it is not the operation's own id. `amount` (wei) is what an approve
    asks for at least, `tx` its transaction; it belongs to no session, and neither `session` nor `model_id` is set.
    `counted_at`: when a user's open was written (database time), for the limits of opens in a time. `traceparent`: the trace of
    the request that asked.
    While an open or an approve waits for a wallet: `place` is its place in line, `queued_at` when it
    came (database time), `patience_until` when the last who waits for it will
    have left (database time; None: it is carried out whoever waits), `declined` the wallets that cannot carry it out,
    `required_stake` what the cheapest provider would take, `needs` what is set aside for it in the wallet that took it.
    """

    id: str  # type: ignore[assignment]  # made by the gateway before its first publish
    kind: OperationKind
    state: OperationState = OperationState.PENDING
    session: str = ""
    user_id: str
    key_id: str
    request: str | None = None
    model_id: str = ""
    wanted_bid: str | None = None
    duration: int = 0
    amount: StoredWei | None = None
    tx: str | None = None
    place: int = 0
    queued_at: datetime | None = None
    patience_until: datetime | None = None
    declined: list[str] = Field(default_factory=list)
    required_stake: StoredWei | None = None
    needs: StoredWei | None = None
    replaces: Replaces | None = None
    wallet: str | None = None
    router: str | None = None
    bid_id: str | None = None
    provider: str | None = None
    price_per_second: StoredWei | None = None
    stake: StoredWei | None = None
    approval: str | None = None
    approval_signature: str | None = None
    sent_at: datetime | None = None
    sent_block: int = 0
    attempts: int = 0
    absences: int = 0
    absent_at: datetime | None = None
    stuck: bool = False
    not_before: datetime | None = None
    facts: list[dict[str, Any]] = Field(default_factory=list)
    error: dict[str, Any] | None = None
    counted_at: datetime | None = None
    traceparent: str | None = None
    created_at: datetime
    updated_at: datetime

    class Settings:
        """Where and how it is stored."""

        name = "operations"
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel(
                [("user_id", ASCENDING), ("counted_at", DESCENDING)],
                name="opens_of_a_user",
                partialFilterExpression={"counted_at": {"$gt": LONG_AGO}},
            ),
            IndexModel([("user_id", ASCENDING)], name="user"),
            IndexModel(
                [("user_id", ASCENDING), ("queued_at", DESCENDING)],
                name="approves_of_a_user",
                partialFilterExpression={"kind": OperationKind.APPROVE.value},
            ),
            IndexModel(
                [("wallet", ASCENDING), ("bid_id", ASCENDING), ("stake", ASCENDING)],
                name="one_watched_stake_per_wallet_and_bid",
                unique=True,
                partialFilterExpression={"state": {"$in": WATCHED_OPERATIONS}, "stake": {"$type": "decimal"}},
            ),
            IndexModel(
                [("approval", ASCENDING)],
                name="one_use_of_an_approval",
                unique=True,
                partialFilterExpression={"approval": {"$type": "string"}},
            ),
            IndexModel([("state", ASCENDING), ("wallet", ASCENDING), ("created_at", ASCENDING)], name="queue"),
            IndexModel(
                [("wallet", ASCENDING), ("place", ASCENDING), ("created_at", ASCENDING)],
                name="line",
                partialFilterExpression={"state": "pending"},
            ),
            IndexModel([("session", ASCENDING), ("kind", ASCENDING)], name="session"),
            IndexModel(
                [("request", ASCENDING)], name="request", partialFilterExpression={"request": {"$type": "string"}}
            ),
        ]


class IdempotencyDocument(Document):
    """What an `Idempotency-Key` was first used for. Its id is a digest of API key, route and `Idempotency-Key`.

    `first` is the command that wrote it, `operations` what it began or joined (none: there was nothing to do), `session`
    (our own id) the one its answer names.
    """

    id: str  # type: ignore[assignment]  # a digest: what the client sent is not kept
    user_id: str | None = None
    fingerprint: str
    first: str
    operations: list[str]
    session: str | None = None
    at: datetime

    class Settings:
        """Where and how it is stored."""

        name = "idempotency"
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("user_id", ASCENDING)], name="user"),
            IndexModel([("at", ASCENDING)], name="expiry", expireAfterSeconds=IDEMPOTENCY_KEPT_SECONDS),
        ]


class KeyGuardDocument(Document):
    """A document per API key that an open and a revocation both write, so that they cannot miss each other.

    `unwanted_at`: since when the key is not wanted (database time); also None if that is long ago or was written nowhere.
    """

    id: str  # type: ignore[assignment]  # the key's id
    user_id: str
    wanted: bool = True
    unwanted_at: datetime | None = None
    changes: int = 0

    class Settings:
        """Where and how it is stored."""

        name = "key_guards"
        indexes: ClassVar[list[IndexModel]] = [IndexModel([("user_id", ASCENDING)], name="user")]


class StakeGuardDocument(Document):
    """The one document that everything writes which puts stake at risk: of two at once, one is done again and sees the other.

    `at`: when it was last written (database time).
    """

    id: str  # type: ignore[assignment]  # there is one
    changes: int = 0
    at: datetime

    class Settings:
        """Where it is stored."""

        name = "stake_guards"


class WalletDocument(Document):
    """A wallet of ours, by its address.

    `counter`: how many stakes were tagged for it. `calling`: the chain call that runs, `{worker, boot, operation, until}`.
    `overlaps`: calls that were begun although one of a dead process might still have run. `read_to`: Unix seconds up to
    which the listing of its sessions was read completely. `passes_asked`, `passes_made`: numbers of the last pass that an
    operator asked for, and of the last of those that was made; `last_pass`: how often it did what. `complete_pass`: when the
    last pass over all that may be open was made (database time), how often it found what, and how much of it it could not
    put right: `{at, found, undone}`. `serving_until`: a
    loop takes opens for it (database time); `approved_tx`: the transaction with which we set the allowance last, at or
    before the height `approved_block`; `seconds_per_open`: how long it is busy with one.
    """

    id: str  # type: ignore[assignment]  # the address
    router: str
    counter: int = 0
    overlaps: int = 0
    calling: dict[str, Any] | None = None
    approved_tx: str | None = None
    approved_block: int | None = None
    read_to: int | None = None
    passes_asked: int = 0
    passes_made: int = 0
    last_pass: dict[str, int] | None = None
    complete_pass: dict[str, Any] | None = None
    serving_until: datetime | None = None
    seconds_per_open: float | None = None

    class Settings:
        """Where it is stored."""

        name = "wallets"


class RouterDocument(Document):
    """What a router was known as when it was first asked: the name in PROXY_ROUTERS, its wallet, its chain, and `diamond`,
    the contract that takes the stakes.

    `deployment` is the number in the tags of the stakes that we send from that wallet.
    """

    id: str  # type: ignore[assignment]  # the name
    wallet: str
    chain: int
    diamond: str | None = None
    deployment: int

    class Settings:
        """Where and how it is stored."""

        name = "routers"
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("wallet", ASCENDING)], name="one_router_per_wallet", unique=True)
        ]


class PlaceDocument(Document):
    """The last place in line that a user was given, by the user's id; and under `ROUND` the last that was served."""

    id: str  # type: ignore[assignment]  # a user's id, or ROUND
    last: int

    class Settings:
        """Where it is stored."""

        name = "places"


ROUND = "round"
"""No user's id: those are UUIDs."""


class FindingKind(StrEnum):
    """What a chain session without a record of ours is."""

    FOREIGN = "foreign"
    LOST = "lost"


class FindingDocument(Document):
    """An open session on one of our wallets that no record of ours stands for.

    `foreign` has another's tag or none and is never touched; `lost` has ours (a restored back-up): an operator decides.
    """

    id: str  # type: ignore[assignment]  # the session's id on chain
    kind: FindingKind
    wallet: str
    router: str
    bid_id: str
    provider: str
    stake: StoredWei
    opened_at: datetime
    ends_at: datetime
    found_at: datetime

    class Settings:
        """Where it is stored."""

        name = "findings"
        indexes: ClassVar[list[IndexModel]] = [IndexModel([("wallet", ASCENDING)], name="wallet")]


class UsageDocument(Document):
    """What one prompt used; the fields are those of `UsageRecord`. `at` and `expires_at` are the database's time.

    Of a deleted user the fields named in `ERASED` are None.
    """

    id: str  # type: ignore[assignment]  # made before the first try to write it
    at: datetime
    expires_at: datetime
    user_id: str | None
    key_id: str | None
    model_id: str | None
    model: str | None
    provider: str | None
    session_id: str | None
    chain_session: str | None
    endpoint: Endpoint
    stream: bool
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int | None
    tokens_from: TokensFrom | None
    queue_ms: int
    first_byte_ms: int | None
    total_ms: int
    outcome: str
    request_id: str | None

    class Settings:
        """Where and how it is stored."""

        name = "usage"
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("user_id", ASCENDING), ("at", ASCENDING)], name="user_time"),
            IndexModel([("expires_at", ASCENDING)], name="expiry", expireAfterSeconds=0),
        ]


USAGE_SERIES_KEPT_SECONDS = 7 * 86_400
"""As long as the outbox keeps the events of a series."""


class UsageSeriesDocument(Document):
    """What one worker has written of usage since it started: `version` batches, the last one `at` (database time).

    `erasures`: every erasure of a user raises it, so that it and a batch cannot miss each other.
    """

    id: str  # type: ignore[assignment]  # made by the worker
    version: int = 0
    erasures: int = 0
    at: datetime

    class Settings:
        """Where and how it is stored."""

        name = "usage_series"
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("at", ASCENDING)], name="expiry", expireAfterSeconds=USAGE_SERIES_KEPT_SECONDS)
        ]


NAME_WITHHELD_SECONDS = 30 * 86_400
"""So long nobody inherits the name of a model that was deleted: who asks for it gets no other in its place."""


class NameDocument(Document):
    """Which model a name means: the first that registered it. Its id is the name as names are compared.

    `registered_at`: Unix seconds at which the model was registered. `gone_at`: since when the chain has no model with this id
    and name any more (database time); the record goes with it after a while.
    """

    id: str  # type: ignore[assignment]  # a name
    model_id: str
    registered_at: int
    gone_at: datetime | None = None

    class Settings:
        """Where and how it is stored."""

        name = "names"
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("gone_at", ASCENDING)], name="expiry", expireAfterSeconds=NAME_WITHHELD_SECONDS)
        ]


class TurnsDocument(Document):
    """When calls of a kind to the routers may be made, by all workers together: the next at `next_at` (database time).

    `wait`: for how many milliseconds whoever took the last turn has to wait for it.
    """

    id: str  # type: ignore[assignment]  # the kind
    next_at: datetime
    wait: float = 0

    class Settings:
        """Where it is stored."""

        name = "turns"


DOCUMENTS: tuple[type[Document], ...] = (
    SessionDocument,
    OperationDocument,
    IdempotencyDocument,
    KeyGuardDocument,
    UserGuardDocument,
    StakeGuardDocument,
    WalletDocument,
    RouterDocument,
    PlaceDocument,
    FindingDocument,
    UsageDocument,
    UsageSeriesDocument,
    NameDocument,
    TurnsDocument,
    OutboxRow,
)
"""Everything in this service's database that has an index."""

MIGRATIONS: tuple[Migration, ...] = ()
"""What `morpheus apply` does to documents that are stored already, in order. A name stays here for as long as a version."""
