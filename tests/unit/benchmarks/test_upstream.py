"""The light router answers in the form of a real one, and at the pace that was asked for."""

import json

from benchmarks.load import check_stream
from benchmarks.peers import SESSION
from benchmarks.targets import Target, Wish
from benchmarks.upstream import RouterConnection
from tests.unit.benchmarks.test_client import told
from tests.unit.benchmarks.wire import Wire

TARGET = Target("direct", "http://127.0.0.1:1", "/v1/chat/completions", "bench", (SESSION, {}))


def router() -> tuple[RouterConnection, Wire]:
    connection, wire = RouterConnection(("127.0.0.1", 1)), Wire()
    connection.connection_made(wire)
    return connection, wire


async def test_a_prompt_is_answered_with_a_completion_and_the_nodes_usage() -> None:
    connection, wire = router()
    connection.data_received(TARGET.prompt(0))
    answer = await told(wire.written, 1_000)
    completion = json.loads(answer.body)
    assert completion["object"] == "chat.completion"
    assert completion["usage_from_consumer"] == completion["usage"]


async def test_a_stream_has_the_chunks_that_were_asked_for_and_an_end() -> None:
    connection, wire = router()
    wish = Wish(5, 40)
    connection.data_received(TARGET.prompt(0, wish))
    check_stream(wish, await told(wire.written, 100))


async def test_a_request_that_comes_in_pieces_is_answered_once_and_the_next_after_it() -> None:
    connection, wire = router()
    request = TARGET.prompt(0)
    for part in (request[:50], request[50:300], request[300:] + request):
        connection.data_received(part)
    assert wire.written.count(b"HTTP/1.1 200 OK") == 2


async def test_chunks_come_no_sooner_than_their_gaps_allow() -> None:
    connection, wire = router()
    connection.data_received(TARGET.prompt(0, Wish(1, 3, gap_ms=60_000)))
    assert wire.written.count(b"data: ") == 1
    connection.connection_lost(None)


async def test_a_prompt_without_a_session_is_refused_as_a_router_does() -> None:
    connection, wire = router()
    connection.data_received(TARGET.prompt(1))
    assert wire.written.startswith(b"HTTP/1.1 400 ")
