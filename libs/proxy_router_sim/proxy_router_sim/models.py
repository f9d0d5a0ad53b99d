"""The model behind a provider: simulated, or any OpenAI-compatible server. Both yield OpenAI chunks as objects."""

import asyncio
import contextlib
import itertools
import json
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Any, Final, Protocol

import aiohttp

from proxy_router_sim.answers import Choice, answer, count_prompt_tokens, count_tokens
from proxy_router_sim.embeddings import embed
from proxy_router_sim.errors import ModelError, RouterError
from proxy_router_sim.ethereum import hash_id

DONE: Final = "[DONE]"
Chunk = dict[str, Any] | str
"""A JSON object of the model's stream, or a line that is none: its end mark, or words of the router itself."""

_MAX_CHUNKS = 200
"""A long echo goes out in bigger pieces, so that it costs no more frames than a long answer."""
_MAX_CHOICES = 128
"""What OpenAI accepts."""
_MAX_TOP_LOGPROBS = 20
"""The same."""
_ARGUMENT_FRAGMENT = 24
"""Characters of a tool call's arguments in one chunk."""
_LLM_TIMEOUT_SECONDS = 240
"""LLM_TIMEOUT of a provider: the whole call with its stream (contract section 4)."""
_LONGEST_LINE = 8 * 1024 * 1024


class LanguageModel(Protocol):
    """Answers requests under a model name."""

    async def complete(self, request: dict[str, Any], model_name: str) -> dict[str, Any]:
        """A chat.completion object. Raises ModelError or RouterError."""

    def stream(self, request: dict[str, Any], model_name: str) -> AsyncGenerator[Chunk, None]:
        """The chunks of a streamed answer. Raises ModelError or RouterError."""

    async def embed(self, request: dict[str, Any], model_name: str) -> dict[str, Any]:
        """An embeddings object. Raises ModelError or RouterError."""


class SimulatedModel:
    """Answers from a seeded generator within ``answer_seconds`` of wall time."""

    def __init__(
        self,
        *,
        seed: int,
        answer_seconds: float,
        now: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._seed = seed
        self.answer_seconds = answer_seconds
        self._now = now
        self._sleep = sleep
        self._serial = itertools.count(1)

    async def complete(self, request: dict[str, Any], model_name: str) -> dict[str, Any]:
        choices = self._answer(request)
        if self.answer_seconds:
            await self._sleep(self.answer_seconds)
        return {
            **self._head("chat.completion", model_name),
            "choices": [
                {
                    "index": i,
                    "message": _message(choice),
                    **_logprobs(request, choice.pieces),
                    "finish_reason": choice.finish_reason,
                }
                for i, choice in enumerate(choices)
            ],
            "usage": _usage(request, choices),
        }

    async def stream(self, request: dict[str, Any], model_name: str) -> AsyncGenerator[Chunk, None]:
        choices = self._answer(request)
        head = self._head("chat.completion.chunk", model_name)
        # One choice after the other in small steps: chunk k of every choice, then chunk k + 1.
        deltas = itertools.zip_longest(*(_deltas(request, i, choice) for i, choice in enumerate(choices)))
        entries = [entry for step in deltas for entry in step if entry is not None]
        started = time.monotonic()
        for number, entry in enumerate(entries, 1):
            if self.answer_seconds:
                due = self.answer_seconds * number / len(entries)
                ahead = due - (time.monotonic() - started)
                if ahead > 0:
                    await self._sleep(ahead)
            yield {**head, "choices": [entry]}
        options = request.get("stream_options")
        if isinstance(options, dict) and options.get("include_usage"):
            yield {**head, "choices": [], "usage": _usage(request, choices)}
        yield DONE

    async def embed(self, request: dict[str, Any], model_name: str) -> dict[str, Any]:
        return embed(request, model_name)

    def _answer(self, request: dict[str, Any]) -> list[Choice]:
        messages = request.get("messages")
        if not messages:
            raise ModelError({"error": {"message": "messages must not be empty", "type": "invalid_request_error"}})
        n = request.get("n")
        if isinstance(n, int) and n > _MAX_CHOICES:
            raise ModelError({"error": {"message": f"n is at most {_MAX_CHOICES}", "type": "invalid_request_error"}})
        return answer(request, self._seed)

    def _head(self, kind: str, model_name: str) -> dict[str, Any]:
        now = self._now()
        identity = hash_id("answer", next(self._serial), repr(now))[2:26]
        return {"id": f"chatcmpl-{identity}", "object": kind, "created": int(now), "model": model_name}


def _message(choice: Choice) -> dict[str, Any]:
    if choice.tool_call is None:
        return {"role": "assistant", "content": choice.text}
    call = choice.tool_call
    function = {"name": call.name, "arguments": call.arguments}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": call.id, "type": "function", "function": function}],
    }


def _logprobs(request: dict[str, Any], pieces: list[str]) -> dict[str, Any]:
    """The member ``logprobs`` of a choice, if asked for: made-up figures, with a piece as a token."""
    if request.get("logprobs") is not True:
        return {}
    wanted = request.get("top_logprobs")
    count = min(wanted, _MAX_TOP_LOGPROBS) if isinstance(wanted, int) and wanted > 0 else 0
    content = []
    for piece in pieces:
        said = _token(piece, -0.25)
        others = [_token(piece.upper() + "!" * rank, -1.0 - rank) for rank in range(count)]
        content.append({**said, "top_logprobs": [said, *others][:count]})
    return {"logprobs": {"content": content, "refusal": None}}


def _token(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def _deltas(request: dict[str, Any], index: int, choice: Choice) -> Iterator[dict[str, Any]]:
    """The entries of ``choices`` that stream one choice; the last has the finish reason and an empty delta."""

    def entry(delta: dict[str, Any], finish_reason: str | None = None, **more: Any) -> dict[str, Any]:
        return {"index": index, "delta": delta, "finish_reason": finish_reason, **more}

    if choice.tool_call is not None:
        call = choice.tool_call
        opening = {"index": 0, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
        yield entry({"role": "assistant", "content": None, "tool_calls": [opening]})
        for start in range(0, len(call.arguments), _ARGUMENT_FRAGMENT):
            fragment = call.arguments[start : start + _ARGUMENT_FRAGMENT]
            yield entry({"tool_calls": [{"index": 0, "function": {"arguments": fragment}}]})
    else:
        size = math.ceil(len(choice.pieces) / _MAX_CHUNKS)
        for start in range(0, len(choice.pieces), size):
            said = choice.pieces[start : start + size]
            delta: dict[str, Any] = {"content": "".join(said)}
            yield entry({"role": "assistant", **delta} if start == 0 else delta, **_logprobs(request, said))
    yield entry({}, choice.finish_reason)


def _usage(request: dict[str, Any], choices: list[Choice]) -> dict[str, int]:
    prompt = count_prompt_tokens(request["messages"])
    said = (choice.tool_call.arguments if choice.tool_call else choice.text for choice in choices)
    completion = sum(count_tokens(text) for text in said)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


class RemoteModel:
    """Asks an OpenAI-compatible server at ``base_url``; ``model`` replaces the marketplace's name if given."""

    def __init__(self, base_url: str, *, api_key: str | None = None, model: str | None = None) -> None:
        self._base_url = base_url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._model = model
        self._session: aiohttp.ClientSession | None = None

    async def complete(self, request: dict[str, Any], model_name: str) -> dict[str, Any]:
        with _failures_named(self._base_url):
            async with self._post("/chat/completions", request, model_name) as response:
                completion = await _checked_json(response)
                if completion.get("object") != "chat.completion" or not completion.get("choices"):
                    raise RouterError("provider request failed: invalid response: unknown response format")
                return completion

    async def stream(self, request: dict[str, Any], model_name: str) -> AsyncGenerator[Chunk, None]:
        with _failures_named(self._base_url):
            async with self._post("/chat/completions", request, model_name) as response:
                if response.status != 200 or response.content_type != "text/event-stream":
                    # A model that does not stream: one data line with its whole answer and no end mark (section 4).
                    yield await _checked_json(response)
                    return
                async for line in response.content:
                    if not line.startswith(b"data:"):
                        continue
                    data = line[5:].strip()
                    if data == b"[DONE]":
                        yield DONE
                        return
                    yield _checked_chunk(data)

    async def embed(self, request: dict[str, Any], model_name: str) -> dict[str, Any]:
        with _failures_named(self._base_url):
            async with self._post("/embeddings", request, model_name) as response:
                embeddings = await _checked_json(response)
                if not embeddings.get("data"):
                    raise RouterError("provider request failed: invalid response: unknown embeddings response format")
                return embeddings

    async def close(self) -> None:
        """Close the connections to the server."""
        if self._session is not None:
            await self._session.close()

    def _post(self, path: str, request: dict[str, Any], model_name: str) -> "aiohttp.client._RequestContextManager":
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=_LLM_TIMEOUT_SECONDS),
                read_bufsize=_LONGEST_LINE,
                headers=self._headers,
            )
        return self._session.post(self._base_url + path, json={**request, "model": self._model or model_name})


@contextlib.contextmanager
def _failures_named(url: str) -> Iterator[None]:
    """Gives a transport failure towards the model the text that the provider's error has (contract section 4)."""
    try:
        yield
    except (TimeoutError, aiohttp.ClientError) as error:
        cause = "context deadline exceeded" if isinstance(error, TimeoutError) else str(error)
        raise RouterError(
            f'provider request failed: provider error: failed to prompt: failed to send request: Post "{url}": {cause}'
        ) from error


async def _checked_json(response: aiohttp.ClientResponse) -> dict[str, Any]:
    """The object of a 200 answer; anything else is the model's error."""
    body = await response.read()
    try:
        parsed = json.loads(body)
    except ValueError:
        parsed = {"error": {"message": body.decode(errors="replace"), "type": "upstream_error"}}
        if response.status == 200:
            raise RouterError("provider request failed: invalid response: unknown response format") from None
    if response.status != 200:
        raise ModelError(parsed, response.status)
    if not isinstance(parsed, dict):
        raise RouterError("provider request failed: invalid response: unknown response format")
    return parsed


def _checked_chunk(data: bytes) -> dict[str, Any]:
    try:
        chunk = json.loads(data)
    except ValueError:
        chunk = None
    if isinstance(chunk, dict) and (chunk.get("object") == "chat.completion.chunk" or "usage" in chunk):
        return chunk
    raise RouterError("provider request failed: invalid response: unknown response format")
