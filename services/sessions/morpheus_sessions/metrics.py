"""What a session worker measures as it works. What it reads to show it is in gauges.py.

Observing costs about a microsecond; nothing here waits, and nothing is measured for each chunk of an answer.
"""

import asyncio
import time
from types import TracebackType
from typing import Final, Self

from morpheus_common.contracts.chat import Endpoint
from morpheus_common.contracts.usage import UsageRecord
from morpheus_common.errors import CATALOGUE
from morpheus_common.metrics import LONG_SECONDS, REGISTRY, at_most
from prometheus_client import Counter, Histogram

from morpheus_sessions.router_calls import CALLS

MOST_ROUTERS: Final = 4
"""Routers of one worker for which its series stay within the budget; each more is about 200."""

PROMPT_BUCKETS: Final = (0.1, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0)
CALL_SECONDS: Final = (0.05, 0.25, 1.0, 5.0, 30.0, 240.0)
"""Buckets of calls to a router: from a reading to the longest transaction. Few, because each router has them for each call."""

PROMPT_SECONDS: Final = at_most(
    Histogram(
        "gen_ai_client_operation_duration_seconds",
        "From the call of the router to the end of its answer; outcome left: the client did not wait for it",
        ["gen_ai_operation_name", "outcome", "router"],
        buckets=PROMPT_BUCKETS,
        registry=REGISTRY,
    ),
    len(Endpoint) * 3 * MOST_ROUTERS,
)
TOKENS: Final = at_most(
    Counter(
        "gen_ai_client_token_usage",
        "Tokens of prompts that are over, as the usage records count them",
        ["gen_ai_token_type"],
        registry=REGISTRY,
    ),
    2,
)
PROMPTS: Final = at_most(
    Counter(
        "morpheus_prompts",
        "Prompts that this worker took up and that are over, or that it refused: ok, client_gone, or an error code",
        ["mode", "outcome"],
        registry=REGISTRY,
    ),
    2 * (len(CATALOGUE) + 2),
)
WAITS: Final = at_most(
    Histogram(
        "morpheus_prompt_wait_seconds",
        "What prompts waited for: others of their key (queue), the database (claim), the chain (open)",
        ["stage"],
        buckets=LONG_SECONDS,
        registry=REGISTRY,
    ),
    3,
)
FRAMES_REFUSED: Final = at_most(
    Counter(
        "morpheus_frames_refused",
        "Frames of gateways for attempts that are not here (credit, body, cancel), and bodies with a gap or too long (gap)",
        ["frame"],
        registry=REGISTRY,
    ),
    4,
)
"""Some come after the end of an attempt, as they may. Where a frame could reach another's attempt (I4), these would rise."""
TAKEN_OVER: Final = at_most(
    Counter(
        "morpheus_sessions_taken_over",
        "Sessions taken from a worker that died, by the mark it left: busy (they rest), or none",
        ["mark"],
        registry=REGISTRY,
    ),
    2,
)
"""Without a mark a prompt may run all the same, if its worker died before the mark was written (I8): this often at most."""
ROUTER_SECONDS: Final = at_most(
    Histogram(
        "morpheus_router_seconds",
        "Calls to a router but prompts, to their end whatever it was",
        ["router", "call"],
        buckets=CALL_SECONDS,
        registry=REGISTRY,
    ),
    len(CALLS) * MOST_ROUTERS,
)
FAILED_CALLS: Final = at_most(
    Counter(
        "morpheus_router_errors",
        "Calls to a router that failed: unreachable, timeout, refused, chain (it could not read its chain), other",
        ["router", "kind"],
        registry=REGISTRY,
    ),
    5 * MOST_ROUTERS,
)

_OPERATIONS: Final = {Endpoint.CHAT: "chat", Endpoint.EMBEDDINGS: "embeddings"}
"""OpenTelemetry's names."""
_INPUT: Final = TOKENS.labels("input")
_OUTPUT: Final = TOKENS.labels("output")
QUEUE: Final = WAITS.labels("queue")
CLAIM: Final = WAITS.labels("claim")
OPEN: Final = WAITS.labels("open")
for _frame in ("credit", "body", "cancel", "gap"):
    FRAMES_REFUSED.labels(_frame)
for _mark in ("busy", "none"):
    TAKEN_OVER.labels(_mark)


class PromptTimer:
    """Measures the block in which a router answers a prompt."""

    __slots__ = ("_endpoint", "_router", "_started_at")

    def __init__(self, endpoint: Endpoint, router: str) -> None:
        self._endpoint = endpoint
        self._router = router

    def __enter__(self) -> Self:
        self._started_at = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        outcome = "ok" if kind is None else "left" if issubclass(kind, asyncio.CancelledError) else "error"
        seconds = time.monotonic() - self._started_at
        PROMPT_SECONDS.labels(_OPERATIONS[self._endpoint], outcome, self._router).observe(seconds)


def count_prompt(*, stream: bool, outcome: str) -> None:
    """Count a prompt that is over, or was refused."""
    PROMPTS.labels("stream" if stream else "json", outcome).inc()


def count_used(record: UsageRecord) -> None:
    """Count a prompt that this worker took up, and what it used."""
    count_prompt(stream=record.stream, outcome=record.outcome)
    _INPUT.inc(record.prompt_tokens)
    _OUTPUT.inc(record.completion_tokens)
