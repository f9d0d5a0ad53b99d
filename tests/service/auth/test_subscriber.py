"""Who may read events cannot have them taken for commands."""

import json
from collections.abc import AsyncIterator

import pytest
from morpheus_common.bus.names import User
from morpheus_common.contracts.auth import DEACTIVATE_KEY, KEY_CREATED
from morpheus_common.contracts.health import PING
from nats.aio.client import Client
from structlog.testing import capture_logs

from tests.servers import NatsAccount
from tests.service.auth.harness import Gateway, new_key, until

DROPPED = "no question, though it came where questions come; dropped"


@pytest.fixture
async def subscriber(nats_streams: NatsAccount) -> AsyncIterator[Client]:
    connection = await nats_streams.connect(User.SUBSCRIBER)
    yield connection
    await connection.close()


async def make_consumer(subscriber: Client, **config: str) -> None:
    wanted = {"name": "spy", "filter_subject": KEY_CREATED.subject, "ack_policy": "none", "mem_storage": True, **config}
    answer = await subscriber.request(
        f"$JS.API.CONSUMER.CREATE.EVENTS.spy.{KEY_CREATED.subject}",
        json.dumps({"stream_name": "EVENTS", "config": wanted}).encode(),
        timeout=5,
    )
    assert "error" not in json.loads(answer.data)


async def key_of_someone(gateway: Gateway) -> str:
    key = new_key()
    ada = await gateway.register("ada@example.com")
    await gateway.create_key(ada.id, key)
    return key


async def test_an_event_pushed_where_commands_come_revokes_no_key(gateway: Gateway, subscriber: Client) -> None:
    key = await key_of_someone(gateway)
    with capture_logs() as logged:
        await make_consumer(subscriber, deliver_subject=DEACTIVATE_KEY.subject, deliver_group=User.AUTH)

        async def dropped() -> bool:
            return DROPPED in [line["event"] for line in logged]

        await until(dropped)
    assert (await gateway.check_key(key)).key_id is not None


async def test_an_event_fetched_to_where_commands_come_revokes_no_key(gateway: Gateway, subscriber: Client) -> None:
    key = await key_of_someone(gateway)
    await make_consumer(subscriber)
    with capture_logs() as logged:
        request = json.dumps({"batch": 1, "expires": 10_000_000_000}).encode()
        await subscriber.publish("$JS.API.CONSUMER.MSG.NEXT.EVENTS.spy", request, reply=DEACTIVATE_KEY.subject)

        async def dropped() -> bool:
            return DROPPED in [line["event"] for line in logged]

        await until(dropped)
    assert (await gateway.check_key(key)).key_id is not None


@pytest.mark.usefixtures("gateway")
async def test_what_jetstream_answers_is_no_question_either(subscriber: Client) -> None:
    with capture_logs() as logged:
        await subscriber.publish("$JS.API.STREAM.INFO.EVENTS", b"", reply=PING[User.AUTH].subject)

        async def dropped() -> bool:
            return DROPPED in [line["event"] for line in logged]

        await until(dropped)
