"""Whether the gateway opens and renews sessions by itself, and what it decided."""

from fastapi import APIRouter
from morpheus_common.contracts.automation import (
    GET_SETTINGS,
    LIST_DECISIONS,
    MAX_DURATION_SECONDS,
    MIN_DURATION_SECONDS,
    PUT_SETTINGS,
    AutomationSettings,
    DecisionRow,
    GetSettings,
    ListDecisions,
    PutSettings,
)
from pydantic import BaseModel, Field, StrictBool, StrictInt

from morpheus_gateway.context import ContextOf
from morpheus_gateway.examples import example
from morpheus_gateway.principal import AutomationCaller
from morpheus_gateway.query import PageSize

router = APIRouter(prefix="/api/v1/automation", tags=["automation"])


class SettingsChange(BaseModel):
    """What is left out stays. `session_duration` in seconds."""

    model_config = example({"is_enabled": True, "session_duration": 3_600})

    is_enabled: StrictBool | None = None
    session_duration: StrictInt | None = Field(None, ge=MIN_DURATION_SECONDS, le=MAX_DURATION_SECONDS)


@router.get("/settings")
async def get_automation_settings(caller: AutomationCaller, context: ContextOf) -> AutomationSettings:
    """The user's settings."""
    return await context.rpc.call(GET_SETTINGS, GetSettings(user_id=caller.user_id))


@router.put("/settings")
async def update_automation_settings(
    body: SettingsChange, caller: AutomationCaller, context: ContextOf
) -> AutomationSettings:
    """Change what is given."""
    return await context.rpc.call(
        PUT_SETTINGS,
        PutSettings(user_id=caller.user_id, is_enabled=body.is_enabled, session_duration=body.session_duration),
    )


@router.get("/decisions")
async def list_automation_decisions(
    caller: AutomationCaller,
    context: ContextOf,
    limit: PageSize = 50,
) -> list[DecisionRow]:
    """What was decided about sessions in the last 90 days, newest first, with the reasons: by an API key about that key's, by an
    access token about all of the user's.
    """
    question = ListDecisions(user_id=caller.user_id, key_id=caller.key_id, limit=limit)
    return (await context.rpc.call(LIST_DECISIONS, question)).decisions
