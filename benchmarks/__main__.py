"""Measure what design and documentation promise: `python -m benchmarks` (see `make bench`)."""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from benchmarks.findings import Outcome
from benchmarks.lab import DEFAULT, FULL, SHORT, Form, Lab, lab
from benchmarks.measures import callers, catalogue, database, gaps, latency, memory, opening, start, throughput
from benchmarks.programs import ROOT

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
    add("--no-report", action="store_true", help="print the figures and leave docs/benchmarks.md as it is")
    return commands


def form_of(options: argparse.Namespace) -> Form:
    """The form that was asked for."""
    from dataclasses import replace

    form = FORMS[options.form]
    if options.rounds is not None:
        form = replace(form, rounds=options.rounds)
    if options.peers is not None:
        form = replace(form, peers=tuple(filter(None, options.peers.split(","))))
    return form


async def measured(here: Lab, names: list[str], say: Callable[[str], None]) -> dict[str, Outcome]:
    found = {}
    for number, name in enumerate(names, 1):
        needs, measure = MEASURES[name]
        sessions = needs(here.form)
        say(f"[{number}/{len(names)}] {name}")
        if len(here.ours.callers) < sessions:
            say(f"opening sessions for {sessions} keys")
            await here.ours.open_sessions(sessions)
        found[name] = await measure(here)
        for finding in found[name].findings:
            say(f"  {finding.verdict}: {finding.figure}: {finding.value}, bar {finding.bar} {finding.note}")
    return found


def main() -> int:
    options = parser().parse_args()
    console = Console(highlight=False, soft_wrap=True)
    began = time.monotonic()

    def say(sentence: str) -> None:
        console.print(f"{time.monotonic() - began:6.1f} s  {sentence}", markup=False)

    names = [name for name in MEASURES if not options.only or name in options.only.split(",")]
    folder = WORK / datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    folder.mkdir(parents=True)
    with lab(form_of(options), folder, options.morpheus.absolute(), say) as here:
        found = asyncio.run(measured(here, names, say))
    results = {name: outcome.as_json() for name, outcome in found.items()}
    (folder / "results.json").write_text(json.dumps(results, indent=1))
    say(f"results and logs are in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
