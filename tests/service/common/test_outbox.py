"""The outbox: what was decided is published, in order, also when the bus was away."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from morpheus_common.bus.names import Stream, User
from morpheus_common.clock import utc_now
from morpheus_common.contracts.auth import KEY_CREATED, KEY_DEACTIVATED, KeyChanged
from morpheus_common.store import outbox
from morpheus_common.store.leases import Holder, Leases
from morpheus_common.store.mongo import Database, MongoClient
from morpheus_common.store.outbox import OutboxRelay, StreamAwayError, stage
from morpheus_common.store.transactions import run_transaction
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.errors import BadRequestError, NoStreamResponseError, ServiceUnavailableError
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import DuplicateKeyError

from tests.servers import NatsAccount
from tests.service.common.streams import messages
from tests.service.common.waiting import until


@pytest.fixture
async def auth(nats_streams: NatsAccount) -> AsyncIterator[Client]:
    connection = await nats_streams.connect(User.AUTH)
    yield connection
    await connection.close()


def relay(database: Database, jetstream: JetStreamContext, worker: str = "w1", boot: int = 1) -> OutboxRelay:
    return OutboxRelay(jetstream, Leases(database, Holder(worker, boot)))


async def decide(client: MongoClient, entity: str, version: int, *, fail: bool = False) -> None:
    event = KEY_CREATED if version == 1 else KEY_DEACTIVATED

    async def body(session: AsyncClientSession) -> None:
        key = KeyChanged(key_id=entity, user_id="u1", is_active=version == 1)
        await stage(event, key, entity=entity, version=version, at=utc_now(), session=session)
        if fail:
            raise LookupError

    await run_transaction(client, body)


async def published(account: NatsAccount, count: int) -> list[Msg]:
    return await messages(account, Stream.EVENTS, at_least=count)


async def stored(account: NatsAccount) -> int:
    return len(await messages(account, Stream.EVENTS))


def told(events: Sequence[Msg]) -> list[tuple[str, int]]:
    headers = [event.headers or {} for event in events]
    return [(header["ce-subject"], int(header["ce-sequence"])) for header in headers]


async def test_an_event_of_a_transaction_that_failed_is_never_published(
    client: MongoClient, database: Database, auth: Client, nats_streams: NatsAccount
) -> None:
    with pytest.raises(LookupError):
        await decide(client, "k1", 1, fail=True)

    assert await relay(database, auth.jetstream()).publish_batch() == 0
    assert await stored(nats_streams) == 0


async def test_an_entitys_events_are_published_in_the_order_of_its_versions(
    client: MongoClient, database: Database, auth: Client, nats_streams: NatsAccount
) -> None:
    for entity, version in [("k2", 1), ("k1", 1), ("k1", 2), ("k2", 2), ("k1", 3)]:
        await decide(client, entity, version)

    await relay(database, auth.jetstream()).publish_batch()

    events = told(await published(nats_streams, 5))
    assert [version for entity, version in events if entity == "k1"] == [1, 2, 3]
    assert [version for entity, version in events if entity == "k2"] == [1, 2]


@pytest.mark.usefixtures("database")
async def test_one_version_of_an_entity_has_one_event(client: MongoClient) -> None:
    await decide(client, "k1", 1)
    with pytest.raises(DuplicateKeyError):
        await decide(client, "k1", 1)


async def test_an_event_published_twice_is_in_the_stream_once(
    client: MongoClient, database: Database, auth: Client, nats_streams: NatsAccount
) -> None:
    await decide(client, "k1", 1)
    first = relay(database, auth.jetstream())
    await first.publish_batch()
    # it died after the server's answer and before it wrote it down
    await database["outbox"].update_many({}, {"$set": {"published_at": None}})
    await relay(database, auth.jetstream(), "w2").publish_batch()

    assert await stored(nats_streams) == 1


class Failing(JetStreamContext):
    """Refuses the events of some entities, or everybody's while it is `away`."""

    def __init__(self, connection: Client, entities: set[str], *, away: Exception | None = None) -> None:
        super().__init__(connection)
        self.entities = entities
        self.away = away
        self.asked = 0

    async def publish(self, subject: str, payload: bytes = b"", **rest: object) -> object:  # type: ignore[override]  # counts what goes through
        headers = rest["headers"]
        assert isinstance(headers, dict)
        self.asked += 1
        if self.away is not None:
            raise self.away
        if headers["ce-subject"] in self.entities:
            raise BadRequestError
        return await super().publish(subject, payload, **rest)  # type: ignore[arg-type]  # passed on as it came


async def test_an_event_that_fails_holds_back_its_own_entity_and_no_other(
    client: MongoClient, database: Database, auth: Client, nats_streams: NatsAccount
) -> None:
    for entity, version in [("k1", 1), ("k1", 2), ("k2", 1), ("k2", 2)]:
        await decide(client, entity, version)
    jetstream = Failing(auth, {"k1"})
    publishing = relay(database, jetstream)

    await publishing.publish_batch()
    assert told(await published(nats_streams, 2)) == [("k2", 1), ("k2", 2)]
    assert await stored(nats_streams) == 2

    jetstream.entities.clear()

    async def all_published() -> bool:
        await publishing.publish_batch()
        return await stored(nats_streams) == 4

    await until(all_published)
    assert told(await published(nats_streams, 4))[2:] == [("k1", 1), ("k1", 2)]


async def test_an_event_that_is_refused_for_good_is_tried_less_and_less_often_and_its_line_holds_up_nobody(
    client: MongoClient, database: Database, auth: Client, nats_streams: NatsAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "BATCH", 3)
    for version in range(1, 6):
        await decide(client, "k1", version)
    for version in (1, 2):
        await decide(client, "k2", version)
    jetstream = Failing(auth, {"k1"})
    publishing = relay(database, jetstream)
    pauses = []
    for _ in range(12):
        await publishing.publish_batch()
        pauses.append(publishing._refused["k1"].pause)
        # what it waits for has come
        publishing._refused["k1"].until = 0.0
    assert pauses == [min(outbox.POLL_SECONDS * 2**number, outbox.MAX_REFUSED_PAUSE_SECONDS) for number in range(12)]
    assert pauses[-1] == outbox.MAX_REFUSED_PAUSE_SECONDS
    assert told(await published(nats_streams, 2)) == [("k2", 1), ("k2", 2)]
    assert jetstream.asked == 12 + 2, "of a line only its first is tried"

    jetstream.entities.clear()
    while await publishing.publish_batch():
        pass
    assert told(await published(nats_streams, 7))[2:] == [("k1", version) for version in range(1, 6)]
    assert publishing._refused == {}


async def test_what_was_refused_and_published_by_another_process_is_forgotten(
    client: MongoClient, database: Database, auth: Client
) -> None:
    await decide(client, "k1", 1)
    publishing = relay(database, Failing(auth, {"k1"}))
    await publishing.publish_batch()
    assert set(publishing._refused) == {"k1"}
    await relay(database, auth.jetstream(), "w2").publish_batch()
    publishing._refused["k1"].until = 0.0
    await publishing.publish_batch()
    assert publishing._refused == {}


async def test_a_stream_that_refuses_everybodys_events_counts_as_away(
    client: MongoClient, database: Database, auth: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MOST_REFUSED", 3)
    entities = {f"k{number}" for number in range(5)}
    for entity in entities:
        await decide(client, entity, 1)
    publishing = relay(database, Failing(auth, entities))
    with pytest.raises(StreamAwayError):
        await publishing.publish_batch()
    assert len(publishing._refused) == 3


async def test_a_long_line_of_one_entity_does_not_outlive_the_lease(
    client: MongoClient, database: Database, auth: Client, nats_streams: NatsAccount
) -> None:
    """After `morpheus events republish` a worker's records of use are a line of days."""

    class Slow(Failing):
        async def publish(self, subject: str, payload: bytes = b"", **rest: object) -> object:  # type: ignore[override]  # as above
            await asyncio.sleep(0.15)
            return await super().publish(subject, payload, **rest)

    for version in range(1, 9):
        await decide(client, "k1", version)
    jetstream = Slow(auth, set())
    publishing = relay(database, jetstream)
    publishing._leases.seconds = 0.6
    assert await publishing.publish_batch() == outbox.BATCH
    assert 1 <= jetstream.asked < 8
    while await publishing.publish_batch():
        pass
    assert told(await published(nats_streams, 8)) == [("k1", version) for version in range(1, 9)]


@pytest.mark.parametrize("away", [ServiceUnavailableError(), NoStreamResponseError(), TimeoutError()], ids=repr)
async def test_a_stream_that_takes_nothing_is_not_asked_for_each_event_that_waits(
    client: MongoClient, database: Database, auth: Client, nats_streams: NatsAccount, away: Exception
) -> None:
    """C45: a full disk lasts, and thousands of events may wait for its end."""
    for number in range(5):
        await decide(client, f"k{number}", 1)
    jetstream = Failing(auth, set(), away=away)
    publishing = relay(database, jetstream)

    with pytest.raises(StreamAwayError):
        await publishing.publish_batch()
    assert jetstream.asked == 1

    jetstream.away = None
    await publishing.publish_batch()
    assert len(await published(nats_streams, 5)) == 5


async def test_a_stream_that_takes_nothing_is_asked_less_and_less_often_whatever_happens_meanwhile(
    client: MongoClient, database: Database, auth: Client, nats_streams: NatsAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    enough = asyncio.Event()

    class Impatient:
        """Asyncio whose time flies."""

        def __getattr__(self, name: str) -> Any:
            return getattr(asyncio, name)

        async def sleep(self, seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) >= 6:
                enough.set()
            publishing.nudge()
            await asyncio.sleep(0)

    jetstream = Failing(auth, set(), away=ServiceUnavailableError())
    publishing = relay(database, jetstream)
    await decide(client, "k1", 1)
    monkeypatch.setattr(outbox, "asyncio", Impatient())
    running = asyncio.create_task(publishing.run())
    await asyncio.wait_for(enough.wait(), 10)
    jetstream.away = None
    monkeypatch.undo()

    assert [pauses[0] * 2**number for number in range(3)] == pauses[:3]
    assert max(pauses) == outbox.MAX_PAUSE_SECONDS
    assert len(await published(nats_streams, 1)) == 1
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_events_wait_for_the_bus_and_lose_no_order(
    client: MongoClient, database: Database, auth: Client, nats_streams: NatsAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "PUBLISH_TIMEOUT_SECONDS", 0.1)
    jetstream = Failing(auth, {"k1", "k2"})
    publishing = relay(database, jetstream)
    running = asyncio.create_task(publishing.run())
    for entity, version in [("k1", 1), ("k2", 1), ("k1", 2)]:
        await decide(client, entity, version)
        publishing.nudge()
    jetstream.entities.clear()

    events = told(await published(nats_streams, 3))
    assert [version for entity, version in events if entity == "k1"] == [1, 2]
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_who_has_lost_the_bus_leaves_the_lease_to_who_has_it(
    client: MongoClient, database: Database, auth: Client, nats_streams: NatsAccount
) -> None:
    has_it = [True]
    alone = OutboxRelay(
        auth.jetstream(), Leases(database, Holder("w1", 1), seconds=600), is_connected=lambda: has_it[0]
    )
    first = asyncio.create_task(alone.run())
    await decide(client, "k1", 1)
    assert len(await published(nats_streams, 1)) == 1
    second = asyncio.create_task(relay(database, auth.jetstream(), "w2").run())
    has_it[0] = False
    await decide(client, "k2", 1)
    assert len(await published(nats_streams, 2)) == 2
    for running in (first, second):
        assert not running.done()
        running.cancel()
    await asyncio.gather(first, second, return_exceptions=True)


async def test_a_relay_without_the_lease_publishes_nothing_until_the_holder_retires(
    client: MongoClient, database: Database, auth: Client, nats_streams: NatsAccount
) -> None:
    holder, other = relay(database, auth.jetstream()), relay(database, auth.jetstream(), "w2")
    other._leases.seconds = 0.3
    assert await holder._leases.acquire("outbox") == 1
    await decide(client, "k1", 1)
    running = asyncio.create_task(other.run())
    await decide(client, "k2", 1)
    assert await stored(nats_streams) == 0

    await holder.retire()

    async def all_published() -> bool:
        return await stored(nats_streams) == 2

    await until(all_published)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_an_event_carries_the_attributes_of_cloudevents(
    client: MongoClient, database: Database, auth: Client, nats_streams: NatsAccount
) -> None:
    await decide(client, "k1", 1)
    await relay(database, auth.jetstream()).publish_batch()

    (event,) = await published(nats_streams, 1)
    headers = event.headers or {}
    assert event.subject == "evt.auth.key.created.v1"
    assert headers["ce-type"] == "auth.key.created.v1"
    assert headers["ce-source"] == "/morpheus/auth"
    assert headers["ce-specversion"] == "1.0"
    assert headers["content-type"] == "application/json"
    assert headers["ce-time"].endswith("Z")
    assert KeyChanged.model_validate_json(event.data) == KeyChanged(key_id="k1", user_id="u1", is_active=True)
