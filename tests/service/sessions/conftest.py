from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from morpheus_common.bus.names import User
from morpheus_common.contracts.audit import RecordAct
from morpheus_common.store.mongo import apply_indexes, database_of
from morpheus_sessions.documents import DOCUMENTS
from proxy_router_sim.clock import SystemClock
from proxy_router_sim.simulator import Settings
from pymongo import AsyncMongoClient

from tests.servers import NatsAccount
from tests.service.sessions.house import Automation, Gateway, House, Simulator, subscribe_acts, subscribe_plans
from tests.unit.proxy_router_sim.harness import USERS, running

BLOCK_SECONDS = 0.05
ANSWER_SECONDS = 0.02


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    """A router whose chain has twenty blocks a second."""
    settings = Settings(users=USERS, block_seconds=BLOCK_SECONDS, answer_seconds=ANSWER_SECONDS)
    async with running(settings, SystemClock()) as router:
        yield Simulator(router)


@pytest.fixture
async def house(
    nats_streams: NatsAccount, mongo_url: str, mongo_database: str, simulator: Simulator, tmp_path: Path
) -> AsyncIterator[House]:
    """The surroundings of a session worker. No worker runs yet."""
    async with AsyncExitStack() as stack:
        client: AsyncMongoClient[dict[str, object]] = AsyncMongoClient(mongo_url, tz_aware=True)
        stack.push_async_callback(client.close)
        database = database_of(client, mongo_database)
        await apply_indexes(database, DOCUMENTS)
        connections = {}
        for user in (User.GATEWAY, User.AUTOMATION, User.AUTH):
            connections[user] = await nats_streams.connect(user)
            stack.push_async_callback(connections[user].close)
        acts: list[RecordAct] = []
        await subscribe_acts(connections[User.AUTH], acts)
        automation = Automation()
        await subscribe_plans(connections[User.AUTOMATION], automation)
        gateway = Gateway(connections[User.GATEWAY])
        await gateway.inbox.start()
        yield House(
            account=nats_streams,
            mongo_url=mongo_url,
            database=database,
            simulator=simulator,
            gateway=gateway,
            automation=automation,
            auth=connections[User.AUTH],
            folder=tmp_path,
            acts=acts,
        )
