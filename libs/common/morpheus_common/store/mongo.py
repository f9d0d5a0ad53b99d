"""The connection to MongoDB and the set-up of Beanie, the same for every service."""

from collections.abc import Sequence
from typing import Any

from beanie import Document, init_beanie
from bson.codec_options import CodecOptions
from pymongo import AsyncMongoClient
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import PyMongoError, ServerSelectionTimeoutError

from morpheus_common.settings import StoreSettings
from morpheus_common.store.metrics import CommandWatch, no_server_found

Database = AsyncDatabase[dict[str, Any]]
MongoClient = AsyncMongoClient[dict[str, Any]]


def from_now(seconds: float) -> dict[str, Any]:
    """The database's time, `seconds` from now, in a pipeline."""
    return {"$dateAdd": {"startDate": "$$NOW", "unit": "millisecond", "amount": int(seconds * 1000)}}


class NotAppliedError(Exception):
    """The database lacks what `morpheus apply` makes."""

    def __init__(self, missing: Sequence[str]) -> None:
        super().__init__(f"missing: {', '.join(missing)}; run `morpheus apply`")


def connect(settings: StoreSettings, service: str) -> MongoClient:
    """Return a client. It connects when first used, and again whenever the database comes back.

    Writes are acknowledged by a majority: what has been answered survives the loss of a member. `w: 1` is nowhere.
    """
    return AsyncMongoClient(
        settings.mongo_url.get_secret_value(),
        appname=f"morpheus-{service}",
        tz_aware=True,
        uuidRepresentation="standard",
        w="majority",
        journal=True,
        readConcernLevel="majority",
        retryWrites=True,
        retryReads=True,
        serverSelectionTimeoutMS=settings.mongo_timeout_ms,
        connectTimeoutMS=settings.mongo_timeout_ms,
        socketTimeoutMS=settings.mongo_timeout_ms * 2,
        maxPoolSize=50,
        minPoolSize=2,
        waitQueueTimeoutMS=settings.mongo_timeout_ms,
        event_listeners=[CommandWatch()],
    )


def database_of(client: MongoClient, name: str) -> Database:
    """Return the database with times in UTC."""
    return client.get_database(name, codec_options=CodecOptions(tz_aware=True))


async def init_documents(database: Database, models: Sequence[type[Document]]) -> None:
    """Bind document classes to their database. Makes no index: that is `morpheus apply`'s work."""
    await init_beanie(database=database, document_models=list(models), skip_indexes=True)


async def apply_indexes(database: Database, models: Sequence[type[Document]]) -> None:
    """Make the collections and indexes of `models`. Repeatable; drops nothing."""
    await init_beanie(database=database, document_models=list(models), allow_index_dropping=False)
    present = set(await database.list_collection_names())
    for model in models:
        # a transaction would make a missing collection under an exclusive lock
        if model.get_collection_name() not in present:
            await database.create_collection(model.get_collection_name())


async def missing_indexes(database: Database, models: Sequence[type[Document]]) -> list[str]:
    """Return what `morpheus apply` has still to make, `index collection.name` each."""
    missing = []
    for model in models:
        name = model.get_collection_name()
        present = set(await database.get_collection(name).index_information())
        wanted = getattr(model.get_settings(), "indexes", []) or []
        missing += [
            f"index {name}.{index.document['name']}"
            for index in (getattr(item, "index", item) for item in wanted)
            if index.document["name"] not in present
        ]
    return missing


async def is_reachable(database: Database) -> bool:
    """Tell whether the database answers."""
    try:
        await database.command("ping")
    except ServerSelectionTimeoutError:
        no_server_found()
        return False
    except PyMongoError:
        return False
    return True
