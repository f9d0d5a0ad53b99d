"""Which provider wraps, and that each opens what it wrapped."""

import secrets

import pytest
from morpheus_auth.documents import WrappedSecret
from morpheus_auth.key_encryption import KekVersion, LocalKeyEncryption, ProviderAway
from morpheus_auth.keyring import Keyring, KeyringError, open_keyring
from morpheus_auth.settings import AuthSettings, KekProvider
from morpheus_auth.versioned_secrets import VersionedSecrets
from pydantic import SecretStr

FIRST, SECOND = secrets.token_bytes(32), secrets.token_bytes(32)


def local(**keys: bytes) -> LocalKeyEncryption:
    return LocalKeyEncryption(VersionedSecrets({int(name[1:]): key for name, key in keys.items()}))


class Other(LocalKeyEncryption):
    """A provider of another name that can go away."""

    provider = "other"
    away = False

    async def wrap(self, secret: bytes, *, record_id: str) -> WrappedSecret:
        wrapped = await super().wrap(secret, record_id=record_id)
        return wrapped.model_copy(update={"provider": self.provider})

    async def versions(self) -> list[KekVersion]:
        if self.away:
            raise ProviderAway
        return await super().versions()


async def test_a_wrong_key_and_a_missing_key_are_told_apart() -> None:
    wrapped = await local(v1=FIRST).wrap(b"secret", record_id="record")
    with pytest.raises(KeyringError, match="is not the key"):
        await local(v1=SECOND).unwrap(wrapped, record_id="record")
    with pytest.raises(KeyringError, match="lacks version 1"):
        await local(v2=SECOND).unwrap(wrapped, record_id="record")


async def test_a_version_is_known_to_all_before_it_is_the_current_one_of_any() -> None:
    versions = {1: FIRST, 2: SECOND}
    behind, ahead = (LocalKeyEncryption(VersionedSecrets(versions, chosen)) for chosen in (1, 2))
    wrapped = await behind.wrap(b"secret", record_id="record")
    assert await local(v1=FIRST).unwrap(wrapped, record_id="record") == b"secret"
    moved = await ahead.rewrap(wrapped, record_id="record")
    assert (wrapped.key_version, moved.key_version) == (1, 2)
    assert await behind.unwrap(moved, record_id="record") == b"secret"
    assert [version.version for version in await behind.versions()] == [1, 2]
    assert [version.version for version in await ahead.versions()] == [2, 1]


async def test_what_the_last_release_stored_still_opens() -> None:
    wrapped = await local(v1=FIRST).wrap(b"secret", record_id="record")
    stored = {"key_version": 1, "nonce": wrapped.nonce, "ciphertext": wrapped.ciphertext}
    keyring = Keyring(Other(VersionedSecrets({1: SECOND})), local(v1=FIRST, v2=SECOND))
    assert await keyring.unwrap(WrappedSecret.model_validate(stored), record_id="record") == b"secret"


async def test_a_change_of_provider_keeps_what_the_former_one_wrapped() -> None:
    former, chosen = local(v1=FIRST), Other(VersionedSecrets({1: SECOND}))
    wrapped = await Keyring(former).wrap(b"secret", record_id="record")
    keyring = Keyring(chosen, former)
    assert await keyring.unwrap(wrapped, record_id="record") == b"secret"
    moved = await keyring.rewrap(wrapped, record_id="record")
    assert moved.provider == "other"
    assert await Keyring(chosen).unwrap(moved, record_id="record") == b"secret"
    assert [version.provider for version in await keyring.versions()] == ["other", "local"]


async def test_a_former_provider_that_is_away_stops_nothing() -> None:
    former = Other(VersionedSecrets({1: SECOND}))
    former.away = True
    assert [version.provider for version in await Keyring(local(v1=FIRST), former).versions()] == ["local"]


async def test_a_record_of_a_provider_that_nobody_described_is_named() -> None:
    wrapped = await Other(VersionedSecrets({1: FIRST})).wrap(b"secret", record_id="record")
    with pytest.raises(KeyringError, match="other, which the settings do not describe"):
        await Keyring(local(v1=FIRST)).unwrap(wrapped, record_id="record")


async def test_the_settings_describe_which_provider_wraps_and_which_only_open() -> None:
    settings = AuthSettings(
        mongo_url=SecretStr("mongodb://db"),
        nats_seed=SecretStr("SU"),
        auth_keyring=SecretStr("1:" + "A" * 43 + "="),
        auth_kek_provider=KekProvider.VAULT,
        auth_vault_address="http://127.0.0.1:1",
        auth_vault_token=SecretStr("a planted token"),
        auth_kek_seconds=0.2,
    )
    async with open_keyring(settings) as keyring:
        assert keyring.provider == "vault"
        old = await local(v1=bytes(32)).wrap(b"secret", record_id="record")
        assert await keyring.unwrap(old, record_id="record") == b"secret"
        with pytest.raises(ProviderAway):
            await keyring.wrap(b"secret", record_id="record")
