"""HTTP below what a client library lets through."""

import asyncio
import json

from tests.service.gateway.conftest import House
from tests.service.gateway.test_http import check_error_form


async def spoken(house: House, request: bytes) -> tuple[str, dict[str, str], bytes]:
    """Return status line, headers and all that follows until the gateway closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", house.gateway.port)
    writer.write(request)
    try:
        async with asyncio.timeout(10):
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    status, *lines = head.decode().split("\r\n")
    return status, {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}, body


def prompt(house: House, *, stream: bool) -> bytes:
    body = json.dumps({"messages": [{"role": "user", "content": "one two"}], "stream": stream}).encode()
    return (
        b"POST /v1/chat/completions HTTP/1.0\r\nContent-Type: application/json\r\nConnection: keep-alive\r\n"
        + f"Authorization: Bearer {house.key}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )


async def test_a_stream_for_http_1_0_comes_without_chunks_and_ends_with_the_connection(house: House) -> None:
    status, headers, body = await spoken(house, prompt(house, stream=True))
    assert status == "HTTP/1.1 200 OK"
    assert not {"transfer-encoding", "content-length"} & headers.keys()
    assert headers["connection"] == "close"
    events = body.decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(event.startswith("data: ") for event in events[:-1])


async def test_what_has_a_length_tells_it_to_http_1_0_too(house: House) -> None:
    _, headers, body = await spoken(house, prompt(house, stream=False))
    assert int(headers["content-length"]) == len(body)
    assert json.loads(body)["object"] == "chat.completion"
    _, headers, body = await spoken(house, b"HEAD /v1/models HTTP/1.0\r\n\r\n")
    assert int(headers["content-length"]) > 0
    assert body == b""


async def test_what_is_not_http_is_refused_in_the_form_of_every_error(house: House) -> None:
    """C54."""
    for request in (b"nonsense\r\n\r\n", "GET /v1/models?name=ä HTTP/1.1\r\nHost: gateway\r\n\r\n".encode()):
        status, headers, body = await spoken(house, request)
        assert status == "HTTP/1.1 400 Bad Request"
        assert (headers["connection"], int(headers["content-length"])) == ("close", len(body))
        check_error_form(headers, json.loads(body), "malformed_request")
