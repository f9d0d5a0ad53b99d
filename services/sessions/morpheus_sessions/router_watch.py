"""Whether a proxy-router answers, known without asking: what a `ping` is answered from."""

import asyncio
import time

from morpheus_sessions.router import Router

CHECK_SECONDS = 1.0
FRESH_SECONDS = 5.0
"""A router under load may take seconds for its health check."""


class RouterWatch:
    """Asks the routers again and again, and remembers when one last answered."""

    def __init__(self, routers: list[Router]) -> None:
        self._routers = routers
        self._answered_at = float("-inf")

    @property
    def healthy(self) -> bool:
        """Tell whether at least one router answered lately."""
        return time.monotonic() - self._answered_at < FRESH_SECONDS

    async def check(self) -> None:
        """Ask all once."""
        asked_at = time.monotonic()
        if any(await asyncio.gather(*(router.is_healthy() for router in self._routers))):
            self._answered_at = asked_at

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            await self.check()
            await asyncio.sleep(CHECK_SECONDS)
