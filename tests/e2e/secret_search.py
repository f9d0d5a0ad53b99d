"""Looking for secrets in whatever a system leaves behind, in every form in which one could have got there."""

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, quote_plus


@dataclass(frozen=True)
class Planted:
    """A secret. `raw`: its bytes where the text is only their notation. `may_be_in`: beginnings of the names of places where
    it belongs.
    """

    text: str
    raw: bytes | None = None
    may_be_in: tuple[str, ...] = field(default=())


def forms(secret: Planted) -> Mapping[bytes, str]:
    """Return every form of a secret by what to look for."""
    found: dict[bytes, str] = {}
    values = {secret.text.encode(): "plain"}
    if secret.raw is not None:
        values |= {secret.raw: "raw", secret.raw.hex().encode(): "hex", secret.raw.hex().upper().encode(): "upper hex"}
        values[str(int.from_bytes(secret.raw)).encode()] = "number"
    for value, name in values.items():
        found[value] = name
        found[value.hex().encode()] = f"hex of {name}"
        found[value.hex().upper().encode()] = f"upper hex of {name}"
        for alphabet in (base64.b64encode, base64.urlsafe_b64encode):
            found |= dict.fromkeys(_within_base64(value, alphabet), f"base64 of {name}")
    for escape in (quote, quote_plus, lambda text: quote(text, safe=""), lambda text: json.dumps(text)[1:-1]):
        found.setdefault(escape(secret.text).encode(), "escaped")
    return found


def _within_base64(value: bytes, encode: Callable[[bytes], bytes]) -> Iterator[bytes]:
    """Yield what base64 makes of a value in the middle of something longer, wherever in it the value begins."""
    for before in range(3):
        encoded = encode(bytes(before) + value)
        # the first characters depend on what stands before, the last on what follows
        start = 0 if before == 0 else before + 1
        end = len(encoded.rstrip(b"=")) - (1 if (before + len(value)) % 3 else 0)
        yield encoded[start:end]


def search(secrets: Mapping[str, Planted], places: Mapping[str, bytes]) -> list[str]:
    """Return where which secret is found in which form, though it has no business there."""
    found = []
    for what, secret in secrets.items():
        for form, name in forms(secret).items():
            found += [
                f"{what} ({name}) in {place}"
                for place, content in places.items()
                if form in content and not place.startswith(secret.may_be_in)
            ]
    return sorted(set(found))
