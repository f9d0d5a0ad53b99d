"""What can be configured. Environment variables, names in upper case."""

import base64
from typing import Self

from morpheus_common.settings import Environment, StoreSettings
from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from morpheus_auth.invites import Registration
from morpheus_auth.versioned_secrets import VersionedSecrets

MINUTE = 60
DAY = 86_400

DEVELOPMENT_PEPPER = b"a pepper for development only !!"
DEVELOPMENT_KEY = b"a key for development only !!!!!"
"""Everybody knows these two, so production refuses them."""


def _first_version(secret: bytes) -> SecretStr:
    return SecretStr(f"1:{base64.b64encode(secret).decode()}")


class AuthSettings(StoreSettings):
    """Settings of the auth service."""

    # a secret that does not fit must not be shown in the error that says so
    model_config = SettingsConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    mongo_database: str = Field("auth", description="name of this service's database")

    auth_peppers: SecretStr = Field(
        _first_version(DEVELOPMENT_PEPPER),
        description="secrets that API keys are hashed with, 1:<base64 of 32 bytes>[,2:…]; the highest is for new keys",
    )
    auth_keyring: SecretStr = Field(
        _first_version(DEVELOPMENT_KEY),
        description="keys that wrap private keys at rest, 1:<base64 of 32 bytes>[,2:…]; the highest wraps new ones",
    )

    token_issuer: str = Field("morpheus-auth", description="claim iss of access tokens")
    token_audience: str = Field("morpheus-gateway", description="claim aud of access tokens")
    access_token_seconds: int = Field(30 * MINUTE, gt=0, description="lifetime of an access token, in seconds")
    refresh_token_seconds: int = Field(7 * DAY, gt=0, description="lifetime of an unused refresh token, in seconds")
    login_seconds: int = Field(90 * DAY, gt=0, description="longest a login can be refreshed, in seconds")

    registration: Registration = Field(
        Registration.OPEN, description="who may make an account: open, invite (who has an invite code) or closed"
    )
    failed_logins: int = Field(
        20, gt=0, description="failed logins of an account in FAILED_LOGIN_SECONDS; then addresses new to it wait"
    )
    failed_login_seconds: int = Field(10 * MINUTE, gt=0, description="how long a failed login counts, in seconds")
    login_wait_seconds: int = Field(
        MINUTE, gt=0, le=MINUTE, description="how long such an address waits for each try, in seconds"
    )

    max_active_keys: int = Field(20, gt=0, description="active API keys a user may have")

    hashes_at_once: int = Field(2, gt=0, description="password hashes computed at once")
    hashes_waiting: int = Field(64, ge=0, description="password hashes that may wait for their turn")
    # RFC 9106, section 4: the second recommended option, for environments with less memory
    argon2_passes: int = Field(3, gt=0, description="argon2id: passes over the memory")
    argon2_memory_kib: int = Field(64 * 1024, ge=8, description="argon2id: memory of one hash, in KiB")
    argon2_lanes: int = Field(4, gt=0, description="argon2id: lanes (changes the hash)")

    @field_validator("auth_peppers", "auth_keyring")
    @classmethod
    def _readable(cls, value: SecretStr) -> SecretStr:
        VersionedSecrets.parse(value.get_secret_value())
        return value

    @model_validator(mode="after")
    def _fit_for_production(self) -> Self:
        if self.environment is Environment.PRODUCTION:
            known = {DEVELOPMENT_PEPPER, DEVELOPMENT_KEY}
            for name, secrets in (("AUTH_PEPPERS", self.peppers), ("AUTH_KEYRING", self.keyring)):
                if known.intersection(secrets.by_version.values()):
                    raise ValueError(f"{name} is missing or holds a development secret, which production refuses")
        return self

    @property
    def peppers(self) -> VersionedSecrets:
        """The secrets that API keys are hashed with."""
        return VersionedSecrets.parse(self.auth_peppers.get_secret_value())

    @property
    def keyring(self) -> VersionedSecrets:
        """The keys that wrap private keys at rest."""
        return VersionedSecrets.parse(self.auth_keyring.get_secret_value())
