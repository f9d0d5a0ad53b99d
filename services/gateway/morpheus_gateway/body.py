"""Bodies of requests. That of a prompt is read once for what we need of it, and passed on with its values unchanged."""

import codecs
import json
import re
from dataclasses import dataclass
from typing import Any, Never

from morpheus_common.errors import ApiError
from starlette.requests import Request

MAX_NESTING = 64
MAX_VALUES = 100_000
"""Objects, lists and what stands in them: reading millions takes seconds of the event loop and hundreds of MiB."""
MAX_INPUT_VALUES = 310_000
"""OpenAI takes 300,000 tokens in a request, and clients that count tokens themselves (LangChain's) fill it: 40 ms."""
MAX_MODEL_LENGTH = 256
"""As long as the names that other routes take; in characters."""
MAX_CHOICES = 128
"""As many answers to one prompt as OpenAI gives; more are not waited for."""
_OF_CHAT = frozenset({"model", "messages", "stream", "stream_options", "tools", "session_id"})
_OF_EMBEDDINGS = frozenset({"model", "input", "stream", "session_id"})
_INPUT_FORMS = "a text, a list of texts, a list of token ids, or a list of such lists"
_SESSION_ID = re.compile(r"0x[0-9a-fA-F]{64}")
_STRING = re.compile(rb'"[^"]*"?')
"""A string whose escapes were taken out. What never ends matches to the end: a failed match would be tried again."""
_SPACE = re.compile(r"[ \t\n\r]*")


def _invalid(message: str) -> ApiError:
    return ApiError("invalid_json", message)


def _refuse_constant(_: str) -> Never:
    raise _invalid("The body holds NaN or Infinity, which JSON does not have.")


MAX_DIGITS = 1_000
"""An amount of wei has 78 at most; reading a number takes the square of its length."""


def _read_integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ApiError("validation_error", f"A number has more than {MAX_DIGITS} digits.")
    return int(digits)


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
_SMALL_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=_read_integer)


@dataclass(frozen=True, slots=True)
class _Member:
    """A member of the top-level object: where it stands in the text, and its value."""

    start: int
    end: int
    value: Any


@dataclass(frozen=True, slots=True)
class PromptBody:
    """What we need of a prompt's request, and the bytes to pass on."""

    model: str | None
    session_id: str | None
    stream: bool
    include_usage: bool
    payload: bytes
    choices: int = 1
    """How many answers are asked for."""


def is_json(content_type: str | None) -> bool:
    """Tell whether a body of this content type is taken for JSON; one that says nothing of itself is."""
    if not content_type:
        return True
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type == "application/json" or (media_type.startswith("application/") and media_type.endswith("+json"))


def read_chat_body(body: bytes, accept: str) -> PromptBody:
    """Read a chat request; `accept` is its Accept header. Raises `ApiError` (400)."""
    text, members = _read_object(body, _OF_CHAT, MAX_VALUES)
    messages = _value(members, "messages")
    if messages is None:
        raise ApiError("missing_required_parameter", "Send 'messages', a list with at least one.", param="messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        raise ApiError("invalid_value", "'messages' must be a list with at least one message.", param="messages")
    model, stream, session_id = _model(members), _stream(members), _session_id(members)
    include_usage = _include_usage(members)
    decided = stream if stream is not None else accepts_stream(accept)
    return PromptBody(
        model=model,
        session_id=session_id,
        stream=decided,
        include_usage=include_usage,
        payload=_passed_on(body, text, members, stream=decided),
        choices=_choices(members),
    )


def read_embeddings_body(body: bytes, _: str) -> PromptBody:
    """Read a request for embeddings, which are one object whatever Accept says. Raises `ApiError` (400)."""
    text, members = _read_object(body, _OF_EMBEDDINGS, MAX_INPUT_VALUES)
    asked = _value(members, "input")
    if asked is None:
        raise ApiError("missing_required_parameter", f"Send 'input': {_INPUT_FORMS}.", param="input")
    if not _is_input(asked):
        raise ApiError("invalid_value", f"'input' must be {_INPUT_FORMS}; nothing in it may be empty.", param="input")
    model, stream, session_id = _model(members), _stream(members), _session_id(members)
    if stream:
        raise ApiError("invalid_value", "Embeddings are not streamed: leave 'stream' out.", param="stream")
    return PromptBody(
        model=model,
        session_id=session_id,
        stream=False,
        include_usage=False,
        payload=_passed_on(body, text, members, stream=False),
    )


def _include_usage(members: dict[str, _Member]) -> bool:
    options = _value(members, "stream_options")
    if options is not None and not isinstance(options, dict):
        raise ApiError("invalid_value", "'stream_options' must be an object.", param="stream_options")
    include_usage = None if options is None else options.get("include_usage")
    if include_usage is not None and not isinstance(include_usage, bool):
        raise ApiError("invalid_value", "'include_usage' must be true or false.", param="stream_options.include_usage")
    return include_usage is True


def _is_input(value: Any) -> bool:
    if isinstance(value, str):
        return value != ""
    if not isinstance(value, list) or not value:
        return False
    if isinstance(value[0], str):
        return all(isinstance(text, str) and text for text in value)
    if isinstance(value[0], list):
        return all(isinstance(tokens, list) and _are_tokens(tokens) for tokens in value)
    return _are_tokens(value)


def _are_tokens(values: list[Any]) -> bool:
    # bool is an int in Python and not in JSON
    return bool(values) and all(type(value) is int and value >= 0 for value in values)


def read_json(body: bytes) -> object:
    """Return what a small body says. Raises `invalid_json`, `validation_error` for a number of thousands of digits."""
    text = _text_of(body)
    try:
        return _SMALL_DECODER.decode(text)
    except RecursionError:
        raise _too_deep() from None
    except ValueError:
        raise ApiError("invalid_json") from None


async def sound_json(request: Request) -> None:
    """Hold what FastAPI has read of a body to the rules of every other: its parser takes NaN, a byte order mark, UTF-16 and halves
    of characters as well. Raises as `read_json`.
    """
    if getattr(request.scope["route"], "body_field", None) is None or not is_json(request.headers.get("content-type")):
        return
    if body := await request.body():
        read_json(body)


def accepts_stream(accept: str) -> bool:
    """Tell whether an Accept header prefers an event stream: named with a higher q than JSON. Wildcards say nothing."""
    quality = {"text/event-stream": 0.0, "application/json": 0.0}
    for part in accept.split(","):
        media_type, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if media_type in quality:
            quality[media_type] = max(quality[media_type], _quality(parameters))
    return quality["text/event-stream"] > quality["application/json"]


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return min(1.0, max(0.0, float(value)))
            except ValueError:
                return 0.0
    return 1.0


def _value(members: dict[str, _Member], key: str) -> Any:
    member = members.get(key)
    return None if member is None else member.value


def _model(members: dict[str, _Member]) -> str | None:
    model = _value(members, "model")
    if model is None:
        return None
    if not isinstance(model, str) or not model:
        raise ApiError("invalid_value", "'model' must be the name or id of a model.", param="model")
    if len(model) > MAX_MODEL_LENGTH:
        raise ApiError("invalid_value", f"'model' can have {MAX_MODEL_LENGTH} characters at most.", param="model")
    return model


def _stream(members: dict[str, _Member]) -> bool | None:
    stream = _value(members, "stream")
    if stream is not None and not isinstance(stream, bool):
        raise ApiError("invalid_value", "'stream' must be true or false.", param="stream")
    return stream


def _choices(members: dict[str, _Member]) -> int:
    # whether the number is one that a provider takes, the provider says
    asked = _value(members, "n")
    return max(1, min(asked, MAX_CHOICES)) if isinstance(asked, int) else 1


def _session_id(members: dict[str, _Member]) -> str | None:
    session_id = _value(members, "session_id")
    if session_id is None:
        return None
    if not isinstance(session_id, str) or not _SESSION_ID.fullmatch(session_id):
        raise ApiError("invalid_value", "'session_id' must be 0x and 64 hex digits.", param="session_id")
    return session_id.lower()


def _read_object(body: bytes, significant: frozenset[str], limit: int) -> tuple[str, dict[str, _Member]]:
    """Read a body of at most `limit` values; no key may equal a `significant` one but for its case."""
    if _value_count(body, limit) > limit:
        raise _invalid(f"The body holds more than {limit} values.")
    text = _text_of(body)
    try:
        members = _read_members(text)
    except RecursionError:
        raise _too_deep() from None
    except (ValueError, IndexError):
        # ValueError: not JSON, or an integer of thousands of digits; IndexError: the text ends too early
        raise ApiError("invalid_json") from None
    _check_nesting(members)
    for key in members:
        if key not in significant and key.casefold() in significant:
            # another parser on the way may ignore case, and must not see another request than we do
            raise _invalid(f"A key equals '{key.casefold()}' but for its case; send it in lower case.")
    return text, members


def _text_of(body: bytes) -> str:
    if body.startswith(codecs.BOM_UTF8):
        raise _invalid("The body starts with a byte order mark; send plain UTF-8.")
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        raise _invalid("The body is not UTF-8.") from None


def _value_count(body: bytes, limit: int) -> int:
    """Return about how many values the body has, at least up to `limit`.

    Each follows a bracket, a comma or a key's colon. Prompts are full of these, so that strings are taken out if need be.
    """
    if len(body) <= limit or (count := _count_beginnings(body)) <= limit:
        return 0
    without_escapes = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    quotes = without_escapes.count(b'"')
    if quotes > 4 * limit:
        # a key and a string, two quotes each, for every value
        return count
    return _count_beginnings(_STRING.sub(b"", without_escapes))


def _count_beginnings(text: bytes) -> int:
    return text.count(b"{") + text.count(b"[") + text.count(b",")


def _read_members(text: str) -> dict[str, _Member]:
    """Read the top-level object. A duplicate key is an error here, unlike in `json.loads`."""
    members: dict[str, _Member] = {}
    position = _skip(text, 0)
    if text[position] != "{":
        raise _invalid("The body must be one JSON object.")
    position = _skip(text, position + 1)
    if text[position] != "}":
        while True:
            start = position
            if text[position] != '"':
                raise ApiError("invalid_json")
            key, position = _DECODER.raw_decode(text, position)
            position = _skip(text, position)
            if text[position] != ":":
                raise ApiError("invalid_json")
            value_start = _skip(text, position + 1)
            value, end = _DECODER.raw_decode(text, value_start)
            if key in members:
                raise _invalid("A key stands twice at the top level of the body.")
            members[key] = _Member(start, end, value)
            position = _skip(text, end)
            if text[position] == "}":
                break
            if text[position] != ",":
                raise ApiError("invalid_json")
            position = _skip(text, position + 1)
    if _skip(text, position + 1) != len(text):
        raise ApiError("invalid_json")
    return members


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return position if match is None else match.end()


def _check_nesting(members: dict[str, _Member]) -> None:
    level = [member.value for member in members.values() if isinstance(member.value, dict | list)]
    for _ in range(MAX_NESTING - 1):
        if not level:
            return
        level = [
            child
            for container in level
            for child in (container.values() if isinstance(container, dict) else container)
            if isinstance(child, dict | list)
        ]
    if level:
        raise _too_deep()


def _too_deep() -> ApiError:
    return _invalid(f"The body is nested deeper than {MAX_NESTING} levels.")


def _passed_on(body: bytes, text: str, members: dict[str, _Member], *, stream: bool) -> bytes:
    """Return the bytes to pass on: without `session_id`, with `stream` as decided, all else as it came."""
    sent = members.get("stream")
    stream_fits = sent.value is stream if sent is not None else not stream
    if "session_id" not in members and stream_fits:
        return body
    # values are cut from the text, not written anew: 1.0 stays 1.0, and a number beyond a float stays what it is
    pieces = [text[member.start : member.end] for key, member in members.items() if key not in {"session_id", "stream"}]
    if sent is not None or stream:
        pieces.append(f'"stream":{"true" if stream else "false"}')
    return ("{" + ",".join(pieces) + "}").encode()
