"""What a measurement found, and whether that is what the bar asks for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from benchmarks.figures import median, ratio

PEERS = {"floor": "the floor", "floor_httpx2": "the floor with httpx2", "litellm": "LiteLLM", "portkey": "Portkey"}


class Verdict(StrEnum):
    """How a figure stands to its bar. `NOT_JUDGED`: this form of the run cannot tell, or a peer is not there."""

    MET = "met"
    MISSED = "MISSED"
    NOT_JUDGED = "not judged"


@dataclass(frozen=True)
class Finding:
    """One row of the report. `name` is stable: what holds a figure back is kept under it (`held_back.py`)."""

    name: str
    figure: str
    bar: str
    value: str
    verdict: Verdict
    note: str = ""


@dataclass
class Outcome:
    """All that one measurement found. `raw`: the figures of every round, for the results file and the plots."""

    findings: list[Finding]
    raw: dict[str, Any] = field(default_factory=dict)


def judged(is_met: bool) -> Verdict:
    """Return the verdict for a figure that this run can judge."""
    return Verdict.MET if is_met else Verdict.MISSED


def at_most(name: str, figure: str, rounds: Mapping[str, Sequence[float]], peer: str, factor: float) -> Finding:
    """Hold ours beside a peer's: at most `factor` times as much, by the median of the rounds' ratios."""
    bar = f"≤ {factor:.1f} × {_called(peer)}" if factor >= 1 else f"≤ 1/{round(1 / factor)} of {_called(peer)}"
    return _beside(name, figure, bar, rounds, peer, lambda found: found <= factor)


def at_least(name: str, figure: str, rounds: Mapping[str, Sequence[float]], peer: str, factor: float) -> Finding:
    """Hold ours beside a peer's: at least `factor` times as much."""
    bar = f"≥ {factor:g} × {_called(peer)}" if factor != 1 else f"≥ {_called(peer)}"
    return _beside(name, figure, bar, rounds, peer, lambda found: found >= factor)


def _beside(
    name: str, figure: str, bar: str, rounds: Mapping[str, Sequence[float]], peer: str, is_met: Callable[[float], bool]
) -> Finding:
    if peer not in rounds:
        return Finding(name, figure, bar, "–", Verdict.NOT_JUDGED, f"{PEERS[peer]} is not there")
    try:
        found = ratio(rounds["ours"], rounds[peer])
    except ValueError as error:
        return Finding(name, figure, bar, "–", Verdict.NOT_JUDGED, str(error))
    value = f"{found:.2f} × ({_short(median(rounds['ours']))} beside {_short(median(rounds[peer]))})"
    return Finding(name, figure, bar, value, judged(is_met(found)))


def _called(peer: str) -> str:
    return "the floor's with httpx2" if peer == "floor_httpx2" else f"{PEERS[peer]}'s"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
