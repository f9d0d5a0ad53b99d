"""A stream at a router, byte by byte: what comes after the last word, and what does not come."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from morpheus_common.contracts.chat import Endpoint
from morpheus_sessions import upstream
from morpheus_sessions.failures import PromptFailure
from morpheus_sessions.router import Router
from morpheus_sessions.settings import RouterSettings
from morpheus_sessions.sse import StreamRules
from morpheus_sessions.upstream import TimeLimits, streamed_answer
from pydantic import SecretStr

LIMITS = TimeLimits(first_byte=5.0, chunk=0.3, answer=5.0)
USAGE = {"completion_tokens": 1, "prompt_tokens": 1, "total_tokens": 2}
WORD = b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":null,"index":0}]}\n\n'
LAST = b'data: {"choices":[{"delta":{},"finish_reason":"stop","index":0}]}\n\n'
COUNTED = b"data: " + json.dumps({"choices": [], "usage": USAGE}).encode() + b"\n\n"
DONE = b"data: [DONE]\n\n"


@asynccontextmanager
async def router(*pieces: bytes, ends: str) -> AsyncIterator[Router]:
    """A router that sends these pieces of a stream; then it ends in order, cuts the connection, or says no more."""
    over = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for piece in pieces:
            writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            await writer.drain()
        if ends == "in order":
            writer.write(b"0\r\n\r\n")
        elif ends == "never":
            await over.wait()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = RouterSettings(name="r1", url=f"http://127.0.0.1:{port}", user="u", password=SecretStr("p"))
    client = Router(settings, read_timeout=5.0)
    async with server:
        try:
            yield client
        finally:
            over.set()
            await client.aclose()


async def streamed(*pieces: bytes, ends: str) -> bytes:
    async with router(*pieces, ends=ends) as at:
        rules = StreamRules(include_usage=True)
        answer = streamed_answer(at, Endpoint.CHAT, "0x" + "1" * 64, b"{}", LIMITS, rules)
        return b"".join([piece async for piece in answer])


async def failed(*pieces: bytes, ends: str) -> PromptFailure:
    with pytest.raises(PromptFailure) as caught:
        await streamed(*pieces, ends=ends)
    return caught.value


@pytest.mark.parametrize("ends", ["in order", "with a cut", "never"])
async def test_after_done_an_answer_is_complete_however_the_connection_ends(
    monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    monkeypatch.setattr(upstream, "END_SECONDS", 0.1)

    answer = await streamed(WORD, LAST, COUNTED, DONE, ends=ends)

    assert answer.startswith(WORD + LAST)
    assert answer.count(b'"usage"') == 1
    assert answer.endswith(DONE)


@pytest.mark.parametrize("ends", ["in order", "with a cut"])
async def test_without_a_finish_reason_no_answer_is_complete(ends: str) -> None:
    assert (await failed(WORD, ends=ends)).error.code == "stream_truncated"
    assert (await failed(WORD, LAST[:30], ends=ends)).error.code == "stream_truncated"
    assert (await failed(WORD, DONE, ends=ends)).error.code == "stream_truncated"


async def test_a_router_that_says_no_more_timed_out_and_its_prompt_may_still_run() -> None:
    failure = await failed(WORD, ends="never")

    assert failure.error.code == "provider_timeout"
    assert failure.end_unseen


async def test_an_answer_whose_connection_broke_was_seen_to_end() -> None:
    """Its session need not rest: aiohttp tells its reader nothing of a chunk without a size, and hangs up."""
    going_on = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        writer.write(f"{len(WORD):x}\r\n".encode() + WORD + b"\r\n")
        await going_on.wait()
        writer.write(b"no size\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = RouterSettings(name="r1", url=f"http://127.0.0.1:{port}", user="u", password=SecretStr("p"))
    at = Router(settings, read_timeout=5.0)
    rules = StreamRules(include_usage=True)
    async with server:
        stream = streamed_answer(at, Endpoint.CHAT, "0x" + "1" * 64, b"{}", LIMITS, rules)
        assert await anext(stream) == WORD
        going_on.set()
        with pytest.raises(PromptFailure) as caught:
            await anext(stream)
        await at.aclose()
    assert (caught.value.error.code, caught.value.end_unseen) == ("stream_truncated", False)
