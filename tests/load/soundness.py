"""Whether a stack is sound after a load: all invariants, and what the operators' own tool finds."""

from morpheus_devstack.waiting import poll

from tests.faults.invariants import Violation, check, prompts_do_not_overlap
from tests.faults.records import Records
from tests.faults.stack import START_MOR, FaultStack
from tests.faults.sweep import DEPLOYMENT, WEI, operators_audit

REST_SECONDS = 60.0
MOST_AFTER_KILLS = 2
"""A worker that dies within the 50 ms before it writes that a prompt runs leaves it to be met by the next (I8)."""


async def unsound(stack: FaultStack, records: Records, *, killed: bool) -> list[str]:
    """Return what does not hold once nothing is under way any more. `killed`: workers were."""
    found: list[Violation] = []

    async def is_sound() -> bool:
        nonlocal found
        snapshot = await records.snapshot(
            await stack.chain.state(),
            deployment=DEPLOYMENT,
            foreign=(),
            mor_at_start=START_MOR * WEI,
            overlapping_calls=0,
            asked={},
        )
        found = check(snapshot)
        if killed and snapshot.most_prompts_at_once <= MOST_AFTER_KILLS:
            allowed = list(prompts_do_not_overlap(snapshot))
            found = [violation for violation in found if violation not in allowed]
        return not found

    _ = await poll(is_sound, seconds=REST_SECONDS, every=1.0)
    wrong = [f"{violation.invariant}: {violation.what}" for violation in found]
    audit = await operators_audit(stack)
    return [*wrong, audit] if audit is not None else wrong
