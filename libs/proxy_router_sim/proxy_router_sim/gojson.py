"""JSON as the router's Go encoder writes it: compact, UTF-8, with ``<``, ``>``, ``&`` and line separators escaped."""

import json
import re
from typing import Any

_ESCAPES = {
    ord("<"): "\\u003c",
    ord(">"): "\\u003e",
    ord("&"): "\\u0026",
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}
_SURROGATES = re.compile("[\ud800-\udfff]")


def encode(value: Any, *, sort_keys: bool = False) -> bytes:
    """The bytes of ``value``; chat answers go out with ``sort_keys`` (contract section 4)."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=sort_keys).translate(_ESCAPES)
    try:
        return text.encode()
    except UnicodeEncodeError:
        # A lone surrogate half, which a client may send as an escape, is a replacement character to Go.
        return _SURROGATES.sub("\ufffd", text).encode()
