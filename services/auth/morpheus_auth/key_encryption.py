"""The keys that wrap other keys (key-encryption keys), whoever holds them, and the provider that needs nobody else."""

import os
from dataclasses import dataclass
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from morpheus_common.errors import ApiError

from morpheus_auth.documents import LOCAL_PROVIDER, WrappedSecret
from morpheus_auth.versioned_secrets import VersionedSecrets

NONCE_BYTES = 12
AWAY_RETRY_SECONDS = 5


class KeyringError(Exception):
    """What is stored does not open: it was wrapped by another key, for another record, or was changed."""


class ProviderAway(ApiError):
    """The provider cannot be reached, is too slow or refuses us: what needs it may work later.

    Its log line says more than the caller may know.
    """

    def __init__(self) -> None:
        super().__init__("service_unavailable", retry_after=AWAY_RETRY_SECONDS)


@dataclass(frozen=True, slots=True)
class KekVersion:
    """A version of a provider's key. `key` is the provider's name for it, '' if it has one only."""

    provider: str
    key: str
    version: int | str


class KeyEncryption(Protocol):
    """Wraps short secrets, mostly data keys, so that each opens in its own record only.

    Every call ends in time and raises `ProviderAway`, or `KeyringError` where something does not open.
    """

    @property
    def provider(self) -> str:
        """What records call it."""

    async def wrap(self, secret: bytes, *, record_id: str) -> WrappedSecret:
        """Wrap `secret` (at most 64 bytes) with the current version, bound to the record."""

    async def unwrap(self, wrapped: WrappedSecret, *, record_id: str) -> bytes:
        """Return what was wrapped by any version that is still there."""

    async def rewrap(self, wrapped: WrappedSecret, *, record_id: str) -> WrappedSecret:
        """Wrap the same secret with the current version; inside the provider where it can."""

    async def versions(self) -> list[KekVersion]:
        """Return the versions that still unwrap, as far as they can be told apart; the current one first."""

    async def close(self) -> None:
        """Let connections go."""


class LocalKeyEncryption:
    """AES-256-GCM with keys from the settings."""

    provider = LOCAL_PROVIDER

    def __init__(self, keys: VersionedSecrets) -> None:
        self._keys = keys

    async def wrap(self, secret: bytes, *, record_id: str) -> WrappedSecret:
        """Wrap with the current version."""
        nonce = os.urandom(NONCE_BYTES)
        ciphertext = AESGCM(self._keys.current).encrypt(nonce, secret, record_id.encode())
        return WrappedSecret(key_version=self._keys.current_version, nonce=nonce, ciphertext=ciphertext)

    async def unwrap(self, wrapped: WrappedSecret, *, record_id: str) -> bytes:
        """Unwrap with the version that wrapped."""
        key = self._keys.by_version.get(wrapped.key_version) if isinstance(wrapped.key_version, int) else None
        if key is None:
            raise KeyringError(f"AUTH_KEYRING lacks version {wrapped.key_version}, which record {record_id} needs")
        try:
            return AESGCM(key).decrypt(wrapped.nonce, wrapped.ciphertext, record_id.encode())
        except (InvalidTag, ValueError):
            # ValueError: a nonce or ciphertext too short to be one
            raise KeyringError(
                f"AUTH_KEYRING version {wrapped.key_version} is not the key that record {record_id} was wrapped with"
            ) from None

    async def rewrap(self, wrapped: WrappedSecret, *, record_id: str) -> WrappedSecret:
        """Unwrap and wrap: whoever holds the keys sees what they wrap."""
        return await self.wrap(await self.unwrap(wrapped, record_id=record_id), record_id=record_id)

    async def versions(self) -> list[KekVersion]:
        """Return all versions of the settings, the current one first."""
        current = self._keys.current_version
        others = sorted(self._keys.by_version.keys() - {current}, reverse=True)
        return [KekVersion(self.provider, "", version) for version in (current, *others)]

    async def close(self) -> None:
        """Nothing is open."""
