"""What the load generator makes of bytes, however they arrive."""

import asyncio

import pytest

from benchmarks.client import Answer, Connection, RequestFailed, request
from benchmarks.load import check_stream
from benchmarks.targets import BODY_BYTES, Target, Wish
from benchmarks.upstream import WHOLE, piece
from tests.unit.benchmarks.wire import Wire


async def told(answer: bytes, size: int) -> Answer:
    """What a connection makes of an answer that comes in pieces of `size` bytes."""
    connection = Connection("http://127.0.0.1:1")
    connection.connection_made(Wire())
    filled = await connection.begin(b"GET")
    for start in range(0, len(answer), size):
        connection.data_received(answer[start : start + size])
    await connection.end()
    return filled


def event(text: str) -> bytes:
    return b'data: {"content":"%s"}\n\n' % text.encode()


def chunked(*parts: bytes) -> bytes:
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
async def test_a_chunked_answer_is_the_same_however_it_is_cut(size: int) -> None:
    answer = await told(chunked(event("a"), b"data: half", b" and half\n\n", event("b")), size)
    assert answer.status == 200
    assert bytes(answer.body) == event("a") + b"data: half and half\n\n" + event("b")
    assert sum(count for _, count in answer.arrivals) == 3
    assert answer.sent_at <= answer.first_byte_at <= answer.ended_at


@pytest.mark.parametrize("size", [1, 5, 10_000])
async def test_an_answer_with_a_length_ends_with_its_last_byte(size: int) -> None:
    answer = await told(b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nwords", size)
    assert (answer.status, bytes(answer.body)) == (404, b"words")


async def test_an_answer_that_is_cut_is_a_failure() -> None:
    connection = Connection("http://127.0.0.1:1")
    connection.connection_made(Wire())
    await connection.begin(b"GET")
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwor")
    connection.connection_lost(None)
    with pytest.raises(RequestFailed, match="cut"):
        await connection.end()


async def test_another_status_than_200_is_a_failure_that_names_the_errors_code() -> None:
    connection = Connection("http://127.0.0.1:1")
    connection.connection_made(Wire())
    asking = asyncio.create_task(connection.ask(b"GET"))
    await asyncio.sleep(0)
    connection.data_received(b'HTTP/1.1 503 No\r\nContent-Length: 32\r\n\r\n{"error": {"code": "overloaded"}}')
    with pytest.raises(RequestFailed, match=r"^status 503: overloaded$"):
        await asking


async def test_a_connection_that_the_server_closes_is_not_used_again() -> None:
    wire = Wire()
    connection = Connection("http://127.0.0.1:1")
    connection.connection_made(wire)
    await connection.begin(b"GET")
    connection.data_received(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    await connection.end()
    assert wire.written.endswith(b"<hung up>")


async def test_the_routers_answer_in_json_mode_has_about_a_kilobyte() -> None:
    answer = await told(WHOLE, 10_000)
    assert 900 < len(answer.body) < 1_300


def test_a_prompt_has_about_a_kilobyte_and_says_which_stream_is_wanted() -> None:
    target = Target("x", "http://127.0.0.1:1", "/v1/chat/completions", "m", ({"a": "1"}, {"a": "2"}))
    head, _, body = target.prompt(3, Wish(7, 200, 2)).partition(b"\r\n\r\n")
    assert 0.8 * BODY_BYTES < len(body) < 1.2 * BODY_BYTES
    assert b"[stream=7 chunks=200 gap_ms=2]" in body
    assert b"\r\na: 2" in head
    assert f"Content-Length: {len(body)}".encode() in head
    assert request("http://h:1", "/live", {}).startswith(b"GET /live HTTP/1.1\r\nHost: h:1\r\n")


def stream_of(*texts: str, end: bytes = b"data: [DONE]\n\n") -> Answer:
    return Answer(status=200, body=bytearray(b"".join(event(text) for text in texts) + end))


def test_a_stream_is_right_only_if_every_chunk_is_there_in_order_with_nothing_of_anothers() -> None:
    wish = Wish(4, 3)
    right = [piece(4, number) for number in range(3)]
    check_stream(wish, stream_of(*right))
    wrong = [right[:2], [right[1], right[0], right[2]], [*right, right[2]], [right[0], piece(5, 1), right[2]]]
    for texts in wrong:
        with pytest.raises(RequestFailed, match="chunks"):
            check_stream(wish, stream_of(*texts))
    with pytest.raises(RequestFailed, match="end"):
        check_stream(wish, stream_of(*right, end=b""))
