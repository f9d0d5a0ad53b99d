"""A provider's event stream made into what an OpenAI client expects: pure, no I/O.

Values, order and unknown keys are kept; an event that needs no change passes byte for byte.
"""

from typing import Any, Final

import orjson
from morpheus_common.contracts.chat import Endpoint
from morpheus_common.errors import ApiError

from morpheus_sessions.failures import PromptFailure, prompt_failure

DONE: Final = b"[DONE]"
MAX_EVENT_BYTES: Final = 8 * 1024 * 1024
"""A provider is not trusted: an event larger than this ends the stream."""
_FIELD_BYTES: Final = 64
"""What of a line is not its data, and more."""
USAGE_KEYS: Final = ("usage_from_provider", "usage_from_consumer")
_CONTENT: Final = {Endpoint.CHAT: "choices", Endpoint.EMBEDDINGS: "data"}
"""The list in which an answer in JSON mode says what it has to say."""


class EventSplitter:
    """Cuts a byte stream into the data of its events, however the bytes arrive. Line ends may be LF, CRLF or CR."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._data: list[bytes] = []
        self._stray: list[bytes] = []
        self._held = 0
        """Bytes in `_data` and `_stray`."""
        self._after_cr = False
        self.overflows = False
        """Whether there was an event larger than `MAX_EVENT_BYTES`: what comes after it is not read."""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the data of every event that `chunk` completes. Comments and other fields are dropped."""
        if not chunk:
            return []
        if chunk.endswith(b"\n\n") and not (self._line or self._data or self._after_cr or b"\r" in chunk):
            # whole events of one line each, as nearly all are: they need not be looked at line by line
            pieces = chunk[:-2].split(b"\n\n")
            if all(piece.startswith(b"data: ") and b"\n" not in piece for piece in pieces):
                return [piece[6:] for piece in pieces]
        after_cr, self._after_cr = self._after_cr, chunk.endswith(b"\r")
        if after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        events: list[bytes] = []
        lines = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for piece in lines[:-1]:
            self._line += piece
            self._end_line(events)
        self._line += lines[-1]
        self.overflows = self.overflows or len(self._line) + self._held > MAX_EVENT_BYTES + _FIELD_BYTES
        return events

    def _end_line(self, events: list[bytes]) -> None:
        line = bytes(self._line)
        self._line.clear()
        if not line:
            if self._data:
                data = b"\n".join(self._data)
                self._held -= sum(map(len, self._data))
                self._data.clear()
                # whatever the pieces in which it came
                self.overflows = self.overflows or len(data) > MAX_EVENT_BYTES
                if not self.overflows:
                    events.append(data)
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

    def __init__(self, *, include_usage: bool, choices: int = 1) -> None:
        """`choices`: how many answers were asked for (`n`)."""
        self._include_usage = include_usage
        self._choices = choices
        self._splitter = EventSplitter()
        self._seen: set[int] = set()
        self._finished: set[int] = set()
        self._done = False
        self.is_finished = False
        """Whether all of the answer has been returned."""
        self._usage: Any = None
        self.chunks = 0
        """How many with a part of an answer were let through."""
        self.told: dict[str, Any] = {}
        """What was said so far of the tokens, by the names it was said under. Replaced, never changed."""
        self._last: dict[str, Any] = {}
        self.failure: PromptFailure | None = None
        """Why there is no more of the answer than was returned so far."""

    @property
    def is_done(self) -> bool:
        """Tell whether the provider has said `[DONE]`."""
        return self._done

    def feed(self, chunk: bytes) -> bytes:
        """Return what the client gets for a piece of the provider's stream; then `failure` tells whether that was all."""
        out: list[bytes] = []
        try:
            self._take(self._splitter.feed(chunk), out)
            if self._splitter.overflows:
                raise PromptFailure(ApiError("provider_error"))
        except PromptFailure as failure:
            self.failure = failure
        return b"".join(out)

    def finish(self) -> bytes:
        """Return the last bytes, up to `data: [DONE]` if the answer is complete; else `failure` tells why it is not."""
        out: list[bytes] = []
        try:
            self._end(out)
        except PromptFailure as failure:
            self.failure = failure
        return b"".join(out)

    def _take(self, events: list[bytes], out: list[bytes], *, cut: bool = False) -> None:
        for data in events:
            if piece := self._event(data, cut=cut):
                out.append(piece)  # noqa: PERF401 - what came before a failure stays

    def _end(self, out: list[bytes]) -> None:
        events, stray = self._splitter.rest()
        self._take(events, out, cut=True)
        if stray:
            raise _failure_in_stream(stray)
        all_finished = self._finished >= self._seen and len(self._finished) >= self._choices
        complete = bool(self._finished) and (self._done or all_finished)
        if not complete:
            raise PromptFailure(ApiError("stream_truncated"))
        if self._include_usage and self._usage is not None:
            out.append(_event(orjson.dumps(self._usage_chunk())))
        out.append(_event(DONE))
        self.is_finished = True

    def _event(self, data: bytes, *, cut: bool = False) -> bytes:
        """Return what the client gets of an event. `cut`: it may have broken off; what is missing then shows at the end."""
        if self._done:
            return b""
        if data.strip() == DONE:
            self._done = True
            return b""
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            if not cut and _is_broken(data):
                # without it the answer would have a hole that nobody sees
                raise PromptFailure(ApiError("provider_error")) from None
            # the router's own notes are not JSON; a client would choke on them
            return b""
        if not isinstance(chunk, dict):
            return b""
        if chunk.get("object") == "chat.completion":
            chunk = _as_chunk(chunk)
            data = orjson.dumps(chunk)
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
            self.told = {**self.told, **{key: chunk.pop(key) for key in extra}}
        if chunk.get("usage"):
            self._usage = chunk["usage"]
            self.told = {**self.told, "usage": self._usage}
        self._last = {key: chunk.get(key) for key in ("id", "object", "created", "model") if key in chunk} or self._last
        if choices == [] and chunk.get("usage"):
            # one usage chunk of ours ends the stream when it was asked for; what this one says is in it
            return b""
        if choices:
            self.chunks += 1
        return _event(orjson.dumps(chunk) if extra else data)

    def _usage_chunk(self) -> dict[str, Any]:
        return {**self._last, "choices": [], "usage": self._usage}


def _failure_in_stream(data: bytes) -> PromptFailure:
    # its status is unknown; 400 is what a router says of a model's refusal when it knows no better
    return prompt_failure(400, data)


def _is_broken(data: bytes) -> bool:
    """Tell a chunk that cannot be read from a note of the router, which is text."""
    try:
        return data.decode().lstrip().startswith("{")
    except UnicodeDecodeError:
        return True


def _as_chunk(completion: dict[str, Any]) -> dict[str, Any]:
    """Return the whole answer of a model that does not stream as the one chunk of a stream.

    A router passes it on in one event (proxy-router contract, section 4), where clients look for a `delta` in vain.
    """
    choices = completion.get("choices")
    told = [
        {"delta" if key == "message" else key: value for key, value in choice.items()}
        for choice in (choices if isinstance(choices, list) else ())
        if isinstance(choice, dict)
    ]
    for choice in told:
        calls = choice["delta"].get("tool_calls") if isinstance(choice.get("delta"), dict) else None
        for index, call in enumerate(calls if isinstance(calls, list) else ()):
            if isinstance(call, dict):
                call.setdefault("index", index)
    return {**completion, "object": "chat.completion.chunk", "choices": told}


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


def finish_json(
    body: bytes,
    endpoint: Endpoint,
    *,
    model: str,
    answer_id: str,
    created: int,
    told: dict[str, Any] | None = None,
) -> bytes:
    """Return a provider's answer in JSON mode, with what OpenAI's form needs filled in. Raises `PromptFailure`.

    `created` in Unix seconds. `told` is filled with what is said of the tokens, as `StreamRules.told`.
    """
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise PromptFailure(ApiError("provider_error")) from None
    if not isinstance(answer, dict):
        raise PromptFailure(ApiError("provider_error"))
    if _CONTENT[endpoint] not in answer:
        raise prompt_failure(500, body)
    content = answer[_CONTENT[endpoint]]
    if not isinstance(content, list) or not content or not all(isinstance(item, dict) for item in content):
        raise PromptFailure(ApiError("provider_error"))
    if endpoint is Endpoint.EMBEDDINGS:
        answer.setdefault("object", "list")
        for index, item in enumerate(content):
            item.setdefault("object", "embedding")
            item.setdefault("index", index)
    else:
        answer.setdefault("id", answer_id)
        answer.setdefault("object", "chat.completion")
        answer.setdefault("created", created)
    answer.setdefault("model", model)
    counted = answer.get("usage_from_provider") or answer.get("usage_from_consumer")
    if told is not None:
        told.update({key: answer[key] for key in ("usage", *USAGE_KEYS) if key in answer})
    for key in USAGE_KEYS:
        answer.pop(key, None)
    if not answer.get("usage") and counted:
        answer["usage"] = counted
    return orjson.dumps(answer)
