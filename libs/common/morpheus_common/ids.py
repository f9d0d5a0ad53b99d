"""Identifiers: UUIDv7 strings, so that ids sort by the time they were made."""

import re

import uuid_utils

CHAIN_ID_PATTERN = r"^0x[0-9a-f]{64}$"
"""An id on chain (model, bid, session): 32 bytes as lower-case hex with `0x` (proxy-router contract, section 0)."""

_CHAIN_ID = re.compile(CHAIN_ID_PATTERN)


def uuid7() -> str:
    """Return a new UUIDv7 in its canonical lower-case form (36 characters)."""
    return str(uuid_utils.uuid7())


def is_chain_id(text: str) -> bool:
    """Tell whether `text` is `0x` and 64 lower-case hex digits."""
    return _CHAIN_ID.fullmatch(text) is not None
