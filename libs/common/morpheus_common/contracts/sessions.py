"""What the sessions service is asked, and the life-cycle events it tells."""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from morpheus_common.bus.names import User
from morpheus_common.contracts.base import GATEWAY_ONLY, REGISTRY, ChainId, Message, UtcTime, Wei

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 in hex."""


class SessionState(StrEnum):
    """`failed`: nothing was ever sent to the chain. `abandoned`: sent, not seen, watched for ever."""

    OPENING = "opening"
    ACTIVE = "active"
    PARKED = "parked"
    CLOSING = "closing"
    CLOSED = "closed"
    FAILED = "failed"
    ABANDONED = "abandoned"


class Slot(StrEnum):
    """A key has at most one session in each slot; prompts run in `current` only."""

    CURRENT = "current"
    NEXT = "next"


class ModelType(StrEnum):
    """As the router derives it from a model's tags."""

    LLM = "LLM"
    EMBEDDING = "EMBEDDING"
    STT = "STT"
    TTS = "TTS"
    UNKNOWN = "UNKNOWN"


class CatalogueQuestion(Message):
    """Ask for the catalogue, unless it still is the version the asker has.

    It comes in parts, because a message on the bus has a largest size: `part` (from 0) of `of_version`, or of the newest.
    """

    have_version: str | None = None
    part: int = Field(0, ge=0)
    of_version: str | None = None


class CatalogueModel(Message):
    """A model that is not deleted on chain. `created_at` is Unix seconds.

    `holds_name`: it is the one that is meant by its name; others that claim the same are known by their ids alone. `slug`:
    the short form of a name by which it is found as well, None if that is another's.
    """

    id: ChainId
    name: str
    owner: str
    tags: list[str]
    type: ModelType
    created_at: int
    has_bids: bool
    holds_name: bool = True
    slug: str | None = None


class Catalogue(Message):
    """`version` is a digest of the content: two workers with the same models say the same. `models` is None when the
    asker's version is this one, or when it asked for a part of a version that this worker does not have. `age` is the
    seconds since the router confirmed it.

    `withheld`: names, as they are compared, that no model holds for now, not by their slug either. `parts`: in so many
    parts do `models` and `withheld` come.
    """

    version: str
    age: float
    models: list[CatalogueModel] | None
    withheld: list[str] = Field(default_factory=list)
    parts: int = 1


class Idempotency(Message):
    """A client's `Idempotency-Key`, as digests (SHA-256, hex): what it sent is not kept.

    `digest` is over API key, method, route and `Idempotency-Key`, `fingerprint` over route, query and canonical body.
    """

    digest: Digest
    fingerprint: Digest


class Failure(Message):
    """Why an operation came to nothing; the fields of an error."""

    code: str
    message: str
    param: str | None = None
    retry_after: int | None = None
    details: dict[str, Any] | None = None


class OpenSession(Message):
    """Open a session for a key by model or by bid (exactly one), or answer the one that fits.

    `operation_id` is made by the gateway before its first publish and the same on every repeat: a repeat joins the
    operation. `joins` is the operation that an earlier answer to this command named, if that was another's. `duration`
    in seconds. `wait` is how long the caller waits for the chain (seconds); then the answer has neither session nor
    error, and the open goes on. `patience` is how long it waits in all, repeats included; None: as long as `wait`.
    """

    operation_id: str
    user_id: str
    key_id: str
    key_prefix: str
    model_id: ChainId | None = None
    bid_id: ChainId | None = None
    duration: int = Field(ge=300)
    wait: float = Field(ge=0, le=300)
    patience: float | None = Field(None, ge=0)
    joins: str | None = None
    idempotency: Idempotency | None = None


class AutomationWord(Message):
    """What automation decided about a session, why, and when."""

    decision: str
    reason: str
    at: UtcTime


class SessionRow(Message):
    """A session as its owner sees it. Times and stake as on chain; None while it is opening.

    `automation`: the decision that made it its key's session; None if its user did.
    """

    operation_id: str
    state: SessionState
    slot: Slot | None
    session_id: ChainId | None
    key_prefix: str
    model_id: ChainId
    model: str
    bid_id: ChainId | None
    provider: str | None
    stake: Wei | None
    price_per_second: Wei | None
    opened_at: UtcTime | None
    expires_at: UtcTime | None
    last_used_at: UtcTime | None
    automation: AutomationWord | None = None


class OpensLeft(Message):
    """How many sessions a user may still open in a time: `remaining` of `limit` now, all of them in `reset` seconds."""

    limit: int = Field(ge=0)
    remaining: int = Field(ge=0)
    reset: float = Field(ge=0)


OPENS_LEFT = "opens_left"
"""Under this name the details of an error that answers `OpenSession` hold an `OpensLeft`."""


class OpenOutcome(Message):
    """What an open has come to: `session` is on chain, or `error` says why there is none; neither while it goes on.

    `replayed`: an earlier request with the same `Idempotency-Key` began it. `opens`: of the user, in any minute; None if
    it is not known.
    """

    operation_id: str
    session: SessionRow | None = None
    error: Failure | None = None
    replayed: bool = False
    opens: OpensLeft | None = None


class CurrentSession(Message):
    """None when the key has no current session."""

    session: SessionRow | None


class GetSession(Message):
    """Ask for a key's current session."""

    key_id: str


class ListKeySessions(Message):
    """Ask for the sessions of a key, newest first: those with stake at risk, or those that ended too."""

    key_id: str
    limit: int = Field(ge=1, le=100)
    ended: bool = False


class KeySessions(Message):
    """Sessions of one key, newest first."""

    sessions: list[SessionRow]


class QuoteSession(Message):
    """Ask what a session by model or by bid (exactly one) would take. `duration` in seconds."""

    model_id: ChainId | None = None
    bid_id: ChainId | None = None
    duration: int = Field(ge=300)


class SessionQuote(Message):
    """What a session on a bid would take now, amounts in wei.

    `duration`: the seconds the chain would be asked for. `cost` is `price_per_second * duration`, `stake` what would be
    locked for it: `cost * supply / budget`, rounded up. `affordable`: one of the gateway's wallets holds that much.
    """

    model_id: ChainId
    bid_id: ChainId
    provider: str
    price_per_second: Wei
    duration: int
    cost: Wei
    stake: Wei
    affordable: bool


class CloseSession(Message):
    """Close the current, parked and opening sessions of a key. `operation_id` and `wait` as in `OpenSession`; `joins` are
    the closes an earlier answer to this command named.
    """

    operation_id: str
    user_id: str
    key_id: str
    wait: float = Field(ge=0, le=300)
    joins: list[str] | None = None
    idempotency: Idempotency | None = None


class CloseResult(Message):
    """`session_id` is the session that was current (or else parked, or closing), None if the key had none on chain.
    `confirmed`: the chain said so of all of them; if not (the wait was over) the closes go on by themselves.
    `operations` are these closes, the one of `session_id` first; none if there was nothing to close.
    """

    session_id: ChainId | None
    confirmed: bool
    operations: list[str]
    replayed: bool = False


class ApproveStake(Message):
    """Have the contract allowed to take `amount` wei of MOR at least; the allowance is shared and never lowered.

    `operation_id`, `wait`, `joins` and `idempotency` as in `OpenSession`.
    """

    operation_id: str
    user_id: str
    key_id: str
    amount: Wei = Field(gt=0)
    wait: float = Field(ge=0, le=300)
    joins: str | None = None
    idempotency: Idempotency | None = None


class ApproveOutcome(Message):
    """What an approve has come to: `done`, or `error`; neither while it goes on.

    `tx` is the transaction that set the allowance (None if it was high enough before we ever set it).
    """

    operation_id: str
    done: bool
    tx: str | None = None
    error: Failure | None = None
    replayed: bool = False


class GetStakeAtRisk(Message):
    """Ask how much stake of a user is at risk."""

    user_id: str


class StakeAtRisk(Message):
    """Of one user, in wei: what is locked or may be, and how much that may be at most."""

    at_risk: Wei
    limit: Wei


class OperationKind(StrEnum):
    """What an operation does on chain."""

    OPEN = "open"
    CLOSE = "close"
    APPROVE = "approve"


class OperationProgress(StrEnum):
    """How an operation stands. `unknown`: it was sent, and its outcome is being read from the chain."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    UNKNOWN = "unknown"


class GetOperation(Message):
    """Ask for an operation of a key. `operation_not_found` if the key has none of this id."""

    operation_id: str
    key_id: str


class OperationRow(Message):
    """An operation as its owner sees it. `session_id` is the session's id on chain, `tx` the transaction if known."""

    id: str
    kind: OperationKind
    state: OperationProgress
    session_id: ChainId | None
    tx: str | None
    error: Failure | None
    created_at: UtcTime
    updated_at: UtcTime


class SessionChanged(Message):
    """A session after a change of its state. Ids and figures only, nothing of what was asked or answered."""

    id: str
    state: SessionState
    slot: Slot | None
    user_id: str
    key_id: str
    model_id: ChainId
    bid_id: ChainId | None
    provider: str | None
    session_id: ChainId | None
    stake: Wei | None
    price_per_second: Wei | None
    opened_at: UtcTime | None
    expires_at: UtcTime | None
    reason: str | None = None


CATALOGUE = REGISTRY.rpc(User.SESSIONS, "catalogue", CatalogueQuestion, Catalogue, callers=GATEWAY_ONLY)
# the handler answers when `wait` is over; the rest is for the way there and back
OPEN_SESSION = REGISTRY.rpc(User.SESSIONS, "open", OpenSession, OpenOutcome, callers=GATEWAY_ONLY, timeout=105.0)
CLOSE_SESSION = REGISTRY.rpc(User.SESSIONS, "close", CloseSession, CloseResult, callers=GATEWAY_ONLY, timeout=35.0)
APPROVE_STAKE = REGISTRY.rpc(
    User.SESSIONS, "approve", ApproveStake, ApproveOutcome, callers=GATEWAY_ONLY, timeout=105.0
)
GET_SESSION = REGISTRY.rpc(User.SESSIONS, "get_current", GetSession, CurrentSession, callers=GATEWAY_ONLY)
LIST_SESSIONS = REGISTRY.rpc(User.SESSIONS, "list", ListKeySessions, KeySessions, callers=GATEWAY_ONLY)
# four reads of the router, one after the other where one needs the other
QUOTE_SESSION = REGISTRY.rpc(User.SESSIONS, "quote", QuoteSession, SessionQuote, callers=GATEWAY_ONLY, timeout=20.0)
GET_STAKE_AT_RISK = REGISTRY.rpc(User.SESSIONS, "get_stake_at_risk", GetStakeAtRisk, StakeAtRisk, callers=GATEWAY_ONLY)
GET_OPERATION = REGISTRY.rpc(User.SESSIONS, "get_operation", GetOperation, OperationRow, callers=GATEWAY_ONLY)

_DESCRIPTIONS = {
    "requested": "A session was asked for; nothing is on chain yet.",
    "opened": "The session is on chain and can be used.",
    "parked": "The session stays open on chain but is not its key's current one.",
    "resumed": "A parked session is its key's current one again.",
    "moved": "The session has another id on chain: its block was undone, and it was mined again.",
    "close_requested": "The session takes no prompts any more and will be closed on chain.",
    "closed": "The chain confirmed that the session is closed.",
    "failed": "The session could not be opened; nothing was sent to the chain.",
    "abandoned": "The open was sent, but the session was not seen on chain in time; it is watched for.",
}
SESSION_EVENTS = {
    past_tense: REGISTRY.event(User.SESSIONS, "session", past_tense, SessionChanged, description=text)
    for past_tense, text in _DESCRIPTIONS.items()
}
"""One event a change of state, by its past tense."""
