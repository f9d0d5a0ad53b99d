"""What a version says and understands: on the bus, and in the documents that its processes share with those of another.

`make previous COMMIT=…` writes it to `previous.json`, run by the code of that commit. It has no imports but of the code that
it describes, so that any version can be asked by the same program.
"""

import json
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from morpheus_common import __version__
from morpheus_common.bus import names
from morpheus_common.bus.events import event_headers
from morpheus_common.bus.frames import Kind, frame_headers
from morpheus_common.bus.permissions import permissions_of
from morpheus_common.bus.rpc import error_envelope
from morpheus_common.bus.topology import CONSUMERS
from morpheus_common.contracts import REGISTRY
from morpheus_common.contracts.chat import AcceptFrame, AnswerHead, ErrorFrame, OwnerFrame, PingAnswer, PromptHead
from morpheus_common.errors import CATALOGUE, ApiError
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

PREVIOUS = Path(__file__).with_name("previous.json")

Json = dict[str, Any]
Models = list[type[BaseModel]]

HEADS: Models = [PromptHead, AcceptFrame, OwnerFrame, AnswerHead, ErrorFrame, PingAnswer]
SERVICES_WITH_DOCUMENTS = ("auth", "sessions", "automation")
NO_CONTRACT = frozenset({"title", "description", "examples", "default"})
"""Words of a schema that say nothing of what is written or understood."""


def contract() -> Json:
    """Return the contract of the code that runs."""
    rpcs = [REGISTRY.rpcs[subject] for subject in sorted(REGISTRY.rpcs)]
    events = [REGISTRY.events[subject] for subject in sorted(REGISTRY.events)]
    documents = {service: _documents(service) for service in SERVICES_WITH_DOCUMENTS}
    models: Models = [model for rpc in rpcs for model in (rpc.question, rpc.answer)]
    models += [event.payload for event in events] + HEADS
    models += [model for made in documents.values() for model in made.values()]
    references, definitions = _schemas(models)

    def both(model: type[BaseModel]) -> Json:
        return {"read": references[model, "validation"], "write": references[model, "serialization"]}

    return {
        "version": __version__,
        "rpcs": {
            rpc.subject: {
                "service": rpc.service,
                "callers": sorted(rpc.callers),
                "question": both(rpc.question),
                "answer": both(rpc.answer),
            }
            for rpc in rpcs
        },
        "events": {event.subject: both(event.payload) for event in events},
        "heads": {model.__name__: both(model) for model in HEADS},
        "documents": {
            f"{service}.{collection}": both(model)
            for service, made in documents.items()
            for collection, model in made.items()
        },
        "wire": _wire(),
        "errors": sorted(CATALOGUE),
        "permissions": {user.value: _rights(user) for user in names.User},
        "definitions": definitions,
    }


def _documents(service: str) -> dict[str, type[BaseModel]]:
    made = import_module(f"morpheus_{service}.documents").DOCUMENTS
    return {model.Settings.name: model for model in made}


def _schemas(models: Iterable[type[BaseModel]]) -> tuple[dict[tuple[type[BaseModel], str], str], Json]:
    """Return the name of each model's definition, as it is read and as it is written, and all definitions."""
    asked: Any = [(model, mode) for model in dict.fromkeys(models) for mode in ("validation", "serialization")]
    references, schema = models_json_schema(asked, ref_template="{model}")
    named: Any = {key: made["$ref"] for key, made in references.items()}
    return named, _bare(schema["$defs"], names_follow=True)


def _bare(schema: Any, *, names_follow: bool = False) -> Any:
    """Return a schema without words for people. `names_follow`: its keys are names of ours, not words of JSON Schema."""
    if isinstance(schema, list):
        return [_bare(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _bare(value, names_follow=not names_follow and key == "properties")
        for key, value in schema.items()
        if names_follow or key not in NO_CONTRACT
    }


def _wire() -> Json:
    """Return what no model describes, as the functions make it that write it."""
    moment = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
    event: Any = {"event_id": "id", "entity_id": "entity", "version": 7, "time": moment}
    error = ApiError("service_unavailable", "text", param="field", retry_after=3, details={"a": 1})
    return {
        "event headers": event_headers("evt.auth.key.made.v1", **event, request_id="request", traceparent="trace"),
        "frame headers": frame_headers(Kind.DATA, 3, more=True, head=AcceptFrame(worker="w")),
        "error envelope": error_envelope(error),
        "headers": {key: value for key, value in vars(names.Header).items() if key.isupper()},
        "streams": {key: value for key, value in vars(names.Stream).items() if key.isupper()},
        "inboxes": {user.value: prefix for user, prefix in names.INBOX.items()},
        "chat subjects": {
            "start": names.CHAT_START,
            "start at": names.chat_start_at("w"),
            "credit": names.chat_credit("w", "a"),
            "body": names.chat_body("w", "a"),
            "cancel": names.chat_cancel("w", "a"),
            "changed": names.session_changed("w", "k"),
            "inbox": names.relay_inbox("g", "a"),
        },
        "frames": {kind.value: kind.value for kind in Kind},
        "consumers": {f"{consumer.stream} {consumer.name}": list(consumer.filters) for consumer in CONSUMERS},
    }


def _rights(user: names.User) -> Json:
    rights = permissions_of(user)
    return {
        "publish": sorted(rights.publish),
        "subscribe": sorted(rights.subscribe),
        "answers": rights.answers,
        "never": sorted(rights.never),
    }


def main() -> int:
    """Write the contract to standard output, for the commit that is named."""
    sys.stdout.write(json.dumps({"commit": sys.argv[1], **contract()}, indent=1, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
