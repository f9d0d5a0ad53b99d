"""What can be configured. Environment variables, names in upper case."""

import base64
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from morpheus_common.settings import Environment, StoreSettings
from pydantic import Field, SecretStr, StringConstraints, field_validator, model_validator

from morpheus_auth.versioned_secrets import VersionedSecrets

ADDRESS_PATTERN = r"^0x[0-9a-fA-F]{40}$"
Address = Annotated[str, StringConstraints(pattern=ADDRESS_PATTERN)]
"""On chain; upper and lower case say the same."""

MINUTE = 60
DAY = 86_400

DEVELOPMENT_PEPPER = b"a pepper for development only !!"
DEVELOPMENT_KEY = b"a key for development only !!!!!"
"""Everybody knows these two, so production refuses them."""
DEVELOPMENT_DELEGATE = "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A"
"""Of the key 0x11…11: what is delegated to it is everybody's."""


class Registration(StrEnum):
    """Who may make an account."""

    OPEN = "open"
    INVITE = "invite"
    CLOSED = "closed"


class KekProvider(StrEnum):
    """Who holds the keys that wrap what is stored."""

    LOCAL = "local"
    VAULT = "vault"
    AWS = "aws"


KEY_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$"
"""A key of Vault's transit engine: one segment of a path, and never two."""
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def _first_version(secret: bytes) -> SecretStr:
    return SecretStr(f"1:{base64.b64encode(secret).decode()}")


class AuthSettings(StoreSettings):
    """Settings of the auth service."""

    mongo_database: str = Field("auth", description="name of this service's database")

    auth_peppers: SecretStr = Field(
        _first_version(DEVELOPMENT_PEPPER),
        description="secrets that API keys are hashed with, 1:<base64 of 32 bytes>[,2:…]; the highest is for new keys",
    )
    auth_pepper_version: int | None = Field(
        None, description="version in AUTH_PEPPERS that is for new keys, where it is not to be the highest"
    )
    auth_keyring: SecretStr = Field(
        _first_version(DEVELOPMENT_KEY),
        description="keys that wrap what is stored, 1:<base64 of 32 bytes>[,2:…]; the highest wraps new ones",
    )
    auth_keyring_file: Path | None = Field(
        None, description="a file with what AUTH_KEYRING would say; read at start, and used instead of it"
    )
    auth_keyring_version: int | None = Field(
        None, description="version in AUTH_KEYRING that wraps new ones, where it is not to be the highest"
    )
    auth_kek_provider: KekProvider = Field(
        KekProvider.LOCAL,
        description="who wraps what is stored: local (AUTH_KEYRING), vault or aws; the others open what they wrapped",
    )
    auth_kek_seconds: float = Field(3.0, gt=0, le=30, description="limit of one wrapping or unwrapping, in seconds")
    auth_vault_address: str | None = Field(None, description="HashiCorp Vault, for example https://vault:8200")
    auth_vault_mount: str = Field(
        "transit", pattern=r"^[A-Za-z0-9][A-Za-z0-9_./-]*$", description="path of Vault's transit engine"
    )
    auth_vault_key: str = Field(
        "morpheus-auth", pattern=KEY_NAME_PATTERN, description="key of the transit engine, made with derived=true"
    )
    auth_vault_token: SecretStr | None = Field(None, description="token for Vault")
    auth_vault_token_file: Path | None = Field(
        None, description="file with the token for Vault, read at every call; used instead of AUTH_VAULT_TOKEN"
    )
    auth_vault_namespace: str | None = Field(None, description="namespace in Vault (enterprise)")
    auth_vault_ca_file: Path | None = Field(None, description="certificates that Vault's own is checked against (PEM)")
    auth_kms_key: str | None = Field(None, description="AWS KMS: id, ARN or alias of a symmetric key")
    auth_kms_region: str | None = Field(None, description="AWS KMS: region; without it as boto3 finds it")
    auth_kms_endpoint: str | None = Field(None, description="AWS KMS: another address than the region's")

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

    delegate_address: Address | None = Field(
        None, description="the gateway's address on chain, which delegations have to name; none takes no delegations"
    )
    chain_id: int = Field(8453, gt=0, description="chain that delegations are signed for (EIP-155); 8453 is Base")
    delegation_manager_address: Address = Field(
        "0xdb9B1e94B5b69Df7e401DDbedE43491141047dB3",
        description="contract DelegationManager that delegations are signed for",
    )
    allow_unrestricted_delegations: bool = Field(False, description="take delegations without caveats as well")
    max_delegations: int = Field(50, gt=0, description="delegations a user may have stored")

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

    @model_validator(mode="before")
    @classmethod
    def _read_keyring_file(cls, values: dict[str, Any]) -> dict[str, Any]:
        if file := values.get("auth_keyring_file"):
            try:
                return values | {"auth_keyring": Path(file).read_text().strip()}
            except (OSError, UnicodeDecodeError) as error:
                raise ValueError(f"AUTH_KEYRING_FILE cannot be read: {type(error).__name__}") from None
        return values

    @model_validator(mode="after")
    def _chosen_versions_listed(self) -> Self:
        for name, chosen, secrets, versions in (
            ("AUTH_PEPPER_VERSION", self.auth_pepper_version, "AUTH_PEPPERS", self.peppers),
            ("AUTH_KEYRING_VERSION", self.auth_keyring_version, "AUTH_KEYRING", self.keyring),
        ):
            if chosen is not None and chosen not in versions.by_version:
                raise ValueError(f"{name} has to be a version that {secrets} lists")
        return self

    @model_validator(mode="after")
    def _provider_described(self) -> Self:
        if self.auth_kek_provider is KekProvider.VAULT and self.auth_vault_address is None:
            raise ValueError("AUTH_KEK_PROVIDER=vault needs AUTH_VAULT_ADDRESS")
        if self.auth_kek_provider is KekProvider.AWS and self.auth_kms_key is None:
            raise ValueError("AUTH_KEK_PROVIDER=aws needs AUTH_KMS_KEY")
        if self.auth_vault_address is not None and not (self.auth_vault_token or self.auth_vault_token_file):
            raise ValueError("AUTH_VAULT_ADDRESS needs AUTH_VAULT_TOKEN or AUTH_VAULT_TOKEN_FILE")
        return self

    @model_validator(mode="after")
    def _fit_for_production(self) -> Self:
        if self.environment is Environment.PRODUCTION:
            known = {DEVELOPMENT_PEPPER, DEVELOPMENT_KEY}
            secrets = {"AUTH_PEPPERS": self.peppers}
            if self.has_keyring:
                secrets["AUTH_KEYRING"] = self.keyring
            for name, versions in secrets.items():
                if known.intersection(versions.by_version.values()):
                    raise ValueError(f"{name} is missing or holds a development secret, which production refuses")
            for name, address in (
                ("AUTH_VAULT_ADDRESS", self.auth_vault_address),
                ("AUTH_KMS_ENDPOINT", self.auth_kms_endpoint),
            ):
                if address is not None and not _is_private(address):
                    raise ValueError(f"{name} has to begin with https:// in production, or be on this host")
            if self.delegate_address is not None and self.delegate_address.lower() == DEVELOPMENT_DELEGATE.lower():
                raise ValueError("DELEGATE_ADDRESS has a key that everybody knows, which production refuses")
        return self

    @property
    def peppers(self) -> VersionedSecrets:
        """The secrets that API keys are hashed with."""
        return VersionedSecrets.parse(self.auth_peppers.get_secret_value(), chosen=self.auth_pepper_version)

    @property
    def keyring(self) -> VersionedSecrets:
        """The keys of the local provider."""
        return VersionedSecrets.parse(self.auth_keyring.get_secret_value(), chosen=self.auth_keyring_version)

    @property
    def has_keyring(self) -> bool:
        """Whether there is a local provider. Where another one wraps, AUTH_KEYRING only opens what it wrapped before."""
        return self.auth_kek_provider is KekProvider.LOCAL or "auth_keyring" in self.model_fields_set


def _is_private(address: str) -> bool:
    """Tell whether nobody on the way can read what is sent there."""
    parts = urlsplit(address)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
