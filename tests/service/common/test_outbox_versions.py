"""The outbox publishes what another version of its service decided."""

from morpheus_common.bus.names import Stream, User
from morpheus_common.clock import utc_now
from morpheus_common.store.leases import Holder, Leases
from morpheus_common.store.mongo import Database
from morpheus_common.store.outbox import OutboxRelay, OutboxRow

from tests.servers import NatsAccount
from tests.service.common.streams import messages


async def test_an_event_of_a_type_this_version_does_not_know_is_published(
    database: Database, nats_streams: NatsAccount
) -> None:
    row = OutboxRow(subject="evt.auth.key.rotated.v2", entity="k1", version=3, at=utc_now(), payload="{}")
    await row.insert()
    auth = await nats_streams.connect(User.AUTH)
    try:
        assert await OutboxRelay(auth.jetstream(), Leases(database, Holder("w1", 1))).publish_batch() == 1
    finally:
        await auth.close()

    (event,) = await messages(nats_streams, Stream.EVENTS)
    headers = event.headers or {}
    assert event.subject == "evt.auth.key.rotated.v2"
    assert (headers["ce-type"], headers["ce-source"], headers["ce-id"]) == (
        "auth.key.rotated.v2",
        "/morpheus/auth",
        row.id,
    )
