"""What a wallet holds, as its router tells it."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from morpheus_sessions.purse import PurseReader
from morpheus_sessions.router import Router, RouterUnreachable
from morpheus_sessions.settings import RouterSettings
from pydantic import SecretStr

from tests.service.sessions.house import Simulator


@pytest.fixture
async def router(simulator: Simulator) -> AsyncIterator[Router]:
    settings = RouterSettings(name="r1", url=simulator.url, user="admin", password=SecretStr("correct"))
    router = Router(settings, read_timeout=5.0)
    yield router
    await router.aclose()


async def test_a_purse_tells_what_is_free_the_gas_and_the_allowance_of_the_contract(
    router: Router, simulator: Simulator
) -> None:
    await router.identify()
    await router.approve(router.diamond, 12345, timeout=10.0)
    purse = await PurseReader(router).read()
    state = await simulator.state()
    assert (str(purse.mor), str(purse.gas), purse.allowance) == (state["mor"], state["eth"], 12345)
    assert router.diamond == state["diamond"]


async def test_those_who_ask_together_or_soon_after_share_a_reading(router: Router, simulator: Simulator) -> None:
    reader = PurseReader(router)
    first, *others = await asyncio.gather(*(reader.read() for _ in range(5)))
    await simulator.fund(7)
    assert [*others, await reader.read()] == [first] * 5
    assert (await reader.read(at_most=0.0)).mor == 7
    await simulator.fund(8)
    reader.forget()
    assert (await reader.read()).mor == 8


async def test_a_router_that_is_away_is_said_to_be(router: Router) -> None:
    router.http.base_url = "http://127.0.0.1:9"
    with pytest.raises(RouterUnreachable):
        await PurseReader(router).read()
