"""What operators ask of the sessions service: what we have recorded, what the chain says, and the few things to do.

Only the user `ops` may ask (`morpheus sessions`). Session workers alone talk to routers and to their database, so they
answer; whoever compares needs no credentials of either. Answers are pages, each far below the 1 MiB the bus takes.
"""

from enum import StrEnum

from pydantic import Field

from morpheus_common.bus.names import User
from morpheus_common.contracts.base import REGISTRY, ChainId, Empty, Message, UtcTime, Wei
from morpheus_common.contracts.sessions import SessionState, Slot

OPS_ONLY = frozenset({User.OPS})
PAGE_ROWS = 100
"""Rows of a page at most; none is larger than 3 kB."""
MODEL_NAME_CHARS = 80
"""What a row shows of a model's name: anybody can register one of a megabyte."""


class OperatedWallet(Message):
    """One router and its wallet as a worker sees them.

    `wallet`, `chain`, `height` (of the router's node) and `balance` are None while the router does not answer;
    `problem` says why. `deployment` is our number in the tag of a stake. `pass_seconds`: how often the wallet's loop holds
    records and chain side by side by itself. `state`: what the answering worker knows of it, `ok`, `away`, or why it is not
    used.
    """

    router: str
    wallet: str | None = None
    chain: int | None = None
    height: int | None = None
    balance: Wei | None = None
    deployment: int
    pass_seconds: float
    problem: str | None = None
    state: str = ""


class OperatedWallets(Message):
    """Every router that the answering worker is told of. `now` is its time."""

    wallets: list[OperatedWallet]
    now: UtcTime


class ListSessions(Message):
    """Ask for records of sessions, oldest first. `after`: the last `id` of the page before."""

    states: list[SessionState] = Field(min_length=1)
    router: str | None = None
    after: str | None = None
    limit: int = Field(PAGE_ROWS, ge=1, le=PAGE_ROWS)


class OperatedSession(Message):
    """A session as it is recorded. `id` is our own, `session_id` the chain's, None while it is opening.

    `operation`: the kind of the operation that still works on it, `open` or `close`; None when none does. `stuck`: its
    close gets no report from the provider. `ours`: its stake carries our tag. `reserved`: what is set aside for one that
    is opening, exactly the stake once it is sent; None of any other.
    """

    id: str
    state: SessionState
    slot: Slot | None
    session_id: ChainId | None
    router: str | None
    wallet: str | None
    key_id: str
    key_prefix: str
    user_id: str
    model_id: ChainId
    model: str
    bid_id: ChainId | None
    provider: str | None
    stake: Wei | None
    ours: bool
    wanted: bool
    reason: str | None
    operation_id: str
    operation: str | None
    stuck: bool
    created_at: UtcTime
    opened_at: UtcTime | None
    ends_at: UtcTime | None
    reserved: Wei | None = None


class OperatedSessions(Message):
    """A page of records. `more`: ask again after the last one. `now` is the worker's time."""

    sessions: list[OperatedSession]
    more: bool
    now: UtcTime


class ReadChain(Message):
    """Ask for a page of the sessions that the chain has of a router's wallet, newest first, closed ones included."""

    router: str
    offset: int = Field(0, ge=0)
    limit: int = Field(PAGE_ROWS, ge=1, le=PAGE_ROWS)


class LinkedRecord(Message):
    """A record of ours with this session's id on chain."""

    id: str
    state: SessionState
    key_id: str
    stake: Wei | None
    wallet: str | None


class LinkedOpen(Message):
    """An open of ours with exactly this wallet, bid and stake. `state` of the operation: `pending`, `sent`, `unknown`,
    `done`, `failed` or `abandoned`.
    """

    id: str
    state: str
    session: str


class OnChain(Message):
    """A session as the chain has it. `ours`: its stake carries our tag.

    `records` and `opens` are what our records say of it, the first ten of each; in a listing of open ones only.
    """

    session_id: ChainId
    router: str
    wallet: str
    chain: int
    bid_id: ChainId
    provider: str
    model_id: ChainId
    stake: Wei
    ours: bool
    opened_at: UtcTime
    ends_at: UtcTime
    closed_at: UtcTime | None
    records: list[LinkedRecord]
    opens: list[LinkedOpen]


class ChainPage(Message):
    """A page of a listing, and the height of the chain from which it was read (the lower of before and after)."""

    sessions: list[OnChain]
    more: bool
    height: int


class LookAt(Message):
    """Ask for one session by its id on chain. Of no wallet of ours, or unknown there: `session_not_found`."""

    session_id: ChainId


class Rule(StrEnum):
    """An invariant that the records alone can break; unique indexes and transactions are to keep them."""

    SLOT = "slot"
    CHAIN_SESSION = "chain_session"
    OPERATION = "operation"
    APPROVAL = "approval"


class Doubled(Message):
    """More than one record with what only one may have. `ids`: sessions, for `approval` operations; the first ten."""

    rule: Rule
    key: str
    ids: list[str]


class DoubledRecords(Message):
    """What breaks a rule, the first hundred of each. An approval is never told, not even in part."""

    doubled: list[Doubled]


class PlannedAct(StrEnum):
    """What a pass would do about a session, or the wallet's loop about an operation."""

    ADOPT = "adopt"
    MOVE = "move to its new id"
    DISPLACE = "free its id"
    SETTLE_CLOSED = "settle as closed"
    PARK_EXPIRED = "park as expired"
    OPEN = "open"
    CLOSE = "close"
    RESEND = "resend"
    WATCH = "watch"
    ABANDON = "abandon"
    SUSPECT = "suspect"
    SEEN_AGAIN = "seen again"
    FOREIGN = "foreign"
    LOST = "lost"


class PlanPass(Message):
    """Ask what a pass over a router's wallet would do. Changes nothing."""

    router: str
    offset: int = Field(0, ge=0)
    limit: int = Field(PAGE_ROWS, ge=1, le=PAGE_ROWS)


class Planned(Message):
    """One thing a pass or the loop would do, and why. `id` of the record, `session_id` the chain's; what is not there
    yet is None. `under_way`: the next step of an operation that the loop carries on by itself, nothing a pass has found.
    """

    act: PlannedAct
    reason: str
    id: str | None = None
    session_id: ChainId | None = None
    operation_id: str | None = None
    key_id: str | None = None
    stake: Wei | None = None
    under_way: bool = False


class PlannedPass(Message):
    """A page of what would be done. Each page is worked out anew: what was done meanwhile is not in the next."""

    planned: list[Planned]
    more: bool
    height: int


class MakePass(Message):
    """Ask the loop of a router's wallet to make a complete pass now, and what waits to be tried at once.

    `wait`: how long to wait for it (seconds).
    """

    router: str
    wait: float = Field(30.0, ge=0, le=120)


class PassMade(Message):
    """`made`: the pass is over, `done` says what it did (how often each act). Else the loop will still make it, unless
    no worker holds the wallet. `under_way`: operations that the loop carries on by itself.
    """

    made: bool
    done: dict[str, int]
    under_way: int = 0


class AdoptLost(Message):
    """Make a record for a lost session: open on a wallet of ours, with our tag, without a record.

    It is parked for `key_id`, whose owner is `user_id` (None: as our records know). Repeating it answers the record.
    `foreign_session` without our tag, `session_known` if a record or an open of ours already stands for it.
    """

    session_id: ChainId
    key_id: str = Field(min_length=1, max_length=100)
    user_id: str | None = Field(None, min_length=1, max_length=100)


class CloseOurs(Message):
    """Queue the close of a session of ours, by its id on chain or our own.

    `foreign_session` without our tag; `session_unrecorded` for one that has to be adopted first; `session_not_found`.
    """

    session_id: str = Field(min_length=1, max_length=100)
    unrecorded: bool = Field(False, description="close it although the act cannot be entered into the audit log")


class CloseQueued(Message):
    """`operation_id` of the close, None while the session is still opening: it is closed as soon as it is on chain."""

    session: OperatedSession
    operation_id: str | None


WALLETS = REGISTRY.rpc(User.SESSIONS, "operator_wallets", Empty, OperatedWallets, callers=OPS_ONLY, timeout=30.0)
LIST_SESSIONS = REGISTRY.rpc(
    User.SESSIONS, "operator_list", ListSessions, OperatedSessions, callers=OPS_ONLY, timeout=15.0
)
READ_CHAIN = REGISTRY.rpc(User.SESSIONS, "operator_chain", ReadChain, ChainPage, callers=OPS_ONLY, timeout=60.0)
LOOK_AT = REGISTRY.rpc(User.SESSIONS, "operator_look", LookAt, OnChain, callers=OPS_ONLY, timeout=60.0)
DOUBLED_RECORDS = REGISTRY.rpc(User.SESSIONS, "operator_doubled", Empty, DoubledRecords, callers=OPS_ONLY, timeout=60.0)
# a plan reads the whole listing of a wallet
PLAN_PASS = REGISTRY.rpc(User.SESSIONS, "operator_plan", PlanPass, PlannedPass, callers=OPS_ONLY, timeout=300.0)
MAKE_PASS = REGISTRY.rpc(User.SESSIONS, "operator_pass", MakePass, PassMade, callers=OPS_ONLY, timeout=125.0)
ADOPT_LOST = REGISTRY.rpc(User.SESSIONS, "operator_adopt", AdoptLost, OperatedSession, callers=OPS_ONLY, timeout=60.0)
CLOSE_OURS = REGISTRY.rpc(User.SESSIONS, "operator_close", CloseOurs, CloseQueued, callers=OPS_ONLY, timeout=60.0)
