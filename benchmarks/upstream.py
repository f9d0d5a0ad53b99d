"""A proxy-router that costs next to nothing: it answers prompts itself, and hands all else to the simulator behind it.

Everybody who is measured asks this one, so that what it costs is the same for all and small beside what they cost: the
simulator reads and writes JSON for every chunk, and would be what is measured (it makes a few thousand chunks a second).
What it answers has the form of a proxy-router's answers (proxy-router contract, section 4). There is no think time but
the one that a prompt asks for, in its text: `[stream=7 chunks=200 gap_ms=2]`.

    python -m benchmarks.upstream --simulator http://127.0.0.1:8082
"""

import argparse
import asyncio
import contextlib
import json
import re
import signal
import sys
from collections.abc import Callable

PROMPT_PATH = b"/v1/chat/completions"
_ASKED = re.compile(rb"\[stream=(\d+) chunks=(\d+) gap_ms=(\d+)\]")
_STREAMED = re.compile(rb'"stream":\s*true')
_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_SESSION = re.compile(rb"\r\nsession_id:\s*0x[0-9a-f]{64}\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:\s*chunked", re.IGNORECASE)

ANSWER_WORDS = "word " * 140
"""The text of an answer in JSON mode, so that its body has about 1 kB."""
_USAGE = {"completion_tokens": 140, "prompt_tokens": 170, "total_tokens": 310}
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def piece(stream: int, number: int) -> str:
    """Return what chunk `number` of a stream says: no two chunks of all streams say the same."""
    return f" {stream}.{number:05}"


def _compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def framed(data: bytes) -> bytes:
    """Return one chunk of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def _whole() -> bytes:
    message = {"content": ANSWER_WORDS, "role": "assistant"}
    answer = {
        "choices": [{"finish_reason": "stop", "index": 0, "message": message}],
        "created": 1_700_000_000,
        "id": "chatcmpl-0123456789abcdef01234567",
        "model": "bench",
        "object": "chat.completion",
        "usage": _USAGE,
        "usage_from_consumer": _USAGE,
        "usage_from_provider": _USAGE,
    }
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + framed(_compact(answer)) + b"0\r\n\r\n"


WHOLE = _whole()

_CHUNK = b"""data: {"choices":[{"delta":{"content":"%s","role":"assistant"},"finish_reason":null,"index":0}],\
"created":1700000000,"id":"chatcmpl-0123456789abcdef01234567","model":"bench","object":"chat.completion.chunk"}\n\n"""
_LAST = framed(
    b"data: "
    + _compact(
        {
            "choices": [{"delta": {}, "finish_reason": "stop", "index": 0}],
            "created": 1_700_000_000,
            "id": "chatcmpl-0123456789abcdef01234567",
            "model": "bench",
            "object": "chat.completion.chunk",
            "usage": _USAGE,
            "usage_from_consumer": _USAGE,
            "usage_from_provider": _USAGE,
        }
    )
    + b"\n\n"
)
_END = framed(b"data: [DONE]\n\n") + b"0\r\n\r\n"


class _Stream:
    """One streamed answer: chunk `n` is due `n` gaps after the first, however late the ones before it were."""

    def __init__(self, transport: asyncio.Transport, stream: int, chunks: int, gap: float, done: Callable[[], None]):
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._stream = stream
        self._chunks = chunks
        self._gap = gap
        self._done = done
        self._sent = 0
        self._began = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._transport.write(_STREAM_HEAD)
        self._send_due()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _send_due(self) -> None:
        write, now = self._transport.write, self._loop.time()
        while self._sent < self._chunks and self._began + self._sent * self._gap <= now:
            write(framed(_CHUNK % piece(self._stream, self._sent).encode()))
            self._sent += 1
        if self._sent < self._chunks:
            self._timer = self._loop.call_at(self._began + self._sent * self._gap, self._send_due)
            return
        write(_LAST)
        write(_END)
        self._done()


class RouterConnection(asyncio.Protocol):
    """One connection, with one request after another."""

    def __init__(self, simulator: tuple[str, int]) -> None:
        self._simulator = simulator
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._stream: _Stream | None = None
        self._forwarding: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - as asyncio wants it
        self._transport = None
        if self._stream is not None:
            self._stream.stop()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._take()

    def _take(self) -> None:
        if self._stream is not None or self._forwarding is not None or self._transport is None:
            return
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return
        length = self._body_length(head, rest)
        if length is None or len(rest) < length:
            return
        body, self._buffer = rest[:length], rest[length:]
        if head.split(b" ", 2)[1].partition(b"?")[0] != PROMPT_PATH:
            self._forwarding = asyncio.create_task(self._forward(head, body))
        else:
            self._answer(head, body)

    @staticmethod
    def _body_length(head: bytes, rest: bytes) -> int | None:
        """Return how long the body is as it stands on the wire; None while that is not known."""
        if _CHUNKED.search(head):
            end = rest.find(b"0\r\n\r\n")
            return None if end < 0 else end + 5
        found = _LENGTH.search(head)
        return int(found[1]) if found else 0

    def _answer(self, head: bytes, body: bytes) -> None:
        assert self._transport is not None
        if not _SESSION.search(head + b"\r\n"):
            refusal = b'{"error":"api adapter not found: "}'
            self._transport.write(
                b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                % (len(refusal), refusal)
            )
        elif _STREAMED.search(body):
            asked = _ASKED.search(body)
            stream, chunks, gap_ms = map(int, asked.groups()) if asked else (0, 16, 0)
            self._stream = _Stream(self._transport, stream, chunks, gap_ms / 1000, self._streamed)
            self._stream.start()
            return
        else:
            self._transport.write(WHOLE)
        self._take()

    def _streamed(self) -> None:
        self._stream = None
        asyncio.get_running_loop().call_soon(self._take)

    async def _forward(self, head: bytes, body: bytes) -> None:
        """Ask the simulator; the connection ends with its answer."""
        try:
            reader, writer = await asyncio.open_connection(*self._simulator)
            lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
            writer.write(b"\r\n".join([*lines, b"Connection: close", b"", body]))
            while data := await reader.read(65_536):
                if self._transport is not None:
                    self._transport.write(data)
            writer.close()
        except OSError as error:
            sys.stderr.write(f"the simulator cannot be asked: {error}\n")
        finally:
            if self._transport is not None:
                self._transport.close()


async def serve(simulator: str, port: int) -> None:
    """Run until SIGTERM or SIGINT; print the address as one JSON line."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    host, _, simulator_port = simulator.removeprefix("http://").partition(":")
    server = await loop.create_server(
        lambda: RouterConnection((host, int(simulator_port))), "127.0.0.1", port, backlog=1024
    )
    sys.stdout.write(json.dumps({"url": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"}) + "\n")
    sys.stdout.flush()
    await stop.wait()
    server.close()


def main() -> None:
    """Entry of the command."""
    parser = argparse.ArgumentParser(prog="benchmarks.upstream")
    parser.add_argument("--simulator", required=True, metavar="URL")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(options.simulator, options.port))


if __name__ == "__main__":
    main()
