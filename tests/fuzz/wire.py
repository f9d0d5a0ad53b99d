"""Requests as bytes: what no library would send, and the curl command that sends the same."""

import contextlib
import http.client
import re
import shlex
import socket
import time
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from tests.fuzz.answers import Answer

CONNECTION_SECONDS = 60.0
SHOWN_BYTES = 2_000
"""A longer body is made by a program, not pasted."""

Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True)
class Request:
    """A request."""

    method: str
    target: bytes
    headers: Headers = ()
    body: bytes | None = None

    def raw(self, host: str) -> bytes:
        """Return what goes over the wire."""
        names = {name.lower() for name, _ in self.headers}
        lines = [self.method.encode() + b" " + self.target + b" HTTP/1.1"]
        if b"host" not in names:
            lines.append(b"Host: " + host.encode())
        lines += [name + b": " + value for name, value in self.headers]
        if self.body is not None:
            lines.append(b"Content-Length: " + str(len(self.body)).encode())
        lines.append(b"Connection: close")
        return b"\r\n".join(lines) + b"\r\n\r\n" + (self.body or b"")

    def command(self, base_url: str) -> str:
        """Return the command that repeats it (bash)."""
        parts = ["curl", "-i", "--path-as-is", "-X", self.method]
        if self.method == "HEAD":
            parts = ["curl", "-I", "--path-as-is"]
        for name, value in self.headers:
            parts += ["-H", _quoted(name + b": " + value if value else name + b";")]
        feed = ""
        if self.body is not None:
            parts += ["--data-binary", "@-"]
            feed = _made(self.body) + " | "
            if not any(name.lower() == b"content-type" for name, _ in self.headers):
                parts += ["-H", "'Content-Type:'"]
        return feed + " ".join([*parts, _quoted(base_url.encode() + self.target)])


def send(request: Request, base_url: str) -> Answer:
    """Send a request over a connection of its own. Raises `OSError` or `HTTPException` if no answer of HTTP comes."""
    address = urlsplit(base_url)
    assert address.hostname is not None
    started = time.monotonic()
    with socket.create_connection((address.hostname, address.port or 80), CONNECTION_SECONDS) as connection:
        # it may be refused before all of it was taken; the answer is there all the same
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(request.raw(address.netloc))
        answer = http.client.HTTPResponse(connection, method=request.method)
        answer.begin()
        body = answer.read()
    headers: dict[str, list[str]] = {}
    for name, value in answer.getheaders():
        headers.setdefault(name.lower(), []).append(value)
    return Answer(
        request.method,
        _path_of(request.target.decode("latin-1")),
        answer.status,
        headers,
        body,
        time.monotonic() - started,
    )


def _path_of(target: str) -> str:
    """Return the path that a target means, which may be a whole address. `//a` is none of those: it is a path."""
    path = re.sub(r"^[a-z]+://[^/]*", "", target)
    return unquote(re.split("[?#]", path)[0], errors="replace")


def _quoted(text: bytes) -> str:
    """Quote for bash, whatever the bytes are."""
    if text.isascii() and text.decode().isprintable():
        return shlex.quote(text.decode())
    return "$'" + "".join(_escaped(byte) for byte in text) + "'"


def _escaped(byte: int) -> str:
    shown = chr(byte)
    return shown if 32 <= byte < 127 and shown not in "\\'" else f"\\x{byte:02x}"


def _made(body: bytes) -> str:
    if len(body) <= SHOWN_BYTES:
        return "printf " + _quoted(body.replace(b"\\", b"\\\\").replace(b"%", b"%%"))
    # what is long is one letter, very often
    run = max(re.finditer(rb"(.)\1{63,}", body, re.DOTALL), key=lambda found: found.end() - found.start(), default=None)
    if run is None:
        return f"printf {_quoted(body[:SHOWN_BYTES])} `# and more: {len(body)} bytes in all`"
    letter, count = run[1], run.end() - run.start()
    program = (
        f"import sys; sys.stdout.buffer.write({body[: run.start()]!r} + {letter!r} * {count} + {body[run.end() :]!r})"
    )
    return "python3 -c " + shlex.quote(program)
