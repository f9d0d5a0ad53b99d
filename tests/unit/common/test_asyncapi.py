"""docs/asyncapi.json: it is what the code makes, it has the form of AsyncAPI 3.0, and it says what is on the wire."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from morpheus_common import asyncapi
from morpheus_common.bus import names
from morpheus_common.bus.events import event_headers
from morpheus_common.bus.frames import Kind, frame_headers
from morpheus_common.bus.permissions import permissions_of
from morpheus_common.bus.rpc import error_envelope
from morpheus_common.bus.topology import CONSUMERS
from morpheus_common.contracts import REGISTRY
from morpheus_common.contracts.chat import AcceptFrame
from morpheus_common.contracts.sessions import SESSION_EVENTS
from morpheus_common.errors import ApiError

ROOT = Path(__file__).resolve().parents[3]
MADE = asyncapi.document()

FIELDS = {
    "document": {"asyncapi", "id", "info", "servers", "defaultContentType", "channels", "operations", "components"},
    "info": {"title", "version", "description", "termsOfService", "contact", "license", "tags", "externalDocs"},
    "channel": {"address", "title", "summary", "description", "servers", "messages", "parameters", "tags", "bindings"},
    "operation": {
        "action",
        "channel",
        "title",
        "summary",
        "description",
        "security",
        "tags",
        "bindings",
        "messages",
        "reply",
    },
    "reply": {"address", "channel", "messages"},
    "message": {
        "headers",
        "payload",
        "correlationId",
        "contentType",
        "name",
        "title",
        "summary",
        "description",
        "tags",
        "bindings",
    },
}
"""The fields that AsyncAPI 3.0.0 allows in each object; `x-…` is allowed everywhere."""


def unknown(kind: str, item: dict[str, Any]) -> set[str]:
    return {name for name in item if not name.startswith("x-")} - FIELDS[kind]


def references(item: Any) -> Iterator[str]:
    """Every `$ref` below `item`."""
    if isinstance(item, dict):
        if isinstance(item.get("$ref"), str):
            yield item["$ref"]
        for inner in item.values():
            yield from references(inner)
    elif isinstance(item, list):
        for inner in item:
            yield from references(inner)


def at(document: dict[str, Any], reference: str) -> Any:
    """What a `$ref` points to. Raises `KeyError`."""
    kind, *path = reference.split("/")
    assert kind == "#"
    found: Any = document
    for part in path:
        found = found[part]
    return found


def problems(document: dict[str, Any]) -> list[str]:
    """What is wrong with the form of a document."""
    found = [f"document: {name}" for name in unknown("document", document)]
    found += [f"info: {name}" for name in unknown("info", document["info"])]
    found += [f"info lacks {name}" for name in ("title", "version") if not document["info"].get(name)]
    for reference in references(document):
        try:
            at(document, reference)
        except KeyError:
            found.append(f"{reference} leads nowhere")
    used = set()
    for name, operation in document["operations"].items():
        found += [f"{name}: {field}" for field in unknown("operation", operation)]
        if operation["action"] not in {"send", "receive"}:
            found.append(f"{name}: action")
        ways = [operation]
        if "reply" in operation:
            found += [f"{name}: reply: {field}" for field in unknown("reply", operation["reply"])]
            ways.append(operation["reply"])
        for way in ways:
            channel = way["channel"]["$ref"]
            used.add(channel.removeprefix("#/channels/"))
            if not way["messages"]:
                found.append(f"{name}: no message")
            found += [
                f"{name}: {message['$ref']} is of another channel"
                for message in way["messages"]
                if not message["$ref"].startswith(f"{channel}/messages/")
            ]
    found += [f"{name}: no operation uses this channel" for name in set(document["channels"]) - used]
    for name, channel in document["channels"].items():
        found += [f"{name}: {field}" for field in unknown("channel", channel)]
        placeholders = set(re.findall(r"{(\w+)}", channel["address"] or ""))
        if placeholders != set(channel.get("parameters", {})):
            found.append(f"{name}: parameters")
        for key, message in channel["messages"].items():
            inner = at(document, message["$ref"]) if "$ref" in message else message
            found += [f"{name}: {key}: {field}" for field in unknown("message", inner)]
            if "payload" not in inner:
                found.append(f"{name}: {key} has no payload")
    for section in document["components"].values():
        found += [f"components: {name}" for name in section if not re.fullmatch(r"[\w.\-]+", name)]
    return found


def test_the_committed_document_is_what_the_code_makes() -> None:
    committed = (ROOT / asyncapi.DOCUMENT).read_text(encoding="utf-8")
    assert committed == asyncapi.as_text(MADE), "run `make contracts` and commit docs/asyncapi.json"


def test_the_command_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert asyncapi.main([str(tmp_path / "made.json")]) == 0
    assert (tmp_path / "made.json").read_text(encoding="utf-8") == asyncapi.as_text(MADE)
    assert f"{len(REGISTRY.rpcs)} questions and {len(REGISTRY.events)} events" in capsys.readouterr().err


def test_it_has_the_form_of_asyncapi_3() -> None:
    assert MADE["asyncapi"] == "3.0.0"
    assert problems(MADE) == []


def test_the_check_of_its_form_sees_what_is_wrong() -> None:
    broken: dict[str, Any] = {
        "asyncapi": "3.0.0",
        "info": {"title": "x", "version": ""},
        "channels": {
            "a": {"address": "a.{b}", "messages": {"m": {"payload": {"$ref": "#/components/schemas/M"}}}},
            "b": {"address": None, "messages": {"n": {"subject": "b"}}},
        },
        "operations": {
            "o": {
                "action": "publish",
                "channel": {"$ref": "#/channels/a"},
                "messages": [{"$ref": "#/channels/b/messages/n"}],
            }
        },
        "components": {"schemas": {"no spaces": {}}},
    }
    assert sorted(problems(broken)) == [
        "#/components/schemas/M leads nowhere",
        "a: parameters",
        "b: n has no payload",
        "b: n: subject",
        "b: no operation uses this channel",
        "components: no spaces",
        "info lacks version",
        "o: #/channels/b/messages/n is of another channel",
        "o: action",
    ]


def test_every_question_is_answered_by_its_service_for_its_callers() -> None:
    for subject, rpc in REGISTRY.rpcs.items():
        operation = MADE["operations"][f"{rpc.service}.{rpc.verb}"]
        assert MADE["channels"][subject]["address"] == subject
        assert (operation["action"], operation["x-service"]) == ("receive", rpc.service)
        assert operation["x-callers"] == sorted(rpc.callers)
        question = at(MADE, f"#/components/messages/{subject}")["payload"]["$ref"]
        assert question.endswith(f"/{rpc.question.__name__}")
        answers = [at(MADE, at(MADE, ref["$ref"])["$ref"]) for ref in operation["reply"]["messages"]]
        assert answers[0]["payload"]["properties"]["ok"]["$ref"].endswith(f"/{rpc.answer.__name__}")
        assert answers[1]["payload"]["required"] == ["error"]


def test_every_event_is_told_by_its_domain_and_read_by_its_durable_readers() -> None:
    for subject, event in REGISTRY.events.items():
        operation = MADE["operations"][f"{event.ce_type}.tell"]
        assert (operation["action"], operation["x-service"]) == ("send", event.domain)
        assert MADE["components"]["messages"][subject]["payload"]["$ref"].endswith(f"/{event.payload.__name__}")
    for consumer in CONSUMERS:
        for subject in consumer.filters:
            name = f"{consumer.name}.{subject.removeprefix('evt.')}"
            assert MADE["operations"][f"{name}.read"]["channel"] == {"$ref": f"#/channels/{subject}"}
            assert MADE["operations"][f"{name}.set_aside"]["channel"] == {"$ref": f"#/channels/dlq.{subject}"}


def test_the_headers_of_an_event_are_the_described_ones() -> None:
    described = MADE["components"]["schemas"]["EventHeaders"]
    bare, full = (
        event_headers(
            SESSION_EVENTS["opened"].subject,
            event_id="e",
            entity_id="s",
            version=3,
            time=datetime(2026, 11, 23, tzinfo=UTC),
            request_id=tracing,
            traceparent=tracing,
        )
        for tracing in (None, "x")
    )
    assert set(described["required"]) == set(bare)
    assert set(described["properties"]) == set(full)
    own = MADE["components"]["messages"][SESSION_EVENTS["opened"].subject]["headers"]["properties"]
    for name, schema in {**described["properties"], **own}.items():
        assert schema.get("const", full[name]) == full[name], name
        assert re.search(schema.get("pattern", ""), full[name]), name


def test_amounts_and_times_are_described_as_they_travel() -> None:
    fields = MADE["components"]["schemas"]["SessionChanged"]["properties"]
    assert fields["stake"]["anyOf"][0]["type"] == "string"
    assert fields["opened_at"]["anyOf"][0] == {"type": "string", "format": "date-time"}


def test_an_error_has_the_described_fields() -> None:
    error = ApiError("session_busy", param="p", retry_after=3, details={"a": 1})
    described = MADE["components"]["schemas"]["Error"]
    assert set(error_envelope(error)["error"]) == set(described["properties"])
    assert set(error_envelope(ApiError("session_busy"))["error"]) == set(described["required"])


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.NOBODY])
def test_every_kind_of_frame_is_described(kind: Kind) -> None:
    described = MADE["components"]["messages"][f"chat.frame.{kind}"]["headers"]
    headers = frame_headers(kind, 5, head=AcceptFrame(worker="w") if "Mor-Head" in described["required"] else None)
    assert set(headers) == set(described["required"])
    assert described["properties"]["Mor-Kind"]["const"] == kind


@pytest.mark.parametrize("user", [names.User.GATEWAY, names.User.SESSIONS])
def test_every_chat_subject_that_is_allowed_on_the_bus_is_described(user: names.User) -> None:
    rights = permissions_of(user)
    allowed = {subject for subject in (*rights.publish, *rights.subscribe) if subject.startswith("chat.")}
    described = {re.sub(r"{\w+}", "*", channel["address"] or "") for channel in MADE["channels"].values()}
    assert allowed
    assert allowed <= described
