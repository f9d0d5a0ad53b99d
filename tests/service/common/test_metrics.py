"""What services with a database measure, beside a real one and a real bus."""

import asyncio
import gc
import math
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from morpheus_common.bus import durable
from morpheus_common.bus.durable import read_events
from morpheus_common.bus.names import Stream, User
from morpheus_common.bus.topology import CONSUMERS
from morpheus_common.settings import StoreSettings
from morpheus_common.store.metrics import CONSUMER_PENDING
from morpheus_common.store.mongo import Database, MongoClient, connect, database_of, is_reachable
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import ConsumerInfo
from nats.js.errors import NotFoundError, ServiceUnavailableError
from pydantic import SecretStr

from tests.metrics import Moves, shown
from tests.servers import NatsAccount
from tests.service.common.streams import messages
from tests.service.common.test_outbox import Failing, decide, relay
from tests.service.common.waiting import until

(KEYS,) = [consumer for consumer in CONSUMERS if consumer.service is User.SESSIONS]


@pytest.fixture
async def auth(nats_streams: NatsAccount) -> AsyncIterator[Client]:
    connection = await nats_streams.connect(User.AUTH)
    yield connection
    await connection.close()


@pytest.fixture
async def sessions(nats_streams: NatsAccount) -> AsyncIterator[Client]:
    connection = await nats_streams.connect(User.SESSIONS)
    yield connection
    await connection.close()


@asynccontextmanager
async def reads(jetstream: JetStreamContext) -> AsyncIterator[None]:
    async def handle(_: Msg) -> None:
        return

    reading = asyncio.create_task(read_events(jetstream, KEYS, handle))
    try:
        yield
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def is_known(known: bool) -> bool:
    return math.isnan(shown("morpheus_consumer_pending", consumer=KEYS.name)) is not known


async def test_what_waits_in_the_outbox_is_shown_by_every_worker_until_one_has_published_it(
    client: MongoClient, database: Database, auth: Client
) -> None:
    for version in (1, 2):
        await decide(client, "k1", version)
    failing, other = Failing(auth, {"k1"}), relay(database, auth.jetstream(), "w2")
    moves = Moves()
    await relay(database, failing).publish_batch()
    await other.count_waiting()
    assert shown("morpheus_outbox_pending") == 2
    waited = shown("morpheus_outbox_oldest_seconds")
    assert moves.of("morpheus_outbox_failures_total") == 1

    async def waits_longer() -> bool:
        await other.count_waiting()
        return shown("morpheus_outbox_oldest_seconds") > waited

    await until(waits_longer)
    failing.entities.clear()
    await relay(database, failing).publish_batch()
    await other.count_waiting()
    assert (shown("morpheus_outbox_pending"), shown("morpheus_outbox_oldest_seconds")) == (0, 0)
    assert moves.of("morpheus_outbox_published_total") == 2


async def test_events_are_counted_by_what_came_of_them_and_what_is_left(
    auth: Client, sessions: Client, nats_streams: NatsAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C48."""
    monkeypatch.setattr(durable, "PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(durable, "COUNTED_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(durable, "FETCH_SECONDS", 0.1)
    moves, held = Moves(), asyncio.Event()

    async def handle(message: Msg) -> None:
        if message.data == b"poison":
            raise LookupError
        await held.wait()

    for data in (b"held", b"poison", b"good"):
        await auth.jetstream().publish(KEYS.filters[0], data)
    reading = asyncio.create_task(read_events(sessions.jetstream(), KEYS, handle))

    async def pending(count: float) -> bool:
        return shown("morpheus_consumer_pending", consumer=KEYS.name) == count

    await until(lambda: pending(3))
    held.set()
    await until(lambda: pending(0))
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    read = {
        outcome: moves.of("morpheus_events_read_total", consumer=KEYS.name, outcome=outcome)
        for outcome in ("ok", "retry", "dead")
    }
    assert read == {"ok": 2, "retry": KEYS.max_deliver - 1, "dead": 1}
    assert moves.of("morpheus_dead_letters_total", consumer=KEYS.name) == 1
    assert len(await messages(nats_streams, Stream.DLQ)) == 1


async def test_what_a_consumer_has_left_is_not_known_while_nobody_can_count(
    sessions: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C48: an old figure would stand above those of workers that can count."""
    monkeypatch.setattr(durable, "PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(durable, "COUNTED_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(durable, "FETCH_SECONDS", 0.1)
    jetstream, is_away = sessions.jetstream(), False
    consumer_info: Callable[[str, str], Awaitable[ConsumerInfo]] = jetstream.consumer_info

    async def asked(stream: str, name: str) -> ConsumerInfo:
        if is_away:
            raise ServiceUnavailableError
        return await consumer_info(stream, name)

    monkeypatch.setattr(jetstream, "consumer_info", asked)
    async with reads(jetstream):
        await until(lambda: is_known(True))
        is_away = True
        await until(lambda: is_known(False))
        is_away = False
        await until(lambda: is_known(True))


async def test_what_a_consumer_has_left_is_not_known_while_it_does_not_exist(
    sessions: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C48."""
    monkeypatch.setattr(durable, "PAUSE_SECONDS", 0.02)
    jetstream = sessions.jetstream()

    async def asked(*_: str) -> ConsumerInfo:
        raise NotFoundError

    monkeypatch.setattr(jetstream, "consumer_info", asked)
    CONSUMER_PENDING.labels(KEYS.name).set(7)
    async with reads(jetstream):
        await until(lambda: is_known(False))


async def test_commands_of_the_database_are_measured(database: Database) -> None:
    moves = Moves()
    await database["things"].insert_one({"_id": 1})
    await database["things"].find_one({"_id": 1})
    assert moves.of("morpheus_database_seconds_count", command="insert") == 1
    assert moves.of("morpheus_database_seconds_count", command="find") == 1


async def test_a_database_that_is_nowhere_shows_as_errors() -> None:
    settings = StoreSettings(
        mongo_url=SecretStr("mongodb://127.0.0.1:9"),
        nats_seed=SecretStr("unused"),
        mongo_database="unused",
        mongo_timeout_ms=100,
    )
    client, moves = connect(settings, "test"), Moves()
    assert not await is_reachable(database_of(client, "any"))
    assert moves.of("morpheus_database_errors_total", command="ping") == 1
    with warnings.catch_warnings():
        # PyMongo leaves the socket of an attempt that is cancelled to the garbage collector
        warnings.simplefilter("ignore", ResourceWarning)
        await client.close()
        if left := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(left, timeout=5)
        gc.collect()
