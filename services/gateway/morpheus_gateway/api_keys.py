"""The form of an API key: `sk-`, 6 base62 prefix, `.`, 43 base62 secret, 6 base62 CRC-32 of all before it."""

import hashlib
import re
import secrets
import string
import zlib

ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
PREFIX_LENGTH = 9
"""`sk-` and six characters: what people see of a key in lists."""
_CHECKSUM_LENGTH = 6
"""62^6 > 2^32: every CRC-32 fits."""
_FORM = re.compile(r"sk-[0-9A-Za-z]{6}\.[0-9A-Za-z]{49}")


def _checksum(text: str) -> str:
    value = zlib.crc32(text.encode("ascii"))
    digits = []
    for _ in range(_CHECKSUM_LENGTH):
        value, digit = divmod(value, len(ALPHABET))
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits))


def make() -> str:
    """Return a new API key. Its secret has 43 base62 characters, 256 bits."""
    prefix, secret = ("".join(secrets.choice(ALPHABET) for _ in range(length)) for length in (6, 43))
    unchecked = f"sk-{prefix}.{secret}"
    return unchecked + _checksum(unchecked)


def is_well_formed(text: str) -> bool:
    """Tell whether `text` can be a key at all: a typo or a stranger's key costs no look-up."""
    return _FORM.fullmatch(text) is not None and _checksum(text[:-_CHECKSUM_LENGTH]) == text[-_CHECKSUM_LENGTH:]


def prefix_of(key: str) -> str:
    """Return the part of a key that people may see."""
    return key[:PREFIX_LENGTH]


def digest(key: str) -> str:
    """Return what travels instead of the key: its SHA-256 as lower-case hex."""
    return hashlib.sha256(key.encode("ascii")).hexdigest()
