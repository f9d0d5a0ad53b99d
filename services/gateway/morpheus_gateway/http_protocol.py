"""HTTP as uvicorn speaks it with httptools, for clients that mean no good or are old.

uvicorn waits for headers, bodies and readers without end, and httptools takes headers of any size and number, HTTP/0.9 and
trailers. What is refused before there is a request is answered here; while a body is read, the application is told
(`BODY_PROBLEM`), so that the answer is like all others.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any

from morpheus_common.errors import ApiError
from morpheus_common.ids import uuid7
from morpheus_common.logs import get_logger
from uvicorn._types import ASGISendEvent
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from morpheus_gateway.connections import Connections, Patience
from morpheus_gateway.errors import error_response
from morpheus_gateway.middleware import BODY_PROBLEM, ON_EVERY_ANSWER

log = get_logger(__name__)

MAX_TARGET_BYTES = 8 * 1024
"""RFC 9112 (3) wants 8,000 at least."""
MAX_HEADER_BYTES = 32 * 1024
MAX_HEADERS = 100
MAX_PIPELINED = 16
"""Requests on one connection that wait for an earlier one's answer. No client or proxy that we know of sends any; one read of
256 KiB can hold thousands."""
_MAX_HEAD_BYTES = MAX_TARGET_BYTES + MAX_HEADER_BYTES
_MAX_FRAMING_BYTES = 64 * 1024
_FRAMING_SHARE = 16
"""A body's chunks may be wrapped in so many bytes each of theirs, and `_MAX_FRAMING_BYTES`: a chunk of one byte needs five."""
_TAKEN_AT_LEAST = 32 * 1024
"""Bytes that a reader takes of what lies ready for it in the time that it has (`slow_client`)."""

_VERSIONS = frozenset({"1.1", "1.0"})
_TARGETS = (b"/", b"http://", b"https://")
_AT_ONCE = struct.pack("ii", 1, 0)
"""Lingering is on, for no second: a close drops what was not sent."""


class _Refused(Exception):
    """Raised out of the parser, after which `send_400_response` is called."""


class HttpProtocol(HttpToolsProtocol):
    """A connection. Times are looked at by a timer only while something is missing: a request that comes whole costs none."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        connections: Connections,
        patience: Patience,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._connections = connections
        self._patience = patience
        self._counted = False
        self._deaf = False
        """Nothing is read any more; the connection ends with the answers that are still due."""
        self._refusal = "malformed_request"
        self._in_head = False
        self._in_body = False
        self._borders = 0
        """Beginnings and ends of heads and bodies that were read."""
        self._since_border = 0
        self._body_bytes = 0
        self._since_content = 0
        """Bytes read of a body since any of them was content: a trailer that does not end is kept by the parser."""
        self._body_since = 0.0
        self._waiting: asyncio.TimerHandle | None = None
        self._watching: asyncio.TimerHandle | None = None
        self._unread = 0

    # the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Wait for a request, unless there are too many connections."""
        super().connection_made(transport)
        refusal = self._connections.enter(self._peer)
        if refusal is not None:
            self._deaf = True
            self._answer(refusal)
            return
        self._counted = True
        self._wait(self._patience.header, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything."""
        super().connection_lost(exc)
        self._stop_waiting()
        self._stop_watching()
        if self._counted:
            self._counted = False
            self._connections.leave(self._peer)

    def data_received(self, data: bytes) -> None:
        """Read on."""
        if self._deaf:
            return
        borders, content = self._borders, self._body_bytes
        super().data_received(data)
        if self._deaf:
            return
        crossed = self._borders - borders
        self._since_content = 0 if crossed or self._body_bytes != content else self._since_content + len(data)
        if crossed == 0:
            self._since_border += len(data)
            self._check_size()
        elif crossed == 1 and self._in_head:
            self._since_border = len(data)
            self._check_size()
        else:
            # how much of it belongs to what begins after the last border is not known, and at most one read
            self._since_border = 0
        if self._deaf or self._waiting is not None:
            return
        if self._in_body:
            self._wait(self._patience.body, self._body_is_late)
        elif self._in_head or self._is_idle:
            # idle: line ends between requests, or the rest of a body that was answered before; both ended uvicorn's own wait
            self._wait(self._patience.header, self._head_is_late)

    def _check_size(self) -> None:
        if self._in_body:
            framing = _MAX_FRAMING_BYTES + _FRAMING_SHARE * self._body_bytes
            if self._since_border > framing or self._since_content > _MAX_FRAMING_BYTES:
                self._refuse("malformed_request")
        elif self._since_border > _MAX_HEAD_BYTES:
            is_target = self._in_head and len(self.url) > MAX_TARGET_BYTES
            self._refuse("address_too_long" if is_target else "headers_too_large")

    # the parser's side

    def on_message_begin(self) -> None:
        """A request begins."""
        if len(self.pipeline) >= MAX_PIPELINED:
            raise _Refused
        super().on_message_begin()
        self._borders += 1
        self._in_head = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header. A trailer comes as one does, and is nobody's: it is not kept, and who has read the headers does not find
        others there later.
        """
        if not self._in_body:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin to answer a request."""
        upgrade = self.parser.should_upgrade()
        self._check_head(upgrade=upgrade)
        super().on_headers_complete()
        self._stop_waiting()
        self._borders += 1
        self._in_head, self._in_body = False, True
        self._body_bytes = 0
        self._body_since = self.loop.time()
        if upgrade:
            # the parser reads nothing after it
            self.cycle.keep_alive = False
        if self.scope["http_version"] == "1.0":
            _end_with_the_connection(self.cycle)

    def _check_head(self, *, upgrade: bool) -> None:
        """Refuse what is too large, and what another server on the way may read as another request or as more than one."""
        version = self.parser.get_http_version()
        target = self.url
        if len(target) > MAX_TARGET_BYTES:
            raise self._refused("address_too_long")
        size = hosts = 0
        has_body = False
        for name, value in self.headers:
            size += len(name) + len(value)
            if name == b"host":
                hosts += 1
            elif name == b"transfer-encoding":
                has_body = True
                if version != "1.1" or value.strip().lower() != b"chunked":
                    raise _Refused
            elif name == b"content-length":
                has_body = has_body or value.strip(b" \t0") != b""
        if size > MAX_HEADER_BYTES or len(self.headers) > MAX_HEADERS:
            raise self._refused("headers_too_large")
        if hosts != 1 and (hosts or version == "1.1"):
            raise _Refused
        if version not in _VERSIONS or (upgrade and has_body):
            # httptools takes the body of a request for another protocol for that protocol's
            raise _Refused
        if b"#" in target or not (target.startswith(_TARGETS) or target == b"*"):
            raise _Refused

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is here."""
        super().on_message_complete()
        self._stop_waiting()
        self._borders += 1
        self._in_body = False

    def on_response_complete(self) -> None:
        """An answer was given to the transport."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._watch_reader()
        elif self._in_body and self.cycle.response_complete:
            # answered before all of it was here; who sends on to the end finds the answer and keeps the connection
            self._stop_waiting()
            self._wait(self._patience.header, self._close)

    def _unsupported_upgrade_warning(self) -> None:
        """Answer as if no other protocol had been asked for (RFC 9110, 7.8)."""
        self._deaf = True

    # what takes too long

    def _wait(self, seconds: float, late: Callable[[], None]) -> None:
        self._waiting = self.loop.call_later(seconds, late)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _head_is_late(self) -> None:
        self._waiting = None
        if self._in_head:
            self._refuse("request_timeout")
        elif self._is_idle:
            # who has sent nothing is told nothing: it would be taken for the answer to what it sends next
            self._close()

    def _body_is_late(self) -> None:
        self._waiting = None
        if self.flow.read_paused:
            # it is us who do not read
            self._wait(self._patience.body, self._body_is_late)
            return
        due = self._body_since + self._patience.body + self._body_bytes / self._patience.rate
        left = due - self.loop.time()
        if left > 0:
            self._wait(left, self._body_is_late)
        else:
            self._refuse("request_timeout")

    def pause_writing(self) -> None:
        """More lies ready for the client than it takes."""
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        """The client has taken most of it."""
        super().resume_writing()
        if not self.transport.is_closing():
            self._stop_watching()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection."""
        super().timeout_keep_alive_handler()
        self._watch_reader()

    def shutdown(self) -> None:
        """The process was told to go."""
        super().shutdown()
        if self.transport.is_closing():
            self._watch_reader()

    def _watch_reader(self) -> None:
        """Cut the connection if its client does not take what lies ready: a close waits for that without end."""
        if self._watching is None:
            self._unread = self.transport.get_write_buffer_size()
            self._watching = self.loop.call_later(self._patience.unread, self._look)

    def _look(self) -> None:
        self._watching = None
        if self._unread - self.transport.get_write_buffer_size() >= _TAKEN_AT_LEAST:
            self._watch_reader()
        else:
            log.info("client took too little of its answer")
            # else the kernel goes on for minutes with what it has taken in for this client, megabytes perhaps
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            self.transport.abort()

    def _stop_watching(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None

    # what is refused

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words, which it has logged already
        """Refuse what the parser, or a callback of it, did not take."""
        self._refuse(self._refusal)

    def _refused(self, code: str) -> _Refused:
        self._refusal = code
        return _Refused()

    def _refuse(self, code: str) -> None:
        """Read nothing more. An error is only written where it cannot be taken for the answer to an earlier request."""
        self._deaf = True
        self._stop_waiting()
        if self._is_idle and not self._in_body:
            self._answer(code)
        elif self._is_idle:
            self._close()
        else:
            # ends with the answer to the last request that is whole, or to the one whose body is not
            self.cycle.keep_alive = False
            if self._in_body:
                self.cycle.scope["state"][BODY_PROBLEM] = code
                self.cycle.message_event.set()

    def _answer(self, code: str) -> None:
        error = ApiError(code)
        answer = error_response(error, "")
        ours = uuid7()
        headers = [
            *answer.raw_headers,
            # whom it was for is not always known, and OpenAI's SDKs look for it
            (b"x-should-retry", b"true" if error.kind.retry else b"false"),
            (b"cache-control", b"no-store"),
            (b"connection", b"close"),
            (b"x-request-id", ours.encode()),
            *ON_EVERY_ANSWER,
        ]
        head = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        self.transport.write(STATUS_LINE[answer.status_code] + head + b"\r\n" + bytes(answer.body))
        self._close()
        if self._counted:
            # never a byte of what came: it may be a secret that was sent to the wrong port, or by a broken client
            log.info("request", method=None, route="none", status=answer.status_code, code=code, request_id=ours)

    def _close(self) -> None:
        self._deaf = True
        self.transport.close()
        self._watch_reader()

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    @property
    def _peer(self) -> str:
        return self.client[0] if self.client is not None else ""


def _end_with_the_connection(cycle: RequestResponseCycle) -> None:
    """Send an answer of unknown length as it is: a client of HTTP/1.0 knows no chunks (RFC 9112, 6.1), and its connection is
    closed after the answer anyway. uvicorn has no setting for this. It compares what is sent with the length that it was told,
    so it is told that of each piece.
    """
    send = cycle.send
    length_unknown = False

    async def send_without_chunks(message: ASGISendEvent) -> None:
        nonlocal length_unknown
        if message["type"] == "http.response.start":
            length_unknown = all(name.lower() != b"content-length" for name, _ in message.get("headers", ()))
            if length_unknown:
                cycle.chunked_encoding = False
        elif message["type"] == "http.response.body" and length_unknown:
            cycle.expected_content_length = len(message.get("body", b""))
        await send(message)

    cycle.send = send_without_chunks  # type: ignore[method-assign]  # the cycle is made where no other can be given
