"""What a request takes longer through a gateway than to the router directly: one after the other, JSON and streams."""

from collections import defaultdict

from benchmarks.figures import median, percentile
from benchmarks.findings import Outcome, at_most
from benchmarks.lab import Lab
from benchmarks.load import one_by_one
from benchmarks.targets import Target, Wish

SESSIONS = 1
WARM_UP = 20
STREAM = Wish(number=0, chunks=16)


def _count(lab: Lab, target: Target, slow: tuple[str, ...]) -> int:
    return lab.form.patient_requests if target.name in slow else lab.form.requests


async def measure_json(lab: Lab) -> Outcome:
    """Added latency in JSON mode, p50 and p99, in milliseconds."""
    p50, p99 = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    for number, target in lab.in_rounds(lab.everybody(SESSIONS)):
        answers = await one_by_one(target, WARM_UP + _count(lab, target, ("litellm",)))
        seconds = [answer.seconds * 1000 for answer in answers[WARM_UP:]]
        p50[target.name].append(percentile(seconds, 0.5))
        p99[target.name].append(percentile(seconds, 0.99))
        lab.say(f"round {number}: {target.name} p50 {p50[target.name][-1]:.3f} ms, p99 {p99[target.name][-1]:.3f} ms")
    added_p50, added_p99 = _added(p50), _added(p99)
    figure = "added latency at c=1, p50 (ms)"
    findings = [
        at_most("latency_p50_floor", figure, added_p50, "floor", 1.5),
        at_most("latency_p50_portkey", figure, added_p50, "portkey", 1.0),
        at_most("latency_p50_litellm", figure, added_p50, "litellm", 0.1),
        at_most("latency_p99_floor", "added latency at c=1, p99 (ms)", added_p99, "floor", 2.0),
    ]
    medians = {name: median(rounds) for name, rounds in added_p50.items()}
    return Outcome(findings, {"p50_ms": dict(p50), "p99_ms": dict(p99), "added_p50_ms": medians})


async def measure_first_byte(lab: Lab) -> Outcome:
    """Added time to the first byte of a stream, in milliseconds."""
    p50 = defaultdict[str, list[float]](list)
    for number, target in lab.in_rounds(lab.everybody(SESSIONS)):
        answers = await one_by_one(target, WARM_UP + _count(lab, target, ("litellm", "portkey")) // 2, STREAM)
        p50[target.name].append(percentile([answer.first_byte * 1000 for answer in answers[WARM_UP:]], 0.5))
        lab.say(f"round {number}: {target.name} {p50[target.name][-1]:.3f} ms")
    added = _added(p50)
    finding = at_most("first_byte_floor", "added time to first byte of a stream, p50 (ms)", added, "floor", 1.5)
    return Outcome(
        [finding],
        {"p50_ms": dict(p50), "added_p50_ms": {name: median(rounds) for name, rounds in added.items()}},
    )


def _added(rounds: dict[str, list[float]]) -> dict[str, list[float]]:
    """Take from each round what the router alone took in it."""
    return {
        name: [mine - alone for mine, alone in zip(found, rounds["direct"], strict=True)]
        for name, found in rounds.items()
        if name != "direct"
    }
