"""An HTTP client that costs almost nothing: one connection, one request at a time, bytes kept as they came.

It shares two cores with what it loads, so it parses in C and wakes up once an answer. A client can also hang up, or read
slowly.
"""

import asyncio
from dataclasses import dataclass

import httptools
from morpheus_devstack.ports import LOOPBACK


@dataclass(frozen=True, slots=True)
class Manner:
    """How a client takes its answer. `leaves_after`: seconds until it hangs up; `leaves_at`: bytes of the body until it does.
    `pauses`: how often it stops reading, for `pause` seconds each.
    """

    leaves_after: float | None = None
    leaves_at: int | None = None
    pauses: int = 0
    pause: float = 0.3

    @property
    def leaves(self) -> bool:
        return self.leaves_after is not None or self.leaves_at is not None


PATIENT = Manner()


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. `status` 0: nothing. `ended`: the answer came to its end as HTTP has it. `left`: we hung up before."""

    status: int
    body: bytes
    ended: bool
    left: bool
    request_id: str
    retry_after: str = ""


class Unreachable(Exception):
    """Nobody took the connection; nothing was sent."""


class _Wire(asyncio.Protocol):
    """A connection and the answer that is coming in on it."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.is_open = False
        self._parser = httptools.HttpResponseParser(self)
        self._answered: asyncio.Future[Answer] | None = None
        self._manner = PATIENT
        self._pauses_left = 0
        self._left = False
        self._body = bytearray()
        self._request_id = ""
        self._retry_after = ""
        self._timer: asyncio.TimerHandle | None = None

    def ask(self, request: bytes, manner: Manner) -> "asyncio.Future[Answer]":
        assert self.transport is not None
        loop = asyncio.get_running_loop()
        self._answered = loop.create_future()
        self._manner, self._left, self._body, self._request_id = manner, False, bytearray(), ""
        self._retry_after = ""
        self._pauses_left = manner.pauses
        self._parser = httptools.HttpResponseParser(self)
        if manner.leaves_after is not None:
            self._timer = loop.call_later(manner.leaves_after, self.hang_up)
        self.transport.write(request)
        return self._answered

    def hang_up(self) -> None:
        if self._answered is not None and not self._answered.done():
            self._left = True
        if self.transport is not None:
            self.transport.abort()

    @property
    def received(self) -> int:
        return len(self._body)

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.is_open = transport, True

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)
        if self._pauses_left and self.is_open and self.transport is not None:
            self._pauses_left -= 1
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(self._manner.pause, self._read_on)

    def _read_on(self) -> None:
        if self.is_open and self.transport is not None:
            self.transport.resume_reading()

    def connection_lost(self, _error: Exception | None) -> None:
        self.is_open = False
        self._settle(ended=False)

    # the parser's side

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"x-request-id":
            self._request_id = value.decode()
        elif name.lower() == b"retry-after":
            self._retry_after = value.decode()

    def on_body(self, body: bytes) -> None:
        self._body += body
        if self._manner.leaves_at is not None and len(self._body) >= self._manner.leaves_at:
            self.hang_up()

    def on_message_complete(self) -> None:
        if not self._parser.should_keep_alive() and self.transport is not None:
            self.is_open = False
            self.transport.close()
        self._settle(ended=True)

    def _settle(self, *, ended: bool) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._answered is None or self._answered.done():
            return
        status = self._parser.get_status_code() if ended or self._body else 0
        whole = ended and not self._left
        self._answered.set_result(
            Answer(status, bytes(self._body), whole, self._left, self._request_id, self._retry_after)
        )


class Client:
    """One client of one gateway, with a connection that it keeps while the gateway does."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.again = 0
        """Requests that were made again because a kept connection had been ended."""
        self._wire: _Wire | None = None

    async def get(self, path: str) -> Answer:
        """Ask for what is public. Raises `Unreachable`."""
        return await self._exchange(f"GET {path} HTTP/1.1\r\nHost: {LOOPBACK}:{self.port}\r\n\r\n".encode(), PATIENT)

    async def post(self, path: str, key: str, body: bytes, *, manner: Manner = PATIENT) -> Answer:
        """Ask, and return what came. Raises `Unreachable`."""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {LOOPBACK}:{self.port}\r\nAuthorization: Bearer {key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return await self._exchange(head.encode() + body, manner)

    async def _exchange(self, request: bytes, manner: Manner) -> Answer:
        kept = self._wire
        wire = await self._connected()
        answer = await self._ask(wire, request, manner)
        if wire is kept and not answer.status and not answer.left:
            # the server ended a connection it had kept, just as we asked on it: whoever keeps connections tries that again
            self.again += 1
            answer = await self._ask(await self._connected(), request, manner)
        return answer

    async def _ask(self, wire: _Wire, request: bytes, manner: Manner) -> Answer:
        try:
            return await wire.ask(request, manner)
        finally:
            if not wire.is_open:
                self._wire = None

    async def _connected(self) -> _Wire:
        if self._wire is None or not self._wire.is_open:
            try:
                _, self._wire = await asyncio.get_running_loop().create_connection(_Wire, LOOPBACK, self.port)
            except OSError as error:
                raise Unreachable from error
        return self._wire

    @property
    def received(self) -> int:
        """Bytes of the answer under way that are here."""
        return 0 if self._wire is None else self._wire.received

    def close(self) -> None:
        if self._wire is not None:
            self._wire.hang_up()
            self._wire = None
