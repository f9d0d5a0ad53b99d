"""Strike processes and servers while a stack is in use: `python -m tests.faults.servers` (see `make faults`)."""

import argparse
import asyncio
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.faults.records import Records
from tests.faults.server_cases import (
    SERVED_SECONDS,
    SERVER_CASES,
    NotBack,
    Scene,
    ServerCase,
    Servers,
    on_stacks,
    selected,
)
from tests.faults.server_events import EventReader
from tests.faults.server_load import ServerLoad, everybody_is_served
from tests.faults.stack import GATEWAYS, FaultStack, Plan, fault_stack
from tests.faults.sweep import operators_audit
from tests.load.soundness import violations
from tests.run_folder import add_folder, in_folder

CASE_SECONDS = 400.0
RETURN_SECONDS = 10.0
"""The bar: everybody is served so soon after what was struck is back. On a busy machine it is told and not asserted."""
BEFORE, AFTER = 1, 2
"""Good answers of each actor before what was struck is struck, and after it is back."""
KEPT = 12
SETTINGS = {
    # waits as in production, since it is they that are looked at
    "LEASE_SECONDS": 15.0,
    "RELAY_SILENCE": 15.0,
    "QUARANTINE": 600.0,
    "MONGO_TIMEOUT_MS": 5_000,
    "DRAIN_SECONDS": 10.0,
    "LOG_LEVEL": "INFO",
}


@dataclass
class ServerVerdict:
    """How a case went. Seconds; `silence`: the longest that somebody was without a good answer. `back`: until everybody had
    one after what was struck was back.
    """

    case: ServerCase
    requests: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    silence: float = 0.0
    back: float | None = None
    slowest: str = ""
    lost: int = 0
    doubled: int = 0
    repeats: int = 0
    violations: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.wrong


class ServerRun:
    """One stack, and the cases that are run on it one after the other."""

    def __init__(self, stack: FaultStack, *, bars: bool) -> None:
        self._stack = stack
        self._bars = bars
        self._records = Records(stack.mongo, stack.places.observer_url)
        self._reader = EventReader(stack)
        self._killed = False

    async def run(
        self, cases: Sequence[ServerCase], on_verdict: Callable[[ServerVerdict], None]
    ) -> list[ServerVerdict]:
        """Run the cases; what does not hold at the end is told of the last."""
        verdicts = []
        load = await ServerLoad.of(self._stack)
        try:
            await self._reader.start()
            for case in cases:
                verdict = ServerVerdict(case)
                started = time.monotonic()
                try:
                    async with asyncio.timeout(CASE_SECONDS):
                        await self._one(case, load, verdict)
                except Exception as error:  # noqa: BLE001 - whatever breaks a case is its verdict; the others go on
                    verdict.wrong.append(f"the case broke: {error!r}")
                    await self._stack.revive()
                if case is cases[-1] and (found := await operators_audit(self._stack)):
                    verdict.violations += 1
                    verdict.wrong.append(found)
                verdict.seconds = time.monotonic() - started
                verdicts.append(verdict)
                on_verdict(verdict)
        finally:
            await self._reader.stop()
            await load.aclose()
            await self._records.aclose()
        return verdicts

    async def _one(self, case: ServerCase, load: ServerLoad, verdict: ServerVerdict) -> None:
        scene, ledger = Scene(self._stack, load), load.ledger
        first, wrong_before = len(ledger.outcomes), len(ledger.wrong)
        working = asyncio.create_task(load.run())
        try:
            await self._strike(case, scene, verdict, working)
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            await self._stack.revive()
        mine = ledger.outcomes[first:]
        with (self._stack.folder / "logs" / "outcomes.jsonl").open("a") as told:
            told.writelines(json.dumps({"case": case.id, **outcome._asdict()}) + "\n" for outcome in mine)
        verdict.requests = len(mine)
        verdict.refused = Counter(outcome.told for outcome in mine if not outcome.good)
        verdict.wrong += ledger.wrong[wrong_before:]
        ledger.stricken = frozenset()
        await scene.until_joined()
        await self._look(load, verdict)

    async def _strike(
        self, case: ServerCase, scene: Scene, verdict: ServerVerdict, working: "asyncio.Task[None]"
    ) -> None:
        load = scene.load

        async def struck() -> None:
            if not await everybody_is_served(load, time.monotonic(), times=BEFORE, seconds=SERVED_SECONDS):
                raise NotBack("not everybody was served before anything was struck")
            at = time.monotonic()
            back = await case.strike(scene)
            if not await everybody_is_served(load, back, times=AFTER, seconds=SERVED_SECONDS):
                good = load.ledger.good_since(back)
                left = [actor for actor in load.actors if good[actor] < AFTER]
                verdict.wrong.append(f"not served {SERVED_SECONDS:.0f} s after the return: {', '.join(left)}")
            self._measure(load, verdict, at, back)

        striking = asyncio.create_task(struck())
        await asyncio.wait({striking, working}, return_when=asyncio.FIRST_COMPLETED)
        if not striking.done():
            striking.cancel()
            await asyncio.gather(striking, return_exceptions=True)
            # somebody at work met what nobody had thought of
            working.result()
        striking.result()

    def _measure(self, load: ServerLoad, verdict: ServerVerdict, at: float, back: float) -> None:
        first = load.ledger.first_good(back)
        if first:
            verdict.slowest = max(first, key=lambda actor: first[actor])
            verdict.back = first[verdict.slowest]
        for actor in load.actors:
            last = at
            for outcome in load.ledger.outcomes:
                if outcome.actor == actor and outcome.good and outcome.ended >= at:
                    verdict.silence = max(verdict.silence, outcome.ended - last)
                    last = outcome.ended
        if self._bars and (verdict.back is None or verdict.back > RETURN_SECONDS):
            verdict.wrong.append(f"{verdict.slowest} was served {verdict.back} s after the return")

    async def _look(self, load: ServerLoad, verdict: ServerVerdict) -> None:
        """Hold everything against what was confirmed."""
        missing = await load.missing()
        self._killed = self._killed or "sessions" in verdict.case.id or verdict.case.id == "power"
        found = await violations(self._stack, self._records, killed=self._killed, asked=load.ledger.asked)
        reading = await self._reader.compared()
        verdict.lost = len(missing) + len(reading.lost)
        verdict.doubled = len(reading.doubled) + sum("double stake" in text for text in found)
        verdict.repeats = reading.repeats
        verdict.violations = len(found)
        verdict.wrong += [*missing, *found, *reading.wrong]


def plan(servers: Servers) -> Plan:
    """What is struck: two gateways and two session workers, one of each other service."""
    return Plan(gateways=GATEWAYS, settings=SETTINGS, struck=False, clustered=servers is Servers.THREE)


async def strike(
    cases: Sequence[ServerCase],
    folder: Path,
    *,
    seed: int,
    bars: bool,
    on_verdict: Callable[[ServerVerdict], None],
    say: Callable[[str], None],
) -> list[ServerVerdict]:
    """Run the cases, on a stack with one server of each kind and on one with three."""
    verdicts: list[ServerVerdict] = []
    for servers, mine in on_stacks(cases).items():
        started = time.monotonic()
        async with fault_stack(folder / servers, seed=seed, plan=plan(servers)) as stack:
            say(f"a stack with {servers} of each server is up after {time.monotonic() - started:.1f} s")
            verdicts += await ServerRun(stack, bars=bars).run(mine, on_verdict)
    return verdicts


def mark(verdict: ServerVerdict) -> str:
    return "[green]pass[/]" if verdict.passed else "[red]FAIL[/]"


def table(verdicts: Sequence[ServerVerdict]) -> Table:
    """A line for each case."""
    shown = Table(title="Servers struck under load", title_justify="left")
    for name in ("case", ""):
        shown.add_column(name)
    for name in ("requests", "refused", "longest silence", "back after", "lost", "doubled", "violations"):
        shown.add_column(name, justify="right")
    shown.add_column("")
    for verdict in verdicts:
        back = "–" if verdict.back is None else f"{verdict.back:.1f} s"
        shown.add_row(
            verdict.case.id,
            verdict.case.title,
            str(verdict.requests),
            str(verdict.refused.total()),
            f"{verdict.silence:.1f} s",
            back,
            str(verdict.lost),
            str(verdict.doubled),
            str(verdict.violations),
            mark(verdict),
        )
    return shown


def line(verdict: ServerVerdict, done: int, of: int) -> str:
    """One case in one line."""
    told = ", ".join(f"{count} × {code}" for code, count in verdict.refused.most_common())
    back = "never" if verdict.back is None else f"{verdict.back:.1f} s ({verdict.slowest})"
    return (
        f"{done:3}/{of} {mark(verdict)} {verdict.case.id:20} {verdict.seconds:5.1f} s  {verdict.requests} requests, "
        f"silence {verdict.silence:.1f} s, back after {back}, {verdict.repeats} repeated events; {told or 'none refused'}"
    )


def parser() -> argparse.ArgumentParser:
    commands = argparse.ArgumentParser(prog="python -m tests.faults.servers", description=__doc__)
    add = commands.add_argument
    add("--select", choices=("short", "pairs", "full"), default="full", help="short: a few cases; else all")
    add("--case", action="append", default=[], metavar="ID", help="run this case only; may be repeated")
    add(
        "--bars",
        action="store_true",
        help="fail when somebody is served too late; for a machine with nothing else to do",
    )
    add("--seed", type=int, default=1, help="decides what the provider says (default 1)")
    add("--list", action="store_true", help="show the cases and run nothing")
    add_folder(commands)
    return commands


def main() -> int:
    options = parser().parse_args()
    cases = selected(options.select, options.case)
    console = Console(width=None if sys.stdout.isatty() else 200)
    # our own connections to what is struck break too, and say so
    logging.getLogger("nats.aio.client").setLevel(logging.CRITICAL)
    if options.list:
        for case in SERVER_CASES:
            console.print(f"{case.id:22} {case.title}", highlight=False)
        return 0

    def run(folder: Path) -> bool:
        done = 0

        def on_verdict(verdict: ServerVerdict) -> None:
            nonlocal done
            done += 1
            console.print(line(verdict, done, len(cases)), highlight=False)
            for text in verdict.wrong[:KEPT]:
                console.print(f"         {text}", markup=False, highlight=False, style="dim")

        started = time.monotonic()
        console.print(f"{len(cases)} cases of servers, seed {options.seed}, logs in {folder}", highlight=False)
        verdicts = asyncio.run(
            strike(cases, folder, seed=options.seed, bars=options.bars, on_verdict=on_verdict, say=console.print)
        )
        console.print(table(verdicts))
        failed = [verdict for verdict in verdicts if not verdict.passed]
        for verdict in failed:
            console.print(f"again: python -m tests.faults.servers --case {verdict.case.id}", highlight=False)
        passed = not failed and len(verdicts) == len(cases)
        console.print(
            f"faults of servers: {len(verdicts)} cases, {'passed' if passed else f'{len(failed)} FAILED'}; "
            f"{time.monotonic() - started:.0f} s" + ("" if passed else f"; logs in {folder}"),
            highlight=False,
        )
        return passed

    return in_folder(options.folder, "faults-servers-", run)


if __name__ == "__main__":
    sys.exit(main())
