"""What operators ask of events: that they are published again, and that one which was set aside is tried again."""

from pydantic import Field

from morpheus_common.bus.names import User
from morpheus_common.contracts.base import REGISTRY, Empty, Message, UtcTime
from morpheus_common.contracts.operator import OPS_ONLY


class RepublishEvents(Message):
    """Publish again what was published since then and is still kept: for seven days, as in the stream.

    Each event keeps its id and version, so that whoever knows it already drops it. Repeating it publishes once more.
    """

    since: UtcTime


class EventsRepublished(Message):
    """How many events will be published again; their order within an entity is that of their versions."""

    count: int


class DigestEvent(Message):
    """Do now what an event says that a reader had set aside. What was done already is done once.

    `subject` and `payload` are the event's own. `validation_error` if it is none that this service reads.
    """

    subject: str = Field(min_length=1, max_length=200)
    payload: str = Field(max_length=1_000_000)


REPUBLISH_EVENTS = {
    service: REGISTRY.rpc(
        service, "operator_republish", RepublishEvents, EventsRepublished, callers=OPS_ONLY, timeout=60.0
    )
    for service in (User.AUTH, User.SESSIONS, User.AUTOMATION)
}
DIGEST_EVENT = {
    User.SESSIONS: REGISTRY.rpc(User.SESSIONS, "operator_digest", DigestEvent, Empty, callers=OPS_ONLY, timeout=15.0)
}
"""By the service whose reader it is."""
