"""Whether this process lives, and whether it can do its work: what a supervisor is told on the private port."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

TURN_SECONDS: Final = 0.5
"""How often the event loop shows that it turns."""
STANDSTILL_SECONDS: Final = 30.0
"""A loop that has not turned for so long hangs: nothing that a service does holds it for a second."""

Check = Callable[[], bool]


def _works(check: Check) -> bool:
    try:
        return check()
    except Exception:  # noqa: BLE001 - whatever it is, the answer is the same
        # asked by another thread, while what it looks at is put together or taken apart: it is not there
        return False


class Standing:
    """Asked by the thread of the private port, told by the event loop: what is kept here is read and written whole.

    A process *lives* while its loop turns, whatever it has lost: a supervisor that restarts it for a database that is away
    makes things worse. It is *ready* while nothing of what it needs is missing and nobody has told it to go.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._turned_at = clock()
        self._checks: dict[str, Check] = {}
        self.lag = 0.0
        """How much later than asked for the loop turned the last time, in seconds."""

    def need(self, part: str, works: Check) -> None:
        """Call the process not ready while `works` says that `part` does not. Said again of the same part, the last counts."""
        self._checks = {**self._checks, part: works}

    @property
    def parts(self) -> dict[str, bool]:
        """Every part that is needed, and whether it works."""
        return {part: _works(works) for part, works in self._checks.items()}

    @property
    def missing(self) -> list[str]:
        """What keeps the process from being ready."""
        return [part for part, works in self.parts.items() if not works]

    @property
    def lives(self) -> bool:
        """Tell whether the event loop turned not long ago."""
        return self._clock() - self._turned_at < STANDSTILL_SECONDS

    def turned(self) -> None:
        """Note that the loop turns."""
        self._turned_at = self._clock()

    async def keep(self) -> None:
        """Note it again and again (a background job)."""
        while True:
            self.turned()
            await asyncio.sleep(TURN_SECONDS)
            self.lag = max(0.0, self._clock() - self._turned_at - TURN_SECONDS)
