import base64
import secrets

import pytest
from morpheus_auth.settings import DEVELOPMENT_KEY, DEVELOPMENT_PEPPER, AuthSettings
from morpheus_auth.versioned_secrets import VersionedSecrets
from pydantic import ValidationError


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


def test_settings_do_not_show_their_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """C39."""
    pepper, key = own_secret(), own_secret()
    settings = production(monkeypatch, AUTH_PEPPERS=pepper, AUTH_KEYRING=key)
    shown = repr(settings) + str(settings) + repr(settings.peppers) + settings.model_dump_json()
    assert pepper[2:] not in shown
    assert key[2:] not in shown
    assert repr(settings.peppers.current) not in shown
