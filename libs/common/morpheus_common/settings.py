"""Settings every service has. Each service's `settings.py` adds its own; all come from environment variables and files."""

import os
import socket
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, SecretStr, StringConstraints, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SecretsSettingsSource, SettingsConfigDict

WorkerName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
"""One token of a NATS subject."""


class Environment(StrEnum):
    """Where the process runs; production refuses what only development may have."""

    DEVELOPMENT = "development"
    PRODUCTION = "production"


def _default_worker() -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in socket.gethostname())[:64] or "worker"


SECRETS_DIR = "SECRETS_DIR"
"""Names the folder whose files bear names of settings: where containers are given their secrets."""


class EnvironmentSettings(BaseSettings):
    """Settings from environment variables (names in upper case), and from files of the folder that `SECRETS_DIR` names. What
    both say, the environment says.
    """

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as the base class has it
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as the base class has it
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return where settings come from, what counts more first. Raises `ValueError` if there is no such folder."""
        folder = os.environ.get(SECRETS_DIR)
        if folder is None:
            return init_settings, env_settings
        if not Path(folder).is_dir():
            msg = f"SECRETS_DIR names {folder}, which is no folder"
            raise ValueError(msg)
        return init_settings, env_settings, SecretsSettingsSource(settings_cls, secrets_dir=folder)


class CommonSettings(EnvironmentSettings):
    """Settings of every service."""

    # what does not fit may be a secret, and must not be shown in the error that says so
    model_config = SettingsConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    environment: Environment = Field(Environment.DEVELOPMENT, description="development or production")
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR")
    worker_id: WorkerName = Field(
        default_factory=_default_worker,
        description="name of this process among its service's processes; the host name if not set",
    )
    nats_url: str = Field("nats://127.0.0.1:4222", description="servers of the bus, separated by commas")
    nats_seed: SecretStr = Field(description="NKey seed of this service's user on the bus")
    nats_ca_file: Path | None = Field(
        None, description="certificate authority of the bus's servers (PEM), for `tls://` URLs; the system's unless set"
    )
    drain_seconds: float = Field(30.0, gt=0, description="how long running work may take to finish at shutdown")
    metrics_host: str = Field("127.0.0.1", description="address that the private port listens on")
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65_535,
        description="private port with /metrics, /live and /ready, never to be reached from outside; 0 takes a free one; "
        "none unless set",
    )
    step_probe: str | None = Field(
        None, description="Unix socket of a fault sweep that is told of each step; refused in production"
    )

    @model_validator(mode="after")
    def _no_probe_in_production(self) -> Self:
        if self.step_probe is not None and self.environment is Environment.PRODUCTION:
            msg = "STEP_PROBE is for tests: production does not run with it"
            raise ValueError(msg)
        return self


class StoreSettings(CommonSettings):
    """Settings of a service with a database."""

    mongo_url: SecretStr = Field(description="connection string of this service's MongoDB user")
    mongo_database: str = Field(description="name of this service's database")
    mongo_timeout_ms: int = Field(5_000, gt=0, description="limit of one database operation, in milliseconds")
    lease_seconds: float = Field(15.0, ge=1, description="after so much silence another process takes a lease over")
