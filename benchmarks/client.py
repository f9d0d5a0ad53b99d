"""A load generator that costs little: HTTP/1.1 over asyncio's protocols, one request at a time on a connection.

It reads what it must to know where an answer ends, and notes when events came. What it costs is measured beside what it
measures (`figures.py`): a general client costs more than some of those who are measured here.
"""

import asyncio
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

ANSWER_SECONDS = 150.0
"""Longest wait for an answer to end."""


class RequestFailed(Exception):
    """An answer did not come, was cut, or had another status than 200."""


@dataclass(slots=True)
class Answer:
    """One answer. Times are seconds of the monotonic clock.

    `arrivals`: when bytes of the body came, and how many events (empty lines) were complete in them.
    """

    status: int = 0
    sent_at: float = 0.0
    first_byte_at: float = 0.0
    ended_at: float = 0.0
    body: bytearray = field(default_factory=bytearray)
    arrivals: list[tuple[float, int]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """From the request to the end."""
        return self.ended_at - self.sent_at

    @property
    def first_byte(self) -> float:
        """From the request to the first byte of the body, in seconds."""
        return self.first_byte_at - self.sent_at


def request(target: str, path: str, headers: Mapping[str, str], body: bytes | None = None) -> bytes:
    """Return a whole request as it goes over the wire; POST with a body, GET without."""
    lines = [f"{'GET' if body is None else 'POST'} {path} HTTP/1.1", f"Host: {target.removeprefix('http://')}"]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


def _reason(body: bytes) -> str:
    """Return the code of an error, else the beginning of what was said."""
    code = re.search(rb'"code":\s*"(\w+)"', body)
    return (code[1] if code else body[:200]).decode(errors="replace")


class Connection(asyncio.Protocol):
    """A connection to `target` (`http://host:port`) that is made with the first request and again when it was closed."""

    def __init__(self, target: str) -> None:
        self.target = target
        host, _, port = target.removeprefix("http://").partition(":")
        self._address = host, int(port)
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._answer = Answer()
        self._done: asyncio.Future[None] | None = None
        self._head_read = False
        self._left: int | None = None
        """Bytes of the body that are still to come; None for a chunked one."""
        self._chunk_left = 0
        self._keep_alive = True

    async def ask(self, data: bytes) -> Answer:
        """Send a request and return its whole answer. Raises `RequestFailed`, also for a status that is not 200."""
        answer = await self.begin(data)
        await self.end()
        if answer.status != 200:
            raise RequestFailed(f"status {answer.status}: {_reason(bytes(answer.body))}")
        return answer

    async def begin(self, data: bytes) -> Answer:
        """Send a request and return its answer, which fills while it comes."""
        loop = asyncio.get_running_loop()
        if self._transport is None or self._transport.is_closing():
            try:
                await loop.create_connection(lambda: self, *self._address)
            except OSError as error:
                raise RequestFailed(f"no connection: {error}") from error
        assert self._transport is not None
        self._answer = Answer()
        self._head_read = False
        self._buffer.clear()
        self._done = loop.create_future()
        self._answer.sent_at = time.monotonic()
        self._transport.write(data)
        return self._answer

    async def end(self) -> None:
        """Wait for the end of the answer."""
        assert self._done is not None
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._done
        except TimeoutError:
            self.hang_up()
            raise RequestFailed(f"no end after {ANSWER_SECONDS:.0f} s") from None
        if not self._keep_alive:
            self.hang_up()

    def hang_up(self) -> None:
        """Leave, whatever is still to come."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits."""
        self._transport = None
        if self._done is not None and not self._done.done():
            self._done.set_exception(RequestFailed(f"the connection was cut: {exc or 'closed by the server'}"))
            self._done.exception()  # who has hung up does not ask

    def data_received(self, data: bytes) -> None:
        """Read on."""
        now = time.monotonic()
        if self._done is None or self._done.done():
            return
        self._buffer += data
        if not self._head_read and not self._read_head():
            return
        before = len(self._answer.body)
        ended = self._read_body()
        answer = self._answer
        if len(answer.body) > before:
            if not before:
                answer.first_byte_at = now
            answer.arrivals.append((now, answer.body.count(b"\n\n", max(0, before - 1))))
        if ended:
            answer.ended_at = now
            self._done.set_result(None)

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = bytes(self._buffer[:end]).lower()
        del self._buffer[: end + 4]
        self._answer.status = int(head[9:12])
        fields = dict(line.split(b":", 1) for line in head.split(b"\r\n")[1:])
        self._keep_alive = fields.get(b"connection", b"").strip() != b"close"
        length = fields.get(b"content-length")
        self._left = None if length is None else int(length)
        self._chunk_left = 0
        self._head_read = True
        return True

    def _read_body(self) -> bool:
        """Move what is there into the body; tell whether that was all."""
        body, buffer = self._answer.body, self._buffer
        if self._left is not None:
            self._left -= len(buffer)
            body += buffer
            buffer.clear()
            return self._left <= 0
        position = 0
        try:
            while True:
                if self._chunk_left:
                    taken = bytes(buffer[position : position + self._chunk_left])
                    body += taken
                    position += len(taken)
                    self._chunk_left -= len(taken)
                    if self._chunk_left:
                        return False
                # the line that ends a chunk stands before the next chunk's size
                start = position + 2 if buffer[position : position + 2] == b"\r\n" else position
                line = buffer.find(b"\r\n", start)
                if line < 0:
                    return False
                size = int(bytes(buffer[start:line]).partition(b";")[0], 16)
                if size == 0:
                    if len(buffer) < line + 4:
                        return False
                    position = line + 4
                    return True
                position = line + 2
                self._chunk_left = size
        finally:
            del buffer[:position]
