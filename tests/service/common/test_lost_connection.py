"""A connection to the bus that breaks while an answer is waited for."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from faststream.nats import NatsBroker
from morpheus_common.bus.connection import make_broker
from morpheus_common.bus.names import User
from morpheus_common.bus.rpc import RpcClient
from morpheus_common.contracts.auth import CHECK_KEY, CheckKey
from morpheus_common.errors import ApiError
from morpheus_common.service import stop_broker
from morpheus_common.settings import CommonSettings
from nats.aio.client import Client
from nats.aio.msg import Msg
from pydantic import SecretStr

from tests.faults.wires import BusWire
from tests.servers import NatsAccount
from tests.service.common.waiting import until

PATIENCE_SECONDS = 60.0


def is_connected(broker: NatsBroker) -> Callable[[], Awaitable[bool]]:
    async def connected() -> bool:
        return broker.connection.is_connected

    return connected


@pytest.fixture
async def wire(nats_account: NatsAccount) -> AsyncIterator[BusWire]:
    wire = BusWire(int(nats_account.url.rpartition(":")[2]))
    await wire.start()
    yield wire
    await wire.stop()


@pytest.fixture
async def broker(nats_account: NatsAccount, wire: BusWire) -> AsyncIterator[NatsBroker]:
    settings = CommonSettings(
        nats_url=f"nats://127.0.0.1:{wire.port}",
        nats_seed=SecretStr(nats_account.seeds[User.GATEWAY]),
        worker_id="gateway-1",
    )
    broker = make_broker(settings, User.GATEWAY)
    await broker.connect()
    yield broker
    # closed while it connects, nats-py would leave a socket open
    wire.mend()
    await until(is_connected(broker))
    await stop_broker(broker, seconds=5)


@pytest.fixture
async def auth(nats_account: NatsAccount) -> AsyncIterator[Client]:
    connection = await nats_account.connect(User.AUTH)
    yield connection
    await connection.close()


async def test_who_waits_for_an_answer_is_told_at_once_that_none_can_come(
    broker: NatsBroker, wire: BusWire, auth: Client
) -> None:
    """C45: the question may have arrived, so it is not said that nobody was there."""
    arrived = asyncio.Event()

    async def think_for_ever(_: Msg) -> None:
        arrived.set()

    await auth.subscribe(CHECK_KEY.subject, cb=think_for_ever)
    await auth.flush()
    rpc = RpcClient(broker.connection)
    asking = asyncio.create_task(rpc.call(CHECK_KEY, CheckKey(sha256="0" * 64), timeout=PATIENCE_SECONDS))
    await asyncio.wait_for(arrived.wait(), 10)

    began = time.monotonic()
    wire.cut()
    with pytest.raises(ApiError) as told:
        await asking
    assert (told.value.code, told.value.retry_after) == ("service_timeout", 1)
    assert time.monotonic() - began < PATIENCE_SECONDS / 4


async def test_it_answers_again_once_the_connection_is_back(broker: NatsBroker, wire: BusWire, auth: Client) -> None:
    async def answer(message: Msg) -> None:
        await message.respond(b'{"error": {"code": "invalid_api_key", "message": "no"}}')

    await auth.subscribe(CHECK_KEY.subject, cb=answer)
    await auth.flush()
    rpc = RpcClient(broker.connection)

    async def answered() -> str:
        with pytest.raises(ApiError) as told:
            await rpc.call(CHECK_KEY, CheckKey(sha256="0" * 64))
        return told.value.code

    assert await answered() == "invalid_api_key"
    wire.cut()
    wire.mend()
    async with asyncio.timeout(20):
        while await answered() != "invalid_api_key":  # noqa: ASYNC110 - nats-py announces it to make_broker only
            await asyncio.sleep(0.02)
