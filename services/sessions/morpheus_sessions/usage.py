"""What one prompt used: told as it goes, counted when it is over. Pure, no I/O.

A token costs nobody anything here: the figures are for users and operators to see. So they are never made up where
something was told, and where nothing was they are an estimate that says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from morpheus_common.contracts.chat import Endpoint, PromptHead
from morpheus_common.contracts.usage import CLIENT_GONE, OK, TokensFrom, UsageRecord
from morpheus_common.ids import uuid7

from morpheus_sessions.ownership import OwnedSession

TOLD_BY: Final = (
    ("usage", TokensFrom.PROVIDER),
    ("usage_from_provider", TokensFrom.PROVIDER),
    ("usage_from_consumer", TokensFrom.ROUTER),
)
"""Where an answer says what it took, best first: the model, the provider's node, our own router (proxy-router contract,
section 4).
"""
MOST_TOKENS: Final = 10_000_000
"""A figure above this is wrong: no model takes or gives as much in one answer."""
MOST_ESTIMATED: Final = 131_072
"""An estimate is never above this: a picture in a request has megabytes and few tokens."""
BYTES_A_TOKEN: Final = 4
NAME_LENGTH: Final = 128
"""Names of models on chain are free text."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """How many, and who counted: None if nothing was answered."""

    prompt: int = 0
    completion: int = 0
    total: int = 0
    cached: int | None = None
    source: TokensFrom | None = None


def count(told: Mapping[str, Any], *, passed_on: int, body_bytes: int, endpoint: Endpoint) -> Tokens:
    """Return what an answer took, by the first of those who told of it whose figures can be; else by an estimate.

    `told` is what stands in the part that was passed on, by the names in `TOLD_BY`; `passed_on` about how many tokens that
    part has (a chunk of a stream is taken for one). A completion counts as far as it was passed on: none for a client who
    left before its JSON answer came, never none for one who got a part.
    """
    if not told and not passed_on:
        return Tokens()
    spoken = 0 if endpoint is Endpoint.EMBEDDINGS else passed_on
    for name, source in TOLD_BY:
        tokens = _usable(told.get(name), source, is_spoken=spoken > 0)
        if tokens is not None:
            return tokens
    prompt = min(MOST_ESTIMATED, max(1, body_bytes // BYTES_A_TOKEN))
    completion = min(MOST_ESTIMATED, spoken)
    return Tokens(prompt, completion, prompt + completion, None, TokensFrom.ESTIMATE)


def _usable(usage: Any, source: TokensFrom, *, is_spoken: bool) -> Tokens | None:
    """Return the figures of one who told, None if they cannot be: missing, no whole numbers, negative, none where there was
    something, beyond all models.
    """
    if not isinstance(usage, dict):
        return None
    prompt = _figure(usage.get("prompt_tokens"))
    completion = _figure(usage.get("completion_tokens")) if is_spoken else 0
    if not prompt or completion is None or (is_spoken and not completion):
        return None
    total = _figure(usage.get("total_tokens")) if is_spoken else None
    if total is None or total < prompt + completion:
        total = prompt + completion
    details = usage.get("prompt_tokens_details")
    cached = _figure(details.get("cached_tokens")) if isinstance(details, dict) else None
    if cached is not None and cached > prompt:
        cached = None
    return Tokens(prompt, completion, total, cached, source)


def _figure(value: Any) -> int | None:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return value if is_whole and 0 <= value <= MOST_TOKENS else None


UNDATED: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Used:
    """One prompt that is over. Its record is `UNDATED` until it is written, when the database's clock tells when
    `started_at` (monotonic seconds of this process) was.
    """

    started_at: float
    record: UsageRecord


@dataclass(slots=True)
class Tally:
    """Is told what happens to one prompt. Times are monotonic seconds.

    `is_taken_up`: this worker runs it, because it has the whole body and the credit that only one attempt is given.
    """

    head: PromptHead
    started_at: float
    is_taken_up: bool = False
    told: Mapping[str, Any] = field(default_factory=dict)
    _session: OwnedSession | None = None
    _passed_on: int = 0
    _first_at: float | None = None
    _error: str | None = None
    _goes_on_elsewhere: bool = False

    def ran_in(self, session: OwnedSession) -> None:
        """It goes to the router in this session; of two, the second has it."""
        self._session = session

    def passed_on(self, told: Mapping[str, Any], tokens: int, now: float) -> None:
        """So much of the answer has gone out by now; `told` is what was said in it of the whole."""
        self.told = told
        self._passed_on = tokens
        if self._first_at is None:
            self._first_at = now

    def failed(self, code: str, *, not_sent: bool) -> None:
        """Its client is told this. `not_sent`: no router got it, and the gateway may give it to another attempt."""
        self._error = code
        self._goes_on_elsewhere = not_sent

    def end(self, now: float, *, turn_at: float, is_gone: bool, has_answered: bool) -> Used | None:
        """Return what it used; None if it was not this worker's, or not any more, and the first time only.

        `turn_at`: when it came to its turn, `started_at` if it never did. `is_gone`: its client has left.
        """
        if not self.is_taken_up or (self._goes_on_elsewhere and not is_gone):
            return None
        self.is_taken_up = False
        head, session = self.head, self._session
        # a large piece of a stream goes out in parts; of a JSON answer a part is of no use to anybody
        passed_on = max(self._passed_on, 1) if has_answered and head.stream else self._passed_on
        tokens = count(self.told, passed_on=passed_on, body_bytes=head.body_bytes, endpoint=head.endpoint)
        left_line_at = turn_at if turn_at > self.started_at else now
        record = UsageRecord.model_construct(
            id=uuid7(),
            at=UNDATED,
            user_id=head.user_id,
            key_id=head.key_id,
            model_id=head.model_id if session is None else session.model_id,
            model=None if session is None else session.model_name[:NAME_LENGTH],
            provider=None if session is None else session.provider,
            session_id=None if session is None else session.id,
            chain_session=None if session is None else session.chain_session or None,
            endpoint=head.endpoint,
            stream=head.stream,
            prompt_tokens=tokens.prompt,
            completion_tokens=tokens.completion,
            total_tokens=tokens.total,
            cached_tokens=tokens.cached,
            tokens_from=tokens.source,
            queue_ms=_milliseconds(left_line_at - self.started_at),
            first_byte_ms=None if self._first_at is None else _milliseconds(self._first_at - self.started_at),
            total_ms=_milliseconds(now - self.started_at),
            outcome=CLIENT_GONE if is_gone else self._error or OK,
            request_id=head.request_id,
        )
        return Used(self.started_at, record)


def _milliseconds(seconds: float) -> int:
    return max(0, round(seconds * 1000))
