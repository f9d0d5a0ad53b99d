"""A prompt at a proxy-router: the call, its time limits, and what its failures mean.

Source: proxy-router contract, section 4. A prompt is sent once; nothing here tries again.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx2
from morpheus_common.contracts.chat import Endpoint
from morpheus_common.errors import ApiError

from morpheus_sessions.failures import PromptFailure, prompt_failure
from morpheus_sessions.router import Router, trace_headers
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


@asynccontextmanager
async def _call(
    router: Router, endpoint: Endpoint, chain_session: str, body: bytes, accept: str, limits: TimeLimits
) -> AsyncIterator[httpx2.Response]:
    """Send the prompt and yield the answer's head with status 200, or raise `PromptFailure`."""
    headers = {
        "session_id": chain_session,
        "content-type": "application/json",
        "accept": accept,
        **trace_headers(),
    }
    request = router.http.build_request(
        "POST",
        f"/v1/{endpoint}",
        content=body,
        headers=headers,
        timeout=httpx2.Timeout(limits.first_byte, connect=3.0),
    )
    try:
        response = await router.http.send(request, stream=True)
    except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout):
        raise PromptFailure(ApiError("service_unavailable", retry_after=2), not_sent=True) from None
    except httpx2.TimeoutException:
        raise PromptFailure(ApiError("provider_timeout"), end_unseen=True) from None
    except httpx2.HTTPError:
        # the router hung up without an answer: it may have taken the prompt up
        raise PromptFailure(ApiError("provider_error")) from None
    try:
        if response.status_code != 200:
            raise prompt_failure(response.status_code, await _read(response, ERROR_BYTES, limits, cut=True))
        yield response
    finally:
        await response.aclose()


async def _read(response: httpx2.Response, limit: int, limits: TimeLimits, *, cut: bool = False) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(limits.answer):
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > limit:
                    if cut:
                        break
                    raise PromptFailure(ApiError("provider_error"))
    except (TimeoutError, httpx2.TimeoutException):
        raise PromptFailure(ApiError("provider_timeout"), end_unseen=True) from None
    except httpx2.HTTPError:
        raise PromptFailure(ApiError("provider_error")) from None
    return bytes(body)


async def whole_answer(
    router: Router, endpoint: Endpoint, chain_session: str, body: bytes, limits: TimeLimits, *, max_bytes: int
) -> bytes:
    """Return a provider's answer in JSON mode as it came. Raises `PromptFailure`."""
    # a router sends nothing of a JSON answer before all of it is there
    patient = TimeLimits(first_byte=limits.answer, chunk=limits.answer, answer=limits.answer)
    async with _call(router, endpoint, chain_session, body, "application/json", patient) as response:
        return await _read(response, max_bytes, limits)


async def streamed_answer(
    router: Router, endpoint: Endpoint, chain_session: str, body: bytes, limits: TimeLimits, rules: StreamRules
) -> AsyncGenerator[bytes, None]:
    """Yield what the client gets of a streamed answer, whole events at a time, `data: [DONE]` last.

    Raises `PromptFailure`, also in the middle: an answer that breaks off never looks complete.
    """
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + limits.answer
    async with _call(router, endpoint, chain_session, body, "text/event-stream", limits) as response:
        chunks = response.aiter_raw()
        patience = limits.first_byte
        while True:
            try:
                async with asyncio.timeout(min(patience, ends_at - loop.time())):
                    chunk = await anext(chunks, None)
            except (TimeoutError, httpx2.TimeoutException):
                if rules.is_done:
                    break
                raise PromptFailure(ApiError("provider_timeout"), end_unseen=True) from None
            except httpx2.HTTPError:
                # a router that stores chats cuts the connection after `[DONE]` where usage was asked for (proxy-router
                # contract, section 4): whether this is the end of an answer, the answer itself tells
                break
            if chunk is None:
                break
            if out := rules.feed(chunk):
                yield out
            patience = min(limits.chunk, END_SECONDS) if rules.is_done else limits.chunk
        yield rules.finish()
