"""A sweep over many cases: one stack goes from case to case, several stacks share the cases, and every few cases all
invariants are checked over everything that has happened on a stack so far.
"""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from morpheus_common.bus.names import User
from morpheus_devstack.waiting import poll

from tests.faults.cases import Case, Fault, Outcome, Twist, in_order
from tests.faults.invariants import Violation, check
from tests.faults.journeys import Journeyer, Market, Verdict
from tests.faults.records import Records
from tests.faults.stack import START_MOR, FaultStack, fault_stack

DEPLOYMENT = 1
"""The default of the setting DEPLOYMENT_NUMBER."""
WEI = 10**18
CASES_A_BATCH = 8
FOREIGN_SECONDS = 20 * 86_400
"""The foreign session must outlive every jump of the chain's clock; the chain caps its time at seven days."""
CHECK_SECONDS = 10.0
AUDIT_SECONDS = 60.0

OnVerdict = Callable[[Verdict], None]


@dataclass
class Result:
    """What a sweep found. `wrong`: what does not hold and belongs to no case."""

    verdicts: list[Verdict] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    snapshots: int = 0
    audits: int = 0

    @property
    def passed(self) -> bool:
        return not self.wrong and all(verdict.passed for verdict in self.verdicts)


class CaseQueue:
    """The cases that are left, for several stacks. What moves the chain's clock goes last on every stack."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self._left = in_order(cases)

    def take(self) -> Case | None:
        return self._left.pop(0) if self._left else None


class StackSweep:
    """Sweeps with one stack."""

    def __init__(self, stack: FaultStack, result: Result, *, seed: int) -> None:
        self._stack = stack
        self._result = result
        self._seed = seed
        self._records = Records(stack.mongo, stack.places.observer_url)
        self._mine: list[Verdict] = []
        self._unseen: list[Verdict] = []
        self._foreign: list[str] = []
        self._overlapping = 0
        self._told: set[str] = set()

    async def run(self, queue: CaseQueue, on_verdict: OnVerdict) -> None:
        """Take cases until none is left, and check everything in between."""
        try:
            market = await market_of(self._stack)
            self._foreign.append(await self._stack.chain.open_by_hand(market.other_bid, FOREIGN_SECONDS))
            journeyer = Journeyer(self._stack, self._records, market, seed=self._seed)
            while (case := queue.take()) is not None:
                verdict = await self._one(journeyer, case)
                self._mine.append(verdict)
                self._unseen.append(verdict)
                self._result.verdicts.append(verdict)
                if len(self._unseen) >= CASES_A_BATCH or verdict.wrong:
                    await self._check()
                on_verdict(verdict)
            await self._check()
            await self._audit()
        finally:
            await self._records.aclose()

    async def _audit(self) -> None:
        self._result.audits += 1
        if found := await operators_audit(self._stack, "--allow-foreign"):
            self._result.wrong.append(found)

    async def _one(self, journeyer: Journeyer, case: Case) -> Verdict:
        before = (await self._stack.chain.state()).most_calls_at_once
        try:
            verdict = await asyncio.wait_for(journeyer.run(case), timeout=120)
        except Exception as error:  # noqa: BLE001 - whatever breaks a case is its verdict; the sweep goes on
            verdict = Verdict(case, wrong=[f"the case broke: {error!r}"])
        after = (await self._stack.chain.state()).most_calls_at_once
        if after > max(before, 1) and not _may_overlap(case):
            self._overlapping += 1
            verdict.wrong.append(f"I7: {after} chain calls at once, which nothing in this case forces")
        return verdict

    async def _check(self) -> None:
        """Look at everything; what does not hold is told of the case it belongs to. Patient: a pass may be under way."""
        found: list[Violation] = []

        async def is_sound() -> bool:
            nonlocal found
            snapshot = await self._records.snapshot(
                await self._stack.chain.state(),
                deployment=DEPLOYMENT,
                foreign=self._foreign,
                mor_at_start=START_MOR * WEI,
                overlapping_calls=self._overlapping,
                asked={verdict.key_id: verdict.asked for verdict in self._mine if verdict.asked},
            )
            found = [item for item in check(snapshot) if item.what not in self._told]
            return not found

        await poll(is_sound, seconds=CHECK_SECONDS, every=0.5)
        self._result.snapshots += 1
        for violation in found:
            self._tell(violation)
        self._unseen.clear()

    def _tell(self, violation: Violation) -> None:
        self._told.add(violation.what)
        text = f"{violation.invariant}: {violation.what}"
        concerned = [verdict for verdict in self._mine if verdict.key_id in violation.keys]
        for verdict in concerned:
            verdict.wrong.append(text)
        if not concerned:
            since = ", ".join(verdict.case.id for verdict in self._unseen)
            self._result.wrong.append(f"{text} (found after {since or 'no case'})")


async def market_of(stack: FaultStack) -> Market:
    """What a stack's simulator offers."""
    first, second = (await stack.chain.models())[:2]
    names = (await stack.http.get("models")).json()["data"]
    name = next(row["id"] for row in names if row["blockchainID"] == first)
    return Market((await stack.chain.bids(first))[0], (await stack.chain.bids(second))[0], name)


async def operators_audit(stack: FaultStack, *options: str) -> str | None:
    """Have the operators' own tool look at a stack; return what it says if it finds a difference."""
    env = {
        **os.environ,
        "NATS_URL": stack.places.nats.url,
        "NATS_SEED": stack.places.secrets.nats_seeds[User.OPS],
    }
    command = ("-m", "morpheus_devstack", "sessions", "audit", "--json", "--apart", "1", *options)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        env=env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(process.communicate(), AUDIT_SECONDS)
    if process.returncode:
        return f"morpheus sessions audit ended with {process.returncode}: {said.decode()[-2000:]}"
    return None


def _may_overlap(case: Case) -> bool:
    """Whether two calls can run at once without a mistake of ours: one was left behind by a fault, or never answered."""
    left_behind = case.fault in {Fault.KILL, Fault.PAUSE} or case.point.hold is not None
    unanswered = case.outcome is Outcome.GHOST or case.point.twist is not Twist.NONE
    return left_behind or unanswered


async def sweep(
    cases: Sequence[Case], folder: Path, *, stacks: int, seed: int, on_verdict: OnVerdict, say: Callable[[str], None]
) -> Result:
    """Run all cases on so many stacks; their logs and data are in `folder`."""
    result = Result()
    queue = CaseQueue(cases)

    async def one(number: int) -> None:
        # one after the other: servers that start together on a busy machine all start late
        async with starting:
            started = time.monotonic()
            context = fault_stack(folder / f"stack-{number}", seed=seed + number)
            stack = await context.__aenter__()
            say(f"stack {number} is up after {time.monotonic() - started:.1f} s")
        try:
            await StackSweep(stack, result, seed=seed).run(queue, on_verdict)
        finally:
            await context.__aexit__(None, None, None)

    starting = asyncio.Lock()
    async with asyncio.TaskGroup() as group:
        for number in range(min(stacks, len(cases))):
            group.create_task(one(number))
    return result
