"""When the gateway opens a session by itself."""

from morpheus_common.contracts.automation import Decision, Plan

AUTOMATION_OFF = "automation_off"
AUTOMATION_ON = "automation_on"


def plan_chat(*, is_enabled: bool, session_duration: int) -> Plan:
    """Decide what happens to a prompt whose key has no session for its model. `session_duration` in seconds."""
    if not is_enabled:
        return Plan(decision=Decision.REFUSE, reason=AUTOMATION_OFF)
    return Plan(decision=Decision.OPEN, duration=session_duration, reason=AUTOMATION_ON)
