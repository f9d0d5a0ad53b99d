from collections.abc import AsyncIterator

import pytest
from morpheus_common.settings import StoreSettings
from morpheus_common.store.mongo import Database, MongoClient, apply_indexes, connect, database_of
from morpheus_common.store.outbox import OutboxRow
from pydantic import SecretStr


@pytest.fixture
async def client(mongo_url: str) -> AsyncIterator[MongoClient]:
    """A client as every service makes it."""
    settings = StoreSettings(mongo_url=SecretStr(mongo_url), nats_seed=SecretStr("unused"), mongo_database="unused")
    connected = connect(settings, "test")
    yield connected
    await connected.close()


@pytest.fixture
async def database(client: MongoClient, mongo_database: str) -> Database:
    """A database of the test's own, with an outbox."""
    own = database_of(client, mongo_database)
    await apply_indexes(own, [OutboxRow])
    return own
