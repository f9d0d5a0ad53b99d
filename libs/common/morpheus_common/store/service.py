"""What every service with a database consists of, and the order in which it comes up and goes down."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from beanie import Document
from faststream.nats import NatsBroker
from nats.errors import Error as NatsError
from pymongo.errors import PyMongoError

from morpheus_common.bus.connection import make_broker, raw_connection, round_trip
from morpheus_common.bus.names import User
from morpheus_common.bus.rpc import RpcMiddleware
from morpheus_common.contracts.events import REPUBLISH_EVENTS, EventsRepublished, RepublishEvents
from morpheus_common.service import background, leave_queue_groups, stop_broker, until_it_works
from morpheus_common.settings import StoreSettings
from morpheus_common.standing import Standing
from morpheus_common.store.leases import Holder, Leases
from morpheus_common.store.migrations import Migration, missing_migrations
from morpheus_common.store.mongo import (
    Database,
    MongoClient,
    NotAppliedError,
    connect,
    database_of,
    init_documents,
    missing_indexes,
)
from morpheus_common.store.outbox import OutboxRelay
from morpheus_common.store.unavailable import StoreMiddleware
from morpheus_common.store.watch import DatabaseWatch
from morpheus_common.store.workers import boot


def subscribe_events(broker: NatsBroker, user: User, relay: OutboxRelay) -> None:
    """Declare what every service with an outbox answers to operators."""

    @broker.subscriber(REPUBLISH_EVENTS[user].subject, queue=user)
    async def republish_events(command: RepublishEvents) -> EventsRepublished:
        return EventsRepublished(count=await relay.republish(command.since))


@dataclass(frozen=True, slots=True)
class StoreService:
    """The parts of a running service that it did not make itself. `broker` is connected and not yet started."""

    user: User
    client: MongoClient
    database: Database
    broker: NatsBroker
    holder: Holder
    leases: Leases
    relay: OutboxRelay
    watch: DatabaseWatch
    standing: Standing
    drain_seconds: float

    @asynccontextmanager
    async def answering(self) -> AsyncIterator[None]:
        """Answer questions and publish events while the block runs; then finish what was received."""
        await self.watch.check()
        subscribe_events(self.broker, self.user, self.relay)
        async with background(self.relay.run(), self.relay.measure()):
            await self.broker.start()
            # a subscription counts once the server has it; until then it says that nobody listens
            await round_trip(raw_connection(self.broker))
            try:
                yield
            finally:
                await leave_queue_groups(self.broker, seconds=self.drain_seconds)
        await self.relay.retire()


async def _until_applied(
    database: Database, documents: Sequence[type[Document]], migrations: Sequence[Migration]
) -> None:
    """Bind document classes to their database as soon as it is there and `morpheus apply` has made what they need."""

    async def applied() -> None:
        await init_documents(database, documents)
        missing = await missing_indexes(database, documents)
        missing += [f"migration {name}" for name in await missing_migrations(database, migrations)]
        if missing:
            raise NotAppliedError(missing)

    await until_it_works("database", applied, errors=(PyMongoError, NotAppliedError))


@asynccontextmanager
async def store_service(
    settings: StoreSettings,
    user: User,
    documents: Sequence[type[Document]],
    standing: Standing | None = None,
    migrations: Sequence[Migration] = (),
) -> AsyncIterator[StoreService]:
    """Connect to database and bus, in whatever order they come up, and disconnect at the end. `standing` is told of both, and
    of `apply`: whether the database has what `morpheus apply` makes.
    """
    standing = standing or Standing()
    client = connect(settings, user)
    broker = make_broker(settings, user, middlewares=[RpcMiddleware, StoreMiddleware])
    database = database_of(client, settings.mongo_database)
    watch = DatabaseWatch(database)
    applied, connected = asyncio.Event(), asyncio.Event()
    standing.need("database", lambda: watch.healthy)
    standing.need("apply", applied.is_set)
    standing.need("bus", lambda: connected.is_set() and raw_connection(broker).is_connected)

    async def reach_database() -> None:
        await _until_applied(database, documents, migrations)
        applied.set()

    async def reach_bus() -> None:
        await until_it_works("bus", broker.connect, errors=(NatsError, OSError))
        connected.set()

    try:
        async with background(watch.run()):
            try:
                # at once, so that what is missing is all that is told of
                async with asyncio.TaskGroup() as group:
                    group.create_task(reach_database())
                    group.create_task(reach_bus())
                # reached once, and maybe lost again while the bus was waited for; a boot that is counted twice does no harm
                holder = await until_it_works(
                    "database", partial(boot, database, settings.worker_id), errors=(PyMongoError,)
                )
                leases = Leases(database, holder, seconds=settings.lease_seconds)
                connection = raw_connection(broker)
                relay = OutboxRelay(connection.jetstream(), leases, is_connected=lambda: connection.is_connected)
                yield StoreService(
                    user, client, database, broker, holder, leases, relay, watch, standing, settings.drain_seconds
                )
            finally:
                if connected.is_set():
                    await stop_broker(broker, seconds=settings.drain_seconds)
    finally:
        await client.close()
