"""Several gateways that count in one store, as their clients see it."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx2
import pytest
from morpheus_devstack.ports import LOOPBACK
from morpheus_devstack.waiting import poll
from morpheus_gateway import api_keys, limit_store
from morpheus_gateway.limit_store import STORE_SECONDS
from pydantic import SecretStr

from tests.servers import NatsAccount
from tests.service.gateway.conftest import Gateway, House, MakeHouse, running_gateway
from tests.service.gateway.store_wire import StoreWire
from tests.service.gateway.test_address_limits import LOGIN, MODELS, PASSWORD, REFRESH, REGISTER, assert_limited, bearer

LIMIT = 10
LIMITS: dict[str, Any] = {
    "chats_per_minute": LIMIT,
    "public_gets_per_minute": LIMIT,
    "registrations_per_hour": LIMIT,
    "failed_logins_per_ten_minutes": LIMIT,
    "refreshes_per_minute": LIMIT,
    "refused_credentials_per_minute": LIMIT,
    "pings_per_minute": LIMIT,
}
Ask = Callable[[House, Gateway, int], Awaitable[httpx2.Response]]


async def chat(house: House, gateway: Gateway, number: int) -> httpx2.Response:
    body = {"model": "mistral-small", "messages": [{"role": "user", "content": "hi"}], "stream": bool(number % 2)}
    return await gateway.http.post("/v1/chat/completions", json=body, headers=house.by_key)


async def read(_: House, gateway: Gateway, number: int) -> httpx2.Response:
    return await gateway.http.get(MODELS if number % 2 else "/")


async def register(_: House, gateway: Gateway, number: int) -> httpx2.Response:
    return await gateway.http.post(REGISTER, json={"email": f"u{number}@example.org", "password": PASSWORD})


async def fail_to_log_in(_: House, gateway: Gateway, number: int) -> httpx2.Response:
    return await gateway.http.post(LOGIN, json={"email": "ada@example.org", "password": f"wrong {number}"})


async def refresh(_: House, gateway: Gateway, number: int) -> httpx2.Response:
    return await gateway.http.post(REFRESH, json={"refresh_token": f"rt-wrong-{number}"})


async def guess(_: House, gateway: Gateway, _number: int) -> httpx2.Response:
    return await gateway.http.get("/api/v1/session", headers=bearer(api_keys.make()))


async def ping(house: House, gateway: Gateway, _number: int) -> httpx2.Response:
    return await gateway.http.post("/api/v1/session/pingsession", headers=house.by_key, content=b"{")


MakeGateways = Callable[..., Awaitable[list[Gateway]]]


@pytest.fixture
async def make_gateways(nats_account: NatsAccount) -> AsyncIterator[MakeGateways]:
    """Return a function that starts gateways which count in a store."""
    async with AsyncExitStack() as stack:

        async def make(count: int, url: str) -> list[Gateway]:
            return [
                await stack.enter_async_context(running_gateway(nats_account, **LIMITS, limits_url=SecretStr(url)))
                for _ in range(count)
            ]

        yield make


@pytest.mark.parametrize(
    ("ask", "count", "times"),
    [
        (chat, 2, 100),
        (chat, 4, 100),
        (read, 4, 100),
        *((ask, 2, 40) for ask in (register, fail_to_log_in, refresh, guess, ping)),
    ],
)
async def test_of_so_many_at_once_ten_pass_over_all_gateways(
    make_house: MakeHouse, make_gateways: MakeGateways, valkey_url: str, ask: Ask, count: int, times: int
) -> None:
    """C18"""
    house = await make_house()
    gateways = await make_gateways(count, valkey_url)
    answers = await asyncio.gather(*(ask(house, gateways[number % count], number) for number in range(times)))
    limited = [answer for answer in answers if answer.status_code == 429]
    assert len(limited) == times - LIMIT, Counter(answer.status_code for answer in answers)
    for answer in limited:
        assert_limited(answer, LIMIT)
    assert 500 not in {answer.status_code for answer in answers}
    # nor does another gateway let one more pass
    assert_limited(await ask(house, gateways[-1], times), LIMIT)


async def test_without_its_store_each_gateway_counts_for_itself_and_no_request_stalls(
    make_house: MakeHouse, make_gateways: MakeGateways, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C20"""
    monkeypatch.setattr(limit_store, "STORE_AWAY_SECONDS", 0.2)
    house = await make_house()
    wire = StoreWire(int(valkey_url.rpartition(":")[2]))
    await wire.start()
    gateways = await make_gateways(2, f"redis://{LOOPBACK}:{wire.port}")
    for gateway in gateways:
        for _ in range(5):
            assert (await read(house, gateway, 1)).status_code == 200
    assert_limited(await read(house, gateways[0], 1), LIMIT)

    # a store that hangs is the worst: nothing tells that it is away
    wire.says = b""
    monkeypatch.setattr(limit_store, "CONNECT_SECONDS", 0.2)
    took: list[float] = []

    async def timed(gateway: Gateway) -> int:
        begun = time.monotonic()
        status = (await chat(house, gateway, 1)).status_code
        took.append(time.monotonic() - begun)
        return status

    for gateway in gateways:
        assert Counter(await asyncio.gather(*(timed(gateway) for _ in range(15)))) == {200: 10, 429: 5}
    assert max(took) < STORE_SECONDS + 1.5
    took.clear()
    for _ in range(5):
        assert [await timed(gateway) for gateway in gateways] == [429, 429]
    assert sorted(took)[len(took) // 2] < 0.2

    wire.says = None

    async def count_together() -> bool:
        answers = [await read(house, gateway, 1) for gateway in gateways]
        stores = [gateway.context.limits.shared for gateway in gateways]
        return all(shared is not None and not shared._is_away for shared in stores) and {
            answer.status_code for answer in answers
        } == {429}

    assert await poll(count_together, seconds=10)
    await wire.stop()
