"""The keys that wrap other keys: what is stored opens only with a secret that the database never sees."""

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from morpheus_auth.documents import WrappedSecret
from morpheus_auth.versioned_secrets import VersionedSecrets

NONCE_BYTES = 12


class KeyringError(Exception):
    """The keyring does not open what is stored: it is not the one that closed it."""


class Keyring:
    """Wraps and unwraps secrets with AES-256-GCM."""

    def __init__(self, keys: VersionedSecrets) -> None:
        self._keys = keys

    def wrap(self, secret: bytes, *, record_id: str) -> WrappedSecret:
        """Wrap `secret` so that it opens in the record `record_id` only."""
        nonce = os.urandom(NONCE_BYTES)
        ciphertext = AESGCM(self._keys.current).encrypt(nonce, secret, record_id.encode())
        return WrappedSecret(key_version=self._keys.current_version, nonce=nonce, ciphertext=ciphertext)

    def unwrap(self, wrapped: WrappedSecret, *, record_id: str) -> bytes:
        """Return what was wrapped. Raises `KeyringError`."""
        key = self._keys.by_version.get(wrapped.key_version)
        if key is None:
            raise KeyringError(f"AUTH_KEYRING lacks version {wrapped.key_version}, which record {record_id} needs")
        try:
            return AESGCM(key).decrypt(wrapped.nonce, wrapped.ciphertext, record_id.encode())
        except InvalidTag:
            raise KeyringError(
                f"AUTH_KEYRING version {wrapped.key_version} is not the key that record {record_id} was wrapped with"
            ) from None
