"""A prompt at a proxy-router: the call, its time limits, and what its failures mean.

Source: proxy-router contract, section 4. A prompt is sent once; nothing here tries again.
"""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import aiohttp
from morpheus_common.contracts.chat import Endpoint
from morpheus_common.errors import ApiError
from morpheus_common.tracing import Span

from morpheus_sessions.failures import PromptFailure, prompt_failure
from morpheus_sessions.router import Router, note_status
from morpheus_sessions.sse import StreamRules

ERROR_BYTES = 256 * 1024
"""As much of an error body as is read."""
END_SECONDS = 5.0
"""How long a router may take to end a stream after `[DONE]`."""


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """In seconds: to the first byte, between two reads, for the whole answer."""

    first_byte: float
    chunk: float
    answer: float


async def _send(
    router: Router, call: Span, endpoint: Endpoint, chain_session: str, body: bytes, accept: str, first_byte: float
) -> aiohttp.ClientResponse:
    """Send the prompt and return the answer, of which the head has come. It has to be closed. Raises `PromptFailure`.

    `first_byte`: so long the head may take, in seconds.
    """
    headers = {
        "session_id": chain_session,
        "Content-Type": "application/json",
        "Accept": accept,
        **router.trace_headers(call),
    }
    try:
        async with asyncio.timeout(first_byte):
            return await router.prompts.post(f"v1/{endpoint}", data=body, headers=headers, allow_redirects=False)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
        raise PromptFailure(ApiError("service_unavailable", retry_after=2), not_sent=True) from None
    except TimeoutError:
        raise PromptFailure(ApiError("provider_timeout"), end_unseen=True) from None
    except aiohttp.ClientError:
        # the router hung up without an answer: it may have taken the prompt up
        raise PromptFailure(ApiError("provider_error")) from None


async def _expect_success(call: Span, response: aiohttp.ClientResponse, limits: TimeLimits) -> None:
    note_status(call, response.status)
    if response.status != 200:
        raise prompt_failure(response.status, await _read(response, ERROR_BYTES, limits, cut=True))


async def _read(response: aiohttp.ClientResponse, limit: int, limits: TimeLimits, *, cut: bool = False) -> bytes:
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(limits.answer):
            while piece := await response.content.readany():
                pieces.append(piece)
                size += len(piece)
                if size > limit:
                    if cut:
                        break
                    raise PromptFailure(ApiError("provider_error"))
    except TimeoutError:
        if _is_over(response):
            raise PromptFailure(ApiError("provider_error")) from None
        raise PromptFailure(ApiError("provider_timeout"), end_unseen=True) from None
    except aiohttp.ClientError:
        raise PromptFailure(ApiError("provider_error")) from None
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _is_over(response: aiohttp.ClientResponse) -> bool:
    """Tell whether the connection has ended before its answer: of a broken frame in it aiohttp tells no reader."""
    return response.connection is not None and response.connection.closed


async def whole_answer(
    router: Router, endpoint: Endpoint, chain_session: str, body: bytes, limits: TimeLimits, *, max_bytes: int
) -> bytes:
    """Return a provider's answer in JSON mode as it came. Raises `PromptFailure`."""
    with router.call("POST", f"/v1/{endpoint}") as call:
        # a router sends nothing of a JSON answer before all of it is there
        response = await _send(router, call, endpoint, chain_session, body, "application/json", limits.answer)
        try:
            await _expect_success(call, response, limits)
            return await _read(response, max_bytes, limits)
        finally:
            # hangs up if the answer is not complete; after a complete one the connection is kept
            response.close()


async def streamed_answer(
    router: Router, endpoint: Endpoint, chain_session: str, body: bytes, limits: TimeLimits, rules: StreamRules
) -> AsyncGenerator[bytes, None]:
    """Yield what the client gets of a streamed answer, whole events at a time, `data: [DONE]` last.

    Raises `PromptFailure`, also in the middle: an answer that breaks off never looks complete.
    """
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + limits.answer
    # not entered: a generator's context is that of whoever takes its next piece
    call = router.call("POST", f"/v1/{endpoint}")
    response: aiohttp.ClientResponse | None = None
    try:
        response = await _send(router, call, endpoint, chain_session, body, "text/event-stream", limits.first_byte)
        await _expect_success(call, response, limits)
        patience = limits.first_byte
        while True:
            try:
                async with asyncio.timeout(min(patience, ends_at - loop.time())):
                    chunk = await response.content.readany()
            except TimeoutError:
                if rules.is_done or _is_over(response):
                    break
                raise PromptFailure(ApiError("provider_timeout"), end_unseen=True) from None
            except aiohttp.ClientError:
                # a router that stores chats cuts the connection after `[DONE]` where usage was asked for (proxy-router
                # contract, section 4): whether this is the end of an answer, the answer itself tells
                break
            if not chunk:
                break
            if out := rules.feed(chunk):
                yield out
            if rules.failure is not None:
                raise rules.failure
            patience = min(limits.chunk, END_SECONDS) if rules.is_done else limits.chunk
        if out := rules.finish():
            yield out
        if rules.failure is not None:
            raise rules.failure
    except PromptFailure as failure:
        call.fail(failure)
        raise
    finally:
        call.end()
        if response is not None:
            response.close()
