"""Clients that take their time on purpose, in a process of their own: `tests.load.slow_clients` starts it and reads its words.

Each attacker begins anew as soon as it was cut off. A line on standard input ends that; then it waits until all are cut off.
"""

import asyncio
import fcntl
import json
import socket
import struct
import sys
import termios
import time
from collections import defaultdict
from dataclasses import asdict, dataclass

from morpheus_devstack.ports import LOOPBACK

READY = "all attack"
DRIP_SECONDS = 1.0
LOOK_SECONDS = 0.1
STUCK_LOOK_SECONDS = 0.5
STALLED_SECONDS = 0.5
AGAIN_SECONDS = 1.0
BEGUN_AT_ONCE = 8
"""Streams of slow readers that begin at a time: what is looked at is their slowness, not a burst of prompts."""
SMALL_SEGMENT = 536
"""With large ones, as on the loopback, the kernel takes in megabytes for a client that reads nothing."""
_TCP_ESTABLISHED = 1
_LATE = b"HTTP/1.1 408 "
_GOOD = b"HTTP/1.1 200 "


@dataclass(frozen=True, slots=True)
class Orders:
    """What is attacked, by how many. `keys`: of the slow readers, one each; the first one's is also that of the slow bodies."""

    port: int
    model: str
    headers: int
    bodies: int
    keys: list[str]


@dataclass(slots=True)
class Fate:
    """What became of the attackers of one kind. `longest`: seconds that one lasted. `odd`: cut off with other words than that
    it was late. `refused`: those that got no stream to begin with, and tried again.
    """

    cut: int = 0
    refused: int = 0
    longest: float = 0.0
    odd: int = 0

    def note(self, seconds: float, *, is_odd: bool) -> None:
        self.cut += 1
        self.longest = max(self.longest, seconds)
        self.odd += is_odd


class Attack:
    """All attackers."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._is_over = False
        self.fates: dict[str, Fate] = defaultdict(Fate)
        self._unplaced = orders.headers + orders.bodies + len(orders.keys)
        self._all_placed = asyncio.Event()
        self._beginning = asyncio.Semaphore(BEGUN_AT_ONCE)

    async def run(self) -> None:
        """Attack until a line comes, and then until the last was cut off."""
        orders = self._orders
        head = b"GET /v1/models HTTP/1.1\r\nHost: gateway\r\n"
        body = _prompt(orders.keys[0], b'{"messages": [', length=100_000)
        async with asyncio.TaskGroup() as group:
            for _ in range(orders.headers):
                group.create_task(self._drip("headers", head, b"X-A: a\r\n"))
            for _ in range(orders.bodies):
                group.create_task(self._drip("bodies", body, b" "))
            for key in orders.keys:
                group.create_task(self._read_nothing(key))
            await self._all_placed.wait()
            say(READY)
            await asyncio.to_thread(sys.stdin.readline)
            self._is_over = True

    def _place(self) -> None:
        self._unplaced -= 1
        if not self._unplaced:
            self._all_placed.set()

    async def _drip(self, kind: str, begun: bytes, drop: bytes) -> None:
        is_placed = False
        while not self._is_over:
            reader, writer = await asyncio.open_connection(LOOPBACK, self._orders.port)
            writer.write(begun)
            began = time.monotonic()
            if not is_placed:
                is_placed = True
                self._place()
            said = None
            while said is None:
                try:
                    said = await asyncio.wait_for(reader.read(65_536), DRIP_SECONDS)
                except TimeoutError:
                    writer.write(drop)
                except ConnectionError:
                    said = b""
            writer.close()
            self.fates[kind].note(time.monotonic() - began, is_odd=not said.startswith(_LATE))

    async def _read_nothing(self, key: str) -> None:
        asked = {
            "model": self._orders.model,
            # the simulated provider says it again, a word a chunk, and a kilobyte with each: far more than a socket takes in
            "messages": [{"role": "user", "content": "word " * 500}],
            "stream": True,
            "logprobs": True,
            "top_logprobs": 5,
        }
        request = _prompt(key, json.dumps(asked).encode())
        is_placed = False
        while not self._is_over:
            with socket.socket() as client:
                async with self._beginning:
                    is_stuck = await self._until_stuck(client, request)
                if not is_stuck:
                    self.fates["readers"].refused += 1
                    await asyncio.sleep(AGAIN_SECONDS)
                    continue
                if not is_placed:
                    is_placed = True
                    self._place()
                stuck_since = time.monotonic()
                while _is_open(client):  # noqa: ASYNC110 - the kernel sets no event
                    await asyncio.sleep(STUCK_LOOK_SECONDS)
                self.fates["readers"].note(time.monotonic() - stuck_since, is_odd=False)

    async def _until_stuck(self, client: socket.socket, request: bytes) -> bool:
        """Ask for a stream, and wait until nothing more comes; tell whether there is one, which is stuck then."""
        loop = asyncio.get_running_loop()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SMALL_SEGMENT)
        client.setblocking(False)
        await loop.sock_connect(client, (LOOPBACK, self._orders.port))
        await loop.sock_sendall(client, request)
        changed, size = time.monotonic(), 0
        while size == 0 or time.monotonic() - changed < STALLED_SECONDS:
            await asyncio.sleep(LOOK_SECONDS)
            if not _is_open(client) or _is_refused(client):
                return False
            if (now := _unread(client)) != size:
                changed, size = time.monotonic(), now
        return True


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _prompt(key: str, body: bytes, *, length: int | None = None) -> bytes:
    return (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {length or len(body)}\r\n\r\n"
    ).encode() + body


def _is_open(client: socket.socket) -> bool:
    """Tell whether the other side still holds the connection; reading would be the way to learn of it."""
    return client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_ESTABLISHED


def _is_refused(client: socket.socket) -> bool:
    """Tell whether what lies there is an error, which is too short to be stuck."""
    try:
        begun = client.recv(len(_GOOD), socket.MSG_PEEK)
    except (BlockingIOError, ConnectionError):
        return False
    return not _GOOD.startswith(begun[: len(_GOOD)]) if begun else False


def _unread(client: socket.socket) -> int:
    size: int = struct.unpack("i", fcntl.ioctl(client, termios.FIONREAD, bytes(4)))[0]
    return size


async def main() -> None:
    attack = Attack(Orders(**json.loads(sys.stdin.readline())))
    await attack.run()
    say(json.dumps({kind: asdict(fate) for kind, fate in attack.fates.items()}))


if __name__ == "__main__":
    asyncio.run(main())
