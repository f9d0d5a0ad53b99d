"""Send canaries while parts fail: `python -m tests.load` (see `make canary`)."""

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from tests.faults.records import Records
from tests.faults.stack import GATEWAYS, FaultStack, Plan, fault_stack
from tests.load.canary import Caller, Canaries, Tally
from tests.load.judging import simulated
from tests.load.soundness import unsound
from tests.load.tenants import callers
from tests.load.trouble import Trouble
from tests.run_folder import add_folder, in_folder

TELL_SECONDS = 10.0
"""How often a log that is no terminal is told how far it is."""


def parser() -> argparse.ArgumentParser:
    commands = argparse.ArgumentParser(prog="python -m tests.load", description=__doc__)
    add = commands.add_argument
    add("--requests", type=int, default=100_000, help="prompts in all (default 100000)")
    add("--keys", type=int, default=64, help="API keys, each of a user of its own (default 64)")
    add("--at-once", type=int, default=2, help="prompts of each key under way (default 2)")
    add("--kill-every", type=float, default=30.0, help="seconds between two kills of a worker; 0: none (default 30)")
    add("--seed", type=int, default=1, help="decides prompts, clients and faults (default 1)")
    add_folder(commands)
    return commands


@asynccontextmanager
async def shown(console: Console, requests: int, tally: Tally) -> AsyncIterator[None]:
    """Show how far it is: a bar on a terminal, a line now and then elsewhere."""
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[told]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=requests, told="")
        started = told_at = time.monotonic()

        def show() -> None:
            nonlocal told_at
            now = time.monotonic()
            rate = tally.done / (now - started)
            progress.update(bar, completed=tally.done, told=f"{rate:.0f}/s, {tally.foreign} foreign bytes")
            if not console.is_terminal and now - told_at >= TELL_SECONDS:
                told_at = now
                left = (requests - tally.done) / rate if rate else float("inf")
                console.print(
                    f"{tally.done}/{requests}  {rate:.0f}/s  {tally.foreign} foreign bytes  {tally.wrongs} wrong  "
                    f"{left:.0f} s left",
                    highlight=False,
                )

        async def watch() -> None:
            while True:
                show()
                await asyncio.sleep(0.5)

        watching = asyncio.create_task(watch())
        try:
            yield
        finally:
            watching.cancel()
            show()


async def under_fire(stack: FaultStack, canaries: Canaries, trouble: Trouble, console: Console) -> None:
    """Send all canaries while trouble is made."""
    making = asyncio.create_task(trouble.run())
    try:
        async with shown(console, canaries.requests, canaries.tally):
            sending = asyncio.create_task(canaries.run())
            await asyncio.wait({sending, making}, return_when=asyncio.FIRST_COMPLETED)
            if making.done():
                sending.cancel()
                making.result()
            await sending
    finally:
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)
        await stack.revive()
        await stack.chain.disarm()


def summary(tally: Tally, trouble: Trouble, seconds: float) -> Table:
    """What came of it."""
    table = Table(title="Canaries", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, count in (
        *tally.modes.most_common(),
        *((f"ended: {ending}", count) for ending, count in tally.endings.most_common()),
        *((f"  {code}", count) for code, count in tally.codes.most_common()),
        *trouble.made.most_common(),
    ):
        table.add_row(name, f"{count:,}")
    table.add_section()
    table.add_row("requests a second", f"{tally.done / seconds:.0f}")
    table.add_row("slowest answer", f"{tally.slowest:.1f} s")
    table.add_row("not as it must be", f"{tally.wrongs:,}")
    table.add_row("foreign bytes", f"{tally.foreign:,}")
    return table


async def run(options: argparse.Namespace, console: Console, folder: Path) -> bool:
    """Return whether all is as it must be."""
    plan = Plan(gateways=GATEWAYS, settings={"LOG_LEVEL": "WARNING"}, answer_seconds=0.0, struck=False)
    async with fault_stack(folder / "stack", seed=options.seed, plan=plan) as stack:
        made: list[Caller] = await callers(stack, options.keys)
        console.print(f"{options.requests:,} prompts of {len(made)} keys, seed {options.seed}, logs in {folder}")
        canaries = Canaries(
            made,
            list(stack.gateway_ports.values()),
            simulated(options.seed),
            requests=options.requests,
            at_once=options.at_once,
            seed=options.seed,
        )
        trouble = Trouble(stack, kill_every=options.kill_every or None, seed=options.seed)
        started = time.monotonic()
        await under_fire(stack, canaries, trouble, console)
        seconds = time.monotonic() - started
        records = Records(stack.mongo, stack.places.observer_url)
        try:
            wrong = await unsound(stack, records, killed=bool(trouble.made["workers killed"]))
        finally:
            await records.aclose()
    tally = canaries.tally
    console.print(summary(tally, trouble, seconds))
    for text in (*tally.wrong, *wrong):
        console.print(f"FAIL {text}", markup=False, highlight=False)
    passed = not wrong and not tally.wrongs and not tally.foreign and tally.done == options.requests
    console.print(
        f"canary: {tally.done:,} answers, {tally.foreign} foreign bytes, {tally.wrongs} wrong; invariants and audit "
        f"{'hold' if not wrong else 'FAIL'}; {seconds:.0f} s; seed {options.seed}"
        + ("" if passed else f"; logs in {folder}"),
        highlight=False,
    )
    return passed


def main() -> int:
    options = parser().parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120)
    return in_folder(options.folder, "canary-", lambda folder: asyncio.run(run(options, console, folder)))


if __name__ == "__main__":
    sys.exit(main())
