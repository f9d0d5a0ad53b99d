"""The users of a load: each with one key, automation on, and a session that has answered once."""

import asyncio
import itertools

from morpheus_devstack.waiting import poll

from tests.faults.stack import FaultStack
from tests.faults.tenant import Tenant
from tests.load.canary import Caller

MADE_AT_ONCE = 8
WARM_SECONDS = 60.0


async def _is_answered(tenant: Tenant, model: str) -> bool:
    answer = await tenant.chat(model)
    return answer is not None and answer.status_code == 200


async def callers(stack: FaultStack, count: int) -> list[Caller]:
    """Make so many users; each changes between two models of the market."""
    names = [row["id"] for row in (await stack.http.get("models")).json()["data"] if row["modelType"] == "LLM"]
    pairs = itertools.islice(itertools.cycle(itertools.permutations(names, 2)), count)
    turns = asyncio.Semaphore(MADE_AT_ONCE)

    async def one(models: tuple[str, str]) -> Caller:
        async with turns:
            tenant = await Tenant.new(stack.http)
            answer = await stack.http.put("automation/settings", json={"is_enabled": True}, headers=tenant.by_token)
            answer.raise_for_status()
            if not await poll(lambda: _is_answered(tenant, models[0]), seconds=WARM_SECONDS, every=0.5):
                raise RuntimeError("a user got no session to begin with")
        return Caller(tenant.key, models)

    return list(await asyncio.gather(*(one(models) for models in pairs)))
