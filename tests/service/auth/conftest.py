from collections.abc import AsyncIterator

import pytest
from morpheus_auth.documents import DOCUMENTS
from morpheus_auth.settings import AuthSettings
from morpheus_auth.worker import serve
from morpheus_common.bus.names import User
from morpheus_common.bus.rpc import RpcClient
from morpheus_common.store.mongo import Database, apply_indexes
from pydantic import SecretStr

from tests.servers import NatsAccount
from tests.service.auth.harness import Gateway, Operator, opened


@pytest.fixture
async def settings(mongo_url: str, mongo_database: str, nats_streams: NatsAccount) -> AuthSettings:
    """Settings of a worker whose database and streams are there. Hashing is as cheap as argon2 allows."""
    settings = AuthSettings(
        mongo_url=SecretStr(mongo_url),
        mongo_database=mongo_database,
        nats_url=nats_streams.url,
        nats_seed=SecretStr(nats_streams.seeds[User.AUTH]),
        worker_id="auth-1",
        argon2_passes=1,
        argon2_memory_kib=8,
        argon2_lanes=1,
    )
    async with opened(settings) as database:
        await apply_indexes(database, DOCUMENTS)
    return settings


@pytest.fixture
async def database(settings: AuthSettings) -> AsyncIterator[Database]:
    """The database of auth."""
    async with opened(settings) as database:
        yield database


@pytest.fixture
async def idle_gateway(nats_streams: NatsAccount) -> AsyncIterator[Gateway]:
    """The gateway, connected to the bus; the test starts who answers it."""
    connection = await nats_streams.connect(User.GATEWAY)
    yield Gateway(RpcClient(connection))
    await connection.close()


@pytest.fixture
async def operator(nats_streams: NatsAccount) -> AsyncIterator[Operator]:
    """The operator's command, connected to the bus."""
    connection = await nats_streams.connect(User.OPS)
    yield Operator(RpcClient(connection))
    await connection.close()


@pytest.fixture
async def gateway(settings: AuthSettings, idle_gateway: Gateway) -> AsyncIterator[Gateway]:
    """The gateway, connected to the bus, with a worker that answers it."""
    async with serve(settings):
        yield idle_gateway
