"""`morpheus dlq` and `morpheus events`: what a reader could not digest is tried again, and what was told can be told again."""

import json

from morpheus_common.bus.events import event_headers
from morpheus_common.bus.names import Header, Stream, User
from morpheus_common.bus.rpc import RpcClient
from morpheus_common.bus.topology import CONSUMERS
from morpheus_common.clock import utc_now
from morpheus_common.contracts.auth import KEY_DEACTIVATED, KeyChanged
from morpheus_common.contracts.events import REPUBLISH_EVENTS, RepublishEvents
from morpheus_devstack.operator_bus import OpsSettings
from morpheus_devstack.stored_events import StoredEvent, list_dead_letters, list_events, redrive
from pydantic import SecretStr

from tests.servers import apply_streams
from tests.service.command import morpheus
from tests.service.common.streams import messages
from tests.service.sessions.house import House, until

(KEYS,) = [consumer for consumer in CONSUMERS if consumer.service is User.SESSIONS]


def ops(house: House) -> OpsSettings:
    return OpsSettings(nats_url=house.account.url, nats_seed=SecretStr(house.account.seeds[User.OPS]))


async def letters(house: House) -> list[StoredEvent]:
    return await list_dead_letters(ops(house), 100)


async def set_aside(house: House, payload: str, *, event_id: str, consumer: str = KEYS.name) -> None:
    """Put an event where a session worker puts what it could not digest."""
    headers = event_headers(
        KEY_DEACTIVATED.subject,
        event_id=event_id,
        entity_id="k1",
        version=2,
        time=utc_now(),
        request_id=None,
        traceparent=None,
    )
    del headers[Header.MESSAGE_ID]
    headers[Header.REASON] = json.dumps({"consumer": consumer, "reason": "LookupError", "deliveries": 5})
    connection = await house.account.connect(User.SESSIONS)
    await connection.jetstream().publish(f"dlq.{KEY_DEACTIVATED.subject}", payload.encode(), headers=headers)
    await connection.close()


async def test_what_was_set_aside_is_shown_with_its_reason_and_done_once_however_often_it_is_tried(
    house: House,
) -> None:
    """C48: a redrive is idempotent. What still fails stays, and is named."""
    ended = KeyChanged(key_id="k1", user_id="u1", is_active=False).model_dump_json()
    async with house.worker():
        await house.gateway.open("k1")
        other = await house.gateway.open("k2")
        await set_aside(house, ended, event_id="e1")
        await set_aside(house, "{}", event_id="e2")
        await set_aside(house, ended, event_id="e3", consumer="nobody-reads")
        rows = await letters(house)
        assert [(row.event_id, row.subject, row.entity) for row in rows] == [
            (event_id, KEY_DEACTIVATED.subject, "k1") for event_id in ("e1", "e2", "e3")
        ]
        assert {(row.consumer, row.reason, row.deliveries) for row in rows} == {
            (KEYS.name, "LookupError", 5),
            ("nobody-reads", "LookupError", 5),
        }

        tried = await morpheus(house.account, "dlq", "redrive")

        assert tried.code == 1
        assert "1 done, 2 still set aside" in tried.out
        assert "No service reads for the consumer nobody-reads" in tried.out

        async def closed() -> bool:
            return [item["Id"] for item in await house.simulator.open_sessions()] == [other.session_id]

        await until(closed)
        # the same again: a command that was cut off before the letter was gone
        await set_aside(house, ended, event_id="e1")
        (done,) = await redrive(ops(house), [(await letters(house))[-1].sequence])
        assert (done.event.event_id, done.problem) == ("e1", "")
        assert [row.event_id for row in await letters(house)] == ["e2", "e3"]
        closes = [item async for item in house.database["operations"].find({"kind": "close"})]
        assert len(closes) == 1
        assert await house.simulator.open_sessions() != []


async def test_events_are_told_again_with_their_ids_and_versions_when_the_bus_has_lost_them(house: House) -> None:
    """C45."""
    async with house.worker():
        await house.gateway.open("k1")

        async def told() -> list[tuple[str, str]] | None:
            rows = await list_events(ops(house), "evt.>", None, 1_000)
            found = [(row.event_id, f"{row.subject} {row.entity} {row.version}") for row in rows]
            waiting = await house.database["outbox"].count_documents({"published_at": None})
            return found if found and not waiting else None

        before = await until(told)
        assert before
        operator = await house.account.connect(User.OPS)
        await operator.jetstream().delete_stream(Stream.EVENTS)
        await apply_streams(house.account)
        assert await messages(house.account, Stream.EVENTS) == []
        question = RepublishEvents(since=utc_now().replace(year=2020))
        answer = await RpcClient(operator).call(REPUBLISH_EVENTS[User.SESSIONS], question)
        await operator.close()
        assert answer.count == len(before)
        assert sorted(await until(told)) == sorted(before)
