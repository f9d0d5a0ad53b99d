from morpheus_automation.policy import plan_chat
from morpheus_common.contracts.automation import Decision


def test_automation_that_is_on_opens_for_as_long_as_the_user_chose() -> None:
    plan = plan_chat(is_enabled=True, session_duration=900)
    assert (plan.decision, plan.duration, plan.reason) == (Decision.OPEN, 900, "automation_on")


def test_automation_that_is_off_refuses_and_says_why() -> None:
    plan = plan_chat(is_enabled=False, session_duration=900)
    assert (plan.decision, plan.duration, plan.reason) == (Decision.REFUSE, None, "automation_off")
