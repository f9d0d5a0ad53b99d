import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from morpheus_common.bus.names import User
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig

from tests.servers import NatsAccount
from tests.service.auth.harness import Gateway, new_key


@pytest.fixture
async def events(nats_streams: NatsAccount) -> AsyncIterator[JetStreamContext.PushSubscription]:
    """What an internal subscriber is told."""
    connection = await nats_streams.connect(User.SUBSCRIBER)
    yield await connection.jetstream().subscribe(
        "evt.>", stream="EVENTS", ordered_consumer=True, config=ConsumerConfig(name="reader")
    )
    await connection.close()


def told(event: Msg) -> tuple[str, str, str, Any]:
    headers = event.headers or {}
    return headers["ce-type"], headers["ce-subject"], headers["ce-sequence"], json.loads(event.data)


async def test_subscribers_are_told_of_accounts_and_keys_in_order_and_by_ids_only(
    gateway: Gateway, events: JetStreamContext.PushSubscription
) -> None:
    ada = await gateway.register("ada@example.com", name="Ada")
    key = await gateway.create_key(ada.id, new_key(), name="laptop")
    await gateway.deactivate_key(ada.id, key.id)
    received = [await events.next_msg(timeout=5) for _ in range(3)]
    of_key = {"key_id": key.id, "user_id": ada.id}
    assert sorted(map(told, received), key=str) == sorted(
        [
            ("auth.user.registered.v1", ada.id, "1", {"user_id": ada.id}),
            ("auth.key.created.v1", key.id, "1", {**of_key, "is_active": True}),
            ("auth.key.deactivated.v1", key.id, "2", {**of_key, "is_active": False}),
        ],
        key=str,
    )
    assert [told(event)[2] for event in received if told(event)[1] == key.id] == ["1", "2"]


async def test_each_event_has_an_id_of_its_own_and_names_the_request(
    gateway: Gateway, events: JetStreamContext.PushSubscription
) -> None:
    await gateway.register("ada@example.com")
    await gateway.register("eve@example.com")
    first, second = [(await events.next_msg(timeout=5)).headers or {} for _ in range(2)]
    assert first["ce-id"] != second["ce-id"]
    assert first["X-Request-Id"] != second["X-Request-Id"]
    assert first["ce-source"] == "/morpheus/auth"
