"""Frames of a streamed answer, and the usage that the two nodes add (contract section 4)."""

from collections.abc import Mapping, Sequence
from typing import Any

from proxy_router_sim import gojson
from proxy_router_sim.answers import count_prompt_tokens, count_tokens
from proxy_router_sim.models import Chunk


def frame(chunk: Chunk) -> bytes:
    """One event: ``data: `` with sorted, compact JSON or the end mark, and an empty line."""
    data = chunk.encode() if isinstance(chunk, str) else gojson.encode(chunk, sort_keys=True)
    return b"data: " + data + b"\n\n"


class UsageMeter:
    """Counts what goes by and adds ``usage_from_provider`` and ``usage_from_consumer`` where the nodes do."""

    def __init__(self, messages: Sequence[Mapping[str, Any]]) -> None:
        self._messages = messages
        self._said: list[str] = []

    @property
    def said(self) -> str:
        """All that went by."""
        return "".join(self._said)

    def passing(self, chunk: Chunk) -> Chunk:
        """The chunk of a stream; one with a finish reason or a usage gets the nodes' usage."""
        if isinstance(chunk, str):
            return chunk
        choices = _objects(chunk.get("choices"))
        for choice in choices:
            self._hear(choice.get("delta") or choice.get("message"))
        if chunk.get("usage") or any(choice.get("finish_reason") for choice in choices):
            return self._with_usage(chunk)
        return chunk

    def whole(self, completion: dict[str, Any]) -> dict[str, Any]:
        """A chat.completion object with the nodes' usage."""
        for choice in _objects(completion.get("choices")):
            self._hear(choice.get("message"))
        return self._with_usage(completion)

    def _hear(self, said: Any) -> None:
        if not isinstance(said, dict):
            return
        if isinstance(said.get("content"), str):
            self._said.append(said["content"])
        for call in _objects(said.get("tool_calls")):
            function = call.get("function")
            if isinstance(function, dict) and isinstance(function.get("arguments"), str):
                self._said.append(function["arguments"])

    def _with_usage(self, answer: dict[str, Any]) -> dict[str, Any]:
        prompt, completion = count_prompt_tokens(self._messages), count_tokens(self.said)
        usage = {"completion_tokens": completion, "prompt_tokens": prompt, "total_tokens": prompt + completion}
        return {**answer, "usage_from_consumer": usage, "usage_from_provider": usage}


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
