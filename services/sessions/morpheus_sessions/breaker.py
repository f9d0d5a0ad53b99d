"""A circuit breaker: what fails again and again is left alone for a while, then tried with one open."""

import time
from collections.abc import Callable
from enum import StrEnum

FAILURES = 3
"""So many failures in a row open it."""
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 5.0
"""A probe costs a router next to nothing, and its users wait for it to be found again."""


class Circuit(StrEnum):
    """Closed: it works. Open: it is left alone. Half open: it answers again, and one open shows whether it works."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """The circuit to one router. `clock` in seconds, from any start."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._unanswered = 0
        self._pause = FIRST_PAUSE_SECONDS
        self._open_until = 0.0
        self.state = Circuit.CLOSED

    @property
    def may_probe(self) -> bool:
        """Tell whether it may be asked whether it is there."""
        return self.state is not Circuit.OPEN or self._clock() >= self._open_until

    def may_open(self, running: int) -> bool:
        """Tell whether one more open may be given to it while `running` are under way."""
        return self.state is Circuit.CLOSED or (self.state is Circuit.HALF_OPEN and running == 0)

    def failed(self) -> None:
        """It did not do what an open needs of it. A probe that it answers takes nothing of that back: a router whose chain
        node hangs still knows its wallet.
        """
        self._failures += 1
        if self.state is not Circuit.CLOSED or self._failures >= FAILURES:
            self._open()

    def unanswered(self) -> None:
        """It did not answer a probe."""
        self._unanswered += 1
        if self.state is not Circuit.CLOSED or self._unanswered >= FAILURES:
            self._open()

    def refused(self) -> None:
        """It does not take our credentials: that passes with no repetition."""
        self._open()

    def answered(self) -> None:
        """It answered a probe."""
        self._unanswered = 0
        if self.state is Circuit.OPEN and self.may_probe:
            self.state = Circuit.HALF_OPEN

    def succeeded(self) -> None:
        """It did what an open needs of it."""
        if self.state is Circuit.OPEN:
            # what was under way when it opened says nothing of now
            return
        self.state = Circuit.CLOSED
        self._failures = 0
        self._pause = FIRST_PAUSE_SECONDS

    def _open(self) -> None:
        if self.state is Circuit.OPEN and not self.may_probe:
            return
        self._open_until = self._clock() + self._pause
        self._pause = min(LONGEST_PAUSE_SECONDS, 2 * self._pause)
        self.state = Circuit.OPEN
