"""What a CPU-second is good for: requests of sixteen callers, chunks of 32 streams. All processes of ours are counted."""

from collections import defaultdict

from benchmarks.figures import median
from benchmarks.findings import Outcome, at_least
from benchmarks.lab import Lab
from benchmarks.load import at_once, streams
from benchmarks.processes import cpu_by_name
from benchmarks.targets import Wish

CALLERS = 16
STREAMS = 32
CHUNKS = 200
GAP_MS = 2


async def measure_requests(lab: Lab) -> Outcome:
    """Requests in a CPU-second at c=16."""
    per_cpu, rates = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    shares = defaultdict[str, list[float]](list)
    own: list[float] = []
    for number, target in lab.in_rounds(lab.everybody(CALLERS)[1:]):
        requests = [target.prompt(caller) for caller in range(CALLERS)]
        await at_once(target.url, requests, lab.form.burst / 6)
        before = cpu_by_name(target.pids)
        burst = await at_once(target.url, requests, lab.form.burst)
        spent = _spent(before, cpu_by_name(target.pids))
        per_cpu[target.name].append(burst.requests / sum(spent.values()))
        rates[target.name].append(burst.requests / burst.seconds)
        own.append(burst.own_cpu / burst.requests * 1e6)
        if target.name == "ours":
            for name, seconds in spent.items():
                shares[name].append(seconds / burst.requests * 1e6)
        lab.say(
            f"round {number}: {target.name} {per_cpu[target.name][-1]:,.0f} a CPU-second, "
            f"{rates[target.name][-1]:,.0f} a second"
        )
    figure = "requests in a CPU-second at c=16"
    findings = [
        at_least("requests_portkey", figure, per_cpu, "portkey", 1.0),
        at_least("requests_litellm", figure, per_cpu, "litellm", 10.0),
    ]
    raw = {
        "per_cpu_second": dict(per_cpu),
        "per_second": dict(rates),
        "our_cpu_us_a_request": {name: median(found) for name, found in shares.items()},
        "load_generator_cpu_us_a_request": median(own),
    }
    return Outcome(findings, raw)


async def measure_chunks(lab: Lab) -> Outcome:
    """Chunks in a CPU-second through the whole path: 32 streams of 200 chunks, 2 ms apart."""
    per_cpu, shares = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    stretched = defaultdict[str, list[float]](list)
    for number, target in lab.in_rounds([lab.floor, lab.floor_httpx2, lab.ours.target(STREAMS)]):
        wishes = [Wish(stream, CHUNKS, GAP_MS) for stream in range(STREAMS)]
        await streams(target, wishes[:4])
        before, seconds = cpu_by_name(target.pids), 0.0
        # several runs: one takes a CPU-tenth of a second, and the kernel counts hundredths
        for _ in range(lab.form.stream_runs):
            seconds += max(answer.seconds for answer in await streams(target, wishes))
        spent = _spent(before, cpu_by_name(target.pids))
        chunks = STREAMS * CHUNKS * lab.form.stream_runs
        per_cpu[target.name].append(chunks / sum(spent.values()))
        stretched[target.name].append(seconds / (lab.form.stream_runs * CHUNKS * GAP_MS / 1000))
        if target.name == "ours":
            for name, cpu in spent.items():
                shares[name].append(cpu / chunks * 1e6)
        lab.say(f"round {number}: {target.name} {per_cpu[target.name][-1]:,.0f} chunks a CPU-second")
    figure = f"chunks in a CPU-second, {STREAMS} streams of {CHUNKS} chunks {GAP_MS} ms apart"
    raw = {
        "per_cpu_second": dict(per_cpu),
        "stretched": dict(stretched),
        "our_cpu_us_a_chunk": {name: median(found) for name, found in shares.items()},
    }
    return Outcome([at_least("chunks_floor", figure, per_cpu, "floor_httpx2", 1.0)], raw)


def _spent(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    return {name: after[name] - before[name] for name in before}
