"""Fixtures for all tests. Servers start when the first test asks for them, once a run."""

import itertools
from collections import deque
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from morpheus_devstack.ports import LOOPBACK
from morpheus_devstack.servers import TRANSACTION_SECONDS, MongoServer
from pymongo import MongoClient
from redis.asyncio import Redis

from tests import servers
from tests.faults.controller import Controller
from tests.servers import NatsAccount

_numbers = itertools.count()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files anew, to be read in the diff")
    parser.addoption("--every-chunk", action="store_true", help="faults of the relay at every chunk, not at some only")


@pytest.fixture(scope="session")
def _nats_pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[deque[NatsAccount]]:
    with servers.nats_accounts(tmp_path_factory.mktemp("nats")) as accounts:
        yield deque(accounts)


@pytest.fixture
async def nats_account(_nats_pool: deque[NatsAccount]) -> AsyncIterator[NatsAccount]:
    """An account of this test's own, without streams: `url`, `seeds` by user, `connect(user)`."""
    async with servers.lent(_nats_pool) as account:
        yield account


@pytest.fixture
async def nats_streams(nats_account: NatsAccount) -> NatsAccount:
    """The test's account with all streams and durable consumers, as `morpheus apply` makes them."""
    await servers.apply_streams(nats_account)
    return nats_account


@pytest.fixture(scope="session")
def _mongo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MongoServer]:
    with servers.mongo(tmp_path_factory.mktemp("mongo")) as server:
        yield server


@pytest.fixture(scope="session")
def mongo_url(_mongo: MongoServer) -> str:
    """Connection string of the run's mongod. Everybody may do everything."""
    return _mongo.url()


@pytest.fixture(scope="session")
def _mongo_client(mongo_url: str) -> Iterator[MongoClient[dict[str, object]]]:
    with MongoClient[dict[str, object]](mongo_url) as client:
        yield client


@pytest.fixture
def mongo_prefix(_mongo_client: MongoClient[dict[str, object]]) -> Iterator[str]:
    """What the names of this test's databases begin with. They are dropped at its end."""
    prefix = f"t{next(_numbers)}_"
    yield prefix
    for name in _mongo_client.list_database_names():
        if name.startswith(prefix):
            _mongo_client.drop_database(name)


@pytest.fixture
def mongo_database(mongo_prefix: str) -> str:
    """The name of a database of this test's own."""
    return f"{mongo_prefix}db"


@pytest.fixture
def short_transactions(_mongo_client: MongoClient[dict[str, object]]) -> Iterator[None]:
    """What a killed process left in the middle of a transaction is in nobody's way for long."""
    _mongo_client.admin.command("setParameter", 1, transactionLifetimeLimitSeconds=5)
    yield
    _mongo_client.admin.command("setParameter", 1, transactionLifetimeLimitSeconds=TRANSACTION_SECONDS)


@pytest.fixture(scope="session")
def _valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with servers.valkey(tmp_path_factory.mktemp("valkey")) as port:
        yield port


@pytest.fixture
async def valkey_url(_valkey: int) -> str:
    """The run's valkey-server, with nothing in it."""
    async with Redis(port=_valkey, protocol=2) as client:
        await client.flushall()
        await client.config_resetstat()
    return f"valkey://{LOOPBACK}:{_valkey}"


@pytest.fixture
async def controller(tmp_path: Path) -> AsyncIterator[Controller]:
    """Whoever reaches a step says so here, and can be held."""
    controller = Controller(tmp_path / "probe")
    await controller.start()
    yield controller
    await controller.stop()
