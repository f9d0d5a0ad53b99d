"""Streams and durable consumers: what `morpheus apply` makes and services only expect."""

from dataclasses import dataclass

from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import NotFoundError

from morpheus_common.bus.names import DEAD_LETTER_SUBJECTS, EVENT_SUBJECTS, Stream, User, durable

DAY_SECONDS = 86_400
DUPLICATE_WINDOW_SECONDS = 120
"""The server refuses a second message with the same id for this long; readers stay idempotent beyond it."""


@dataclass(frozen=True, slots=True)
class Consumer:
    """A durable pull consumer of one service.

    Its reader puts an event that failed `max_deliver` times into the DLQ. The server counts nothing: its own limit would
    end a delivery that a crash or an outage of the database cut short, without a dead letter.
    """

    service: User
    purpose: str
    stream: str
    filters: tuple[str, ...]
    max_deliver: int = 5
    ack_wait_seconds: float = 30.0

    @property
    def name(self) -> str:
        """The durable name, `<service>-<purpose>`."""
        return durable(self.service, self.purpose)


CONSUMERS: tuple[Consumer, ...] = (Consumer(User.SESSIONS, "keys", Stream.EVENTS, ("evt.auth.key.deactivated.v1",)),)
"""Every durable consumer. A deactivated key's sessions are no longer wanted."""


def _stream_configs(replicas: int) -> list[StreamConfig]:
    return [
        StreamConfig(
            name=Stream.EVENTS,
            description="What has happened: life-cycle events of every service",
            subjects=[EVENT_SUBJECTS],
            retention=RetentionPolicy.LIMITS,
            storage=StorageType.FILE,
            discard=DiscardPolicy.OLD,
            max_age=7 * DAY_SECONDS,
            duplicate_window=DUPLICATE_WINDOW_SECONDS,
            num_replicas=replicas,
        ),
        StreamConfig(
            name=Stream.DLQ,
            description="Events that a reader could not digest, with the reason",
            subjects=[DEAD_LETTER_SUBJECTS],
            retention=RetentionPolicy.LIMITS,
            storage=StorageType.FILE,
            max_age=30 * DAY_SECONDS,
            num_replicas=replicas,
        ),
    ]


async def apply_topology(jetstream: JetStreamContext, *, replicas: int = 1) -> list[str]:
    """Make or update every stream and durable consumer; return what was made or changed, a name each. Repeatable."""
    done = []
    for config in _stream_configs(replicas):
        name = str(config.name)
        try:
            await jetstream.stream_info(name)
        except NotFoundError:
            await jetstream.add_stream(config)
            done.append(f"stream {name} made")
        else:
            await jetstream.update_stream(config)
    for consumer in CONSUMERS:
        await jetstream.add_consumer(
            consumer.stream,
            ConsumerConfig(
                durable_name=consumer.name,
                filter_subjects=list(consumer.filters),
                ack_policy=AckPolicy.EXPLICIT,
                ack_wait=consumer.ack_wait_seconds,
                max_deliver=-1,
            ),
        )
    return done


async def missing_topology(jetstream: JetStreamContext, service: User) -> list[str]:
    """Return which durable consumers of `service` do not exist, a name each: what a service says at start."""
    missing = []
    for consumer in CONSUMERS:
        if consumer.service is service:
            try:
                await jetstream.consumer_info(consumer.stream, consumer.name)
            except NotFoundError:
                missing.append(f"consumer {consumer.name} of stream {consumer.stream}")
    return missing
