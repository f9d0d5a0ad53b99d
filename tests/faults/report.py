"""The table at the end of a sweep, and the lines on the way."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.faults.cases import LEGEND, NOT_SWEPT, POINTS, Fault, Outcome, Wish
from tests.faults.journeys import Verdict
from tests.faults.sweep import Result

COLUMNS: tuple[Fault | Outcome | Wish, ...] = (*Fault, *Outcome, *Wish)


def line(verdict: Verdict, done: int, of: int) -> str:
    """One case in one line."""
    return f"{done:4}/{of} {mark(verdict)} {verdict.case.id:32} {verdict.seconds:5.1f} s"


def mark(verdict: Verdict) -> str:
    if verdict.passed:
        return "[green]pass[/]"
    if verdict.wrong:
        return "[red]FAIL[/]"
    return "[yellow]not reached[/]" if not verdict.reached else "[yellow]not struck[/]"


def _cell(verdicts: Sequence[Verdict]) -> str:
    if not verdicts:
        return "·"
    failed = sum(not verdict.passed for verdict in verdicts)
    return f"[red]{failed} of {len(verdicts)}[/]" if failed else str(len(verdicts))


def table(verdicts: Iterable[Verdict]) -> Table:
    """Points down; cases with each fault, outcome and wish across, failures in red."""
    by_point: defaultdict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        by_point[verdict.case.point.number].append(verdict)
    shown = Table(title="Crash points swept: cases, and failures among them", title_justify="left")
    shown.add_column("point")
    shown.add_column("")
    for column in COLUMNS:
        shown.add_column(column, justify="right")
    shown.add_column("s/case", justify="right")
    shown.add_column("")
    for point in POINTS:
        mine = by_point[point.number]
        if not mine:
            continue
        cells = [
            _cell([v for v in mine if column in {v.case.fault, v.case.outcome, v.case.wish}])
            if column not in point.cannot
            else "–"
            for column in COLUMNS
        ]
        passed = all(verdict.passed for verdict in mine)
        seconds = sum(verdict.seconds for verdict in mine) / len(mine)
        shown.add_row(
            point.number, point.title, *cells, f"{seconds:.1f}", "[green]pass[/]" if passed else "[red]FAIL[/]"
        )
    return shown


def conclude(result: Result, console: Console, *, seconds: float, seed: int, folder: Path) -> None:
    """Print the table, what failed with all that is needed to run it again, and one closing line."""
    console.print(table(result.verdicts))
    console.print("· not in this selection   – cannot be: " + "; ".join(_impossible()), highlight=False)
    console.print(", ".join(f"{name}: {text}" for name, text in LEGEND.items()), highlight=False)
    failed = [verdict for verdict in result.verdicts if not verdict.passed]
    for verdict in failed:
        console.print(f"\n{mark(verdict)} {verdict.case.id} (key {verdict.key_id})", highlight=False)
        for text in verdict.wrong:
            console.print(f"  {text}", markup=False, highlight=False)
        for text in verdict.notes:
            console.print(f"    {text}", style="dim", markup=False, highlight=False)
        console.print(f"  again: python -m tests.faults --seed {seed} --case {verdict.case.id}", highlight=False)
    for text in result.wrong:
        console.print(f"\n[red]FAIL[/] {text}", highlight=False)
    for number, reason in NOT_SWEPT.items():
        console.print(f"{number} is not swept: {reason}", highlight=False)
    doubles = sum("double stake" in text for v in result.verdicts for text in v.wrong) + sum(
        "double stake" in text for text in result.wrong
    )
    verdict_word = "passed" if result.passed else f"{len(failed)} FAILED"
    points = len({verdict.case.point.number for verdict in result.verdicts})
    console.print(
        f"\nfaults: {len(result.verdicts)} cases at {points} points, {verdict_word}; {doubles} double stakes; "
        f"{result.snapshots} checks of all invariants, {result.audits} audits; {seconds:.0f} s; seed {seed}"
        + ("" if result.passed else f"; logs in {folder}"),
        highlight=False,
    )


def _impossible() -> list[str]:
    reasons: defaultdict[str, list[str]] = defaultdict(list)
    for point in POINTS:
        for part, reason in point.cannot.items():
            reasons[reason].append(f"{point.number}/{part}")
    return [f"{reason} ({', '.join(where)})" for reason, where in reasons.items()]
