"""The bus as one AsyncAPI 3.0 document: `make contracts` writes it to docs/asyncapi.json.

Questions, commands and events come from the registry of contracts, readers of events from the topology. The chat
subjects carry frames instead of models and are described here by hand, from the same names and models as the code.
"""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from morpheus_common import __version__
from morpheus_common.bus import names
from morpheus_common.bus.frames import FRAME_BYTES, WINDOW_BYTES, Kind
from morpheus_common.bus.names import Header, User
from morpheus_common.bus.topology import CONSUMERS, Consumer
from morpheus_common.contracts import REGISTRY
from morpheus_common.contracts.base import EventType, Registry, Rpc
from morpheus_common.contracts.chat import AcceptFrame, AnswerHead, ErrorFrame, OwnerFrame, PromptHead
from morpheus_common.errors import CATALOGUE

DOCUMENT = Path("docs/asyncapi.json")
"""Where the committed document is, from the repository's root."""

Json = dict[str, Any]

ANSWERS = "answers"
FRAMES = "chat.frames"
_FRAME_HEADS: tuple[type[BaseModel], ...] = (PromptHead, AcceptFrame, OwnerFrame, AnswerHead, ErrorFrame)
_SCHEMAS = "#/components/schemas/{model}"

_DESCRIPTION = f"""\
What the services of the gateway say to each other, and what anybody may subscribe to. Written by `make contracts` from \
`morpheus_common.contracts`; the test suite refuses a document that differs from the code.

- `rpc.<service>.<verb>.v1`: a question or command. Exactly one handler (queue group = the service) answers each one, to \
the reply subject of the message, with `{{"ok": …}}` or `{{"error": …}}`. `x-callers` are the users the bus lets ask.
- `evt.<domain>.<entity>.<past tense>.v1`: something has happened. CloudEvents 1.0 in binary mode in the JetStream stream \
`{names.Stream.EVENTS}`, delivered at least once. `ce-sequence` is the entity's version: 1 for its first change, one more \
for each that follows, without gaps. A reader keeps the last one and ignores lower ones.
- `chat.…`: prompts and their answers as frames of raw bytes.
- `dlq.<subject>`: an event that a reader could not digest, in the stream `{names.Stream.DLQ}`.

Operations are seen from the service that `x-service` and the tag name. Fields that a reader does not know are ignored; \
what would break a reader is a new version of the subject."""


def _ref(*path: str) -> Json:
    return {"$ref": "#/" + "/".join(path)}


def _tags(*services: str) -> list[Json]:
    return [{"name": service} for service in services]


def document(registry: Registry = REGISTRY, consumers: Iterable[Consumer] = CONSUMERS) -> Json:
    """Return the AsyncAPI 3.0 document of the whole system."""
    consumers = tuple(consumers)
    rpcs = [registry.rpcs[subject] for subject in sorted(registry.rpcs)]
    events = [registry.events[subject] for subject in sorted(registry.events)]
    models: list[type[BaseModel]] = [model for rpc in rpcs for model in (rpc.question, rpc.answer)]
    models += [event.payload for event in events]
    references, definitions = _schemas([*models, *_FRAME_HEADS])
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Morpheus API Gateway: the bus",
            "version": __version__,
            "description": _DESCRIPTION,
            "license": {"name": "MIT", "url": "https://spdx.org/licenses/MIT.html"},
            "tags": [{"name": user.value, "description": text} for user, text in sorted(_USERS.items())],
        },
        "defaultContentType": "application/json",
        "servers": {
            "bus": {
                "host": "{host}",
                "protocol": "nats",
                "description": "NATS with JetStream. Each service has an NKey user of its own; what is not listed for it "
                "in `morpheus_common/bus/permissions.py` is refused.",
                "variables": {"host": {"default": "127.0.0.1:4222"}},
            }
        },
        "channels": {
            ANSWERS: _answers_channel(rpcs),
            **{rpc.subject: _question_channel(rpc) for rpc in rpcs},
            **{event.subject: _event_channel(event) for event in events},
            **{f"dlq.{subject}": _dead_letter_channel(subject) for subject in _filters(consumers)},
            **_chat_channels(),
        },
        "operations": {
            **{f"{rpc.service}.{rpc.verb}": _answering(rpc) for rpc in rpcs},
            **{f"{event.ce_type}.tell": _telling(event) for event in events},
            **{
                name: operation
                for consumer in consumers
                for subject in consumer.filters
                for name, operation in _reading(consumer, subject)
            },
            **_chat_operations(),
        },
        "components": {
            "messages": {
                **{rpc.subject: _question(rpc, references) for rpc in rpcs},
                **{f"{rpc.subject}.answer": _answer(rpc, references) for rpc in rpcs},
                "error": _ERROR,
                **{event.subject: _event(event, references) for event in events},
                **{f"dlq.{subject}": _dead_letter(subject) for subject in _filters(consumers)},
                **_chat_messages(references),
            },
            "schemas": {**definitions, **_OWN_SCHEMAS},
        },
    }


_USERS: Mapping[User, str] = {
    User.GATEWAY: "the HTTP edge",
    User.AUTH: "accounts, tokens, API keys",
    User.SESSIONS: "all that touches a proxy-router: models, stakes, sessions, chat",
    User.AUTOMATION: "when a session is opened by itself",
    User.OPS: "the operators' `morpheus` command",
    User.SUBSCRIBER: "whoever reads events from outside",
}


def _schemas(models: list[type[BaseModel]]) -> tuple[dict[type[BaseModel], Json], Json]:
    """Return the reference of each model and the definitions all of them need, as they are written on the wire."""
    unique = list(dict.fromkeys(models))
    references, schema = models_json_schema([(model, "serialization") for model in unique], ref_template=_SCHEMAS)
    definitions: Json = schema.get("$defs", {})
    return {model: references[model, "serialization"] for model in unique}, definitions


# questions


def _question_channel(rpc: Rpc[Any, Any]) -> Json:
    return {
        "address": rpc.subject,
        "description": (rpc.question.__doc__ or "").strip(),
        "messages": {"question": _ref("components", "messages", rpc.subject)},
    }


def _answers_channel(rpcs: list[Rpc[Any, Any]]) -> Json:
    answers = {rpc.subject: _ref("components", "messages", f"{rpc.subject}.answer") for rpc in rpcs}
    return {
        "address": None,
        "description": "The reply subject of a question: a fresh one under the asker's own inbox prefix.",
        "messages": {"error": _ref("components", "messages", "error"), **answers},
    }


def _answering(rpc: Rpc[Any, Any]) -> Json:
    return {
        "action": "receive",
        "channel": _ref("channels", rpc.subject),
        "summary": f"{rpc.service} answers `{rpc.verb}`.",
        "description": (rpc.question.__doc__ or "").strip(),
        "messages": [_ref("channels", rpc.subject, "messages", "question")],
        "reply": {
            "channel": _ref("channels", ANSWERS),
            "messages": [
                _ref("channels", ANSWERS, "messages", rpc.subject),
                _ref("channels", ANSWERS, "messages", "error"),
            ],
        },
        "tags": _tags(rpc.service),
        "bindings": {"nats": {"queue": rpc.service.value}},
        "x-service": rpc.service.value,
        "x-callers": sorted(rpc.callers),
        "x-timeout-seconds": rpc.timeout,
    }


def _question(rpc: Rpc[Any, Any], references: Mapping[type[BaseModel], Json]) -> Json:
    return {
        "name": rpc.question.__name__,
        "contentType": "application/json",
        "headers": _ref("components", "schemas", "QuestionHeaders"),
        "payload": references[rpc.question],
    }


def _answer(rpc: Rpc[Any, Any], references: Mapping[type[BaseModel], Json]) -> Json:
    return {
        "name": rpc.answer.__name__,
        "contentType": "application/json",
        "payload": {"type": "object", "required": ["ok"], "properties": {"ok": references[rpc.answer]}},
    }


_ERROR: Json = {
    "name": "Error",
    "contentType": "application/json",
    "payload": {
        "type": "object",
        "required": ["error"],
        "properties": {"error": _ref("components", "schemas", "Error")},
    },
}


# events


def _event_channel(event: EventType[Any]) -> Json:
    return {
        "address": event.subject,
        "description": event.description,
        "messages": {"event": _ref("components", "messages", event.subject)},
    }


def _event(event: EventType[Any], references: Mapping[type[BaseModel], Json]) -> Json:
    return {
        "name": event.ce_type,
        "summary": event.description,
        "contentType": "application/json",
        "headers": {
            "type": "object",
            "allOf": [_ref("components", "schemas", "EventHeaders")],
            "properties": {
                "ce-type": {"type": "string", "const": event.ce_type},
                "ce-source": {"type": "string", "const": f"/morpheus/{event.domain}"},
            },
        },
        "payload": references[event.payload],
    }


def _telling(event: EventType[Any]) -> Json:
    return {
        "action": "send",
        "channel": _ref("channels", event.subject),
        "description": event.description,
        "messages": [_ref("channels", event.subject, "messages", "event")],
        "tags": _tags(event.domain),
        "x-service": event.domain.value,
        "x-stream": names.Stream.EVENTS,
    }


def _filters(consumers: Iterable[Consumer]) -> list[str]:
    return sorted({subject for consumer in consumers for subject in consumer.filters})


def _reading(consumer: Consumer, subject: str) -> list[tuple[str, Json]]:
    name = f"{consumer.name}.{subject.removeprefix('evt.')}"
    common = {"tags": _tags(consumer.service), "x-service": consumer.service.value}
    reads = {
        "action": "receive",
        "channel": _ref("channels", subject),
        "description": f"{consumer.service} reads it through the durable consumer `{consumer.name}`.",
        "messages": [_ref("channels", subject, "messages", "event")],
        **common,
        "x-stream": consumer.stream,
        "x-consumer": consumer.name,
        "x-max-failures": consumer.max_deliver,
    }
    gives_up = {
        "action": "send",
        "channel": _ref("channels", f"dlq.{subject}"),
        "description": f"{consumer.service} sets it aside after {consumer.max_deliver} failures of its own.",
        "messages": [_ref("channels", f"dlq.{subject}", "messages", "event")],
        **common,
        "x-stream": names.Stream.DLQ,
    }
    return [(f"{name}.read", reads), (f"{name}.set_aside", gives_up)]


def _dead_letter_channel(subject: str) -> Json:
    return {
        "address": f"dlq.{subject}",
        "description": f"Events of `{subject}` that a reader could not digest.",
        "messages": {"event": _ref("components", "messages", f"dlq.{subject}")},
    }


def _dead_letter(subject: str) -> Json:
    return {
        "name": f"dlq.{subject}",
        "summary": f"The event as it was; `{Header.REASON}` says which reader failed, why, and how often.",
        "contentType": "application/json",
        "headers": {
            "type": "object",
            "allOf": [_ref("components", "schemas", "EventHeaders")],
            "required": [Header.REASON],
            "properties": {
                Header.REASON: {"type": "string", "description": 'JSON: `{"consumer", "reason", "deliveries"}`'}
            },
        },
        "payload": _ref("components", "messages", subject, "payload"),
    }


# chat

_BYTES: Json = {"type": "string", "format": "binary"}
_NOTHING: Json = {"type": "string", "maxLength": 0}
_WORKER: Json = {"description": "WORKER_ID of a session worker."}
_ATTEMPT: Json = {"description": "Id of the attempt, made by the gateway for each try."}


def _chat_channels() -> Json:
    def channel(address: str, description: str, message: str, **parameters: Json) -> Json:
        messages = {message: _ref("components", "messages", f"chat.{message}")}
        made = {"address": address, "description": description, "messages": messages}
        return {**made, "parameters": parameters} if parameters else made

    worker, attempt = {"worker": _WORKER}, {"attempt": _ATTEMPT}
    return {
        names.CHAT_START: channel(
            names.CHAT_START, "A prompt for whichever session worker is free (queue group `sessions`).", "start"
        ),
        "chat.start.at": channel(
            names.chat_start_at("{worker}"), "A prompt for the worker that owns the key's session.", "start", **worker
        ),
        "chat.body": channel(
            names.chat_body("{worker}", "{attempt}"),
            "The rest of a request body that is larger than one frame.",
            "body",
            **worker,
            **attempt,
        ),
        "chat.credit": channel(
            names.chat_credit("{worker}", "{attempt}"),
            f"How far the worker may send: bytes consumed so far plus {WINDOW_BYTES}. The first one is the permission to "
            "send the prompt to the router; it is given to one attempt only.",
            "credit",
            **worker,
            **attempt,
        ),
        "chat.cancel": channel(
            names.chat_cancel("{worker}", "{attempt}"),
            "The client is gone, or another attempt was chosen.",
            "cancel",
            **worker,
            **attempt,
        ),
        "chat.changed": channel(
            names.session_changed("{worker}", "{key_id}"),
            "Look at the session of this key again: it is wanted back.",
            "changed",
            **worker,
            key_id={"description": "Id of an API key."},
        ),
        FRAMES: {
            "address": names.relay_inbox("{gateway}", "{attempt}"),
            "description": "The answer to one attempt, frame by frame; the reply subject of `chat.start`.",
            "parameters": {"gateway": {"description": "WORKER_ID and boot of a gateway."}, **attempt},
            "messages": {kind: _ref("components", "messages", f"chat.frame.{kind}") for kind in _FRAMES},
        },
    }


def _chat_operations() -> Json:
    def operation(action: str, user: User, channel: str, message: str, description: str) -> Json:
        return {
            "action": action,
            "channel": _ref("channels", channel),
            "description": description,
            "messages": [_ref("channels", channel, "messages", message)],
            "tags": _tags(user),
            "x-service": user.value,
        }

    def starting(channel: str, summary: str) -> Json:
        frames = [_ref("channels", FRAMES, "messages", kind) for kind in _FRAMES]
        reply = {"channel": _ref("channels", FRAMES), "messages": frames}
        made = operation("receive", User.SESSIONS, channel, "start", summary)
        return {**made, "reply": reply, "x-callers": [User.GATEWAY.value]}

    return {
        "chat.start": {
            **starting(names.CHAT_START, "A session worker takes a prompt, or names the worker that owns its session."),
            "bindings": {"nats": {"queue": User.SESSIONS.value}},
        },
        "chat.start.at": starting("chat.start.at", "The owner of a session takes a prompt."),
        "chat.body": operation("receive", User.SESSIONS, "chat.body", "body", "More of a large body."),
        "chat.credit": operation("receive", User.SESSIONS, "chat.credit", "credit", "Credit for an attempt."),
        "chat.cancel": operation("receive", User.SESSIONS, "chat.cancel", "cancel", "Take an attempt back."),
        "chat.changed.tell": operation(
            "send", User.SESSIONS, "chat.changed", "changed", "The wallet's loop asks the owner to let a session go."
        ),
        "chat.changed": operation(
            "receive", User.SESSIONS, "chat.changed", "changed", "The owner finishes the running prompt and lets go."
        ),
    }


def _in_header(model: type[BaseModel], references: Mapping[type[BaseModel], Json]) -> Json:
    schema = references[model]
    return {"type": "string", "contentMediaType": "application/json", "x-content": schema}


_FRAMES: Mapping[Kind, tuple[type[BaseModel] | None, Json, str]] = {
    Kind.ACCEPT: (AcceptFrame, _NOTHING, "This worker will run the prompt once it has credit."),
    Kind.OWNER: (OwnerFrame, _NOTHING, "Another worker owns the session: start there."),
    Kind.DATA: (AnswerHead, _BYTES, "A part of the answer; `Mor-Head` comes with the first one only."),
    Kind.LAST: (AnswerHead, _BYTES, "The last part of the answer, and its end; as a data frame otherwise."),
    Kind.BEAT: (None, _NOTHING, "The worker is alive; nothing to say yet."),
    Kind.END: (None, _NOTHING, "The answer is complete."),
    Kind.ERROR: (ErrorFrame, _NOTHING, "The attempt failed."),
}


def _chat_messages(references: Mapping[type[BaseModel], Json]) -> Json:
    def frame(kind: Kind, head: type[BaseModel] | None, payload: Json, summary: str) -> Json:
        headers: Json = {
            Header.KIND: {"type": "string", "const": kind.value},
            Header.SEQ: {"type": "string", "pattern": "^[0-9]+$", "description": "counts the attempt's frames from 0"},
        }
        required = [Header.KIND, Header.SEQ]
        if kind is Kind.DATA:
            headers[Header.MORE] = {"type": "string", "const": "1", "description": "the next frame continues the event"}
        elif head is not None and kind is not Kind.LAST:
            required.append(Header.HEAD)
        if head is not None:
            headers[Header.HEAD] = _in_header(head, references)
        return {
            "name": f"{kind.value} frame",
            "summary": summary,
            "contentType": "application/octet-stream",
            "headers": {"type": "object", "required": required, "properties": headers},
            "payload": payload,
        }

    return {
        "chat.start": {
            "name": "prompt",
            "summary": f"The head in `{Header.HEAD}`, the first {FRAME_BYTES} bytes of the request body as they came.",
            "contentType": "application/octet-stream",
            "headers": {
                "type": "object",
                "required": [Header.HEAD],
                "properties": {Header.HEAD: _in_header(PromptHead, references)},
            },
            "payload": _BYTES,
        },
        "chat.body": {
            "name": "body frame",
            "contentType": "application/octet-stream",
            "headers": {
                "type": "object",
                "required": [Header.SEQ],
                "properties": {Header.SEQ: {"type": "string", "pattern": "^[0-9]+$"}},
            },
            "payload": _BYTES,
        },
        "chat.credit": {
            "name": "credit",
            "contentType": "text/plain",
            "payload": {"type": "string", "pattern": "^[0-9]+$", "description": "bytes, counted from the beginning"},
        },
        "chat.cancel": {"name": "cancel", "contentType": "application/octet-stream", "payload": _NOTHING},
        "chat.changed": {"name": "changed", "contentType": "application/octet-stream", "payload": _NOTHING},
        **{f"chat.frame.{kind}": frame(kind, *described) for kind, described in _FRAMES.items()},
    }


# what no model describes

_ID: Json = {"type": "string"}
_TRACING: Json = {
    Header.REQUEST_ID: {"type": "string", "description": "ties together all that one request caused"},
    Header.TRACEPARENT: {"type": "string", "description": "W3C Trace Context"},
}
_OWN_SCHEMAS: Json = {
    "QuestionHeaders": {
        "type": "object",
        "properties": {
            Header.TIMEOUT_MS: {
                "type": "string",
                "pattern": "^[0-9]+$",
                "description": "how long the caller still waits, in milliseconds: a duration, because clocks differ",
            },
            **_TRACING,
        },
    },
    "EventHeaders": {
        "type": "object",
        "required": [
            Header.MESSAGE_ID,
            "ce-specversion",
            "ce-id",
            "ce-source",
            "ce-type",
            "ce-time",
            "ce-subject",
            "ce-sequence",
            "content-type",
        ],
        "properties": {
            Header.MESSAGE_ID: {**_ID, "description": "the event's id: the server drops a repeat within two minutes"},
            "ce-specversion": {"type": "string", "const": "1.0"},
            "ce-id": {**_ID, "description": "the event's id, UUIDv7; the same at every delivery"},
            "ce-source": {"type": "string"},
            "ce-type": {"type": "string"},
            "ce-time": {"type": "string", "format": "date-time"},
            "ce-subject": {**_ID, "description": "id of the entity that changed"},
            "ce-sequence": {
                "type": "string",
                "pattern": "^[1-9][0-9]*$",
                "description": "the entity's version after the change: gapless, from 1",
            },
            "content-type": {"type": "string", "const": "application/json"},
            **_TRACING,
        },
    },
    "Error": {
        "type": "object",
        "required": ["code", "message"],
        "properties": {
            "code": {"type": "string", "enum": sorted(CATALOGUE)},
            "message": {"type": "string"},
            "param": {"type": "string"},
            "retry_after": {"type": "integer", "description": "seconds"},
            "details": {"type": "object"},
        },
    },
}


def as_text(made: Mapping[str, Any]) -> str:
    """Return a document as it is committed."""
    return json.dumps(made, indent=2, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    """Write the document to the path that is given, else to `DOCUMENT`."""
    path = Path(arguments[0]) if arguments else DOCUMENT
    path.write_text(as_text(document()), encoding="utf-8")
    sys.stderr.write(f"{path} describes {len(REGISTRY.rpcs)} questions and {len(REGISTRY.events)} events.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
