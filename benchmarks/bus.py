"""Listening to everything on the bus, as the stack's observer may."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg


class Bus:
    """Counts messages by subject; of an inbox only whose it is, since the rest of its name is never the same."""

    def __init__(self, connection: Client) -> None:
        self._connection = connection
        self._heard = Counter[str]()

    async def hear(self, message: Msg) -> None:
        """Count a message."""
        self._heard[subject_kind(message.subject)] += 1

    async def heard(self) -> Counter[str]:
        """Return what came so far: the server has sent all of it before it answers this."""
        await self._connection.flush()
        return Counter(self._heard)

    async def heard_in(self, seconds: float) -> Counter[str]:
        """Listen for so long and return what came."""
        self.forget()
        await asyncio.sleep(seconds)
        return await self.heard()

    def forget(self) -> None:
        """Begin anew."""
        self._heard.clear()


def subject_kind(subject: str) -> str:
    """Return a subject without what differs from message to message."""
    words = subject.split(".")
    if words[0].startswith("_INBOX"):
        return words[0]
    return ".".join(words[:3])


@asynccontextmanager
async def listening(url: str) -> AsyncIterator[Bus]:
    """Listen to all subjects while the block runs."""
    connection = await nats.connect(url)
    try:
        bus = Bus(connection)
        await connection.subscribe(">", cb=bus.hear)
        await connection.flush()
        yield bus
    finally:
        await connection.close()
