"""JSON as Go writes and reads it: compact, with ``<``, ``>``, ``&`` and line separators escaped; complaints in its words."""

import json
import re
from typing import Any, Final

_ESCAPES = {
    ord("<"): "\\u003c",
    ord(">"): "\\u003e",
    ord("&"): "\\u0026",
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}
_SURROGATES = re.compile("[\ud800-\udfff]")
_STRINGS: Final = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_AFTER: Final = {
    "Expecting property name": "looking for beginning of object key string",
    "Illegal trailing comma before end of object": "looking for beginning of object key string",
    "Expecting ':'": "after object key",
}
"""What Go says where Python says this; anything else is looking for the beginning of a value."""


def _no_constant(name: str) -> None:
    """NaN and Infinity are JSON to Python only."""
    raise ValueError(f"invalid character '{name[0]}' looking for beginning of value")


_decoder: Final = json.JSONDecoder(parse_constant=_no_constant)


def encode(value: Any, *, sort_keys: bool = False) -> bytes:
    """The bytes of ``value``; chat answers go out with ``sort_keys`` (contract section 4)."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=sort_keys).translate(_ESCAPES)
    try:
        return text.encode()
    except UnicodeEncodeError:
        # A lone surrogate half, which a client may send as an escape, is a replacement character to Go.
        return _SURROGATES.sub("\ufffd", text).encode()


def decode(raw: bytes) -> Any:
    """The first value in ``raw``; what follows it is not looked at, as with a decoder of Go.

    Raises ValueError with Go's complaint: ``EOF`` if there is nothing, else its syntax error.
    """
    text = raw.decode(errors="replace").lstrip(" \t\r\n")
    if not text:
        raise ValueError("EOF")
    try:
        value, _ = _decoder.raw_decode(text)
    except json.JSONDecodeError as error:
        raise ValueError(_complaint(text, error)) from None
    except RecursionError:
        raise ValueError("exceeded max depth") from None
    return value


def _complaint(text: str, error: json.JSONDecodeError) -> str:
    at = text[error.pos :]
    if error.msg.startswith("Invalid control character"):
        return f"invalid character {at[0]!a} in string literal"
    if error.msg.startswith("Invalid \\"):
        return f"invalid character {at.lstrip(chr(92))[:1]!a} in string escape code"
    rest = at.lstrip(" \t\r\n")
    if error.msg.startswith("Illegal trailing comma"):
        rest = rest[1:].lstrip(" \t\r\n")
    if not rest or error.msg.startswith("Unterminated string"):
        return "unexpected EOF"
    where = next((said for start, said in _AFTER.items() if error.msg.startswith(start)), "")
    if not where and error.msg.startswith("Expecting ','"):
        where = "after object key:value pair" if _innermost(text[: error.pos]) == "{" else "after array element"
    return f"invalid character '{rest[0]}' {where or 'looking for beginning of value'}"


def _innermost(text: str) -> str:
    """The bracket that is open at the end of ``text``."""
    still_open: list[str] = []
    for char in _STRINGS.sub("", text):
        if char in "{[":
            still_open.append(char)
        elif char in "}]":
            still_open.pop()
    return still_open[-1]
