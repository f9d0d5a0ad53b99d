"""Measure what design and documentation promise: `python -m benchmarks` (see `make bench`)."""

import argparse
import asyncio
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from benchmarks.findings import Outcome
from benchmarks.lab import DEFAULT, FULL, SHORT, Form, Lab, lab
from benchmarks.machine import described
from benchmarks.measures import callers, catalogue, database, gaps, latency, memory, opening, start, throughput
from benchmarks.programs import ROOT
from benchmarks.report import Run, summary, write

Measure = Callable[[Lab], Awaitable[Outcome]]
Sessions = Callable[[Form], int]


def _always(count: int) -> Sessions:
    return lambda _: count


MEASURES: dict[str, tuple[Sessions, Measure]] = {
    "latency": (_always(latency.SESSIONS), latency.measure_json),
    "first_byte": (_always(latency.SESSIONS), latency.measure_first_byte),
    "requests": (_always(throughput.CALLERS), throughput.measure_requests),
    "chunks": (_always(throughput.STREAMS), throughput.measure_chunks),
    "gaps": (_always(gaps.STREAMS), gaps.measure),
    "models": (_always(0), catalogue.measure),
    "callers": (_always(callers.KEYS), callers.measure),
    "opening": (_always(0), opening.measure),
    "start": (_always(0), start.measure),
    "slow_streams": (lambda form: form.slow_streams, memory.measure_slow_streams),
    "memory": (_always(memory.MIXED_CALLERS), memory.measure_slope),
    # last, since it restarts a worker
    "database": (_always(database.CALLERS), database.measure),
}
"""By name: how many keys with a session it needs, and what does it. In this order: hundreds of open sessions cost something
by themselves, so that most is measured before them.
"""
REPORT = ROOT / "docs" / "benchmarks.md"
WORK = ROOT / "benchmarks" / ".work"
FORMS = {form.name: form for form in (DEFAULT, FULL, SHORT)}


def parser() -> argparse.ArgumentParser:
    commands = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = commands.add_argument
    add("--form", choices=FORMS, default=DEFAULT.name, help="short: proves that every figure comes out; full: longer")
    add("--only", default="", help=f"measure only these, separated by commas: {', '.join(MEASURES)}")
    add("--rounds", type=int, help="so many rounds instead of the form's")
    add("--peers", help="only these peers, separated by commas (empty: none)")
    add("--morpheus", type=Path, default=Path(sys.executable).with_name("morpheus"),
        help="the command that starts our stack: that of another checkout measures that one")  # fmt: skip
    add("--render", type=Path, metavar="FILE", help="measure nothing: write the report of this results.json anew")
    add("--no-report", action="store_true", help="print the figures and leave docs/benchmarks.md as it is")
    return commands


def form_of(options: argparse.Namespace) -> Form:
    """The form that was asked for."""
    form = FORMS[options.form]
    if options.rounds is not None:
        form = replace(form, rounds=options.rounds)
    if options.peers is not None:
        form = replace(form, peers=tuple(filter(None, options.peers.split(","))))
    return form


async def measured(here: Lab, names: list[str], say: Callable[[str], None]) -> tuple[dict[str, Outcome], list[str]]:
    """Make the measurements one after the other; return what they found, and which of them failed."""
    found, failed = {}, []
    for number, name in enumerate(names, 1):
        needs, measure = MEASURES[name]
        say(f"[{number}/{len(names)}] {name}")
        try:
            if len(here.ours.callers) < (sessions := needs(here.form)):
                say(f"opening sessions for {sessions} keys")
                await here.ours.open_sessions(sessions)
            found[name] = await measure(here)
        except Exception as error:  # noqa: BLE001 - the outermost loop: the other figures are worth having
            failed.append(name)
            say(f"  FAILED: {''.join(traceback.format_exception(error))}")
            continue
        for finding in found[name].findings:
            say(f"  {finding.verdict}: {finding.figure}: {finding.value}; bar {finding.bar}. {finding.note}")
    return found, failed


def main() -> int:
    commands = parser()
    options = commands.parse_args()
    if options.render is not None:
        write(REPORT, Run.from_json(options.render.read_text()))
        return 0
    names = list(filter(None, options.only.split(","))) or list(MEASURES)
    if unknown := set(names) - set(MEASURES):
        commands.error(
            f"nothing is measured by the name of {', '.join(sorted(unknown))}; there are {', '.join(MEASURES)}"
        )
    console = Console(highlight=False, soft_wrap=True)
    began = time.monotonic()

    def say(sentence: str) -> None:
        console.print(f"{time.monotonic() - began:6.1f} s  {sentence}", markup=False)

    now = datetime.now(UTC)
    folder = WORK / now.strftime("%Y%m%d-%H%M%S")
    folder.mkdir(parents=True)
    form, machine = form_of(options), described()
    with lab(form, folder, options.morpheus.absolute(), say) as here:
        found, failed = asyncio.run(measured(here, [name for name in MEASURES if name in names], say))
        missing = {**here.missing, **dict.fromkeys(failed, "it failed; the log of the run says why")}
    run = Run(form.name, form.rounds, now.strftime("%d %B %Y"), machine, missing, found)
    (folder / "results.json").write_text(run.to_json())
    say(f"{summary(run.findings)} Rounds and logs are in {folder}")
    if not options.no_report and form.name != SHORT.name and len(names) == len(MEASURES):
        write(REPORT, run)
        say(f"written: {REPORT.relative_to(ROOT)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
