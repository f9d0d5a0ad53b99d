from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from proxy_router_sim.clock import SystemClock
from proxy_router_sim.simulator import Settings

from tests.servers import NatsAccount
from tests.service.sessions.house import House, Simulator, surroundings
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
    async with surroundings(nats_streams, mongo_url, mongo_database, simulator, tmp_path) as house:
        yield house
