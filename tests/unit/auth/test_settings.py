import base64
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest
from morpheus_auth.settings import DEVELOPMENT_DELEGATE, DEVELOPMENT_KEY, DEVELOPMENT_PEPPER, AuthSettings
from morpheus_auth.versioned_secrets import VersionedSecrets
from pydantic import SecretStr, ValidationError


def versioned(version: int, secret: bytes) -> str:
    return f"{version}:{base64.b64encode(secret).decode()}"


def own_secret() -> str:
    return versioned(1, secrets.token_bytes(32))


def production(monkeypatch: pytest.MonkeyPatch, **variables: str) -> AuthSettings:
    common = {"ENVIRONMENT": "production", "NATS_SEED": "SU", "MONGO_URL": "mongodb://db"}
    for name, value in {**common, **variables}.items():
        monkeypatch.setenv(name, value)
    return AuthSettings()


def test_the_highest_version_is_the_current_secret() -> None:
    old, new = secrets.token_bytes(32), secrets.token_bytes(32)
    parsed = VersionedSecrets.parse(f"{versioned(10, new)}, {versioned(9, old)}")
    assert (parsed.current_version, parsed.current) == (10, new)
    assert parsed.by_version[9] == old


@pytest.mark.parametrize(
    ("chosen", "listed"), [("AUTH_PEPPER_VERSION", "AUTH_PEPPERS"), ("AUTH_KEYRING_VERSION", "AUTH_KEYRING")]
)
def test_a_listed_version_can_be_chosen_and_no_other(monkeypatch: pytest.MonkeyPatch, chosen: str, listed: str) -> None:
    both = {
        name: f"{own_secret()},{versioned(2, secrets.token_bytes(32))}" for name in ("AUTH_PEPPERS", "AUTH_KEYRING")
    }
    settings = production(monkeypatch, **both, **{chosen: "1"})
    current = {"AUTH_PEPPERS": settings.peppers, "AUTH_KEYRING": settings.keyring}
    assert {name: versions.current_version for name, versions in current.items()} == {
        **dict.fromkeys(both, 2),
        listed: 1,
    }
    with pytest.raises(ValidationError, match=f"{chosen} has to be a version that {listed} lists") as refused:
        production(monkeypatch, **both, **{chosen: "3"})
    assert not any(secret[2:46] in str(refused.value) for secret in both.values())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "c2VjcmV0",
        "1:c2VjcmV0",
        "1:not base64",
        "x:c2VjcmV0",
        f"{versioned(1, bytes(32))},{versioned(1, bytes(32))}",
    ],
)
def test_unreadable_secrets_are_refused_without_being_quoted(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    with pytest.raises(ValidationError) as refused:
        production(monkeypatch, AUTH_PEPPERS=text, AUTH_KEYRING=own_secret())
    assert "c2VjcmV0" not in str(refused.value)


def test_production_starts_with_secrets_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = production(monkeypatch, AUTH_PEPPERS=own_secret(), AUTH_KEYRING=own_secret())
    assert settings.mongo_database == "auth"


@pytest.mark.parametrize("missing", ["AUTH_PEPPERS", "AUTH_KEYRING"])
def test_production_refuses_to_start_without_a_secret(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    variables = {"AUTH_PEPPERS": own_secret(), "AUTH_KEYRING": own_secret()}
    del variables[missing]
    with pytest.raises(ValidationError, match=missing):
        production(monkeypatch, **variables)


@pytest.mark.parametrize("known", [DEVELOPMENT_PEPPER, DEVELOPMENT_KEY])
@pytest.mark.parametrize("name", ["AUTH_PEPPERS", "AUTH_KEYRING"])
def test_production_refuses_what_everybody_knows_as_any_version(
    monkeypatch: pytest.MonkeyPatch, name: str, known: bytes
) -> None:
    """F47."""
    variables = {"AUTH_PEPPERS": own_secret(), "AUTH_KEYRING": own_secret()}
    variables[name] += "," + versioned(2, known)
    with pytest.raises(ValidationError, match=name):
        production(monkeypatch, **variables)


def test_a_keyring_is_read_from_its_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "keyring"
    file.write_text(f"{versioned(2, b'k' * 32)},{own_secret()}\n")
    settings = production(monkeypatch, AUTH_PEPPERS=own_secret(), AUTH_KEYRING_FILE=str(file))
    assert settings.keyring.current == b"k" * 32


@pytest.mark.parametrize("text", [None, "1:c2VjcmV0"])
def test_a_file_that_is_no_keyring_is_refused_without_being_quoted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None
) -> None:
    file = tmp_path / "keyring"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ValidationError) as refused:
        production(monkeypatch, AUTH_PEPPERS=own_secret(), AUTH_KEYRING_FILE=str(file))
    assert "c2VjcmV0" not in str(refused.value)


@pytest.mark.parametrize(
    ("variables", "missing"),
    [
        ({"AUTH_KEK_PROVIDER": "vault"}, "AUTH_VAULT_ADDRESS"),
        ({"AUTH_KEK_PROVIDER": "vault", "AUTH_VAULT_ADDRESS": "https://vault"}, "AUTH_VAULT_TOKEN"),
        ({"AUTH_KEK_PROVIDER": "aws"}, "AUTH_KMS_KEY"),
        ({"AUTH_KEK_PROVIDER": "vault", "AUTH_VAULT_ADDRESS": "http://vault", "AUTH_VAULT_TOKEN": "t"}, "https://"),
        ({"AUTH_KEK_PROVIDER": "aws", "AUTH_KMS_KEY": "k", "AUTH_KMS_ENDPOINT": "http://kms"}, "https://"),
    ],
)
def test_a_provider_has_to_be_described_and_reached_in_private(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], missing: str
) -> None:
    with pytest.raises(ValidationError, match=missing):
        production(monkeypatch, AUTH_PEPPERS=own_secret(), **variables)


@pytest.mark.parametrize("address", ["https://vault:8200", "http://127.0.0.1:8200"])
def test_with_another_provider_production_needs_no_keyring(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    vault = {"AUTH_KEK_PROVIDER": "vault", "AUTH_VAULT_ADDRESS": address, "AUTH_VAULT_TOKEN": "t"}
    assert not production(monkeypatch, AUTH_PEPPERS=own_secret(), **vault).has_keyring
    assert production(monkeypatch, AUTH_PEPPERS=own_secret(), AUTH_KEYRING=own_secret(), **vault).has_keyring


def test_settings_do_not_show_their_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """C39."""
    pepper, key = own_secret(), own_secret()
    settings = production(monkeypatch, AUTH_PEPPERS=pepper, AUTH_KEYRING=key, AUTH_VAULT_TOKEN="a planted token")
    shown = repr(settings) + str(settings) + repr(settings.peppers) + settings.model_dump_json()
    assert pepper[2:] not in shown
    assert key[2:] not in shown
    assert "a planted token" not in shown
    assert repr(settings.peppers.current) not in shown


@pytest.mark.parametrize("spell", [str, str.lower])
def test_production_takes_no_delegations_to_an_address_whose_key_everybody_knows(
    monkeypatch: pytest.MonkeyPatch, spell: Callable[[str], str]
) -> None:
    """F47"""
    own = {"AUTH_PEPPERS": own_secret(), "AUTH_KEYRING": own_secret()}
    with pytest.raises(ValidationError, match="DELEGATE_ADDRESS"):
        production(monkeypatch, **own, DELEGATE_ADDRESS=spell(DEVELOPMENT_DELEGATE))
    assert production(monkeypatch, **own, DELEGATE_ADDRESS="0x" + "5a" * 20).chain_id == 8453


@pytest.mark.parametrize("address", ["", "0x", "5a" * 20, "0x" + "5a" * 21, "0x" + "5g" * 20])
def test_an_address_that_is_none_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    for name in ("DELEGATE_ADDRESS", "DELEGATION_MANAGER_ADDRESS"):
        monkeypatch.setenv(name, address)
        with pytest.raises(ValidationError, match=name.lower()):
            AuthSettings(nats_seed=SecretStr("SU"), mongo_url=SecretStr("mongodb://db"))
        monkeypatch.delenv(name)


def test_the_limits_are_the_documented_ones_by_default() -> None:
    default = {name: field.default for name, field in AuthSettings.model_fields.items()}
    assert (default["registration"], default["max_active_keys"]) == ("open", 20)
    assert (default["failed_logins"], default["failed_login_seconds"], default["login_wait_seconds"]) == (20, 600, 60)
    assert (default["hashes_at_once"], default["hashes_waiting"]) == (2, 64)
