"""Reading ids, numbers, paging and bodies from a request, with the texts that Go gives for bad ones (section 0)."""

import re
from collections.abc import Sequence
from typing import Any, TypeVar

from aiohttp import web

from proxy_router_sim import gojson
from proxy_router_sim.chain import MAX_UINT256
from proxy_router_sim.errors import BadRequestError, ConnectionCutError
from proxy_router_sim.ethereum import ZERO_ADDRESS

_HEX = frozenset("0123456789abcdefABCDEF")
_ADDRESS = re.compile(r"(0x)?[0-9a-fA-F]{40}")
_DIGITS = re.compile(r"\d{1,78}")
_DEFAULT_LIMIT = 10

T = TypeVar("T")


def hash32(text: str) -> str:
    """A 32-byte id in its canonical form; ``0x`` may be missing."""
    digits = text.removeprefix("0x")
    if len(digits) != 64:
        raise BadRequestError("invalid hash length")
    for char in digits:
        if char not in _HEX:
            shown = f" '{char}'" if char.isprintable() else ""
            raise BadRequestError(f"encoding/hex: invalid byte: U+{ord(char):04X}{shown}")
    return "0x" + digits.lower()


def path_id(request: web.Request) -> str:
    """The 32-byte ``id`` of the path."""
    return hash32(request.match_info["id"])


def session_id(request: web.Request) -> str | None:
    """The session that a prompt is for, from its header."""
    header = request.headers.get("session_id")
    return hash32(header) if header else None


def chat_id(request: web.Request) -> str | None:
    """The chat that a prompt belongs to, from its header."""
    header = request.headers.get("chat_id")
    return hash32(header) if header else None


def address(text: str) -> str:
    """A 20-byte address in lowercase."""
    if not _ADDRESS.fullmatch(text):
        raise BadRequestError("invalid address")
    return "0x" + text.removeprefix("0x").lower()


def query_address(request: web.Request, name: str) -> str:
    """An address of the query; a missing one is the zero address, not an error."""
    text = request.query.get(name)
    return ZERO_ADDRESS if text is None else address(text)


def big_int(value: Any) -> int:
    """An amount: a string of digits or a bare integer, as lib.BigInt accepts both."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadRequestError("invalid big int")
    if not _DIGITS.fullmatch(str(value)) or int(value) > MAX_UINT256:
        raise BadRequestError(f"invalid big int: {str(value)[:80]}")
    return int(value)


async def json_body(request: web.Request) -> dict[str, Any]:
    """The request's JSON object; 400 ``EOF`` for an empty body."""
    try:
        body = gojson.decode(await request.read())
    except ValueError as error:
        raise BadRequestError(str(error)) from None
    if not isinstance(body, dict):
        raise BadRequestError(f"json: cannot unmarshal {_kind(body)} into Go value")
    return body


def _kind(value: Any) -> str:
    """What Go calls a JSON value that is no object."""
    match value:
        case bool():
            return "bool"
        case str():
            return "string"
        case int() | float():
            return "number"
        case list():
            return "array"
        case _:
            return "null"


def text_field(body: dict[str, Any], name: str) -> str:
    """A string of the body; missing is the empty string, as in Go."""
    value = body.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRequestError(f"json: cannot unmarshal into Go struct field .{name} of type string")
    return value


def flag(body: dict[str, Any], name: str) -> bool:
    """A boolean of the body; missing is false."""
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise BadRequestError(f"json: cannot unmarshal into Go struct field .{name} of type bool")
    return bool(value)


def duration(body: dict[str, Any]) -> int:
    """``sessionDuration`` in seconds, a number or a string of digits.

    Without one the router panics, which the caller sees as a dropped connection (section 2.6).
    """
    value = body.get("sessionDuration")
    if value is None:
        raise ConnectionCutError
    return big_int(value)


def uint8(text: str) -> int:
    """A number of one byte, with the complaints of Go's strconv."""
    if not re.fullmatch(r"[0-9]+", text):
        raise BadRequestError(f'strconv.ParseUint: parsing "{text}": invalid syntax')
    if len(text.lstrip("0")) > 3 or int(text) > 255:
        raise BadRequestError(f'strconv.ParseUint: parsing "{text}": value out of range')
    return int(text)


def page(request: web.Request, oldest_first: Sequence[T], *, unlimited_by_default: bool = False) -> list[T]:
    """The page of a list that offset, limit and order ask for.

    Only an upper-case ``ASC`` is ascending; everything else is newest first. Lists of models and providers are
    ``unlimited_by_default``: without a limit, or with 0, they are whole and ascending.
    """
    offset = big_int(request.query.get("offset", "0"))
    limit = uint8(request.query.get("limit", "0" if unlimited_by_default else str(_DEFAULT_LIMIT)))
    if unlimited_by_default and limit == 0:
        return list(oldest_first)
    ordered = oldest_first if request.query.get("order") == "ASC" else oldest_first[::-1]
    return list(ordered[offset : offset + limit])
