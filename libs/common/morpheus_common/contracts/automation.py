"""What the automation service is asked, and the events it tells."""

from enum import StrEnum

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
    """A prompt for this model has no session. What is to be done?"""

    user_id: str
    key_id: str
    model_id: ChainId


class Decision(StrEnum):
    """What automation decided."""

    OPEN = "open"
    REFUSE = "refuse"


class Plan(Message):
    """`open`: open a session for `duration` seconds. `refuse`: the user has to open one. `reason` says why."""

    decision: Decision
    duration: int | None = None
    reason: str


class SettingsChanged(Message):
    """New settings of a user."""

    user_id: str
    is_enabled: bool
    session_duration: int


GET_SETTINGS = REGISTRY.rpc(User.AUTOMATION, "get_settings", GetSettings, AutomationSettings, callers=GATEWAY_ONLY)
PUT_SETTINGS = REGISTRY.rpc(User.AUTOMATION, "put_settings", PutSettings, AutomationSettings, callers=GATEWAY_ONLY)
PLAN_CHAT = REGISTRY.rpc(User.AUTOMATION, "plan_chat", PlanChat, Plan, callers=frozenset({User.SESSIONS}), timeout=3.0)

SETTINGS_CHANGED = REGISTRY.event(
    User.AUTOMATION, "settings", "changed", SettingsChanged, description="A user's automation settings changed."
)
