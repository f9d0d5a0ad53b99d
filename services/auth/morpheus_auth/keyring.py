"""The one place through which everything at rest is wrapped: one provider wraps, each opens what it wrapped."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from morpheus_common.logs import get_logger

from morpheus_auth.documents import WrappedSecret
from morpheus_auth.key_encryption import KekVersion, KeyEncryption, KeyringError, LocalKeyEncryption, ProviderAway
from morpheus_auth.settings import AuthSettings, KekProvider

log = get_logger(__name__)

__all__ = ["Keyring", "KeyringError", "open_keyring"]


class Keyring:
    """The provider that wraps from now on, and those whose records are still there. Itself a `KeyEncryption`."""

    def __init__(self, current: KeyEncryption, *former: KeyEncryption) -> None:
        self._current = current
        self._by_name = {provider.provider: provider for provider in (*former, current)}

    @property
    def provider(self) -> str:
        """The provider that wraps."""
        return self._current.provider

    async def wrap(self, secret: bytes, *, record_id: str) -> WrappedSecret:
        """Wrap `secret` so that it opens in the record `record_id` only. Raises `ProviderAway`."""
        return await self._current.wrap(secret, record_id=record_id)

    async def unwrap(self, wrapped: WrappedSecret, *, record_id: str) -> bytes:
        """Return what was wrapped. Raises `KeyringError`, `ProviderAway`."""
        return await self._of(wrapped, record_id).unwrap(wrapped, record_id=record_id)

    async def rewrap(self, wrapped: WrappedSecret, *, record_id: str) -> WrappedSecret:
        """Wrap the same secret with the current version. Raises `KeyringError`, `ProviderAway`."""
        if wrapped.provider == self.provider:
            return await self._current.rewrap(wrapped, record_id=record_id)
        return await self.wrap(await self.unwrap(wrapped, record_id=record_id), record_id=record_id)

    async def versions(self) -> list[KekVersion]:
        """Return the versions of all providers, the one that wraps first; without those of a former one that is away.

        Raises `ProviderAway`, `KeyringError`.
        """
        versions = await self._current.versions()
        for provider in self._by_name.values():
            if provider is not self._current:
                try:
                    versions += await provider.versions()
                except ProviderAway:
                    log.warning("a former provider of key encryption is away", provider=provider.provider)
        return versions

    async def check(self) -> None:
        """Find out whether the provider that wraps is there. Raises `ProviderAway`, `KeyringError`."""
        await self._current.versions()

    async def close(self) -> None:
        """Let the providers' connections go."""
        for provider in self._by_name.values():
            await provider.close()

    def _of(self, wrapped: WrappedSecret, record_id: str) -> KeyEncryption:
        provider = self._by_name.get(wrapped.provider)
        if provider is None:
            raise KeyringError(
                f"record {record_id} was wrapped by {wrapped.provider}, which the settings do not describe"
            )
        return provider


@asynccontextmanager
async def open_keyring(settings: AuthSettings) -> AsyncIterator[Keyring]:
    """Describe the providers of the settings while the block runs. Nothing is asked of them yet."""
    keyring = Keyring(*_providers(settings))
    try:
        yield keyring
    finally:
        await keyring.close()


def _providers(settings: AuthSettings) -> Sequence[KeyEncryption]:
    """Return all providers that are described, the chosen one first. What a provider needs is imported with it."""
    described: dict[KekProvider, KeyEncryption] = {}
    if settings.has_keyring:
        described[KekProvider.LOCAL] = LocalKeyEncryption(settings.keyring)
    if settings.auth_vault_address is not None:
        from morpheus_auth.key_encryption_vault import VaultKeyEncryption

        described[KekProvider.VAULT] = VaultKeyEncryption.of(settings.auth_vault_address, settings)
    if settings.auth_kms_key is not None:
        from morpheus_auth.key_encryption_aws import AwsKeyEncryption

        described[KekProvider.AWS] = AwsKeyEncryption.of(settings.auth_kms_key, settings)
    chosen = described.pop(settings.auth_kek_provider)
    return [chosen, *described.values()]
