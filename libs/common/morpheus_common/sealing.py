"""Secrets on the bus: sealed with HPKE (RFC 9180) to their reader, bound to what they are for.

A sealed text opens only with the reader's private key, for the same subject and the same request, before it expires.
"""

import base64
import time

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from pydantic import BaseModel, ConfigDict, Field

from morpheus_common.errors import ApiError

CLOCK_TOLERANCE_SECONDS = 300
"""Clocks of two processes may be off by minutes; a sealed text lives that much longer than its maker asked."""

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class Sealed(BaseModel):
    """A sealed text as it travels: HPKE ciphertext in base64 and the Unix time (seconds) after which it is refused."""

    model_config = ConfigDict(frozen=True)

    ciphertext: str = Field(max_length=64 * 1024)
    expires_at: int


def _info(subject: str, request_id: str, expires_at: int) -> bytes:
    return f"morpheus-sealed-v1|{subject}|{request_id}|{expires_at}".encode()


def public_key_to_text(key: X25519PublicKey) -> str:
    """Return a public sealing key as base64 of its 32 raw bytes."""
    return base64.b64encode(key.public_bytes_raw()).decode()


def public_key_from_text(text: str) -> X25519PublicKey:
    """Read a public sealing key; `ValueError` if it is not one."""
    return X25519PublicKey.from_public_bytes(base64.b64decode(text, validate=True))


def seal(plaintext: bytes, reader: X25519PublicKey, *, subject: str, request_id: str, lifetime: float = 60.0) -> Sealed:
    """Seal `plaintext` so that only `reader` opens it, for this subject and request, within `lifetime` seconds."""
    expires_at = int(time.time() + lifetime)
    ciphertext = _SUITE.encrypt(plaintext, reader, info=_info(subject, request_id, expires_at))
    return Sealed(ciphertext=base64.b64encode(ciphertext).decode(), expires_at=expires_at)


def unseal(sealed: Sealed, reader: X25519PrivateKey, *, subject: str, request_id: str) -> bytes:
    """Open a sealed text. Raises `ApiError` (service_unavailable) if it was sealed to another key, for something else
    or has expired: the sender then fetches the current key and seals again.
    """
    if sealed.expires_at + CLOCK_TOLERANCE_SECONDS < time.time():
        raise ApiError("service_unavailable", retry_after=1)
    try:
        ciphertext = base64.b64decode(sealed.ciphertext, validate=True)
        return bytes(_SUITE.decrypt(ciphertext, reader, info=_info(subject, request_id, sealed.expires_at)))
    except (ValueError, InvalidTag) as error:
        raise ApiError("service_unavailable", retry_after=1) from error
