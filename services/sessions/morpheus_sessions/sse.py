"""A provider's event stream made into what an OpenAI client expects: pure, no I/O.

Rules: http-api 7.5. Values, order and unknown keys are kept; an event that needs no change passes byte for byte.
"""

from typing import Any, Final

import orjson
from morpheus_common.errors import ApiError

from morpheus_sessions.failures import PromptFailure, prompt_failure

DONE: Final = b"[DONE]"
MAX_EVENT_BYTES: Final = 8 * 1024 * 1024
"""A provider is not trusted: an event larger than this ends the stream."""
USAGE_KEYS: Final = ("usage_from_provider", "usage_from_consumer")


class EventSplitter:
    """Cuts a byte stream into the data of its events, however the bytes arrive. Line ends may be LF, CRLF or CR."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._data: list[bytes] = []
        self._stray: list[bytes] = []
        self._held = 0
        """Bytes in `_data` and `_stray`."""
        self._after_cr = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the data of every event that `chunk` completes. Comments and other fields are dropped."""
        if not chunk:
            return []
        after_cr, self._after_cr = self._after_cr, chunk.endswith(b"\r")
        if after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        events: list[bytes] = []
        lines = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for piece in lines[:-1]:
            self._line += piece
            self._end_line(events)
        self._line += lines[-1]
        if len(self._line) + self._held > MAX_EVENT_BYTES:
            raise PromptFailure(ApiError("provider_error"))
        return events

    def _end_line(self, events: list[bytes]) -> None:
        line = bytes(self._line)
        self._line.clear()
        if not line:
            if self._data:
                events.append(b"\n".join(self._data))
                self._held -= sum(map(len, self._data))
                self._data.clear()
        elif line.startswith(b"data:"):
            data = line[6:] if line.startswith(b"data: ") else line[5:]
            self._data.append(data)
            self._held += len(data)
        elif line.startswith(b"{"):
            # the router appends an error as a bare object, without `data:` (proxy-router contract, section 4)
            self._stray.append(line)
            self._held += len(line)

    def rest(self) -> tuple[list[bytes], bytes]:
        """Return at the end of the stream: events without their closing blank line, and what stood outside of any."""
        if self._line:
            self._end_line([])
        events = [b"\n".join(self._data)] if self._data else []
        self._data.clear()
        return events, b"".join(self._stray)


class StreamRules:
    """Applies the rules of a chat stream and knows a complete answer from a broken one."""

    def __init__(self, *, include_usage: bool) -> None:
        self._include_usage = include_usage
        self._splitter = EventSplitter()
        self._seen: set[int] = set()
        self._finished: set[int] = set()
        self._done = False
        self._usage: Any = None
        self._last: dict[str, Any] = {}

    @property
    def is_done(self) -> bool:
        """Tell whether the provider has said `[DONE]`."""
        return self._done

    def feed(self, chunk: bytes) -> bytes:
        """Return what the client gets for a piece of the provider's stream. Raises `PromptFailure`."""
        out = [piece for data in self._splitter.feed(chunk) if (piece := self._event(data))]
        return b"".join(out)

    def finish(self) -> bytes:
        """Return the last bytes, up to `data: [DONE]`. Raises `PromptFailure` if the answer is not complete."""
        events, stray = self._splitter.rest()
        out = [piece for data in events if (piece := self._event(data))]
        if stray:
            raise _failure_in_stream(stray)
        complete = bool(self._finished) and (self._done or self._finished >= self._seen)
        if not complete:
            raise PromptFailure(ApiError("stream_truncated"))
        if self._include_usage and self._usage is not None:
            out.append(_event(orjson.dumps(self._usage_chunk())))
        out.append(_event(DONE))
        return b"".join(out)

    def _event(self, data: bytes) -> bytes:
        if self._done:
            return b""
        if data.strip() == DONE:
            self._done = True
            return b""
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            if data.lstrip().startswith(b"{"):
                # a chunk that came in pieces: without its words the rest would look like a whole answer
                raise PromptFailure(ApiError("provider_error")) from None
            # the router's own notes are not JSON; a client would choke on them
            return b""
        if not isinstance(chunk, dict):
            return b""
        if "choices" not in chunk and ("error" in chunk or "providerModelError" in chunk):
            raise _failure_in_stream(data)
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                index = choice.get("index")
                index = index if isinstance(index, int) else 0
                self._seen.add(index)
                if choice.get("finish_reason"):
                    self._finished.add(index)
        return self._pass_on(data, chunk, choices)

    def _pass_on(self, data: bytes, chunk: dict[str, Any], choices: Any) -> bytes:
        extra = [key for key in USAGE_KEYS if key in chunk]
        if extra:
            counted = chunk.get("usage_from_provider") or chunk.get("usage_from_consumer")
            self._usage = self._usage or counted
            for key in extra:
                del chunk[key]
        if chunk.get("usage"):
            self._usage = chunk["usage"]
        self._last = {key: chunk.get(key) for key in ("id", "object", "created", "model") if key in chunk} or self._last
        if choices == [] and chunk.get("usage"):
            # one usage chunk of ours ends the stream when it was asked for; what this one says is in it
            return b""
        return _event(orjson.dumps(chunk) if extra else data)

    def _usage_chunk(self) -> dict[str, Any]:
        return {**self._last, "choices": [], "usage": self._usage}


def _failure_in_stream(data: bytes) -> PromptFailure:
    # its status is unknown; 400 is what a router says of a model's refusal when it knows no better
    return prompt_failure(400, data)


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


def finish_json(body: bytes, *, model: str, answer_id: str, created: int) -> bytes:
    """Return a provider's answer in JSON mode, with what OpenAI's form needs filled in. Raises `PromptFailure`.

    `created` in Unix seconds.
    """
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise PromptFailure(ApiError("provider_error")) from None
    if not isinstance(answer, dict) or not answer:
        raise PromptFailure(ApiError("provider_error"))
    if "choices" not in answer and "data" not in answer:
        raise prompt_failure(500, body)
    if "choices" in answer:
        answer.setdefault("id", answer_id)
        answer.setdefault("object", "chat.completion")
        answer.setdefault("created", created)
        answer.setdefault("model", model)
    counted = answer.get("usage_from_provider") or answer.get("usage_from_consumer")
    for key in USAGE_KEYS:
        answer.pop(key, None)
    if not answer.get("usage") and counted:
        answer["usage"] = counted
    return orjson.dumps(answer)
