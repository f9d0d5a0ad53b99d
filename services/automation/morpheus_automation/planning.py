"""What is to be done for a prompt that finds no session. Asked while the prompt waits."""

from dataclasses import dataclass

from morpheus_common.bus.rpc import RpcClient
from morpheus_common.contracts.automation import Decision, Plan, PlanChat
from morpheus_common.contracts.renewal import GET_OPEN_FACTS, GetOpenFacts, OpenFacts
from morpheus_common.errors import ApiError
from morpheus_common.logs import get_logger

from morpheus_automation.decisions import Decided, Decisions
from morpheus_automation.metrics import DECISIONS
from morpheus_automation.policy import plan_chat, told
from morpheus_automation.preferences import Preferences

log = get_logger(__name__)


async def read_facts(rpc: RpcClient, user_id: str, model_id: str) -> OpenFacts | None:
    """Ask sessions what bounds a session; None if it does not say. It will refuse by itself what it cannot bear."""
    try:
        return await rpc.call(GET_OPEN_FACTS, GetOpenFacts(user_id=user_id, model_id=model_id))
    except ApiError as error:
        log.info("decided without facts", code=error.code)
        return None


@dataclass(frozen=True, slots=True)
class Planning:
    """Decides for prompts, and has each decision recorded."""

    preferences: Preferences
    decisions: Decisions
    rpc: RpcClient

    async def plan(self, question: PlanChat) -> Plan:
        """Decide. What opens a session is recorded before it is answered. What costs nothing, a refusal or a session taken
        back, is counted, and recorded within a second: a client that asks again and again costs no write each time.
        """
        settings = (await self.preferences.of_many([question.user_id]))[question.user_id]
        facts = None
        if settings.is_enabled and question.parked is None:
            facts = await read_facts(self.rpc, question.user_id, question.model_id)
        plan = plan_chat(
            is_enabled=settings.is_enabled,
            session_duration=settings.session_duration,
            question=question,
            facts=facts,
        )
        decided = Decided(
            user_id=question.user_id,
            key_id=question.key_id,
            key_prefix=question.key_prefix,
            model_id=question.model_id,
            session_id=question.parked if plan.decision is Decision.RESUME else question.current,
            decision=plan.decision,
            reason=plan.reason,
            duration=plan.duration,
            shortened_by=plan.shortened_by,
            facts=told(facts),
        )
        if plan.duration is None:
            self.decisions.count(decided)
        else:
            await self.decisions.record(decided)
        DECISIONS[plan.decision].inc()
        return plan
