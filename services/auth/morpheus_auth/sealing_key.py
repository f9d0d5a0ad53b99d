"""The key that opens what others seal for auth: passwords and refresh tokens."""

from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from morpheus_common.clock import Clock
from morpheus_common.contracts.base import Rpc
from morpheus_common.errors import ApiError
from morpheus_common.request_context import request_id
from morpheus_common.sealing import Sealed, public_key_from_text, public_key_to_text, seal, unseal

from morpheus_auth.documents import SealingKeyDocument
from morpheus_auth.keyring import Keyring
from morpheus_auth.service_keys import load_or_create


class SealingKey:
    """An X25519 private key. What is sealed opens for one kind of question of one request only."""

    def __init__(self, private_key: bytes) -> None:
        self._key = X25519PrivateKey.from_private_bytes(private_key)

    @property
    def public_text(self) -> str:
        """What secrets for auth are sealed to (base64 of 32 bytes)."""
        return public_key_to_text(self._key.public_key())

    def open(self, sealed: Sealed, rpc: Rpc[Any, Any]) -> bytes:
        """Open a secret that came with the running request's question. Raises `ApiError` (service_unavailable)."""
        return unseal(sealed, self._key, subject=rpc.subject, request_id=request_id.get() or "")


def read_answer_key(text: str) -> X25519PublicKey:
    """Read the key an answer is to be sealed to. Raises `ApiError` (validation_error)."""
    try:
        return public_key_from_text(text)
    except ValueError:
        raise ApiError("validation_error", param="answer_key") from None


def seal_answer(plaintext: bytes, answer_key: X25519PublicKey, rpc: Rpc[Any, Any]) -> Sealed:
    """Seal an answer to the running request's own key."""
    return seal(plaintext, answer_key, subject=rpc.subject, request_id=request_id.get() or "")


async def load_sealing_key(keyring: Keyring, clock: Clock) -> SealingKey:
    """Return the key all processes of the service share. Raises `KeyringError`."""
    private_keys = await load_or_create(
        SealingKeyDocument, keyring, lambda: X25519PrivateKey.generate().private_bytes_raw(), clock
    )
    return SealingKey(next(iter(private_keys.values())))
