"""Every name on the bus: subjects, headers, streams, durable consumers, users and their inboxes.

The kind of a subject comes first (`rpc`, `evt`, `chat`, `dlq`), so that a permission and a stream are one line each.
"""

from enum import StrEnum
from typing import Final

ACCOUNT: Final = "MORPHEUS"
"""The one NATS account all services share; tests make one each."""


class User(StrEnum):
    """The NATS users, one a service, each with an NKey and its own inbox."""

    GATEWAY = "gateway"
    AUTH = "auth"
    SESSIONS = "sessions"
    AUTOMATION = "automation"
    OPS = "ops"
    SUBSCRIBER = "subscriber"


INBOX: Final[dict[User, str]] = {
    User.GATEWAY: "_INBOX_gw",
    User.AUTH: "_INBOX_auth",
    User.SESSIONS: "_INBOX_sessions",
    User.AUTOMATION: "_INBOX_automation",
    User.OPS: "_INBOX_ops",
    User.SUBSCRIBER: "_INBOX_subscriber",
}
"""Private inbox prefixes: no service can listen to an answer meant for another."""


class Header:
    """Message headers."""

    KIND: Final = "Mor-Kind"
    SEQ: Final = "Mor-Seq"
    MORE: Final = "Mor-More"
    HEAD: Final = "Mor-Head"
    TIMEOUT_MS: Final = "Mor-Timeout-Ms"
    REQUEST_ID: Final = "X-Request-Id"
    TRACEPARENT: Final = "traceparent"
    MESSAGE_ID: Final = "Nats-Msg-Id"
    REASON: Final = "Mor-Reason"
    STATUS: Final = "Status"
    """Set by the server itself; 503 on a reply subject means that nobody listens to what was asked."""


class Stream:
    """JetStream streams."""

    EVENTS: Final = "EVENTS"
    DLQ: Final = "DLQ"


EVENT_SUBJECTS: Final = "evt.>"
DEAD_LETTER_SUBJECTS: Final = "dlq.>"

CHAT_START: Final = "chat.start.v1"
"""Any session worker may take the prompt (queue group `sessions`)."""


def rpc_subject(service: str, verb: str, version: int = 1) -> str:
    """Return the subject of a question or command to `service`."""
    return f"rpc.{service}.{verb}.v{version}"


def event_subject(domain: str, entity: str, past_tense: str, version: int = 1) -> str:
    """Return the subject of an event."""
    return f"evt.{domain}.{entity}.{past_tense}.v{version}"


def chat_start_at(worker: str) -> str:
    """Return the subject that starts a prompt at one worker."""
    return f"{CHAT_START}.{worker}"


def chat_credit(worker: str, attempt: str) -> str:
    """Return the subject that gives `attempt` credit to send."""
    return f"chat.credit.{worker}.{attempt}"


def chat_body(worker: str, attempt: str) -> str:
    """Return the subject that carries the rest of a large request body."""
    return f"chat.body.{worker}.{attempt}"


def chat_cancel(worker: str, attempt: str) -> str:
    """Return the subject that takes `attempt` back: its client is gone."""
    return f"chat.cancel.{worker}.{attempt}"


def session_changed(worker: str, key_id: str) -> str:
    """Return the subject that tells `worker` to look at the session of a key it owns again."""
    return f"chat.changed.{worker}.{key_id}"


def relay_inbox(gateway: str, attempt: str) -> str:
    """Return where the frames of `attempt` go; a gateway listens to all of its attempts with one subscription."""
    return f"{INBOX[User.GATEWAY]}.{gateway}.{attempt}"


def durable(service: str, purpose: str) -> str:
    """Return the name of a durable consumer."""
    return f"{service}-{purpose}"
