"""Strike a prompt at every moment of its way: `python -m tests.faults.chat` (see `make faults`)."""

import argparse
import asyncio
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.faults.cases import Fault
from tests.faults.chat_cases import CHAT_POINTS, ChatCase, chat_case, every_chat_case, short_chat
from tests.faults.chat_journeys import ChatJourneyer, ChatVerdict
from tests.faults.records import Records
from tests.faults.stack import GATEWAYS, FaultStack, Plan, fault_stack
from tests.faults.sweep import market_of
from tests.load.soundness import unsound
from tests.run_folder import add_folder, in_folder

CASE_SECONDS = 180.0
PLAN = Plan(gateways=GATEWAYS)


@dataclass
class Result:
    """What a sweep found. `wrong`: what does not hold and belongs to no case."""

    verdicts: list[ChatVerdict] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    checks: int = 0

    @property
    def passed(self) -> bool:
        return not self.wrong and all(verdict.passed for verdict in self.verdicts)


async def sweep(
    cases: Sequence[ChatCase], folder: Path, *, stacks: int, seed: int, on_verdict: Callable[[ChatVerdict], None]
) -> Result:
    """Run all cases on so many stacks; their logs and data are in `folder`."""
    result = Result()
    left = list(cases)
    starting = asyncio.Lock()

    async def take_cases(stack: FaultStack) -> None:
        records = Records(stack.mongo, stack.places.observer_url)
        try:
            journeyer = ChatJourneyer(stack, records, await market_of(stack), seed=seed)
            while left:
                case = left.pop(0)
                verdict = await _one(journeyer, case)
                result.verdicts.append(verdict)
                on_verdict(verdict)
            result.wrong += await unsound(stack, records, killed=False)
            result.checks += 1
        finally:
            await records.aclose()

    async def one(number: int) -> None:
        # one after the other: servers that start together on a busy machine all start late
        async with starting:
            context = fault_stack(folder / f"stack-{number}", seed=seed + number, plan=PLAN)
            stack = await context.__aenter__()
        try:
            await take_cases(stack)
        finally:
            await context.__aexit__(None, None, None)

    async with asyncio.TaskGroup() as group:
        for number in range(min(stacks, len(cases))):
            group.create_task(one(number))
    return result


async def _one(journeyer: ChatJourneyer, case: ChatCase) -> ChatVerdict:
    try:
        return await asyncio.wait_for(journeyer.run(case), timeout=CASE_SECONDS)
    except Exception as error:  # noqa: BLE001 - whatever breaks a case is its verdict; the sweep goes on
        return ChatVerdict(case, wrong=[f"the case broke: {error!r}"])


def mark(verdict: ChatVerdict) -> str:
    if verdict.passed:
        return "[green]pass[/]"
    if verdict.wrong:
        return "[red]FAIL[/]"
    return "[yellow]not reached[/]" if not verdict.reached else "[yellow]not struck[/]"


def table(verdicts: Sequence[ChatVerdict]) -> Table:
    """Points down, faults across; what the client was told, and how often the provider got the prompt."""
    by_case: defaultdict[tuple[str, Fault], list[ChatVerdict]] = defaultdict(list)
    for verdict in verdicts:
        by_case[verdict.case.point.number, verdict.case.fault].append(verdict)
    shown = Table(title="Prompts struck: what the client was told, times the provider was asked", title_justify="left")
    shown.add_column("point")
    shown.add_column("")
    for fault in Fault:
        shown.add_column(fault)
    for point in CHAT_POINTS:
        cells = []
        for fault in Fault:
            own = by_case[point.number, fault]
            told = [f"{verdict.told} ×{verdict.sent}" if verdict.passed else mark(verdict) for verdict in own]
            cells.append(", ".join(told) or ("–" if fault in point.cannot else "·"))
        shown.add_row(point.number, point.title, *cells)
    return shown


def conclude(result: Result, console: Console, *, seconds: float, seed: int, folder: Path) -> None:
    """Print the table, what failed with all that is needed to run it again, and one closing line."""
    console.print(table(result.verdicts))
    console.print("· not in this selection   – cannot be", highlight=False)
    failed = [verdict for verdict in result.verdicts if not verdict.passed]
    for verdict in failed:
        console.print(f"\n{mark(verdict)} {verdict.case.id} (key {verdict.key_id})", highlight=False)
        for text in (*verdict.wrong, *verdict.notes):
            console.print(f"  {text}", markup=False, highlight=False)
        console.print(f"  again: python -m tests.faults.chat --seed {seed} --case {verdict.case.id}", highlight=False)
    for text in result.wrong:
        console.print(f"FAIL {text}", markup=False, highlight=False)
    console.print(
        f"\nfaults of prompts: {len(result.verdicts)} cases, {'passed' if result.passed else f'{len(failed)} FAILED'}; "
        f"{result.checks} checks of all invariants and audits; {seconds:.0f} s; seed {seed}"
        + ("" if result.passed else f"; logs in {folder}"),
        highlight=False,
    )


def parser() -> argparse.ArgumentParser:
    commands = argparse.ArgumentParser(prog="python -m tests.faults.chat", description=__doc__)
    add = commands.add_argument
    add("--select", choices=("short", "pairs", "full"), default="full", help="short: one case a point; else all")
    add("--case", action="append", default=[], metavar="ID", help="run this case only; may be repeated")
    add("--stacks", type=int, default=2, help="stacks side by side (default 2)")
    add("--seed", type=int, default=1, help="decides the selection and the details of each case (default 1)")
    add_folder(commands)
    return commands


def main() -> int:
    options = parser().parse_args()
    cases = every_chat_case()
    if options.case:
        cases = [chat_case(identifier) for identifier in options.case]
    elif options.select == "short":
        cases = short_chat(cases, options.seed)
    console = Console(width=None if sys.stdout.isatty() else 200)

    def strike(folder: Path) -> bool:
        done = 0

        def on_verdict(verdict: ChatVerdict) -> None:
            nonlocal done
            done += 1
            told = f"{verdict.told} ×{verdict.sent}"
            console.print(
                f"{done:4}/{len(cases)} {mark(verdict)} {verdict.case.id:12} {verdict.seconds:5.1f} s  {told}",
                highlight=False,
            )
            for text in () if verdict.passed else (*verdict.wrong, *verdict.notes):
                console.print(f"         {text}", markup=False, highlight=False, style="dim")

        started = time.monotonic()
        console.print(f"{len(cases)} cases of prompts, seed {options.seed}, logs in {folder}", highlight=False)
        result = asyncio.run(sweep(cases, folder, stacks=options.stacks, seed=options.seed, on_verdict=on_verdict))
        conclude(result, console, seconds=time.monotonic() - started, seed=options.seed, folder=folder)
        return result.passed

    return in_folder(options.folder, "faults-chat-", strike)


if __name__ == "__main__":
    sys.exit(main())
