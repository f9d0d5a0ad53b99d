"""What a request carries through every process: its id, its trace, and how long its caller still waits."""

import random
import re
import time
from contextvars import ContextVar
from dataclasses import dataclass

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id the gateway gave the request (UUIDv7); on every log line, bus message and call to a router."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point on this process's monotonic clock (seconds). Never sent anywhere: the bus carries the time left."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        """Return the deadline that is `seconds` from now."""
        return cls(time.monotonic() + seconds)

    @property
    def left(self) -> float:
        """Seconds left, negative when it has passed."""
        return self.at - time.monotonic()

    @property
    def passed(self) -> bool:
        """Tell whether the caller has given up by now."""
        return self.left <= 0


deadline: ContextVar[Deadline | None] = ContextVar("deadline", default=None)
"""When the caller of the running handler gives up."""


def seconds_left(at_most: float) -> float:
    """Return how long a call made now may take: `at_most` seconds, or less if our own caller gives up sooner."""
    current = deadline.get()
    return at_most if current is None else max(0.001, min(at_most, current.left))


_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16


class TracePoint:
    """A place in a trace: its ids in lower-case hex, and whether what happens there is recorded."""

    __slots__ = ("is_sampled", "span_id", "trace_id")

    def __init__(self, trace_id: str, span_id: str, *, is_sampled: bool) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.is_sampled = is_sampled

    @property
    def traceparent(self) -> str:
        """The header that names it (W3C Trace Context)."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.is_sampled else '00'}"

    @classmethod
    def read(cls, header: str | None) -> "TracePoint | None":
        """Return the place that a header names, None if it names none."""
        found = _TRACEPARENT.fullmatch(header) if header else None
        if found is None or found[1] == _NO_TRACE or found[2] == _NO_SPAN:
            return None
        return TracePoint(found[1], found[2], is_sampled=bool(int(found[3], 16) & 1))


trace_point: ContextVar[TracePoint | None] = ContextVar("trace_point", default=None)
"""The span that what is done now belongs to, if this process makes traces."""


def new_span_id() -> str:
    """Return an id that no other span has."""
    # no secret: it has to be different, and costs a fifth of what the system's randomness does
    return f"{random.getrandbits(64) | 1:016x}"


def new_trace_id() -> str:
    """Return an id that no other trace has."""
    return f"{random.getrandbits(128) | 1:032x}"


def traceparent() -> str | None:
    """Return the W3C trace context of what is done now, None outside a request.

    Where no traces are made its trace id is the request id and it is not sampled, so that a request can be found by it
    all the same.
    """
    point = trace_point.get()
    if point is not None:
        return point.traceparent
    current = request_id.get()
    if current is None:
        return None
    return f"00-{current.replace('-', '')}-{new_span_id()}-00"
