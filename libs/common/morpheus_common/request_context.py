"""What a request carries through every process: its id, its trace, and how long its caller still waits."""

import secrets
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


def traceparent() -> str | None:
    """Return a W3C trace context whose trace id is the request id, or None outside a request."""
    current = request_id.get()
    if current is None:
        return None
    return f"00-{current.replace('-', '')}-{secrets.token_hex(8)}-01"
