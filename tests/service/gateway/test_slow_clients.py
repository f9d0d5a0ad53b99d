"""Clients that take their time, or take too much: what they hold of ours is bounded, and only they notice."""

import asyncio
import json
import logging
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from ipaddress import ip_network

import httpx2
import pytest
from morpheus_devstack.waiting import poll
from morpheus_gateway.client_watch import ClientWatch
from starlette.responses import PlainTextResponse, Response
from starlette.types import Message, Receive, Scope, Send
from structlog.testing import capture_logs

from tests.service.gateway.conftest import House, MakeHouse
from tests.service.gateway.fakes import FakePrompt, answer_with_echo
from tests.service.gateway.test_http import check_error
from tests.service.gateway.wire import IMPATIENT, LOOPBACK, PATIENT, Wire, exchange, ours, statuses, wire

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
TCP_CLOSED = 7
POST = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"


def told(answer: bytes) -> str:
    """Return the code of the error in an answer."""
    code: str = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"]
    return code


async def dribbled(server: Wire, first: bytes, drop: bytes) -> bytes:
    """Send `first`, then `drop` again and again; return all that the server says until it closes."""
    reader, writer = await asyncio.open_connection(LOOPBACK, server.port)
    writer.write(first)

    async def drip() -> None:
        while True:
            writer.write(drop)
            await asyncio.sleep(0.02)

    dripping = asyncio.create_task(drip())
    answer = b""
    try:
        async with asyncio.timeout(10):
            while piece := await reader.read(65_536):
                answer += piece
    except ConnectionResetError:
        # a drop met the closed connection
        pass
    finally:
        dripping.cancel()
        writer.close()
    return answer


@pytest.mark.parametrize(
    ("first", "drop", "answered"),
    [
        (b"GET /a HTTP/1.1\r\nHost: x\r\n", b"X-A: a\r\n", [408]),
        (b"GET /", b"a", [408]),
        (GET + b"GET /", b"a", [200, 408]),
    ],
    ids=["headers", "target", "second request"],
)
async def test_a_head_that_comes_a_piece_at_a_time_is_cut_off(first: bytes, drop: bytes, answered: list[int]) -> None:
    """C17, C21."""
    async with wire(ours(patience=IMPATIENT)) as server:
        assert statuses(await dribbled(server, first, drop)) == answered


async def test_who_is_too_late_with_its_headers_is_told_and_its_connection_closed() -> None:
    """C21."""
    async with wire(ours(patience=IMPATIENT)) as server:
        started = time.monotonic()
        answer = await server.tell(b"GET /a HTTP/1.1\r\nHost: x\r\n")
    assert IMPATIENT.header <= time.monotonic() - started < 10 * IMPATIENT.header
    assert (statuses(answer), told(answer)) == ([408], "request_timeout")
    assert b"\r\nconnection: close\r\n" in answer.lower()


async def test_who_says_nothing_is_told_nothing() -> None:
    """An answer to nothing would be taken for the one to the next request."""
    async with wire(ours(patience=IMPATIENT)) as server:
        assert await server.tell(b"") == b""
        assert await server.tell(b"\r\n\r\n") == b""


async def test_the_time_for_headers_begins_anew_with_each_request() -> None:
    async with wire(ours(patience=replace(PATIENT, header=0.5))) as server:
        reader, writer = await asyncio.open_connection(LOOPBACK, server.port)
        for _ in range(3):
            await asyncio.sleep(0.3)
            writer.write(GET)
            assert b"200 OK" in await asyncio.wait_for(reader.readuntil(b"ok"), 10)
        writer.close()


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_comes_slower_than_it_must_is_cut_off_and_its_sender_told(chunked: bool) -> None:
    """C17, C21: also one that begins well."""
    lengths = b"Transfer-Encoding: chunked\r\n\r\nc8\r\n" if chunked else b"Content-Length: 50000\r\n\r\n"
    begun = b"x" * 200 + (b"\r\n" if chunked else b"")
    drop = b"1\r\nx\r\n" if chunked else b"x"
    async with wire(ours(patience=replace(PATIENT, body=0.2, rate=1_000))) as server:
        answer = await dribbled(server, b"POST /a HTTP/1.1\r\nHost: x\r\n" + lengths + begun, drop)
    assert (statuses(answer), told(answer)) == ([408], "request_timeout")
    assert server.seen == []


async def test_a_body_that_begins_well_and_stops_is_cut_off() -> None:
    """C21."""
    async with wire(ours(patience=replace(PATIENT, body=0.2, rate=1_000))) as server:
        begun = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 50000\r\n\r\n" + b"x" * 200
        assert statuses(await server.tell(begun)) == [408]


async def test_a_body_that_comes_fast_enough_may_take_longer_than_the_first_grace() -> None:
    async with wire(ours(patience=replace(PATIENT, body=0.2, rate=1_000))) as server:
        reader, writer = await asyncio.open_connection(LOOPBACK, server.port)
        writer.write(b"POST /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5000\r\n\r\n")
        for _ in range(10):
            writer.write(b"x" * 500)
            await asyncio.sleep(0.1)
        assert statuses(await asyncio.wait_for(reader.read(), 10)) == [200]
        writer.close()


async def test_a_body_that_goes_on_after_its_answer_is_not_waited_for_long() -> None:
    async def answer_at_once(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("ok")(scope, receive, send)

    async with wire(ours(patience=replace(PATIENT, header=0.3)), answer_at_once) as server:
        answer = await dribbled(server, b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 50000\r\n\r\n", b"x")
    assert statuses(answer) == [200]


async def test_who_sends_its_body_after_an_early_answer_keeps_the_connection() -> None:
    async def answer_at_once(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("ok")(scope, receive, send)

    async with wire(ours(), answer_at_once) as server:
        reader, writer = await asyncio.open_connection(LOOPBACK, server.port)
        writer.write(POST)
        await asyncio.wait_for(reader.readuntil(b"ok"), 10)
        writer.write(b"hello" + LAST)
        assert statuses(await asyncio.wait_for(reader.read(), 10)) == [200]
        writer.close()


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, "address_too_long"),
        (b"GET /" + b"a" * 50_000, 414, "address_too_long"),
        (b"GET /a HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 33_000 + b"\r\n\r\n", 431, "headers_too_large"),
        (b"GET /a HTTP/1.1\r\nHost: x\r\n" + b"X-A: a\r\n" * 100 + b"\r\n", 431, "headers_too_large"),
        (b"GET /a HTTP/1.1\r\nHost: x\r\n" + b"X-A: a\r\n" * 6_000, 431, "headers_too_large"),
        (b"\r\n" * 30_000, 431, "headers_too_large"),
    ],
    ids=["target", "target without end", "size", "number", "number without end", "line ends without end"],
)
async def test_heads_have_a_size(sent: bytes, status: int, code: str) -> None:
    """C16."""
    async with wire(ours()) as server:
        answer = await server.tell(sent)
    assert (statuses(answer), told(answer)) == ([status], code)
    assert b"x-should-retry: false\r\n" in answer
    assert server.seen == []


@pytest.mark.parametrize("line", [b"X-A: a", b"X"], ids=["value", "name"])
async def test_a_header_without_end_is_refused_while_it_comes(line: bytes) -> None:
    """C16: the parser keeps all of it until its line ends."""
    async with wire(ours()) as server:
        reader, writer = await asyncio.open_connection(LOOPBACK, server.port)
        writer.write(b"GET /a HTTP/1.1\r\nHost: x\r\n" + line)
        sent = 0
        while not reader.at_eof() and sent < 10_000_000:
            writer.write(b"a" * 10_000)
            sent += 10_000
            try:
                await asyncio.wait_for(reader.read(65_536), 0.01)
            except TimeoutError:
                continue
            break
        assert sent < 1_000_000
        writer.close()


async def test_requests_in_a_row_on_one_connection_are_bounded() -> None:
    """One read holds thousands, and each costs more than its bytes."""
    async with wire(ours()) as server:
        answers = await server.tell(GET * 2_000)
    # the first runs, so many wait, and the rest is not read
    assert statuses(answers) == [200] * 17


@pytest.mark.parametrize(
    ("size", "last"),
    [(20_000_000, b""), (20_000_000, b"Connection: close\r\n"), (130_000, b"Connection: close\r\n")],
    ids=["kept", "closed", "closed with little left"],
)
async def test_a_reader_that_takes_nothing_is_cut_off(size: int, last: bytes) -> None:
    """C17: also of what has no prompt behind it, and after the connection was closed on our side."""

    async def long(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(b"x" * size)(scope, receive, send)

    async with wire(ours(patience=replace(PATIENT, unread=0.3)), long) as server:
        with deaf(server.port) as client:
            client.sendall(GET[:-2] + last + b"\r\n")
            assert await poll(lambda: is_true(len(server.state.connections) == 1), seconds=10)
            assert await poll(lambda: is_true(not server.state.connections), seconds=10)
            # nor does the kernel hold what it had taken in
            state: int = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
            assert state == TCP_CLOSED


async def test_a_reader_that_takes_its_time_but_takes_it_gets_everything() -> None:
    size = 8_000_000

    async def long(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(b"x" * size)(scope, receive, send)

    async with wire(ours(patience=replace(PATIENT, unread=0.3)), long) as server:
        with deaf(server.port, room=256 * 1024) as client:
            client.sendall(GET)
            client.setblocking(False)
            received = 0
            while received < size:
                piece = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 200_000), 10)
                assert piece
                received += len(piece)
                await asyncio.sleep(0.02)


async def is_true(condition: bool) -> bool:
    return condition


def deaf(port: int, *, room: int = 4_096) -> socket.socket:
    """Connect as a client with little room for what it does not read."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    # with large segments, as on the loopback, the kernel takes in megabytes for who reads nothing
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    client.connect((LOOPBACK, port))
    return client


@asynccontextmanager
async def idle(port: int, count: int) -> AsyncIterator[None]:
    """Hold connections that were taken."""
    made = [await asyncio.open_connection(LOOPBACK, port) for _ in range(count)]
    try:
        for reader, writer in made:
            writer.write(GET)
            await asyncio.wait_for(reader.readuntil(b"ok"), 10)
        yield
    finally:
        for _, writer in made:
            writer.close()


async def test_an_address_has_so_many_connections_and_no_more_until_it_closes_one() -> None:
    """C17."""
    async with wire(ours(per_address=3)) as server:
        async with idle(server.port, 3):
            answer = await server.tell(b"")
            assert (statuses(answer), told(answer)) == ([429], "too_many_connections")
            assert b"\r\nretry-after: 1\r\n" in answer.lower()
        assert await poll(lambda: is_true(not server.state.connections), seconds=10)
        async with idle(server.port, 3):
            pass


async def test_a_trusted_proxy_has_as_many_connections_as_there_are_and_no_more() -> None:
    """C17."""
    async with wire(ours(per_address=1, limit=3, trusted=[ip_network("127.0.0.0/8")])) as server, idle(server.port, 3):
        answer = await server.tell(b"")
        assert (statuses(answer), told(answer)) == ([503], "overloaded")


async def test_large_bodies_have_a_bound_in_all_and_leave_room_for_other_addresses(make_house: MakeHouse) -> None:
    """C17: who holds a key could else fill the memory with prompts that wait in line."""
    house = await make_house(body_memory=1_000_000, trusted_proxies=["127.0.0.0/8"])
    release = asyncio.Event()

    async def answer_late(prompt: FakePrompt) -> None:
        await release.wait()
        await answer_with_echo(prompt)

    house.worker.script = answer_late

    async def send(address: str, size: int) -> httpx2.Response:
        return await house.chat("x" * size, headers={"X-Forwarded-For": address})

    first = asyncio.create_task(send("192.0.2.1", 400_000))
    await house.worker.nth(1)
    refused = await send("192.0.2.1", 400_000)
    check_error(refused, "/v1/chat/completions", 503, "overloaded")
    assert refused.headers["retry-after"] == "1"
    others = [asyncio.create_task(send("192.0.2.1", 10_000)), asyncio.create_task(send("192.0.2.2", 400_000))]
    await house.worker.nth(3)
    # half is for one, and there is an end for all
    check_error(await send("192.0.2.3", 400_000), "/v1/chat/completions", 503, "overloaded")
    release.set()
    assert [(await task).status_code for task in (first, *others)] == [200] * 3
    assert (await send("192.0.2.1", 400_000)).status_code == 200


@pytest.mark.parametrize("trailer", [b"\r\nX-A: a", b"a"], ids=["many", "one that does not end"])
async def test_a_large_body_does_not_make_room_for_large_trailers(trailer: bytes) -> None:
    """C21: each line of seven bytes would take a hundred of our memory."""
    body = b"a" * 450_000
    async with wire(ours()) as server:
        _, writer = await asyncio.open_connection(LOOPBACK, server.port)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"%x\r\n%b\r\n0\r\nX-A: a" % (len(body), body))
        await writer.drain()
        sent = 0
        with suppress(ConnectionError):
            async with asyncio.timeout(10):
                while server.state.connections and sent < 5_000_000:
                    piece = trailer * (64_000 // len(trailer))
                    writer.write(piece)
                    await writer.drain()
                    sent += len(piece)
                    await asyncio.sleep(0)
        assert sent < 5_000_000
        writer.close()
    assert server.seen == []


async def test_who_sends_no_body_while_a_command_that_wants_none_is_carried_out_is_told() -> None:
    """C54: uvicorn has an answer of its own for applications that give none."""
    watched = asyncio.Event()

    async def command(_scope: Scope, receive: Receive, _send: Send) -> None:
        async def receive_noting() -> Message:
            watched.set()
            return await receive()

        async with ClientWatch(receive_noting):
            await asyncio.Event().wait()

    async with wire(ours(), command) as server:
        reader, writer = await asyncio.open_connection(LOOPBACK, server.port)
        writer.write(POST.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked"))
        await watched.wait()
        writer.write(b"no chunk\r\n")
        async with asyncio.timeout(10):
            answer = await reader.read()
        writer.close()
    assert (statuses(answer), told(answer)) == ([400], "malformed_request")


async def test_a_browser_may_read_that_its_body_came_too_late(make_house: MakeHouse) -> None:
    """C54: like every answer, with its line in the log."""
    house = await make_house(body_grace=0.3, body_rate=1_000_000)
    origin = "https://app.example.com"
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\nOrigin: {origin}\r\n"
        f"Authorization: Bearer {house.key}\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
    )
    with capture_logs() as logs:
        answer = await exchange(house.gateway.port, head.encode() + b'{"messages"')
    assert (statuses(answer), told(answer)) == ([408], "request_timeout")
    for header in (b"access-control-allow-origin: *", b"x-should-retry: true", b"connection: close"):
        assert b"\r\n" + header + b"\r\n" in answer.lower()
    (line,) = (entry for entry in logs if entry["event"] == "request")
    assert (line["status"], line["route"]) == (408, "/v1/chat/completions")


async def test_what_reaches_no_route_has_a_line_in_the_log_without_a_byte_of_what_came(
    make_house: MakeHouse, caplog: pytest.LogCaptureFixture
) -> None:
    """C16, C54: secrets are sent to wrong places, and by broken clients."""
    planted = "hunter2-hunter2"
    house = await make_house(header_timeout=0.3, log_level="DEBUG")
    sent = {
        "malformed_request": f"GET /{planted} HTTP/1.1\r\n{planted}\r\n\r\n",
        "request_timeout": f"GET /v1/models HTTP/1.1\r\nAuthorization: Bearer {planted}\r\n",
        "address_too_long": f"GET /v1/models?{planted}={planted * 1_000} HTTP/1.1\r\n\r\n",
        "headers_too_large": f"GET /v1/models HTTP/1.1\r\nX-A: {planted * 10_000}\r\n\r\n",
    }
    caplog.set_level(logging.DEBUG)
    for code, request in sent.items():
        with capture_logs() as logs:
            answer = await exchange(house.gateway.port, request.encode())
        assert told(answer) == code
        (line,) = (entry for entry in logs if entry["event"] == "request")
        assert (line["code"], line["route"], line["status"]) == (code, "none", statuses(answer)[0])
        assert line["request_id"].encode() in answer
        assert planted not in str(logs) + caplog.text + answer.decode()


async def test_what_stands_in_a_request_is_not_in_the_log(
    make_house: MakeHouse, caplog: pytest.LogCaptureFixture
) -> None:
    planted = "hunter2-hunter2"
    house = await make_house(log_level="DEBUG")
    caplog.set_level(logging.DEBUG)
    for path, header in (
        (f"/{planted}", "X-A: a"),
        (f"/v1/models/{planted}", "X-A: a"),
        (f"/v1/models?key={planted}", "X-A: a"),
        ("/api/v1/session", f"Authorization: Bearer {planted}"),
        ("/api/v1/session", f"Cookie: {planted}"),
        ("/api/v1/session", f"X-Forwarded-For: {planted}"),
        ("/api/v1/session", f"Upgrade: {planted}\r\nConnection: Upgrade"),
    ):
        request = f"GET {path} HTTP/1.1\r\nHost: gateway\r\n{header}\r\nConnection: close\r\n\r\n"
        with capture_logs() as logs:
            await exchange(house.gateway.port, request.encode())
        assert [entry["event"] for entry in logs].count("request") == 1
        assert planted not in str(logs)
    assert planted not in caplog.text


async def test_a_drain_is_not_held_longer_than_its_bound_by_slow_clients(house: House) -> None:
    """C17: one that says nothing, one in its headers, one in its body, and one that reads nothing."""
    server = house.gateway.server
    streams = [await asyncio.open_connection(LOOPBACK, house.gateway.port) for _ in range(3)]
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {house.key}\r\nContent-Length: 9\r\n\r\n"
    with deaf(house.gateway.port) as reader:
        reader.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
        for (_, writer), begun in zip(streams, (b"", b"GET /v1/mod", head.encode()), strict=True):
            writer.write(begun)
        assert await poll(lambda: is_true(len(server.server_state.tasks) == 1), seconds=10)
        started = time.monotonic()
        server.stop()
        assert await poll(lambda: is_true(not server.server_state.tasks), seconds=10)
        assert time.monotonic() - started < 2 * (server.config.timeout_graceful_shutdown or 0)
    for _, writer in streams:
        writer.close()
