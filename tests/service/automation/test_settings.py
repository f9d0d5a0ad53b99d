import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from morpheus_common.bus.names import User
from morpheus_common.bus.rpc import RpcClient
from morpheus_common.contracts.automation import (
    GET_SETTINGS,
    PLAN_CHAT,
    PUT_SETTINGS,
    Decision,
    GetSettings,
    PlanChat,
    PutSettings,
)
from morpheus_common.contracts.base import Empty
from morpheus_common.contracts.health import PING
from morpheus_common.store.mongo import Database
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig

from tests.servers import NatsAccount

pytestmark = pytest.mark.usefixtures("worker")

ADA, EVE = "user-ada", "user-eve"
PROMPT = PlanChat(user_id=ADA, key_id="key", model_id="0x" + "ab" * 32)


@pytest.fixture
async def events(nats_streams: NatsAccount) -> AsyncIterator[JetStreamContext.PushSubscription]:
    """What an internal subscriber is told."""
    connection = await nats_streams.connect(User.SUBSCRIBER)
    yield await connection.jetstream().subscribe(
        "evt.automation.>", stream="EVENTS", ordered_consumer=True, config=ConsumerConfig(name="reader")
    )
    await connection.close()


async def test_who_never_set_anything_has_the_defaults_and_they_stay_the_same(gateway: RpcClient) -> None:
    first = await gateway.call(GET_SETTINGS, GetSettings(user_id=ADA))
    assert (first.user_id, first.is_enabled, first.session_duration) == (ADA, False, 3600)
    assert first.created_at == first.updated_at
    assert await gateway.call(GET_SETTINGS, GetSettings(user_id=ADA)) == first


async def test_ten_first_questions_at_once_get_one_answer(gateway: RpcClient, database: Database) -> None:
    answers = await asyncio.gather(*(gateway.call(GET_SETTINGS, GetSettings(user_id=ADA)) for _ in range(10)))
    assert all(answer == answers[0] for answer in answers)
    assert await database.get_collection("automation_settings").count_documents({}) == 1


async def test_a_change_leaves_what_it_does_not_name_and_whom_it_does_not_name(gateway: RpcClient) -> None:
    before = await gateway.call(GET_SETTINGS, GetSettings(user_id=EVE))
    first = await gateway.call(PUT_SETTINGS, PutSettings(user_id=ADA, session_duration=900))
    assert first.updated_at >= first.created_at
    changed = await gateway.call(PUT_SETTINGS, PutSettings(user_id=ADA, is_enabled=True))
    assert (changed.is_enabled, changed.session_duration) == (True, 900)
    assert changed.created_at == first.created_at <= changed.updated_at
    assert await gateway.call(GET_SETTINGS, GetSettings(user_id=ADA)) == changed
    assert await gateway.call(GET_SETTINGS, GetSettings(user_id=EVE)) == before


async def test_a_change_of_nothing_is_no_change(gateway: RpcClient, database: Database) -> None:
    before = await gateway.call(GET_SETTINGS, GetSettings(user_id=ADA))
    assert await gateway.call(PUT_SETTINGS, PutSettings(user_id=ADA)) == before
    assert await database.get_collection("outbox").count_documents({}) == 0


async def test_a_duration_outside_the_limits_is_refused(nats_streams: NatsAccount) -> None:
    connection = await nats_streams.connect(User.GATEWAY)
    for duration in (299, 86_401):
        payload = json.dumps({"user_id": ADA, "session_duration": duration}).encode()
        answer = json.loads((await connection.request(PUT_SETTINGS.subject, payload, timeout=2)).data)
        assert answer["error"]["code"] == "validation_error"
    await connection.close()


async def test_subscribers_are_told_of_every_change_without_a_gap(
    gateway: RpcClient, events: JetStreamContext.PushSubscription
) -> None:
    await gateway.call(GET_SETTINGS, GetSettings(user_id=ADA))
    await asyncio.gather(
        *(gateway.call(PUT_SETTINGS, PutSettings(user_id=ADA, session_duration=300 + n)) for n in range(5))
    )
    last = await gateway.call(PUT_SETTINGS, PutSettings(user_id=ADA, is_enabled=True))
    told = [await events.next_msg(timeout=5) for _ in range(6)]
    headers = [event.headers or {} for event in told]
    assert [(header["ce-subject"], header["ce-sequence"]) for header in headers] == [(ADA, str(n)) for n in range(1, 7)]
    assert {header["ce-type"] for header in headers} == {"automation.settings.changed.v1"}
    assert json.loads(told[-1].data) == {"user_id": ADA, "is_enabled": True, "session_duration": last.session_duration}


async def test_a_prompt_without_a_session_opens_one_only_if_its_user_wants_that(
    gateway: RpcClient, sessions: RpcClient, database: Database
) -> None:
    refused = await sessions.call(PLAN_CHAT, PROMPT)
    assert (refused.decision, refused.duration, refused.reason) == (Decision.REFUSE, None, "automation_off")
    assert await database.get_collection("automation_settings").count_documents({}) == 0
    await gateway.call(PUT_SETTINGS, PutSettings(user_id=ADA, is_enabled=True, session_duration=900))
    opened = await sessions.call(PLAN_CHAT, PROMPT)
    assert (opened.decision, opened.duration) == (Decision.OPEN, 900)


async def test_ping_tells_who_answers_and_that_the_database_is_there(gateway: RpcClient, worker: str) -> None:
    health = await gateway.call(PING[User.AUTOMATION], Empty())
    assert (health.worker, health.components) == (worker, {"database": True})
