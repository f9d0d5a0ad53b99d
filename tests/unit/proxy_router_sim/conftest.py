from collections.abc import AsyncIterator

import pytest

from tests.unit.proxy_router_sim.harness import Router, running


@pytest.fixture
async def router() -> AsyncIterator[Router]:
    async with running() as started:
        yield started
