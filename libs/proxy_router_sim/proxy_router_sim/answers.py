"""What the simulated model says: words and tool calls that follow from the prompt, so that any mode says the same."""

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_WORDS = [
    "a",
    "able",
    "about",
    "across",
    "air",
    "and",
    "answer",
    "as",
    "at",
    "bright",
    "by",
    "calm",
    "careful",
    "chain",
    "clear",
    "cloud",
    "coast",
    "current",
    "day",
    "deep",
    "early",
    "each",
    "earth",
    "east",
    "even",
    "every",
    "far",
    "few",
    "field",
    "fine",
    "first",
    "for",
    "from",
    "garden",
    "gentle",
    "good",
    "green",
    "hand",
    "harbour",
    "high",
    "hill",
    "idea",
    "in",
    "island",
    "keep",
    "kind",
    "lake",
    "large",
    "late",
    "leaf",
    "letter",
    "light",
    "line",
    "little",
    "long",
    "many",
    "map",
    "market",
    "measure",
    "morning",
    "mountain",
    "near",
    "new",
    "night",
    "north",
    "of",
    "old",
    "on",
    "open",
    "order",
    "over",
    "paper",
    "path",
    "place",
    "plain",
    "quiet",
    "rain",
    "reason",
    "river",
    "road",
    "round",
    "sea",
    "season",
    "second",
    "shape",
    "short",
    "signal",
    "simple",
    "small",
    "soft",
    "sound",
    "south",
    "star",
    "station",
    "steady",
    "stone",
    "story",
    "stream",
    "summer",
    "sure",
    "that",
    "the",
    "then",
    "through",
    "tide",
    "time",
    "to",
    "tower",
    "tree",
    "turn",
    "under",
    "valley",
    "voice",
    "warm",
    "water",
    "wave",
    "west",
    "while",
    "wide",
    "wind",
    "window",
    "winter",
    "with",
    "wood",
    "word",
    "work",
    "world",
    "year",
]
_PIECE = re.compile(r"\s*\S+")
_TOKEN = re.compile(r"\w{1,6}|[^\w\s]")
_MAX_SCHEMA_DEPTH = 8


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of one function with a JSON object as text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Choice:
    """One finished choice: text in pieces (words with the space before them), or a tool call."""

    pieces: list[str]
    finish_reason: str
    tool_call: ToolCall | None = None

    @property
    def text(self) -> str:
        """All pieces together."""
        return "".join(self.pieces)


def count_tokens(text: str) -> int:
    """About what a tokenizer counts. The real router uses cl100k_base; only the order of magnitude matters here."""
    return len(_TOKEN.findall(text))


def count_prompt_tokens(messages: Sequence[Mapping[str, Any]]) -> int:
    """Per message 1 + content and name, and 3 more (contract section 4); text parts only."""
    return sum(
        4 + count_tokens(content_text(message.get("content"))) + count_tokens(str(message.get("name") or ""))
        for message in messages
    )


def content_text(content: Any) -> str:
    """The text of a message's content: a string, or the text parts of a list."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict) and part.get("type", "text") == "text")
        return "".join(part for part in parts if isinstance(part, str))
    return ""


def last_text(messages: Sequence[Mapping[str, Any]], role: str) -> str:
    """The text of the last message of a role, or an empty string."""
    return next((content_text(m.get("content")) for m in reversed(messages) if m.get("role") == role), "")


def answer(request: Mapping[str, Any], seed: int) -> list[Choice]:
    """All choices for a chat request whose ``messages`` is a non-empty list of objects."""
    messages: list[Mapping[str, Any]] = request["messages"]
    tool = _tool_to_call(request, messages)
    count = _positive(request.get("n")) or 1
    asked_seed = request.get("seed")
    chance = f"{seed}/{asked_seed}" if isinstance(asked_seed, int) else str(seed)
    return [_choice(request, messages, tool, random.Random(f"{chance}/{i}/{messages!r}")) for i in range(count)]


def _choice(
    request: Mapping[str, Any],
    messages: Sequence[Mapping[str, Any]],
    tool: Mapping[str, Any] | None,
    rng: random.Random,
) -> Choice:
    asked = last_text(messages, "user")
    if tool is not None:
        schema = tool.get("parameters")
        arguments = _fill(schema, schema, asked, 0) if isinstance(schema, dict) else {}
        call = ToolCall(
            id=f"call_{rng.getrandbits(96):024x}",
            name=str(tool.get("name", "")),
            arguments=json.dumps(arguments if isinstance(arguments, dict) else {}, ensure_ascii=False),
        )
        return Choice([], "tool_calls", call)
    text = _json_text(request.get("response_format"), asked) or _prose(messages, asked, rng)
    pieces = _PIECE.findall(_until_stop(text, request.get("stop")))
    limit = _positive(request.get("max_completion_tokens")) or _positive(request.get("max_tokens"))
    if limit and limit < len(pieces):
        return Choice(pieces[:limit], "length")
    return Choice(pieces, "stop")


def _prose(messages: Sequence[Mapping[str, Any]], asked: str, rng: random.Random) -> str:
    text = f"You asked: {asked}."
    if messages[-1].get("role") == "tool":
        text += f" The tool said: {content_text(messages[-1].get('content'))}."
    for _ in range(rng.randint(2, 4)):
        text += " " + " ".join(rng.choices(_WORDS, k=rng.randint(5, 10))).capitalize() + "."
    return text


def _json_text(wanted: Any, asked: str) -> str:
    """What a model says that was told to speak JSON, by a schema or without; empty for one that may say what it likes."""
    match wanted:
        case {"type": "json_schema", "json_schema": {"schema": dict() as schema}}:
            return json.dumps(_fill(schema, schema, asked, 0), ensure_ascii=False)
        case {"type": "json_object"}:
            return json.dumps({"answer": asked}, ensure_ascii=False)
    return ""


def _until_stop(text: str, stop: Any) -> str:
    """The text before the first stop sequence; ``stop`` is one, or a list of them."""
    stops = [stop] if isinstance(stop, str) else stop if isinstance(stop, list) else []
    found = [text.find(one) for one in stops if isinstance(one, str) and one]
    return text[: min((place for place in found if place >= 0), default=len(text))]


def _positive(value: Any) -> int:
    """A count from a request; 0 for anything that is none, as the router drops zero values (contract section 4)."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _tool_to_call(request: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The function to call: the one tool_choice names, else the first; none unless the user spoke last."""
    tools, choice = request.get("tools"), request.get("tool_choice")
    if not isinstance(tools, list) or choice == "none" or messages[-1].get("role") != "user":
        return None
    functions = [
        tool["function"] for tool in tools if isinstance(tool, dict) and isinstance(tool.get("function"), dict)
    ]
    if isinstance(choice, dict) and isinstance(choice.get("function"), dict):
        wanted = choice["function"].get("name")
        functions = [function for function in functions if function.get("name") == wanted] or functions
    return functions[0] if functions else None


def _fill(schema: Any, root: Any, text: str, depth: int) -> Any:
    """A value that fits the required part of a JSON schema: strings carry the prompt, numbers are as near 1 as may be."""
    if not isinstance(schema, dict) or depth > _MAX_SCHEMA_DEPTH:
        return None
    if isinstance(schema.get("$ref"), str):
        return _fill(_resolve(schema["$ref"], root), root, text, depth + 1)
    if "const" in schema:
        return schema["const"]
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return schema["enum"][0]
    for combination in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(combination), list) and schema[combination]:
            return _fill(schema[combination][0], root, text, depth + 1)
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((k for k in kind if k != "null"), "null")
    properties = schema.get("properties")
    if kind == "object" or (kind is None and isinstance(properties, dict)):
        known = properties if isinstance(properties, dict) else {}
        names = schema.get("required")
        return {
            name: _fill(known.get(name, {"type": "string"}), root, text, depth + 1)
            for name in (names if isinstance(names, list) else [])
            if isinstance(name, str)
        }
    match kind:
        case "string":
            longest = _positive(schema.get("maxLength"))
            return text[:longest] if longest else text
        case "integer" | "number":
            return _number(schema)
        case "boolean":
            return True
        case "array":
            return [_fill(schema.get("items", {"type": "string"}), root, text, depth + 1)]
        case "null":
            return None
        case _:
            return text


def _number(schema: Mapping[str, Any]) -> float:
    value: float = 1
    lowest, highest = schema.get("minimum"), schema.get("maximum")
    if isinstance(lowest, int | float):
        value = max(value, lowest)
    if isinstance(highest, int | float):
        value = min(value, highest)
    return value


def _resolve(reference: str, root: Any) -> Any:
    """A local reference such as ``#/$defs/Place``; None if it leads nowhere."""
    found = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
    return found
