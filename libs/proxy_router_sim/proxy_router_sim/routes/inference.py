"""Chat and embeddings (contract sections 2.10 and 4)."""

import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

from aiohttp import web

from proxy_router_sim import gojson, params, sse
from proxy_router_sim.answers import content_text
from proxy_router_sim.behaviour import Answers, Behaviour
from proxy_router_sim.chats import Chat
from proxy_router_sim.errors import BadRequestError, ConnectionCutError, ModelError, RouterError
from proxy_router_sim.ethereum import hash_id
from proxy_router_sim.faults import CHAT_ACTIONS, SPOILING_ACTIONS, Fault, strike_stream, strike_whole
from proxy_router_sim.marketplace import Model
from proxy_router_sim.models import Chunk, LanguageModel
from proxy_router_sim.routes.route import CHATS, CONTENT_TYPE, FAULTS, FORMS, PROMPTS, SIMULATOR, Route, described

_DROPPED_WHEN_ZERO = frozenset(
    [
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "n",
        "stream",
        "stop",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "user",
        "tools",
        "functions",
        "store",
        "metadata",
        "seed",
    ]
)
"""Keys that the router re-encodes with Go's omitempty, so that a zero does not reach the model."""

_SILENCE = "provider request failed: provider closed connection without sending any data"


async def chat(request: web.Request) -> web.StreamResponse:
    with request.app[PROMPTS].running(request.headers.get("session_id", ""), request.headers, await request.read()):
        return await _chat(request)


async def _chat(request: web.Request) -> web.StreamResponse:
    session_id, chat_id = params.session_id(request), params.chat_id(request)
    body = await params.json_body(request)
    messages = body.get("messages") or []
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise BadRequestError(
            "json: cannot unmarshal into Go struct field .messages of type []openai.ChatCompletionMessage"
        )
    if request.app[CHATS].storing and not messages:
        # The store looks at the last message without looking whether there is one.
        raise ConnectionCutError
    streamed = body.get("stream") is True
    # Decided before the provider is asked, so an early error of a stream is JSON under text/event-stream.
    request[CONTENT_TYPE] = "text/event-stream" if streamed else "application/json"
    if session_id is None:
        raise RouterError("api adapter not found: ")
    prompt = {key: value for key, value in body.items() if value or key not in _DROPPED_WHEN_ZERO}
    prompt["messages"] = messages
    faults = request.app[FAULTS]
    fault = faults.take("chat", CHAT_ACTIONS, await described(request)) if faults.wanted("chat") else None
    try:
        async with request.app[SIMULATOR].node.prompt(session_id) as model:
            if model.type not in {"LLM", "UNKNOWN"}:
                raise ModelError(_unsupported(model, "Chat Completions"))
            provider = request.app[SIMULATOR].node.session_of_prompt(session_id).provider
            behaviour = request.app[SIMULATOR].providers.behaviour(provider)
            if fault is not None and fault.action in SPOILING_ACTIONS:
                behaviour = Behaviour(answers=Answers(fault.action), at=fault.chunk)
            chats, asked, meter = request.app[CHATS], int(time.time()), sse.UsageMeter(messages)
            answer = _streamed if streamed else _whole
            response = await answer(request, prompt, meter, model, behaviour, fault)
            if chats.storing:
                new = Chat(
                    chat_id or hash_id("chat", secrets.token_hex(32)), model.id, session_id, _title(messages), asked
                )
                chats.keep(new, prompt, meter.said, (asked, int(time.time())))
            return response
    finally:
        if fault is not None:
            faults.done(fault)


async def _whole(
    request: web.Request,
    prompt: dict[str, Any],
    meter: sse.UsageMeter,
    model: Model,
    behaviour: Behaviour,
    fault: Fault | None,
) -> web.StreamResponse:
    completion = await request.app[SIMULATOR].model.complete(prompt, model.name)
    if fault is not None:
        await strike_whole(fault)
        if fault.action == "no_usage":
            completion.pop("usage", None)
    body = gojson.encode(meter.whole(completion), sort_keys=True)
    if behaviour.ends_before(0):
        raise RouterError(_SILENCE)
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.enable_chunked_encoding()
    # Nobody may be there to read it any more; the prompt has run to its end all the same.
    with suppress(ConnectionResetError):
        await response.prepare(request)
        for piece in behaviour.spoil(body, 0):
            await response.write(piece)
    return response


async def _streamed(
    request: web.Request,
    prompt: dict[str, Any],
    meter: sse.UsageMeter,
    model: Model,
    behaviour: Behaviour,
    fault: Fault | None,
) -> web.StreamResponse:
    chunks = request.app[SIMULATOR].model.stream(prompt, model.name)
    if fault is not None and fault.action == "unstreamed":
        chunks = _unstreamed(request.app[SIMULATOR].model, prompt, model.name)
    elif fault is not None:
        chunks = strike_stream(chunks, fault)
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    response.enable_chunked_encoding()
    async with aclosing(chunks):
        try:
            number, panics = 0, False
            async for chunk in chunks:
                if behaviour.ends_before(number):
                    break
                if not response.prepared:
                    await response.prepare(request)
                for piece in behaviour.spoil(sse.frame(meter.passing(chunk)), number):
                    await response.write(piece)
                number += 1
                panics = panics or (request.app[CHATS].storing and not isinstance(chunk, str) and not chunk["choices"])
            if panics:
                # The store cannot do with a chunk that has nothing but the usage, and finds it after the end mark.
                raise ConnectionCutError
        except (RouterError, ModelError) as error:
            if not response.prepared:
                raise
            # The router has no way to fail a running stream: it appends the bare error and ends as if all were well.
            await response.write(gojson.encode(request.app[FORMS].answer(error)[1]))
    if not response.prepared:
        raise RouterError(_SILENCE)
    return response


async def _unstreamed(model: LanguageModel, prompt: dict[str, Any], name: str) -> AsyncGenerator[Chunk, None]:
    """What a model makes of a streaming prompt that does not stream: its whole answer, and no end mark."""
    yield await model.complete(prompt, name)


async def embeddings(request: web.Request) -> web.Response:
    session_id = params.session_id(request)
    body = await params.json_body(request)
    request[CONTENT_TYPE] = "application/json"
    if session_id is None:
        raise RouterError("api adapter not found: ")
    simulator = request.app[SIMULATOR]
    async with simulator.node.prompt(session_id) as model:
        if model.type != "EMBEDDING":
            raise ModelError(_unsupported(model, "Embeddings"))
        answer = await simulator.model.embed(body, model.name)
    return web.Response(body=gojson.encode(answer), headers={"Content-Type": "application/json"})


def _title(messages: list[dict[str, Any]]) -> str:
    return content_text(messages[0].get("content"))[:100]


def _unsupported(model: Model, api: str) -> dict[str, Any]:
    message = f"The model {model.name} does not support the {api} API"
    return {"error": {"message": message, "type": "invalid_request_error"}}


ROUTES = [
    Route("POST", "/v1/chat/completions", chat, "chat", "chat"),
    Route("POST", "/v1/embeddings", embeddings, "embeddings", "embeddings"),
]
