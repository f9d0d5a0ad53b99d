"""The simulated provider in front of an OpenAI-compatible server, here a small one of the test's own."""

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from aiohttp import web
from proxy_router_sim.simulator import Settings

from tests.unit.proxy_router_sim.harness import USERS, Router, chunks_of, running

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def router_before(handler: Handler) -> AsyncIterator[Router]:
    app = web.Application()
    app.router.add_post("/v1/{rest:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        async with running(Settings(users=USERS, llm_url=url, llm_key="key", llm_model="tiny")) as router:
            yield router
    finally:
        await runner.cleanup()


async def test_the_server_is_asked_with_its_own_model_and_key_and_its_answer_sorted() -> None:
    asked: dict[str, Any] = {}

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.update(await request.json(), path=request.path, auth=request.headers["Authorization"])
        choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
        return web.json_response({"object": "chat.completion", "id": "1", "choices": [choice], "extra": 1})

    async with router_before(handler) as router:
        status, body = await router.chat(await router.open(), "hello", temperature=0, stream=False, model="x")
    assert status == 200
    assert list(body) == sorted(body)
    assert body["extra"] == 1
    assert body["usage_from_provider"]["completion_tokens"] == 1
    assert asked == {
        "messages": [{"role": "user", "content": "hello"}],
        "model": "tiny",
        "path": "/v1/chat/completions",
        "auth": "Bearer key",
    }


async def test_its_stream_is_passed_on_with_sorted_keys_and_its_own_fields() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        delta = {"role": "assistant", "reasoning_content": "hm"}
        for choice in ({"index": 0, "delta": delta}, {"index": 0, "delta": {}, "finish_reason": "stop"}):
            chunk = {"object": "chat.completion.chunk", "choices": [choice]}
            await response.write(b": comment\n\ndata: " + json.dumps(chunk).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response

    async with router_before(handler) as router:
        stream = await router.stream(await router.open())
    first, last = chunks_of(stream)
    assert first["choices"][0]["delta"]["reasoning_content"] == "hm"
    assert "usage_from_consumer" in last
    assert stream.startswith(b'data: {"choices":[{"delta":{"reasoning_content":"hm","role":"assistant"},"index":0}],')
    assert stream.endswith(b"data: [DONE]\n\n")


async def test_its_errors_become_400_whatever_their_status() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if (await request.json()).get("stream"):
            return web.Response(status=503, text="overloaded")
        return web.json_response({"error": {"message": "slow down"}}, status=429)

    async with router_before(handler) as router:
        opened = await router.open()
        assert await router.chat(opened) == (400, {"providerModelError": {"error": {"message": "slow down"}}})
        assert json.loads(await router.stream(opened)) == {
            "providerModelError": {"error": {"message": "overloaded", "type": "upstream_error"}}
        }


async def test_an_answer_that_is_none_is_an_unknown_format() -> None:
    async def handler(_request: web.Request) -> web.StreamResponse:
        return web.json_response({"object": "something"})

    async with router_before(handler) as router:
        status, body = await router.chat(await router.open())
    assert status == 500
    assert body == {"error": "provider request failed: invalid response: unknown response format"}


async def test_a_whole_answer_to_a_streaming_prompt_is_one_line_without_end_mark() -> None:
    async def handler(_request: web.Request) -> web.StreamResponse:
        message = {"role": "assistant", "content": "hi"}
        return web.json_response(
            {"object": "chat.completion", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
        )

    async with router_before(handler) as router:
        stream = await router.stream(await router.open())
    assert stream.count(b"data: ") == 1
    assert b"[DONE]" not in stream


async def test_a_server_that_is_away_is_the_providers_error() -> None:
    settings = Settings(users=USERS, llm_url="http://127.0.0.1:9/v1")
    async with running(settings) as router:
        status, body = await router.chat(await router.open())
    assert status == 500
    assert body["error"].startswith(
        "provider request failed: provider error: failed to prompt: failed to send request: Post"
    )
