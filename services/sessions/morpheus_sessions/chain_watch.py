"""Whether the routers' chain nodes answer, and how their chains grow: asked now and then, known without asking.

A router answers for itself without its node: who it is, whether it is healthy. What it reads from the chain it answers with an
error then, or not at all (proxy-router contract, section 6); after about five minutes without its node it ends.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from morpheus_common.logs import get_logger

from morpheus_sessions.router import ROUTER_ERRORS, Router, RouterUnreachable

log = get_logger(__name__)

LEAP_BLOCKS: Final = 10_000
"""Five hours of blocks at two seconds each. No chain reorganises so many; one height this far from the last may be none."""
LEAPS_BELIEVED: Final = 4
"""So many heights in a row, all that far from the last that was believed, show that it is the wrong one: a minute at 15 s."""


@dataclass(slots=True)
class Chain:
    """What is known of the chain behind one router. Times are monotonic seconds.

    `is_up`: None if its router does not answer. `height`: of the node, None unless it is up. `rose_at`: when it was last seen to
    rise above the `highest` before. `leaps`: how many heights in a row were too far from that to be believed.
    """

    is_up: bool | None = None
    height: int | None = None
    highest: int = -1
    rose_at: float | None = None
    leaps: int = 0


class ChainWatch:
    """Asks every router for the height of its node, every so many seconds."""

    def __init__(
        self, routers: Iterable[Router], *, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._routers = list(routers)
        self._seconds = seconds
        self._clock = clock
        self.chains: Mapping[str, Chain] = {router.name: Chain() for router in self._routers}

    def block_age(self, router: str) -> float | None:
        """Return for how many seconds no newer block was seen, None if none was ever.

        The router tells no block's time; so a block is taken to be as old as our sight of it.
        """
        rose_at = self.chains[router].rose_at
        return None if rose_at is None else self._clock() - rose_at

    async def run(self) -> None:
        """Ask until cancelled: one that is slow keeps no other waiting."""
        await asyncio.gather(*(self._watch(router) for router in self._routers))

    async def _watch(self, router: Router) -> None:
        while True:
            await self.look(router)
            await asyncio.sleep(self._seconds)

    async def look(self, router: Router) -> None:
        """Ask one router."""
        chain = self.chains[router.name]
        before = chain.is_up
        try:
            height = await router.latest_block()
        except ROUTER_ERRORS as error:
            chain.height = None
            chain.is_up = False if await self._is_there(router, error) else None
        else:
            chain.is_up, chain.height = True, height
            self._note(chain, height)
        if chain.is_up is not before and chain.is_up is False:
            log.error("a router answers, and its chain node does not", router=router.name)

    def _note(self, chain: Chain, height: int) -> None:
        if chain.rose_at is not None and abs(height - chain.highest) > LEAP_BLOCKS:
            chain.leaps += 1
            if chain.leaps == LEAPS_BELIEVED:
                # its age stays: only the next block shows that the chain grows, and not another node behind the same router
                chain.highest, chain.leaps = height, 0
            return
        chain.leaps = 0
        if height > chain.highest:
            chain.highest, chain.rose_at = height, self._clock()

    async def _is_there(self, router: Router, error: Exception) -> bool:
        if isinstance(error, RouterUnreachable):
            return False
        try:
            await router.current_wallet()
        except ROUTER_ERRORS:
            return False
        return True
