"""Whether the database answers, known without asking: what a `ping` is answered from."""

import asyncio
import time

from morpheus_common.store.mongo import Database, is_reachable

CHECK_SECONDS = 1.0
FRESH_SECONDS = 2.0
"""An answer older than this no longer counts."""


class DatabaseWatch:
    """Asks the database again and again, and remembers when it last answered."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._answered_at = float("-inf")

    @property
    def healthy(self) -> bool:
        """Tell whether a question asked at most two seconds ago was answered."""
        return time.monotonic() - self._answered_at < FRESH_SECONDS

    async def check(self) -> None:
        """Ask once."""
        asked_at = time.monotonic()
        if await is_reachable(self._database):
            self._answered_at = asked_at

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            await self.check()
            await asyncio.sleep(CHECK_SECONDS)
