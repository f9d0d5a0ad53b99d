"""A subscriber reads events with consumers of its own, and cannot reach those that services depend on."""

import asyncio

import nats
import pytest
from morpheus_common.bus.connection import round_trip
from morpheus_common.bus.names import INBOX, User
from morpheus_common.bus.topology import CONSUMERS, Consumer

from tests.servers import NatsAccount


@pytest.mark.parametrize("consumer", CONSUMERS, ids=lambda consumer: consumer.name)
async def test_a_service_s_consumer_is_out_of_a_subscriber_s_reach(
    nats_streams: NatsAccount, consumer: Consumer
) -> None:
    refusals: list[str] = []

    async def note(error: Exception) -> None:
        refusals.append(str(error).lower())

    subscriber = await nats.connect(
        nats_streams.url,
        nkeys_seed_str=nats_streams.seeds[User.SUBSCRIBER],
        inbox_prefix=INBOX[User.SUBSCRIBER],
        error_cb=note,
    )
    stream, name = consumer.stream, consumer.name
    try:
        for subject in (
            f"$JS.API.CONSUMER.CREATE.{stream}",
            f"$JS.API.CONSUMER.CREATE.{stream}.{name}",
            f"$JS.API.CONSUMER.CREATE.{stream}.{name}.evt.>",
            f"$JS.API.CONSUMER.DURABLE.CREATE.{stream}.{name}",
            f"$JS.API.CONSUMER.DELETE.{stream}.{name}",
            f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}",
            f"$JS.ACK.{stream}.{name}.1.1.1.1.0",
        ):
            refusals.clear()
            await subscriber.publish(subject, b"{}")
            await round_trip(subscriber)
            async with asyncio.timeout(5):
                while not refusals:
                    await round_trip(subscriber)
            assert "permissions violation" in refusals[0], subject
    finally:
        await subscriber.close()
