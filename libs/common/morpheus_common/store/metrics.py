"""What services with a database measure of it, of their outbox, and of the events that they read."""

from typing import Any, Final

from prometheus_client import Counter, Gauge, Histogram
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from morpheus_common.bus.names import User
from morpheus_common.bus.topology import CONSUMERS
from morpheus_common.metrics import REGISTRY, SHORT_SECONDS, at_most

COMMANDS: Final = (
    "abortTransaction",
    "aggregate",
    "commitTransaction",
    "count",
    "delete",
    "distinct",
    "find",
    "findAndModify",
    "getMore",
    "insert",
    "ping",
    "update",
    "other",
)
_ANSWERS: Final = frozenset({112, 11_000})
"""What the server says to who was second, a conflict of two writes and a key that is there: not a failure of the database."""
OUTCOMES: Final = ("ok", "retry", "dead")


def _consumers(user: User) -> int:
    return sum(consumer.service is user for consumer in CONSUMERS)


DATABASE_SECONDS = at_most(
    Histogram(
        "morpheus_database_seconds",
        "How long a command to the database took, failed ones included",
        ["command"],
        buckets=SHORT_SECONDS,
        registry=REGISTRY,
    ),
    len(COMMANDS),
)
DATABASE_ERRORS = at_most(
    Counter(
        "morpheus_database_errors_total",
        "Commands that the database did not carry out, or not in time; what found no server is a ping",
        ["command"],
        registry=REGISTRY,
    ),
    len(COMMANDS),
)
_SECONDS: Final = {command: DATABASE_SECONDS.labels(command) for command in COMMANDS}
_ERRORS: Final = {command: DATABASE_ERRORS.labels(command) for command in COMMANDS}

OUTBOX_PENDING = Gauge(
    "morpheus_outbox_pending",
    "Events of this service that wait to be published, of all workers, 10,000 at most",
    registry=REGISTRY,
)
OUTBOX_OLDEST = Gauge(
    "morpheus_outbox_oldest_seconds",
    "How long the event waits that waits longest; 0 when none does",
    registry=REGISTRY,
)
OUTBOX_PUBLISHED = Counter("morpheus_outbox_published_total", "Events that this worker published", registry=REGISTRY)
OUTBOX_FAILURES = Counter(
    "morpheus_outbox_failures_total", "Tries of this worker to publish an event that failed", registry=REGISTRY
)

EVENTS_READ = at_most(
    Counter(
        "morpheus_events_read_total", "Events handled, by what came of it", ["consumer", "outcome"], registry=REGISTRY
    ),
    lambda user: _consumers(user) * len(OUTCOMES),
)
DEAD_LETTERS = at_most(
    Counter("morpheus_dead_letters_total", "Events set aside after too many tries", ["consumer"], registry=REGISTRY),
    _consumers,
)
CONSUMER_PENDING = at_most(
    Gauge(
        "morpheus_consumer_pending",
        "Events that a consumer has still to handle, of all workers",
        ["consumer"],
        registry=REGISTRY,
    ),
    _consumers,
)


class CommandWatch(CommandListener):
    """Measures each command that PyMongo sends."""

    def started(self, event: CommandStartedEvent) -> None:
        """Nothing is measured yet."""

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """Measure it."""
        _SECONDS.get(event.command_name, _SECONDS["other"]).observe(event.duration_micros / 1_000_000)

    def failed(self, event: CommandFailedEvent) -> None:
        """Measure it, and count the failure if it is one."""
        _SECONDS.get(event.command_name, _SECONDS["other"]).observe(event.duration_micros / 1_000_000)
        failure: Any = event.failure
        if failure.get("code") not in _ANSWERS:
            _ERRORS.get(event.command_name, _ERRORS["other"]).inc()


def no_server_found() -> None:
    """Count a command that was never sent, because there is nobody to send it to."""
    _ERRORS["ping"].inc()
