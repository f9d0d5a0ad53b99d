"""Whether a stack is sound after a load: all invariants, and what the operators' own tool finds."""

from collections.abc import Mapping

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
    wrong = await violations(stack, records, killed=killed)
    audit = await operators_audit(stack)
    return [*wrong, audit] if audit is not None else wrong


async def violations(
    stack: FaultStack, records: Records, *, killed: bool, asked: Mapping[str, int] | None = None
) -> list[str]:
    """The same without what the operators' tool finds. `asked`: how many opens were asked for, by API key."""
    found: list[Violation] = []

    async def is_sound() -> bool:
        nonlocal found
        snapshot = await records.snapshot(
            await stack.chain.state(),
            deployment=DEPLOYMENT,
            foreign=(),
            mor_at_start=START_MOR * WEI,
            overlapping_calls=0,
            asked=dict(asked or {}),
        )
        found = check(snapshot)
        if killed and snapshot.most_prompts_at_once <= MOST_AFTER_KILLS:
            allowed = list(prompts_do_not_overlap(snapshot))
            found = [violation for violation in found if violation not in allowed]
        return not found

    _ = await poll(is_sound, seconds=REST_SECONDS, every=1.0)
    return [f"{violation.invariant}: {violation.what}" for violation in found]
