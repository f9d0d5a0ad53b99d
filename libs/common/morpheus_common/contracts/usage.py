"""What prompts used: the records, the event that tells of them, and the question that adds them up.

Ids and figures only: nothing of a prompt or an answer is ever in one of these.
"""

from enum import StrEnum

from pydantic import Field

from morpheus_common.bus.names import User
from morpheus_common.contracts.base import GATEWAY_ONLY, REGISTRY, ChainId, Message, UtcTime
from morpheus_common.contracts.chat import Endpoint

MAX_RECORDS = 500
"""Records in one event: at worst 600 KB of JSON, where a message on the bus may have 1 MiB."""
MAX_GROUPS = 1_000
MAX_DAYS = 90
"""The longest time that is added up."""
DEFAULT_DAYS = 30

OK = "ok"
CLIENT_GONE = "client_gone"
"""What a prompt came to; else it is the code of the error that its client was told."""


class TokensFrom(StrEnum):
    """Who counted. `provider`: the model, or the provider's node. `router`: our own router. `estimate`: nobody told a figure
    that can be: about four bytes of the request a token, and a token for each chunk of the answer that was passed on.
    """

    PROVIDER = "provider"
    ROUTER = "router"
    ESTIMATE = "estimate"


class UsageRecord(Message):
    """One prompt that a worker took up, whatever it came to. Times are milliseconds from when the worker got it.

    `user_id`, `key_id`, `session_id` (our own id), `chain_session` and `request_id` are None once the user was deleted, and
    those of the session if it never had one. `model_id` and `model` are those that served it, or the one that was asked for.
    `completion_tokens` are those of what was passed on: of an answer whose client left, of as much as it could have got.
    `tokens_from` is None if nothing was counted: nothing was answered. `cached_tokens`: how many of the prompt's came from a
    provider's cache, if it said so. `queue_ms`: how long it stood in line. `first_byte_ms`: None if there was none.
    `outcome`: `ok`, `client_gone`, or the code of the error.
    """

    id: str
    at: UtcTime
    user_id: str | None
    key_id: str | None
    model_id: ChainId | None
    model: str | None
    provider: str | None
    session_id: str | None
    chain_session: ChainId | None
    endpoint: Endpoint
    stream: bool
    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0)
    total_tokens: int = Field(ge=0)
    cached_tokens: int | None = Field(None, ge=0)
    tokens_from: TokensFrom | None
    queue_ms: int = Field(ge=0)
    first_byte_ms: int | None = Field(None, ge=0)
    total_ms: int = Field(ge=0)
    outcome: str
    request_id: str | None


ERASED = ("user_id", "key_id", "session_id", "chain_session", "request_id")
"""What a record loses when its user is deleted. The request's id goes too: logs name a user beside it."""


class UsageRecorded(Message):
    """Records that a worker wrote together."""

    records: list[UsageRecord] = Field(max_length=MAX_RECORDS)


class GroupBy(StrEnum):
    """What is added up together. Days are those of UTC; models are told apart by their id on chain."""

    DAY = "day"
    MODEL = "model"
    KEY = "key"


class GetUsage(Message):
    """Ask what a user has used, of all keys or of one.

    `begin` is the first moment that counts, `end` the first that does not. Without `end` it is the database's time, without
    `begin` 30 days before `end`, without both the last 30 days of UTC with today. `validation_error` for more than 90 days
    or none.
    """

    user_id: str
    key_id: str | None = None
    begin: UtcTime | None = None
    end: UtcTime | None = None
    group_by: GroupBy = GroupBy.DAY


class UsageSums(Message):
    """Exact sums. `errors` and `cancelled` (the client left) are among `requests`; `estimated` is of how many of them the
    tokens are an estimate of ours.
    """

    requests: int = 0
    errors: int = 0
    cancelled: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    estimated: int = 0


class UsageGroup(UsageSums):
    """`group`: a day (`2026-11-27`), a model's id on chain or an API key's id; null: a request that named no model and found
    no session. `model`: the model's name, of groups by model.
    """

    group: str | None
    model: str | None = None


class UsageReport(Message):
    """What was used from `begin` until before `end`. Days in their order, models and keys by tokens, the most first.

    `complete`: there are no more groups; `totals` are of all, those that are not shown too.
    """

    begin: UtcTime
    end: UtcTime
    group_by: GroupBy
    groups: list[UsageGroup] = Field(max_length=MAX_GROUPS)
    totals: UsageSums
    complete: bool


GET_USAGE = REGISTRY.rpc(User.SESSIONS, "get_usage", GetUsage, UsageReport, callers=GATEWAY_ONLY)

USAGE_RECORDED = REGISTRY.event(
    User.SESSIONS,
    "usage",
    "recorded",
    UsageRecorded,
    description="What prompts used, one record each, at most once a second from each worker: `ce-subject` is the worker's "
    "series of records since it started, `ce-sequence` its number in it. Records that come again have the same ids.",
)
