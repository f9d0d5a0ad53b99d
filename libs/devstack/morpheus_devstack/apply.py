"""`morpheus apply`: makes streams, durable consumers, collections and indexes, and carries out migrations. Repeatable."""

import asyncio
from typing import Any

import morpheus_auth.documents
import morpheus_automation.documents
import morpheus_sessions.documents
import nats
from morpheus_common.bus.connection import encryption
from morpheus_common.bus.names import INBOX, User
from morpheus_common.bus.topology import apply_topology
from morpheus_common.store.migrations import LeaseLostError, migrate
from morpheus_common.store.mongo import apply_indexes, database_of
from nats.errors import Error as NatsError
from pydantic import SecretStr
from pymongo import AsyncMongoClient
from pymongo.errors import OperationFailure, PyMongoError

from morpheus_devstack.errors import StackError
from morpheus_devstack.operator_bus import OpsSettings

DOCUMENTS = {
    "auth": morpheus_auth.documents.DOCUMENTS,
    "sessions": morpheus_sessions.documents.DOCUMENTS,
    "automation": morpheus_automation.documents.DOCUMENTS,
}
MIGRATIONS = {
    "auth": morpheus_auth.documents.MIGRATIONS,
    "sessions": morpheus_sessions.documents.MIGRATIONS,
    "automation": morpheus_automation.documents.MIGRATIONS,
}
TIMEOUT_MS = 5_000
UNAUTHORIZED = 13
"""MongoDB's error code."""


class ApplySettings(OpsSettings):
    """Where to apply, and the user `ops` of bus and database. Environment variables, names in upper case."""

    mongo_url: SecretStr
    replicas: int = 1
    """Members of the NATS cluster that keep each stream."""


async def apply(settings: ApplySettings) -> list[str]:
    """Make what is missing; return what was made or changed, a line each.

    Raises:
        StackError: bus or database cannot be reached, or refuse.
    """
    try:
        streams, migrated = await asyncio.gather(_apply_bus(settings), _apply_database(settings))
    except (NatsError, OSError) as error:
        raise StackError(
            f"The bus refused what `morpheus apply` makes: {str(error) or type(error).__name__}."
        ) from error
    except PyMongoError as error:
        raise StackError(f"The database refused what `morpheus apply` makes: {error}.") from error
    return [*streams, *migrated]


async def _apply_bus(settings: ApplySettings) -> list[str]:
    connection = await nats.connect(
        settings.nats_url.split(","),
        nkeys_seed_str=settings.nats_seed.get_secret_value(),
        inbox_prefix=INBOX[User.OPS],
        tls=encryption(settings.nats_url, settings.nats_ca_file),
        allow_reconnect=False,
    )
    try:
        return await apply_topology(connection.jetstream(), replicas=settings.replicas)
    finally:
        await connection.close()


async def _apply_database(settings: ApplySettings) -> list[str]:
    done = []
    client: AsyncMongoClient[dict[str, Any]]
    async with AsyncMongoClient(settings.mongo_url.get_secret_value(), serverSelectionTimeoutMS=TIMEOUT_MS) as client:
        for name, documents in DOCUMENTS.items():
            database = database_of(client, name)
            await apply_indexes(database, documents)
            try:
                done += [
                    f"migration {name}.{migration} done" for migration in await migrate(database, MIGRATIONS[name])
                ]
            except OperationFailure as error:
                if error.code != UNAUTHORIZED:
                    raise
                raise StackError(
                    f"This version migrates documents of the database `{name}`, which the user in MONGO_URL may not write: "
                    "give it the role `readWrite` there until `morpheus apply` has ended well."
                ) from error
            except LeaseLostError as error:
                raise StackError(
                    f"Another `morpheus apply` carries the migrations of `{name}` on; repeat this one when it has ended."
                ) from error
    return done
