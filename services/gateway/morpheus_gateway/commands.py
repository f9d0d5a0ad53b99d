"""Commands to the sessions service that take as long as the chain does.

They are asked in pieces, each a repeat of the same command: a worker that dies takes no more than its piece along.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from fastapi import Request
from morpheus_common.errors import ApiError

from morpheus_gateway.client_watch import ClientWatch

PIECE_SECONDS = 5.0
ANSWER_MARGIN_SECONDS = 3.0
"""The service answers when its piece of the wait is over; this is for the way there and back."""
REPEAT_PAUSE_SECONDS = 0.5

Answer = TypeVar("Answer")


async def carried_out(
    request: Request,
    wait: float,
    ask: Callable[[float, float], Awaitable[Answer]],
    is_over: Callable[[Answer], bool],
) -> Answer | None:
    """Send a command until it is over, or `wait` seconds are; return the last answer, None if none came.

    `ask` gets the seconds the service may wait, and those we wait for it. It must be safe to repeat. A command that
    nobody was there for is sent once more; one that may have arrived is sent until the wait is over. A client that
    leaves only stops the waiting, not the work.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + wait
    last: Answer | None = None
    may_have_arrived = False
    tries = 0
    async with ClientWatch(request.receive):
        while True:
            piece = max(0.0, min(PIECE_SECONDS, until - loop.time()))
            tries += 1
            try:
                last = await ask(piece, piece + ANSWER_MARGIN_SECONDS)
                if is_over(last):
                    return last
                may_have_arrived = True
            except ApiError as error:
                if error.code == "service_timeout":
                    may_have_arrived = True
                elif error.code != "service_unavailable" or (not may_have_arrived and tries > 1):
                    raise
                else:
                    await asyncio.sleep(REPEAT_PAUSE_SECONDS)
            if may_have_arrived and loop.time() >= until:
                return last
