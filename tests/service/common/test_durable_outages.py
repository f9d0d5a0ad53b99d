"""An event outlives crashes of its readers and outages of what they need."""

import asyncio

import pytest
from morpheus_common.bus import durable
from morpheus_common.bus.durable import read_events
from morpheus_common.bus.names import Stream, User
from morpheus_common.bus.topology import CONSUMERS, apply_topology
from morpheus_common.errors import ApiError
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig
from pymongo.errors import AutoReconnect

from tests.servers import NatsAccount
from tests.service.common.streams import messages, unacknowledged
from tests.service.common.waiting import until

(KEYS,) = [consumer for consumer in CONSUMERS if consumer.service is User.SESSIONS]


@pytest.mark.parametrize(
    "outage", [AutoReconnect("gone"), ApiError("service_unavailable")], ids=["database", "service"]
)
async def test_an_event_waits_as_long_as_what_its_reader_needs_is_away(
    nats_streams: NatsAccount, outage: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "PAUSE_SECONDS", 0.01)
    tries = 0

    async def handle(_: Msg) -> None:
        nonlocal tries
        tries += 1
        if tries <= 2 * KEYS.max_deliver:
            raise outage

    async def done() -> bool:
        return tries == 2 * KEYS.max_deliver + 1 and not await unacknowledged(nats_streams, Stream.EVENTS, KEYS.name)

    auth, sessions = await nats_streams.connect(User.AUTH), await nats_streams.connect(User.SESSIONS)
    await auth.jetstream().publish(KEYS.filters[0], b"1")
    reading = asyncio.create_task(read_events(sessions.jetstream(), KEYS, handle))
    try:
        await until(done)
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await auth.close()
        await sessions.close()
    assert await messages(nats_streams, Stream.DLQ) == []


async def test_the_server_never_ends_a_delivery_by_itself(nats_streams: NatsAccount) -> None:
    ops = await nats_streams.connect(User.OPS)
    jetstream = ops.jetstream()
    try:
        # as an earlier version made it
        config = ConsumerConfig(
            durable_name=KEYS.name,
            filter_subjects=list(KEYS.filters),
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=30,
            max_deliver=5,
        )
        await jetstream.add_consumer(KEYS.stream, config)
        await apply_topology(jetstream)
        assert (await jetstream.consumer_info(KEYS.stream, KEYS.name)).config.max_deliver == -1
    finally:
        await ops.close()
