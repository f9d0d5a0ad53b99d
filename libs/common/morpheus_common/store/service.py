"""What every service with a database consists of, and the order in which it comes up and goes down."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from beanie import Document
from faststream.nats import NatsBroker
from nats.errors import Error as NatsError

from morpheus_common.bus.connection import make_broker, raw_connection, round_trip
from morpheus_common.bus.names import User
from morpheus_common.bus.rpc import RpcMiddleware
from morpheus_common.service import background, leave_queue_groups, stop_broker, until_it_works
from morpheus_common.settings import StoreSettings
from morpheus_common.standing import Standing
from morpheus_common.store.leases import Holder, Leases
from morpheus_common.store.mongo import Database, MongoClient, connect, database_of, until_applied
from morpheus_common.store.outbox import OutboxRelay
from morpheus_common.store.unavailable import StoreMiddleware
from morpheus_common.store.watch import DatabaseWatch
from morpheus_common.store.workers import boot


@dataclass(frozen=True, slots=True)
class StoreService:
    """The parts of a running service that it did not make itself. `broker` is connected and not yet started."""

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
        async with background(self.relay.run(), self.relay.measure(), self.watch.run()):
            await self.broker.start()
            # a subscription counts once the server has it; until then it says that nobody listens
            await round_trip(raw_connection(self.broker))
            try:
                yield
            finally:
                await leave_queue_groups(self.broker, seconds=self.drain_seconds)
        await self.relay.retire()


@asynccontextmanager
async def store_service(
    settings: StoreSettings, user: User, documents: Sequence[type[Document]], standing: Standing | None = None
) -> AsyncIterator[StoreService]:
    """Connect to database and bus, in whatever order they come up, and disconnect at the end. `standing` is told of both."""
    standing = standing or Standing()
    client = connect(settings, user)
    try:
        database = database_of(client, settings.mongo_database)
        watch = DatabaseWatch(database)
        standing.need("database", lambda: watch.healthy)
        standing.need("bus", lambda: False)
        await until_applied(database, documents)
        holder = await boot(database, settings.worker_id)
        leases = Leases(database, holder, seconds=settings.lease_seconds)
        broker = make_broker(settings, user, middlewares=[RpcMiddleware, StoreMiddleware])
        await until_it_works("bus", broker.connect, errors=(NatsError, OSError))
        try:
            connection = raw_connection(broker)
            standing.need("bus", lambda: connection.is_connected)
            relay = OutboxRelay(connection.jetstream(), leases)
            yield StoreService(client, database, broker, holder, leases, relay, watch, standing, settings.drain_seconds)
        finally:
            await stop_broker(broker, seconds=settings.drain_seconds)
    finally:
        await client.close()
