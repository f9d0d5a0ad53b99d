"""What every contract on the bus is made of, and the registry that lists them all.

The registry is what permissions, the AsyncAPI documents and the drift check are generated from.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, PlainSerializer, StringConstraints, WithJsonSchema

from morpheus_common.bus.names import User, event_subject, rpc_subject
from morpheus_common.ids import CHAIN_ID_PATTERN


class Message(BaseModel):
    """A message on the bus. Unknown fields are ignored, so that a newer sender can talk to an older reader."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Empty(Message):
    """Nothing to say."""


def _utc(value: datetime) -> datetime:
    if value.tzinfo is None:
        msg = "a time needs a zone"
        raise ValueError(msg)
    try:
        return value.astimezone(UTC)
    except OverflowError:
        msg = "a time between the years 1 and 9999 in UTC is needed"
        raise ValueError(msg) from None


def _rfc3339(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


UtcTime = Annotated[
    datetime,
    AfterValidator(_utc),
    PlainSerializer(_rfc3339, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}, mode="serialization"),
]
"""A time with zone; RFC 3339 in UTC with `Z` and milliseconds as JSON."""

ChainId = Annotated[str, StringConstraints(pattern=CHAIN_ID_PATTERN)]
"""`0x` and 64 lower-case hex digits."""

Wei = Annotated[
    int,
    PlainSerializer(str, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": "^-?[0-9]+$", "description": "wei"}, mode="serialization"),
]
"""An amount in wei: an exact integer, a decimal string as JSON (it can pass 2^53)."""

Question = TypeVar("Question", bound=Message)
Answer = TypeVar("Answer", bound=Message)


@dataclass(frozen=True, slots=True)
class Rpc(Generic[Question, Answer]):
    """One question or command: a subject with exactly one handler, which always answers.

    `timeout` is how long a caller waits by default (seconds). `callers` may ask; the bus refuses all others.
    """

    service: User
    verb: str
    question: type[Question]
    answer: type[Answer]
    callers: frozenset[User]
    timeout: float = 5.0

    @property
    def subject(self) -> str:
        """The subject, `rpc.<service>.<verb>.v1`."""
        return rpc_subject(self.service, self.verb)


Payload = TypeVar("Payload", bound=Message)


@dataclass(frozen=True, slots=True)
class EventType(Generic[Payload]):
    """One kind of event: something that has happened to an entity of `domain`."""

    domain: User
    entity: str
    past_tense: str
    payload: type[Payload]
    description: str

    @property
    def subject(self) -> str:
        """The subject, `evt.<domain>.<entity>.<past tense>.v1`."""
        return event_subject(self.domain, self.entity, self.past_tense)

    @property
    def ce_type(self) -> str:
        """The CloudEvents type: the subject without its kind."""
        return self.subject.removeprefix("evt.")


@dataclass(slots=True)
class Registry:
    """All contracts, filled by the modules of this package when they are imported."""

    rpcs: dict[str, Rpc[Any, Any]] = field(default_factory=dict)
    events: dict[str, EventType[Any]] = field(default_factory=dict)

    def rpc(
        self,
        service: User,
        verb: str,
        question: type[Question],
        answer: type[Answer],
        *,
        callers: frozenset[User],
        timeout: float = 5.0,
    ) -> Rpc[Question, Answer]:
        """Define a question or command."""
        rpc = Rpc(service, verb, question, answer, callers, timeout)
        if rpc.subject in self.rpcs:
            msg = f"{rpc.subject} is defined twice"
            raise ValueError(msg)
        self.rpcs[rpc.subject] = rpc
        return rpc

    def event(
        self, domain: User, entity: str, past_tense: str, payload: type[Payload], *, description: str
    ) -> EventType[Payload]:
        """Define a kind of event."""
        event = EventType(domain, entity, past_tense, payload, description)
        if event.subject in self.events:
            msg = f"{event.subject} is defined twice"
            raise ValueError(msg)
        self.events[event.subject] = event
        return event


REGISTRY = Registry()
GATEWAY_ONLY = frozenset({User.GATEWAY})
