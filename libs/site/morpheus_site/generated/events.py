"""The page of all events, from the registry of contracts: what can be subscribed to, and what each one says."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from morpheus_common.bus.events import event_headers
from morpheus_common.bus.names import Stream, User
from morpheus_common.contracts import REGISTRY
from morpheus_common.contracts.base import EventType, Registry

from morpheus_site.generated.endpoints import given
from morpheus_site.generated.schemas import UUID, Schemas
from morpheus_site.generated.text import as_json, block, code, page, prose, table

_INTRODUCTION = f"""\
Events are CloudEvents 1.0 in binary mode, on NATS, in the JetStream stream `{Stream.EVENTS}`: the attributes are headers, \
the payload is the body, as JSON. They are delivered at least once. How to subscribe is in [Events](events.md).

**Sequence.** `ce-subject` is the id of the entity that changed, `ce-sequence` its version: 1 for its first change, one more \
for each that follows, without gaps. Events that count together are named at each. A reader keeps the last sequence of \
each entity and ignores lower ones; a gap means that something is still on its way. Ids of entities are told apart by what \
counts together: a user's settings have the user's id.

Fields that a reader does not know are to be ignored; what would break a reader is a new version of the subject. Nothing of \
prompts and answers, and nothing personal, is in an event."""

_HEADERS = {
    "ce-id": "the event's own id; the same one again is the same event",
    "ce-source": "the service that told of it",
    "ce-type": "the subject without `evt.`",
    "ce-time": "when it happened, RFC 3339",
    "ce-subject": "the id of the entity that changed",
    "ce-sequence": "the entity's version",
    "Nats-Msg-Id": "the same as `ce-id`: by it the server drops a repeat",
    "X-Request-Id": "the request that led to it, if there was one",
    "traceparent": "its trace (W3C), if there is one",
}
"""What the headers that readers care about mean; `_example_headers` has to have them all."""

_ENTITIES = {
    (User.AUTH, "delegation"): "the delegation's id",
    (User.AUTH, "key"): "the API key's id",
    (User.AUTH, "private_key"): "the record's id; a new private key is a new record",
    (User.AUTH, "user"): "the user's id",
    (User.AUTOMATION, "session"): "the decision's id; the session is in the fields",
    (User.AUTOMATION, "settings"): "the user's id",
    (User.SESSIONS, "session"): "our record's id, not the one on chain",
    (User.SESSIONS, "usage"): "the worker's series since it started",
}
"""What `ce-subject` is, by domain and entity."""


def event_page(registry: Registry = REGISTRY) -> str:
    """Return the page: a table of all events, then each with its fields and an example."""
    events = [registry.events[subject] for subject in sorted(registry.events)]
    rows = [(f"[{code(event.subject)}](#{_anchor(event)})", event.description) for event in events]
    headers = [(code(name), meaning) for name, meaning in _HEADERS.items()]
    parts = ["# Events: reference", _INTRODUCTION, "## Headers", table(("Header", "Meaning"), headers)]
    parts += ["## All events", table(("Subject", "When"), rows)]
    for event in events:
        parts += _section(
            event, [other for other in events if (other.domain, other.entity) == (event.domain, event.entity)]
        )
    return page(*parts)


def _anchor(event: EventType[Any]) -> str:
    return event.subject.replace(".", "")


def _section(event: EventType[Any], counted: list[EventType[Any]]) -> Iterator[str]:
    schema = event.payload.model_json_schema(mode="serialization")
    schemas = Schemas(schema.get("$defs", {}))
    yield f"## {code(event.subject)}"
    yield prose(event.description)
    if schema.get("description"):
        yield prose(schema["description"])
    subject = _ENTITIES.get((event.domain, event.entity), f"the id of the {event.entity}")
    others = [code(other.past_tense) for other in counted if other is not event]
    together = f" It counts together with {', '.join(others)}." if others else ""
    yield f"**Sequence:** `ce-subject` is {subject}.{together}"
    yield given(schemas.fields(schema)) or "It has no fields."
    shown = event_headers(
        event.subject,
        event_id=UUID,
        entity_id=UUID,
        version=3,
        time=datetime(2026, 11, 27, 8, tzinfo=UTC),
        request_id=None,
        traceparent=None,
    )
    yield block("text", "\n".join(f"{name}: {value}" for name, value in shown.items()))
    yield block("json", as_json(schemas.example(schema)))
