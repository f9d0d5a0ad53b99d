from collections import deque
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.golden.files import Golden
from tests.servers import NatsAccount, apply_streams, lent
from tests.service.relay.house import RelayHouse, relay_house


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(
    _nats_pool: deque[NatsAccount], mongo_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[RelayHouse]:
    """One for all tests of a module: opening sessions is what takes time."""
    async with lent(_nats_pool) as account:
        await apply_streams(account)
        folder = tmp_path_factory.mktemp("relay")
        async with relay_house(account, mongo_url, folder.name, folder) as house:
            yield house


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden("relay", update=request.config.getoption("--update-golden"))
