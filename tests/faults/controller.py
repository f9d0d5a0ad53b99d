"""Hears of every step that a process of the stack reaches, and holds the one that a case is about.

Processes with `STEP_PROBE` connect to the Unix socket once a step, say `<number> <worker> <subject>` and wait for a line.
"""

import asyncio
import contextlib
import socket
import struct
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

REMEMBERED = 2_000
_CREDENTIALS = struct.Struct("3i")
"""pid, uid, gid of a peer (unix(7), SO_PEERCRED)."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A process at a step. `at` in monotonic seconds."""

    number: str
    worker: str
    subject: str
    pid: int
    at: float = field(default_factory=time.monotonic)


Concerns = Callable[[Arrival], Awaitable[bool]]


class Trap:
    """Holds the first process that arrives at a step and concerns a case, until `let_go`."""

    def __init__(self, number: str, concerns: Concerns) -> None:
        self.number = number
        self.caught: asyncio.Future[Arrival] = asyncio.get_running_loop().create_future()
        self._concerns = concerns
        self._free = asyncio.Event()

    async def takes(self, arrival: Arrival) -> bool:
        if arrival.number != self.number or self.caught.done() or not await self._concerns(arrival):
            return False
        if self.caught.done():  # another came first while we asked
            return False
        self.caught.set_result(arrival)
        return True

    def let_go(self) -> None:
        """Let the held process go on, if it still can."""
        self._free.set()

    async def until_free(self) -> None:
        await self._free.wait()


class Controller:
    """The server behind `STEP_PROBE`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.arrivals: deque[Arrival] = deque(maxlen=REMEMBERED)
        self._traps: list[Trap] = []
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._hear, self.path)

    async def stop(self) -> None:
        for trap in self._traps:
            trap.let_go()
        if self._server is not None:
            self._server.close()

    def set_trap(self, number: str, concerns: Concerns) -> Trap:
        """Hold whoever reaches step `number` next, if `concerns` says so."""
        trap = Trap(number, concerns)
        self._traps.append(trap)
        return trap

    def remove(self, trap: Trap) -> None:
        """Take a trap away; what it holds goes on."""
        trap.let_go()
        self._traps.remove(trap)

    async def _hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # a process that dies here is what we are for
        with contextlib.suppress(OSError):
            try:
                words = (await reader.readline()).decode().rstrip("\n").split(" ", 2)
                if len(words) == 3:
                    number, worker, subject = words
                    await self._arrived(Arrival(number, worker, subject, _peer(writer)))
                writer.write(b"go\n")
                await writer.drain()
            finally:
                writer.close()

    async def _arrived(self, arrival: Arrival) -> None:
        self.arrivals.append(arrival)
        for trap in list(self._traps):
            if await trap.takes(arrival):
                await trap.until_free()
                return


def _peer(writer: asyncio.StreamWriter) -> int:
    peer = writer.get_extra_info("socket")
    pid, _, _ = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return int(pid)
