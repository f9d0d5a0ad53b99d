"""Strike every crash point of opening and closing: `python -m tests.faults` (see `make faults`)."""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from tests.faults.cases import Case, by_id, every_case, pairwise, short
from tests.faults.journeys import Verdict
from tests.faults.report import conclude, line
from tests.faults.sweep import sweep
from tests.run_folder import add_folder, in_folder


def full(cases: Sequence[Case], _seed: int) -> list[Case]:
    """Everything."""
    return list(cases)


SELECTIONS = {"short": short, "pairs": pairwise, "full": full}


def parser() -> argparse.ArgumentParser:
    commands = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    add = commands.add_argument
    add("--select", choices=SELECTIONS, default="pairs", help="short: one case a point; pairs: every two of point, "
        "fault, outcome and wish meet; full: the whole product")  # fmt: skip
    add("--case", action="append", default=[], metavar="ID", help="run this case only; may be repeated")
    add("--points", default="", help="run only these points of the selection, separated by commas")
    add("--stacks", type=int, default=2, help="stacks side by side (default 2)")
    add("--seed", type=int, default=1, help="decides the selection and the details of each case (default 1)")
    add_folder(commands)
    add("--list", action="store_true", help="show the selection and run nothing")
    return commands


def chosen(options: argparse.Namespace) -> list[Case]:
    """The cases that were asked for."""
    if options.case:
        return [by_id(identifier) for identifier in options.case]
    points = set(filter(None, options.points.split(",")))
    cases = SELECTIONS[options.select](every_case(), options.seed)
    return [case for case in cases if not points or case.point.number in points]


def main() -> int:
    options = parser().parse_args()
    cases = chosen(options)
    console = Console(width=None if sys.stdout.isatty() else 200)
    if options.list:
        console.print("\n".join(case.id for case in cases), highlight=False)
        return 0

    def strike(folder: Path) -> bool:
        done = 0

        def on_verdict(verdict: Verdict) -> None:
            nonlocal done
            done += 1
            console.print(line(verdict, done, len(cases)), highlight=False)
            for text in () if verdict.passed else (*verdict.wrong, *verdict.notes):
                console.print(f"         {text}", markup=False, highlight=False, style="dim")

        started = time.monotonic()
        console.print(f"{len(cases)} cases, seed {options.seed}, logs in {folder}", highlight=False)
        result = asyncio.run(
            sweep(cases, folder, stacks=options.stacks, seed=options.seed, on_verdict=on_verdict, say=console.print)
        )
        conclude(result, console, seconds=time.monotonic() - started, seed=options.seed, folder=folder)
        return result.passed

    return in_folder(options.folder, "faults-", strike)


if __name__ == "__main__":
    sys.exit(main())
