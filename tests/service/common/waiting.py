"""Waiting for what nothing announces."""

import asyncio
from collections.abc import Awaitable, Callable


async def until(condition: Callable[[], Awaitable[bool]], *, within: float = 10.0) -> None:
    """Ask again and again until the answer is yes."""
    async with asyncio.timeout(within):
        while not await condition():  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.02)
