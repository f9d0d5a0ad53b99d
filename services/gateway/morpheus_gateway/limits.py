"""How often a caller may do what costs. Counted in this process: several gateways allow as many times more."""

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

from morpheus_common.errors import ApiError

MAX_CALLERS = 100_000
"""So many callers are remembered; the one not seen for longest is forgotten."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a caller stands. `reset`: seconds until nothing of what it did counts any more."""

    limit: int
    remaining: int
    reset: float

    def headers(self) -> dict[str, str]:
        """Return the headers that tell it, named and written as OpenAI does."""
        return {
            "x-ratelimit-limit-requests": str(self.limit),
            "x-ratelimit-remaining-requests": str(self.remaining),
            "x-ratelimit-reset-requests": go_duration(self.reset),
        }


class RateLimited(ApiError):
    """The caller has to wait."""

    def __init__(self, standing: Standing, wait: float) -> None:
        super().__init__("rate_limit_exceeded", retry_after=math.ceil(wait))
        self.standing = standing


class SlidingWindow:
    """At most `limit` requests of a caller in any `seconds`."""

    def __init__(self, limit: int, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._seconds = seconds
        self._clock = clock
        self._taken: OrderedDict[str, deque[float]] = OrderedDict()

    def take(self, caller: str) -> Standing:
        """Count a request of a caller. Raises `RateLimited`, and then does not count it."""
        now = self._clock()
        taken = self._taken.setdefault(caller, deque())
        self._taken.move_to_end(caller)
        while len(self._taken) > MAX_CALLERS:
            self._taken.popitem(last=False)
        while taken and taken[0] <= now - self._seconds:
            taken.popleft()
        if len(taken) >= self._limit:
            raise RateLimited(self._standing(taken, now), taken[0] + self._seconds - now)
        taken.append(now)
        return self._standing(taken, now)

    def _standing(self, taken: deque[float], now: float) -> Standing:
        return Standing(self._limit, self._limit - len(taken), taken[-1] + self._seconds - now)


def go_duration(seconds: float) -> str:
    """Return a duration as Go writes it: `850ms`, `1.5s`, `6m0s`."""
    # what a sum of floats has too much at its last digits is no millisecond
    milliseconds = max(0, math.ceil(round(seconds * 1000, 3)))
    if milliseconds < 1000:
        return f"{milliseconds}ms" if milliseconds else "0s"
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text
