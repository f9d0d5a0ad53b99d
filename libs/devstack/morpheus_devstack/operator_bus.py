"""Asking the services as the user `ops`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import nats
import nkeys
from morpheus_common.bus.connection import encryption
from morpheus_common.bus.names import INBOX, User
from morpheus_common.bus.rpc import RpcClient
from morpheus_common.errors import CATALOGUE, ApiError
from morpheus_common.settings import EnvironmentSettings
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import NoServersError
from pydantic import SecretStr, ValidationError
from pydantic_settings import SettingsConfigDict

from morpheus_devstack.errors import StackError, names_of_settings
from morpheus_devstack.folder import StackFolder


class OpsSettings(EnvironmentSettings):
    """Where the bus is, and the NKey seed of its user `ops`. Environment variables, names in upper case."""

    model_config = SettingsConfigDict(extra="ignore", hide_input_in_errors=True)

    nats_url: str
    nats_seed: SecretStr
    nats_ca_file: Path | None = None

    @classmethod
    def read(cls, stack: StackFolder | None) -> Self:
        """Return the settings of a stack, of the environment if none is named.

        Raises:
            StackError: neither says enough.
        """
        env = {} if stack is None else stack.env()
        if stack is not None and not env:
            raise StackError(f"{stack.env_file} does not exist: no stack was started in {stack.path}.")
        known: dict[str, Any] = {name: env[name.upper()] for name in cls.model_fields if name.upper() in env}
        try:
            return cls(**known)
        except ValidationError as error:
            raise StackError(
                f"The environment does not say where the servers are and who asks: {names_of_settings(error)} missing. "
                "--data names the folder of a development stack."
            ) from error


@asynccontextmanager
async def asking(settings: OpsSettings, *, worker: str = "session") -> AsyncIterator[RpcClient]:
    """Connect, and turn what goes wrong into a sentence.

    Raises:
        StackError: the bus cannot be reached or refuses, nobody answers, or the answer is an error.
    """
    refused: list[str] = []
    async with connected(settings, refused) as connection:
        try:
            yield RpcClient(connection)
        except ApiError as error:
            raise StackError(sentence(error, refused, worker)) from error


@asynccontextmanager
async def connected(settings: OpsSettings, refused: list[str]) -> AsyncIterator[Client]:
    """Connect as `ops`; what the server refuses is added to `refused`.

    Raises:
        StackError: the bus cannot be reached or refuses.
    """

    async def on_error(error: Exception) -> None:
        refused.append(str(error))

    try:
        connection = await nats.connect(
            settings.nats_url.split(","),
            nkeys_seed_str=settings.nats_seed.get_secret_value(),
            inbox_prefix=INBOX[User.OPS],
            tls=encryption(settings.nats_url, settings.nats_ca_file),
            allow_reconnect=False,
            connect_timeout=5,
            # a first connection is tried as often as a lost one: 60 times, 2 s apart, if nothing is said
            max_reconnect_attempts=1,
            reconnect_time_wait=0.2,
            error_cb=on_error,
        )
    except nkeys.NkeysError as error:
        raise StackError("NATS_SEED is not the seed of an NKey user.") from error
    except (NatsError, OSError) as error:
        raise StackError(f"The bus at {settings.nats_url} cannot be used: {_why(error, refused)}.") from error
    try:
        yield connection
    finally:
        await connection.close()


def _why(error: Exception, refused: list[str]) -> str:
    """What a server said, or what became of the connection, is more than that no server is left."""
    told = str(error) or type(error).__name__
    return refused[-1] if isinstance(error, NoServersError) and refused and refused[-1] else told


def sentence(error: ApiError, refused: list[str], worker: str) -> str:
    """Say what an answer that is an error means to an operator."""
    if any("permissions violation" in text.lower() for text in refused):
        return "The bus refuses the question: NATS_SEED is not the seed of the user `ops`."
    if error.code == "service_unavailable" and error.message == CATALOGUE[error.code].message:
        return f"No {worker} worker answers on the bus."
    if error.code == "service_timeout":
        return f"No {worker} worker answered in time."
    return error.message
