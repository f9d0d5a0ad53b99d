"""`docs/benchmarks.md` and its charts."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from benchmarks.charts import bars
from benchmarks.figures import median
from benchmarks.findings import Finding, Outcome, Verdict
from benchmarks.held_back import HELD_BACK, UNKNOWN

CHARTS = "images"
"""Beside the report."""


@dataclass(frozen=True)
class Run:
    """One run of the benchmarks. `when`: the day; `missing`: why a peer or a measurement is not there."""

    form: str
    rounds: int
    when: str
    machine: Mapping[str, str]
    missing: Mapping[str, str]
    outcomes: Mapping[str, Outcome]

    @property
    def findings(self) -> list[Finding]:
        """All that was found, in the order in which it was measured."""
        return [finding for outcome in self.outcomes.values() for finding in outcome.findings]

    def to_json(self) -> str:
        """Return it as text that `from_json` reads."""
        outcomes = {
            name: {"findings": [asdict(finding) for finding in outcome.findings], "raw": outcome.raw}
            for name, outcome in self.outcomes.items()
        }
        return json.dumps({**vars(self), "outcomes": outcomes}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a run that was kept."""
        kept = json.loads(text)
        outcomes = {
            name: Outcome(
                [Finding(**{**found, "verdict": Verdict(found["verdict"])}) for found in outcome["findings"]],
                outcome["raw"],
            )
            for name, outcome in kept.pop("outcomes").items()
        }
        return cls(**kept, outcomes=outcomes)


def write(report: Path, run: Run) -> None:
    """Write the report of a run, and the charts that its outcomes allow."""
    report.parent.mkdir(parents=True, exist_ok=True)
    shown = []
    for name, (title, unit, values) in _charts(run.outcomes).items():
        file = report.parent / CHARTS / f"benchmark-{name}.svg"
        file.parent.mkdir(exist_ok=True)
        file.write_text(bars(title, values, unit=unit))
        shown.append(f"![{title}]({CHARTS}/{file.name})")
    report.write_text(
        _TEXT.format(
            summary=summary(run.findings),
            table=table(run.findings),
            charts="\n\n".join(shown),
            notes=_notes(run.outcomes),
            machine="\n".join(f"| {name} | {value} |" for name, value in run.machine.items()),
            missing="".join(f"\n- **{name} was not measured**: {_cell(why)}" for name, why in run.missing.items()),
            form=run.form,
            rounds=run.rounds,
            when=run.when,
        )
    )


def summary(findings: list[Finding]) -> str:
    """Return one sentence: how many bars are met, missed and not judged."""
    count = {verdict: sum(finding.verdict is verdict for finding in findings) for verdict in Verdict}
    missed, open_ones = count[Verdict.MISSED], count[Verdict.NOT_JUDGED]
    return (
        f"{count[Verdict.MET]} of {len(findings)} bars are met, {missed} {'is' if missed == 1 else 'are'} missed, "
        f"{open_ones} {'is' if open_ones == 1 else 'are'} not judged by this run."
    )


def table(findings: list[Finding]) -> str:
    """Return a row for every finding; a bar that is missed with what holds it back."""
    rows = ["| figure | bar | measured | verdict | |", "|---|---|---|---|---|"]
    for finding in findings:
        verdict = f"**{finding.verdict}**" if finding.verdict is Verdict.MISSED else str(finding.verdict)
        notes = [finding.note] if finding.note else []
        if finding.verdict is Verdict.MISSED:
            notes.append(HELD_BACK.get(finding.name, UNKNOWN))
        cells = (finding.figure, finding.bar, finding.value, verdict, "; ".join(notes))
        rows.append(f"| {' | '.join(_cell(cell) for cell in cells)} |")
    return "\n".join(rows)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _charts(outcomes: Mapping[str, Outcome]) -> dict[str, tuple[str, str, dict[str, float]]]:
    found: dict[str, tuple[str, str, dict[str, float]]] = {}
    if "latency" in outcomes:
        added: dict[str, float] = outcomes["latency"].raw["added_p50_ms"]
        positive = {name: max(0.0, value) for name, value in added.items()}
        found["latency"] = ("Added latency at c=1, p50 (less is better)", "ms", positive)
    if "requests" in outcomes:
        found["requests"] = ("Requests in a CPU-second at c=16 (more is better)", "", _medians(outcomes["requests"]))
    if "chunks" in outcomes:
        found["chunks"] = ("Chunks in a CPU-second (more is better)", "", _medians(outcomes["chunks"]))
    return found


def _medians(outcome: Outcome) -> dict[str, float]:
    rounds: Mapping[str, list[float]] = outcome.raw["per_cpu_second"]
    return {name: median(found) for name, found in rounds.items()}


def _notes(outcomes: Mapping[str, Outcome]) -> str:
    """Return what the rounds say beside the bars: where our CPU goes, and what the measuring itself costs."""
    lines = []
    if "requests" in outcomes:
        raw = outcomes["requests"].raw
        lines.append(f"- Our CPU for a request at c=16: {_by_process(raw['our_cpu_us_a_request'])}.")
        rates = ", ".join(f"{name} {median(found):,.0f}" for name, found in raw["per_second"].items())
        lines.append(f"- Requests a second at c=16, all on this machine together: {rates}.")
        cost = raw["load_generator_cpu_us_a_request"]
        lines.append(f"- The load generator takes {cost:.0f} µs of CPU for a request; it is in no figure.")
    if "chunks" in outcomes:
        lines.append(f"- Our CPU for a chunk: {_by_process(outcomes['chunks'].raw['our_cpu_us_a_chunk'])}.")
    return "\n".join(lines)


def _by_process(shares: Mapping[str, Any]) -> str:
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    return f"{sum(shares.values()):,.0f} µs ({', '.join(f'{name} {share:,.0f}' for name, share in ordered)})"


_TEXT = """# Benchmarks

Written by `make bench`; do not edit. What the code promises about speed and cost, and what was measured.

{summary}

{table}

{charts}

{notes}{missing}

## How it is measured

Form `{form}`, {rounds} rounds, {when}. Everybody is asked in every round, each round beginning with another one; a figure is the median of
the rounds, a ratio the median of the rounds' own ratios.

| | |
|---|---|
{machine}

- Everybody asks the same router: a light one that answers prompts at once (`benchmarks/upstream.py`) and hands all else to the simulator.
  The simulator writes JSON for every chunk, and would be what is measured. *Added* is beyond asking that router directly.
- Ours is the whole development stack: key checked, every limit of the path on (raised, so that none is
  reached), use recorded, all six processes counted.
  One prompt of a key runs at a time, so c=16 is sixteen keys.
- The *floor* is a pass-through of FastAPI and aiohttp in one file (`benchmarks/floor.py`), one uvicorn worker: no auth, no bus. For chunks
  it has httpx2 instead, which our session workers use.
- LiteLLM is its proxy with one worker and no database, Portkey its gateway on Node; both installed apart
  ([decision 0021](decisions/0021-how-we-measure.md)).
- CPU time is what the kernel counted for the processes; prompts and answers in JSON mode have about 1 kB.

Repeat it with `make bench`: under ten minutes on two cores. `make bench FULL=1` takes more rounds and ten minutes of mixed load;
`make bench SHORT=1` only shows that every figure comes out, and leaves this page as it is. Rounds and logs are in `benchmarks/.work`;
`python -m benchmarks --render benchmarks/.work/DATE/results.json` writes this page from them anew.
"""
