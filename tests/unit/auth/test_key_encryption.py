"""What every provider of key encryption keeps to: the local one for real, the others against fakes of their HTTP APIs."""

import base64
import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import boto3
import pytest
from morpheus_auth.key_encryption import KeyEncryption, KeyringError, LocalKeyEncryption, ProviderAway
from morpheus_auth.keyring import Keyring, open_keyring
from morpheus_auth.settings import AuthSettings, KekProvider
from morpheus_auth.versioned_secrets import VersionedSecrets
from pydantic import SecretStr

from tests.unit.auth.fake_kms import ACCESS_KEY, ARN, SECRET_KEY, FakeKms, fake_kms
from tests.unit.auth.fake_vault import TOKEN, FakeVault, fake_vault

SECONDS = 0.5
SECRET = b"a data key of 32 bytes, planted!"
PLANTED = (SECRET.decode(), base64.b64encode(SECRET).decode(), TOKEN, SECRET_KEY)


def settings(**fields: Any) -> AuthSettings:
    required: dict[str, Any] = {
        "mongo_url": SecretStr("mongodb://db"),
        "nats_seed": SecretStr("SU"),
        "auth_kek_seconds": SECONDS,
    }
    return AuthSettings(**(required | fields))


def vault_settings(vault: FakeVault, **fields: Any) -> AuthSettings:
    own: dict[str, Any] = {"auth_vault_address": vault.address, "auth_vault_token": SecretStr(TOKEN)}
    return settings(auth_kek_provider=KekProvider.VAULT, **(own | fields))


def kms_settings(kms: FakeKms) -> AuthSettings:
    return settings(
        auth_kek_provider=KekProvider.AWS,
        auth_kms_key="alias/morpheus",
        auth_kms_region="eu-central-1",
        auth_kms_endpoint=kms.address,
    )


class RotatingLocal(LocalKeyEncryption):
    """The local provider, and its operator's settings."""

    def __init__(self) -> None:
        self.versioned = {1: secrets.token_bytes(32)}
        super().__init__(VersionedSecrets(self.versioned))

    def rotate(self) -> None:
        self.versioned[len(self.versioned) + 1] = secrets.token_bytes(32)


@dataclass
class Case:
    """A provider, and what its operator or an accident does to it. The local one cannot go away."""

    keys: KeyEncryption
    rotate: Callable[[], None]
    silence: Callable[[], None] | None = None
    refuse: Callable[[], None] | None = None
    asked: list[str] = field(default_factory=list)


@pytest.fixture
async def make_case(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[[str], Awaitable[Case]]]:
    async with AsyncExitStack() as stack:

        async def make(name: str) -> Case:
            if name == "local":
                ring = RotatingLocal()
                return Case(ring, ring.rotate)
            if name == "vault":
                vault = await stack.enter_async_context(fake_vault())
                keys = await stack.enter_async_context(open_keyring(vault_settings(vault)))
                return Case(
                    keys,
                    vault.rotate,
                    lambda: setattr(vault, "silent", True),
                    lambda: setattr(vault, "status", 503),
                    vault.asked,
                )
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
            monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
            kms = await stack.enter_async_context(fake_kms())
            keys = await stack.enter_async_context(open_keyring(kms_settings(kms)))
            return Case(
                keys,
                kms.rotate,
                lambda: setattr(kms, "silent", True),
                lambda: setattr(kms, "error", "AccessDeniedException"),
                kms.asked,
            )

        yield make


@pytest.fixture(params=["local", "vault", "aws"])
async def case(request: pytest.FixtureRequest, make_case: Callable[[str], Awaitable[Case]]) -> Case:
    return await make_case(request.param)


@pytest.fixture(params=["vault", "aws"])
async def remote(request: pytest.FixtureRequest, make_case: Callable[[str], Awaitable[Case]]) -> Case:
    return await make_case(request.param)


class TestEveryProvider:
    async def test_what_was_wrapped_opens(self, case: Case) -> None:
        wrapped = await case.keys.wrap(SECRET, record_id="record")
        assert wrapped.provider == case.keys.provider
        assert SECRET not in wrapped.ciphertext
        assert await case.keys.unwrap(wrapped, record_id="record") == SECRET

    async def test_it_opens_in_its_own_record_only(self, case: Case) -> None:
        """C38."""
        wrapped = await case.keys.wrap(SECRET, record_id="record")
        with pytest.raises(KeyringError, match="another"):
            await case.keys.unwrap(wrapped, record_id="another")
        with pytest.raises(KeyringError, match="another"):
            await case.keys.rewrap(wrapped, record_id="another")

    async def test_one_changed_byte_opens_nowhere(self, case: Case) -> None:
        """C38."""
        wrapped = await case.keys.wrap(SECRET, record_id="record")
        for position in (0, len(wrapped.ciphertext) // 2, len(wrapped.ciphertext) - 1):
            changed = bytearray(wrapped.ciphertext)
            changed[position] ^= 1
            with pytest.raises(KeyringError):
                await case.keys.unwrap(wrapped.model_copy(update={"ciphertext": bytes(changed)}), record_id="record")

    async def test_a_former_version_still_opens_after_a_rotation(self, case: Case) -> None:
        """C38."""
        before = await case.keys.wrap(SECRET, record_id="record")
        assert before.key_version == (await case.keys.versions())[0].version
        case.rotate()
        after = await case.keys.wrap(SECRET, record_id="record")
        assert after.key_version == (await case.keys.versions())[0].version != before.key_version
        for wrapped in (before, after):
            assert await case.keys.unwrap(wrapped, record_id="record") == SECRET

    async def test_rewrapping_leads_to_the_current_version(self, case: Case) -> None:
        """C38."""
        before = await case.keys.wrap(SECRET, record_id="record")
        case.rotate()
        after = await case.keys.rewrap(before, record_id="record")
        assert after.key_version == (await case.keys.versions())[0].version != before.key_version
        assert await case.keys.unwrap(after, record_id="record") == SECRET

    async def test_the_same_secret_never_looks_the_same(self, case: Case) -> None:
        wrapped = [await case.keys.wrap(SECRET, record_id="record") for _ in range(2)]
        assert wrapped[0].ciphertext != wrapped[1].ciphertext

    async def test_nothing_that_is_printed_holds_a_secret(
        self, case: Case, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        """C39."""
        wrapped = await case.keys.wrap(SECRET, record_id="record")
        with pytest.raises(KeyringError) as refused:
            await case.keys.unwrap(wrapped, record_id="another")
        shown = "".join([repr(case.keys), repr(vars(case.keys)), str(refused.value), caplog.text, *capsys.readouterr()])
        for secret in PLANTED:
            assert secret not in shown


class TestEveryRemoteProvider:
    @pytest.mark.parametrize("accident", ["silence", "refuse"])
    async def test_away_is_service_unavailable_in_bounded_time(
        self, remote: Case, accident: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        """C39."""
        wrapped = await remote.keys.wrap(SECRET, record_id="record")
        getattr(remote, accident)()
        for call in (
            lambda: remote.keys.wrap(SECRET, record_id="record"),
            lambda: remote.keys.unwrap(wrapped, record_id="record"),
            lambda: remote.keys.rewrap(wrapped, record_id="record"),
            remote.keys.versions,
        ):
            began = time.monotonic()
            with pytest.raises(ProviderAway) as away:
                await call()
            assert time.monotonic() - began < 4 * SECONDS
            assert (away.value.code, away.value.details) == ("service_unavailable", None)
        shown = "".join([caplog.text, *capsys.readouterr()])
        assert shown
        for secret in (*PLANTED, wrapped.ciphertext.decode("latin-1")):
            assert secret not in shown

    async def test_rewrapping_never_shows_the_secret_to_us(self, remote: Case) -> None:
        """C38."""
        wrapped = await remote.keys.wrap(SECRET, record_id="record")
        remote.rotate()
        await remote.keys.rewrap(wrapped, record_id="record")
        assert "decrypt" not in {verb.lower() for verb in remote.asked}


async def test_a_vault_key_that_binds_nothing_is_refused_before_it_wraps() -> None:
    async with fake_vault() as vault, open_keyring(vault_settings(vault, auth_vault_key="flat")) as keys:
        with pytest.raises(KeyringError, match="derived=true"):
            await keys.wrap(SECRET, record_id="record")
        assert "encrypt" not in vault.asked


async def test_vault_versions_below_its_minimum_are_gone() -> None:
    async with fake_vault() as vault, open_keyring(vault_settings(vault)) as keys:
        wrapped = await keys.wrap(SECRET, record_id="record")
        vault.rotate()
        vault.min_decryption_version = 2
        assert [version.version for version in await keys.versions()] == [2]
        with pytest.raises(KeyringError, match="min_decryption_version"):
            await keys.unwrap(wrapped, record_id="record")


async def test_a_renewed_vault_token_is_read_from_its_file(tmp_path: Any) -> None:
    file = tmp_path / "token"
    async with fake_vault() as vault:
        by_file = vault_settings(vault, auth_vault_token=None, auth_vault_token_file=file)
        async with open_keyring(by_file) as keys:
            with pytest.raises(ProviderAway):
                await keys.versions()
            file.write_text(f"{TOKEN}\n")
            assert await keys.versions()
            vault.token = "renewed"
            with pytest.raises(ProviderAway):
                await keys.versions()
            file.write_text("renewed")
            assert await keys.versions()


async def test_a_token_file_that_kms_credentials_are_to_come_from_and_that_is_not_there_counts_as_away(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    # boto3 keeps the credentials that other tests gave it
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/morpheus")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    async with fake_kms() as kms, open_keyring(kms_settings(kms)) as keys:
        with pytest.raises(ProviderAway):
            await keys.versions()
        assert not kms.asked


@pytest.mark.parametrize("key", ["../../sys/seal", "..", "", "a/b", "morpheus-auth\n"])
async def test_a_stored_name_never_leads_to_another_place_in_vault(key: str) -> None:
    async with fake_vault() as vault, open_keyring(vault_settings(vault)) as keys:
        wrapped = await keys.wrap(SECRET, record_id="record")
        asked = list(vault.asked)
        with pytest.raises(KeyringError):
            await keys.unwrap(wrapped.model_copy(update={"key": key}), record_id="record")
        assert vault.asked == asked


@pytest.mark.parametrize(
    "answer", [[], {"data": None}, {"data": {"plaintext": 1}}, {"data": {"plaintext": "%"}}, {"data": {}}]
)
async def test_what_is_no_answer_of_vault_counts_as_away(answer: Any) -> None:
    async with fake_vault() as vault, open_keyring(vault_settings(vault)) as keys:
        wrapped = await keys.wrap(SECRET, record_id="record")
        vault.answer = answer
        with pytest.raises(ProviderAway):
            await keys.unwrap(wrapped, record_id="record")
        with pytest.raises(ProviderAway):
            await keys.wrap(SECRET, record_id="record")


async def test_a_vault_key_of_another_name_is_moved_to_the_configured_one() -> None:
    async with fake_vault() as vault:
        vault.keys["next"] = [os.urandom(32)]
        vault.derived.add("next")
        async with (
            open_keyring(vault_settings(vault)) as former,
            open_keyring(vault_settings(vault, auth_vault_key="next")) as keys,
        ):
            moved = await keys.rewrap(await former.wrap(SECRET, record_id="record"), record_id="record")
            assert moved.key == "next"
            assert await keys.unwrap(moved, record_id="record") == SECRET


async def test_kms_is_named_by_its_arn_whatever_the_settings_call_it(
    make_case: Callable[[str], Awaitable[Case]],
) -> None:
    case = await make_case("aws")
    assert (await case.keys.wrap(SECRET, record_id="record")).key == ARN


async def test_a_keyring_shows_no_key_when_it_is_printed() -> None:
    """C39."""
    key = secrets.token_bytes(32)
    local = LocalKeyEncryption(VersionedSecrets({1: key}))
    assert repr(key) not in repr(vars(local)) + repr(vars(Keyring(local)))
