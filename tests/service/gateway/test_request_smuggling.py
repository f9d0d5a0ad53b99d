"""What two readers on the way could take for different requests is no request.

Each form is sent with a further request behind it, in front of which a proxy that reads the form otherwise may have stopped.
What we take is also read by h11, which we do not ship: where it takes the form at all, it has to see the same requests. It
takes more than we do (line ends without a carriage return, folded headers, both kinds of length), so it is no judge of
what we refuse.
"""

import re
from typing import NamedTuple

import pytest

from tests.service.gateway.wire import IMPATIENT, h11, ours, statuses, wire

POST = b"POST /a HTTP/1.1\r\nHost: x\r\n"
GET = b"GET /a HTTP/1.1\r\nHost: x\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
EMPTY = b"0\r\n\r\n"
HELLO = b"5\r\nhello\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


class Form(NamedTuple):
    """`sent`, and `LAST` behind it."""

    name: str
    sent: bytes


REFUSED = (
    # two lengths
    Form("content-length and chunked", POST + b"Content-Length: 5\r\n" + CHUNKED + b"\r\n" + EMPTY),
    Form("chunked and content-length", POST + CHUNKED + b"Content-Length: 5\r\n\r\n" + EMPTY),
    Form("two content-lengths", POST + b"Content-Length: 0\r\nContent-Length: 5\r\n\r\nhello"),
    Form("the same content-length twice", POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
    Form("a list of content-lengths", POST + b"Content-Length: 5, 5\r\n\r\nhello"),
    # lengths that are none
    Form("a signed content-length", POST + b"Content-Length: +5\r\n\r\nhello"),
    Form("a negative content-length", POST + b"Content-Length: -1\r\n\r\n"),
    Form("a hexadecimal content-length", POST + b"Content-Length: 0x5\r\n\r\nhello"),
    Form("a content-length with an underscore", POST + b"Content-Length: 0_5\r\n\r\nhello"),
    Form("a content-length of 2^90", POST + b"Content-Length: 1237940039285380274899124224\r\n\r\nhello"),
    Form("an empty content-length", POST + b"Content-Length: \r\n\r\n"),
    Form("a content-length of two numbers", POST + b"Content-Length: 0 5\r\n\r\nhello"),
    # codings
    Form("two codings, chunked first", POST + CHUNKED + b"Transfer-Encoding: identity\r\n\r\n" + EMPTY),
    Form("chunked, identity", POST + b"Transfer-Encoding: chunked, identity\r\n\r\n" + EMPTY),
    Form("identity, chunked", POST + b"Transfer-Encoding: identity, chunked\r\n\r\n" + EMPTY),
    Form("gzip, chunked", POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + EMPTY),
    Form("chunked twice", POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n" + EMPTY),
    Form("identity", POST + b"Transfer-Encoding: identity\r\n\r\n"),
    Form("an unknown coding", POST + b"Transfer-Encoding: xchunked\r\n\r\n" + EMPTY),
    Form("a quoted coding", POST + b'Transfer-Encoding: "chunked"\r\n\r\n' + EMPTY),
    Form("a coding with a parameter", POST + b"Transfer-Encoding: chunked;q=1\r\n\r\n" + EMPTY),
    Form("a vertical tab before the coding", POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n" + EMPTY),
    Form("a coding in HTTP/1.0", b"POST /a HTTP/1.0\r\nHost: x\r\n" + CHUNKED + b"\r\n" + EMPTY),
    # chunks
    Form("a signed chunk size", POST + CHUNKED + b"\r\n+5\r\nhello\r\n" + EMPTY),
    Form("a chunk size with 0x", POST + CHUNKED + b"\r\n0x5\r\nhello\r\n" + EMPTY),
    Form("a negative chunk size", POST + CHUNKED + b"\r\n-1\r\nhello\r\n" + EMPTY),
    Form("a chunk size over 64 bits", POST + CHUNKED + b"\r\nfffffffffffffffff\r\nhello\r\n" + EMPTY),
    Form("no chunk size", POST + CHUNKED + b"\r\n\r\n" + EMPTY),
    Form("a space after the chunk size", POST + CHUNKED + b"\r\n5 \r\nhello\r\n" + EMPTY),
    Form("a chunk longer than its size", POST + CHUNKED + b"\r\n5\r\nhello!\r\n" + EMPTY),
    Form("a chunk without a line end", POST + CHUNKED + b"\r\n5\r\nhello" + EMPTY),
    Form("chunks with bare line feeds", POST + CHUNKED + b"\r\n5\nhello\n0\n\n"),
    Form("a line feed in a chunk extension", POST + CHUNKED + b"\r\n5;a\nb\r\nhello\r\n" + EMPTY),
    Form("a flood of chunk extensions", POST + CHUNKED + b"\r\n" + b"1;" + b"a" * 400_000 + b"\r\nx\r\n" + EMPTY),
    Form("a length in the trailers", POST + CHUNKED + b"\r\n0\r\nContent-Length: 5\r\n\r\n"),
    # lines
    Form("a space before the colon", POST + b"Transfer-Encoding : chunked\r\n\r\n" + EMPTY),
    Form("a folded header", POST + b"X-A: a\r\n Transfer-Encoding: chunked\r\n\r\n" + EMPTY),
    Form("a folded coding", POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + EMPTY),
    Form("a folded first header", b"POST /a HTTP/1.1\r\n Host: x\r\n\r\n"),
    Form("bare line feeds", b"POST /a HTTP/1.1\nHost: x\nContent-Length: 0\n\n"),
    Form("one bare line feed", POST + b"X-A: a\nContent-Length: 0\r\n\r\n"),
    Form("a bare line feed at the end", POST + b"Content-Length: 0\r\n\n"),
    Form("a bare carriage return", POST + b"X-A: a\rContent-Length: 5\r\n\r\nhello"),
    Form("NUL in a value", POST + b"X-A: a\0b\r\n\r\n"),
    Form("NUL in a name", POST + b"X\0A: a\r\n\r\n"),
    Form("a control character in a value", POST + b"X-A: a\x01b\r\n\r\n"),
    Form("a header without a colon", POST + b"X-A\r\n\r\n"),
    Form("a header without a name", POST + b": a\r\n\r\n"),
    # request lines
    Form("HTTP/0.9", b"GET /a\r\n\r\n"),
    Form("HTTP/2.0", b"GET /a HTTP/2.0\r\nHost: x\r\n\r\n"),
    Form("HTTP/1.2", b"GET /a HTTP/1.2\r\nHost: x\r\n\r\n"),
    Form("HTTP/1.11", b"GET /a HTTP/1.11\r\nHost: x\r\n\r\n"),
    Form("http/1.1", b"GET /a http/1.1\r\nHost: x\r\n\r\n"),
    Form("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    Form("a hello of TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    Form("an unknown method", b"GETS /a HTTP/1.1\r\nHost: x\r\n\r\n"),
    Form("a method in lower case", b"get /a HTTP/1.1\r\nHost: x\r\n\r\n"),
    Form("NUL in the method", b"G\0T /a HTTP/1.1\r\nHost: x\r\n\r\n"),
    Form("tabs in the request line", b"GET\t/a\tHTTP/1.1\r\nHost: x\r\n\r\n"),
    Form("a space in the target", b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n"),
    Form("a control character in the target", b"GET /a\x01 HTTP/1.1\r\nHost: x\r\n\r\n"),
    Form("a fragment in the target", b"GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n"),
    Form("a target without a slash", b"GET a HTTP/1.1\r\nHost: x\r\n\r\n"),
    Form("a target of another scheme", b"GET ftp://x/a HTTP/1.1\r\nHost: x\r\n\r\n"),
    Form("an absolute target without a path", b"GET http://x HTTP/1.1\r\nHost: x\r\n\r\n"),
    Form("CONNECT", b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n"),
    # whom it is for
    Form("no host", b"GET /a HTTP/1.1\r\n\r\n"),
    Form("two hosts", GET + b"Host: y\r\n\r\n"),
    # other protocols, with a body that the parser would take for theirs
    Form("h2c with a body", POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\nhello"),
    Form("h2c with chunks", POST + CHUNKED + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n" + EMPTY),
)

WEBSOCKET = b"Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"


class Taken(NamedTuple):
    """`seen`: the bodies of `/a`; `on`: whether the connection goes on with the request behind it."""

    name: str
    sent: bytes
    seen: tuple[bytes, ...]
    on: bool = True


TAKEN = (
    Taken("a length", POST + b"Content-Length: 5\r\n\r\nhello", (b"hello",)),
    Taken("a length with zeros in front", POST + b"Content-Length: 0005\r\n\r\nhello", (b"hello",)),
    Taken("no length", POST + b"\r\n", (b"",)),
    Taken("chunks", POST + CHUNKED + b"\r\n" + HELLO + EMPTY, (b"hello",)),
    Taken("chunks in capitals", POST + b"TRANSFER-ENCODING:\tCHUNKED\r\n\r\n" + HELLO + EMPTY, (b"hello",)),
    Taken("chunk extensions", POST + CHUNKED + b"\r\n5;a=b\r\nhello\r\n0;c\r\n\r\n", (b"hello",)),
    Taken("trailers", POST + CHUNKED + b"\r\n" + HELLO + b"0\r\nAuthorization: other\r\n\r\n", (b"hello",)),
    Taken("a body of GET", GET + b"Content-Length: 5\r\n\r\nhello", (b"hello",)),
    Taken("an absolute target", b"GET http://elsewhere/a HTTP/1.1\r\nHost: x\r\n\r\n", (b"",)),
    Taken("line ends before the request", b"\r\n\r\n" + GET + b"\r\n", (b"",)),
    Taken("two requests at once", GET + b"\r\n" + POST + b"Content-Length: 5\r\n\r\nhello", (b"", b"hello")),
    Taken("a request behind a close", GET + b"Connection: close\r\n\r\n", (b"",), on=False),
    Taken("HTTP/1.0", b"GET /a HTTP/1.0\r\n\r\n", (b"",), on=False),
    Taken(
        "h2c",
        GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n",
        (b"",),
        on=False,
    ),
    Taken("a websocket", GET + b"Connection: Upgrade\r\n" + WEBSOCKET + b"\r\n", (b"",), on=False),
    Taken("bytes that are no request behind a request", GET + b"\r\n\0\0", (b"",), on=False),
)


@pytest.mark.parametrize("form", REFUSED, ids=lambda form: form.name)
async def test_what_can_be_read_in_two_ways_is_refused_and_the_connection_closed(form: Form) -> None:
    async with wire(ours(patience=IMPATIENT)) as server:
        answers = await server.tell(form.sent + LAST)
    assert server.seen == []
    (status,) = statuses(answers)
    assert status in {400, 408}
    assert b"\r\nconnection: close\r\n" in answers.lower()


@pytest.mark.parametrize("form", TAKEN, ids=lambda form: form.name)
async def test_what_is_taken_is_as_many_requests_as_it_looks_like(form: Taken) -> None:
    async with wire(ours()) as server:
        answers = await server.tell(form.sent + LAST)
    assert [request.body for request in server.seen if request.path == "/a"] == list(form.seen)
    assert len(server.seen) == len(form.seen) + form.on
    assert statuses(answers) == [200] * len(server.seen)


@pytest.mark.parametrize("form", TAKEN, ids=lambda form: form.name)
async def test_another_reader_sees_the_same_requests_in_what_is_taken_or_refuses_it(form: Taken) -> None:
    async with wire(ours()) as server, wire(h11) as other:
        await server.tell(form.sent + LAST)
        answers = await other.tell(form.sent + LAST)
    read = [(seen.method, re.sub("^http://[a-z]+", "", seen.path), seen.body) for seen in other.seen]
    taken = [(seen.method, seen.path, seen.body) for seen in server.seen]
    # it goes on behind a request for another protocol, where we close
    assert read == taken or read[: len(taken)] == taken or 400 in statuses(answers)
    assert not form.on or len(read) <= len(taken)


async def test_trailers_do_not_join_the_headers_of_a_request_that_was_judged() -> None:
    async with wire(ours()) as server:
        await server.tell(POST + CHUNKED + b"\r\n0\r\nAuthorization: other\r\nX-Forwarded-For: 9.9.9.9\r\n\r\n" + LAST)
    assert [name for name, _ in server.seen[0].headers] == [b"host", b"transfer-encoding"]


async def test_what_is_no_request_is_not_answered_in_place_of_the_one_before() -> None:
    async with wire(ours()) as server:
        answers = await server.tell(GET + b"\r\n" + b"nonsense\r\n\r\n")
    assert statuses(answers) == [200]
