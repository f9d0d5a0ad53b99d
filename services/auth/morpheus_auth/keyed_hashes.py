"""What is found again but not stored: its HMAC-SHA-256 under a pepper, which the database never sees."""

import hashlib
import hmac
import json
from dataclasses import dataclass

from morpheus_auth.versioned_secrets import VersionedSecrets


@dataclass(frozen=True, slots=True)
class KeyedHashes:
    """Keyed hashes of texts. `purpose` keeps those of one kind of text apart from all others."""

    peppers: VersionedSecrets

    def new(self, purpose: str, *texts: str) -> str:
        """Return what is stored (hex)."""
        return _digest(self.peppers.current, purpose, texts)

    def every(self, purpose: str, *texts: str) -> list[str]:
        """Return what may have been stored, under whichever pepper (hex)."""
        return [_digest(pepper, purpose, texts) for pepper in self.peppers.by_version.values()]


def _digest(pepper: bytes, purpose: str, texts: tuple[str, ...]) -> str:
    # as JSON, so that no two lists of texts are one
    return hmac.new(pepper, json.dumps([purpose, *texts]).encode(), hashlib.sha256).hexdigest()
