"""The one loop that waits for a condition."""

import asyncio
from collections.abc import Awaitable, Callable

POLL_SECONDS = 0.02
"""Servers are ready within tens of milliseconds; a coarser poll would be felt at every start."""


async def poll(condition: Callable[[], Awaitable[bool]], *, seconds: float, every: float = POLL_SECONDS) -> bool:
    """Ask `condition` until it holds; tell whether it did within `seconds`. A call under way is cut at the deadline."""
    try:
        async with asyncio.timeout(seconds):
            while not await condition():  # noqa: ASYNC110 - what is waited for is another process; it sets no event
                await asyncio.sleep(every)
    except TimeoutError:
        return False
    return True
