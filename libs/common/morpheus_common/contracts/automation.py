"""What the automation service is asked, and the events it tells."""

from enum import StrEnum
from typing import Any

from pydantic import Field

from morpheus_common.bus.names import User
from morpheus_common.contracts.base import GATEWAY_ONLY, REGISTRY, ChainId, Message, UtcTime

MIN_DURATION_SECONDS = 300
"""Shortest session the contract accepts (proxy-router contract, section 3)."""
MAX_DURATION_SECONDS = 86_400
"""Longest session a user may ask for by default."""


class GetSettings(Message):
    """Ask for a user's settings; defaults where none were ever set."""

    user_id: str


class PutSettings(Message):
    """Change what is given, leave the rest."""

    user_id: str
    is_enabled: bool | None = None
    session_duration: int | None = Field(None, ge=MIN_DURATION_SECONDS, le=MAX_DURATION_SECONDS)


class AutomationSettings(Message):
    """Whether the gateway manages the user's sessions, and how long they are asked for (seconds)."""

    user_id: str
    is_enabled: bool
    session_duration: int
    created_at: UtcTime
    updated_at: UtcTime


class PlanChat(Message):
    """A prompt for this model has no session. What is to be done?

    `parked`: a session of the key for this model that is open on chain. `current`: the key has a session that does not
    serve: it is for another model, or, if `rests`, a prompt whose end nobody saw may still run in it. All are chain ids.
    """

    user_id: str
    key_id: str
    key_prefix: str = ""
    model_id: ChainId
    parked: ChainId | None = None
    current: ChainId | None = None
    rests: bool = False


class Decision(StrEnum):
    """What automation decided about a key's sessions.

    `open`: a session is opened. `switch`: the same, in place of one for another model, which is parked. `resume`: a parked
    one is taken back. `refuse`: none is opened. `renew`: a successor is opened before a session's end. `leave`: a session
    runs out without one.
    """

    OPEN = "open"
    SWITCH = "switch"
    RESUME = "resume"
    REFUSE = "refuse"
    RENEW = "renew"
    LEAVE = "leave"


class Plan(Message):
    """What to do for a prompt: open a session for `duration` seconds (`open`, `switch`), take the parked one back
    (`resume`), or tell its client the error `code` with `details` (`refuse`; without a code, that automation is off).
    `reason` says why; `shortened_by`, which bound made `duration` less than its user wishes.
    """

    decision: Decision
    duration: int | None = None
    reason: str
    shortened_by: str | None = None
    code: str | None = None
    details: dict[str, Any] | None = None
    retry_after: int | None = None


class ListDecisions(Message):
    """Ask for decisions about a user's sessions, newest first; with `key_id`, about that key's only."""

    user_id: str
    key_id: str | None = None
    limit: int = Field(50, ge=1, le=100)


class DecisionRow(Message):
    """One decision. The same one again, soon after, is counted: `times`, from `at` to `last_at`.

    `session_id`: the session it is about (`renew`, `leave`, `resume`, `switch`). `duration` (seconds) is that of the session
    to be opened; `shortened_by`: which bound made it less than its user wishes. Of renewals, `operation_id` is the open that
    one led to, and `error` the code of what came of it. `facts`: what it was decided by, amounts in wei, times in seconds.
    """

    id: str
    decision: Decision
    reason: str
    key_id: str
    key_prefix: str
    model_id: ChainId
    session_id: ChainId | None
    duration: int | None
    shortened_by: str | None
    operation_id: str | None
    error: str | None
    times: int
    at: UtcTime
    last_at: UtcTime
    facts: dict[str, str]


class Decisions(Message):
    """Decisions, newest first."""

    decisions: list[DecisionRow]


class SessionDecided(Message):
    """A decision about a key's sessions. Ids and figures only; the fields are those of `DecisionRow`."""

    id: str
    user_id: str
    key_id: str
    model_id: ChainId
    session_id: ChainId | None
    decision: Decision
    reason: str
    duration: int | None
    operation_id: str | None
    error: str | None


class SettingsChanged(Message):
    """New settings of a user."""

    user_id: str
    is_enabled: bool
    session_duration: int


GET_SETTINGS = REGISTRY.rpc(
    User.AUTOMATION,
    "get_settings",
    GetSettings,
    AutomationSettings,
    callers=frozenset({User.GATEWAY, User.SESSIONS}),
)
PUT_SETTINGS = REGISTRY.rpc(User.AUTOMATION, "put_settings", PutSettings, AutomationSettings, callers=GATEWAY_ONLY)
LIST_DECISIONS = REGISTRY.rpc(
    User.AUTOMATION, "list_decisions", ListDecisions, Decisions, callers=frozenset({User.GATEWAY, User.OPS})
)
PLAN_CHAT = REGISTRY.rpc(User.AUTOMATION, "plan_chat", PlanChat, Plan, callers=frozenset({User.SESSIONS}), timeout=3.0)

SETTINGS_CHANGED = REGISTRY.event(
    User.AUTOMATION, "settings", "changed", SettingsChanged, description="A user's automation settings changed."
)
SESSION_DECIDED = REGISTRY.event(
    User.AUTOMATION,
    "session",
    "decided",
    SessionDecided,
    description="Automation decided about a session of a key: to open, switch, resume, refuse, renew, or let it run out.",
)
