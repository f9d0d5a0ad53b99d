"""What a wallet holds, read from its router."""

import asyncio
import time
from dataclasses import dataclass

from morpheus_sessions.router import Router

FRESH_SECONDS = 3.0
"""A chain makes a block in two."""


@dataclass(frozen=True, slots=True)
class Purse:
    """Amounts in wei. `mor` is what lies free in the wallet, `gas` its ETH, `allowance` what the contract may take of `mor`."""

    mor: int
    gas: int
    allowance: int


class PurseReader:
    """Reads the purse of the wallet behind one router; those who ask at the same time, or soon after, share a reading."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._lock = asyncio.Lock()
        self._last: Purse | None = None
        self._read_at = float("-inf")
        self._last_read_at = float("-inf")

    async def read(self, *, at_most: float = FRESH_SECONDS) -> Purse:
        """Return the purse, read at most so many seconds ago. Raises one of `ROUTER_ERRORS`."""
        asked_at = time.monotonic()
        async with self._lock:
            if self._last is None or self._read_at < asked_at - at_most:
                started = time.monotonic()
                if not self._router.wallet:
                    await self._router.identify()
                mor, gas = await self._router.funds()
                allowance = await self._router.allowance(self._router.diamond)
                self._last, self._read_at = Purse(mor, gas, allowance), started
                self._last_read_at = started
            return self._last

    def last(self, *, within: float) -> Purse | None:
        """Return the last reading if it was begun at most so many seconds ago, without asking anybody."""
        if time.monotonic() - self._last_read_at > within:
            return None
        return self._last

    def forget(self) -> None:
        """Have it read anew: we changed it ourselves."""
        self._read_at = float("-inf")
