from collections.abc import AsyncIterator

import pytest
from morpheus_automation.documents import DOCUMENTS
from morpheus_automation.settings import AutomationServiceSettings
from morpheus_automation.worker import serve
from morpheus_common.bus.names import User
from morpheus_common.bus.rpc import RpcClient
from morpheus_common.store.mongo import Database, apply_indexes, connect, database_of
from pydantic import SecretStr

from tests.servers import NatsAccount
from tests.service.automation.fakes import FakeSessions


@pytest.fixture
async def settings(mongo_url: str, mongo_database: str, nats_streams: NatsAccount) -> AutomationServiceSettings:
    return AutomationServiceSettings(
        mongo_url=SecretStr(mongo_url),
        mongo_database=mongo_database,
        nats_url=nats_streams.url,
        nats_seed=SecretStr(nats_streams.seeds[User.AUTOMATION]),
        worker_id="automation-1",
        renewal_seconds=0.05,
    )


@pytest.fixture
async def database(settings: AutomationServiceSettings) -> AsyncIterator[Database]:
    """The database of automation, with its indexes."""
    client = connect(settings, "test")
    database = database_of(client, settings.mongo_database)
    await apply_indexes(database, DOCUMENTS)
    yield database
    await client.close()


@pytest.fixture
async def worker(settings: AutomationServiceSettings, database: Database) -> AsyncIterator[str]:
    """The name of a running worker."""
    async with serve(settings.model_copy(update={"mongo_database": database.name})):
        yield settings.worker_id


@pytest.fixture
async def gateway(nats_streams: NatsAccount) -> AsyncIterator[RpcClient]:
    """The gateway on the bus."""
    connection = await nats_streams.connect(User.GATEWAY)
    yield RpcClient(connection)
    await connection.close()


@pytest.fixture
async def sessions(nats_streams: NatsAccount) -> AsyncIterator[RpcClient]:
    """A session worker on the bus."""
    connection = await nats_streams.connect(User.SESSIONS)
    yield RpcClient(connection)
    await connection.close()


@pytest.fixture
async def market(nats_streams: NatsAccount) -> AsyncIterator[FakeSessions]:
    """The sessions service, told what to tell."""
    connection = await nats_streams.connect(User.SESSIONS)
    fake = FakeSessions(connection)
    await fake.start()
    yield fake
    await connection.close()
