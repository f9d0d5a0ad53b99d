"""A router that is slow, silent, or sends us elsewhere."""

import asyncio
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace

import pytest
from morpheus_common.contracts.chat import Endpoint
from morpheus_sessions import router as router_module
from morpheus_sessions.failures import PromptFailure
from morpheus_sessions.router import Router, RouterRefused, RouterUnclear, RouterUnreachable
from morpheus_sessions.settings import RouterSettings
from morpheus_sessions.sse import StreamRules
from morpheus_sessions.upstream import TimeLimits, streamed_answer, whole_answer
from pydantic import SecretStr

SECONDS = 2.0
"""Of the limit that is looked at; the others are far away."""
FAR = TimeLimits(first_byte=60.0, chunk=60.0, answer=60.0)
SESSION = "0x" + "1" * 64
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
WORD = b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":null,"index":0}]}\n\n'

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def router_at(port: int) -> Router:
    settings = RouterSettings(name="r1", url=f"http://127.0.0.1:{port}", user="u", password=SecretStr("p"))
    return Router(settings, read_timeout=5.0)


@asynccontextmanager
async def serving(behaviour: Behaviour) -> AsyncIterator[int]:
    """A server that does this with each connection. Yields its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await behaviour(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            # the client has hung up, which is what these tests are about
            writer.transport.abort()
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@contextmanager
def deaf_port() -> Iterator[int]:
    """A port that takes up no connection: its backlog is full."""
    with socket.socket() as listening, socket.socket() as first, socket.socket() as second:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield listening.getsockname()[1]


async def words_without_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD)
    gone = asyncio.ensure_future(reader.read())
    while not gone.done():
        writer.write(f"{len(WORD):x}\r\n".encode() + WORD + b"\r\n")
        await writer.drain()
        await asyncio.wait([gone], timeout=0.05)
    await gone


async def silence(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


async def one_word(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD + f"{len(WORD):x}\r\n".encode() + WORD + b"\r\n")
    await reader.read()


def stream(router: Router, limits: TimeLimits) -> AsyncGenerator[bytes, None]:
    return streamed_answer(router, Endpoint.CHAT, SESSION, b"{}", limits, StreamRules(include_usage=False))


async def until_it_fails(port: int, limits: TimeLimits) -> tuple[float, PromptFailure]:
    """Stream, and return after how many seconds it failed, counted from the last byte where silence is what ends it."""
    router = router_at(port)
    began = time.monotonic()
    try:
        async for _ in stream(router, limits):
            if limits.chunk == SECONDS:
                began = time.monotonic()
    except PromptFailure as failure:
        return time.monotonic() - began, failure
    finally:
        await router.aclose()
    pytest.fail("a stream without an end came to one")


async def test_each_limit_of_time_ends_the_prompt_when_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """C21: connecting, the first byte, silence between two, the whole: each fires within a tenth of its time."""
    monkeypatch.setattr(router_module, "CONNECT_SECONDS", SECONDS)
    async with serving(silence) as silent, serving(one_word) as stops, serving(words_without_end) as endless:
        with deaf_port() as deaf:
            connect, first, between, whole = await asyncio.gather(
                until_it_fails(deaf, FAR),
                until_it_fails(silent, replace(FAR, first_byte=SECONDS)),
                until_it_fails(stops, replace(FAR, chunk=SECONDS)),
                until_it_fails(endless, replace(FAR, answer=SECONDS)),
            )
    assert connect[1].error.code == "service_unavailable"
    assert connect[1].not_sent
    for took, failure in (first, between, whole):
        assert failure.error.code == "provider_timeout"
        assert not failure.not_sent
        assert SECONDS - 0.05 <= took <= SECONDS * 1.1
    assert SECONDS - 0.05 <= connect[0] <= SECONDS * 1.1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_router_that_sends_us_elsewhere_is_not_followed(status: int) -> None:
    """C41: an answer decides nothing about where our requests, and our router's password with them, go."""
    visitors: list[object] = []

    async def note(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visitors.append(writer.get_extra_info("peername"))

    async with serving(note) as elsewhere:

        async def redirect(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = (
                f"HTTP/1.1 {status} Elsewhere\r\nlocation: http://127.0.0.1:{elsewhere}/\r\ncontent-length: 0\r\n\r\n"
            )
            writer.write(head.encode())
            await writer.drain()

        async with serving(redirect) as port:
            router = router_at(port)
            with pytest.raises(PromptFailure):
                await whole_answer(router, Endpoint.CHAT, SESSION, b"{}", FAR, max_bytes=1_000)
            with pytest.raises(PromptFailure):
                await anext(stream(router, FAR))
            with pytest.raises((RouterRefused, RouterUnclear, RouterUnreachable)):
                await router.models()
            await router.aclose()
    assert visitors == []
