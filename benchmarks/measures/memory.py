"""Memory: of a stream while hundreds run, and of the services under mixed load for long."""

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping

from benchmarks.client import Connection, RequestFailed, request
from benchmarks.figures import slope
from benchmarks.findings import Finding, Outcome, Verdict, judged
from benchmarks.lab import Lab
from benchmarks.load import gathered, stream
from benchmarks.processes import resident_bytes
from benchmarks.targets import Wish

SERVICES = ("gateway", "sessions", "auth", "automation")
BOTH = ("gateway", "sessions")
"""What a stream goes through."""
KIB, MIB = 1024, 1024 * 1024
BAR_KIB = 64
BAR_MIB = 150
BAR_SLOPE_MB = 1.0
SLOPE_SECONDS = 600.0
SETTLE_SECONDS = 3.0
MIXED_CALLERS = 48
BEGIN_SECONDS = 8.0
"""Over which slow streams begin: it is their number that is measured, not a rush."""


def _resident(pids: Mapping[str, int], names: tuple[str, ...]) -> dict[str, int]:
    return {name: resident_bytes(pids[name]) for name in names}


async def measure_slow_streams(lab: Lab) -> Outcome:
    """Many slow streams: their bytes, and what they take of memory in gateway and sessions together."""
    form, count = lab.form, lab.form.slow_streams
    target = lab.ours.target(count)
    begin_seconds = min(BEGIN_SECONDS, form.slow_chunks / 2)
    await asyncio.sleep(SETTLE_SECONDS)
    pids = lab.ours.pids()
    before = _resident(pids, BOTH)
    most = dict(before)

    async def watch() -> None:
        while True:
            await asyncio.sleep(0.5)
            for name, size in _resident(pids, BOTH).items():
                most[name] = max(most[name], size)

    async def run(number: int) -> str:
        """Return what was wrong with a stream; nothing if it was right."""
        await asyncio.sleep(begin_seconds * number / count)
        try:
            await stream(target, number, Wish(number, form.slow_chunks, 1_000))
        except RequestFailed as failed:
            return str(failed)
        return ""

    watching = asyncio.create_task(watch())
    problems = list(filter(None, await gathered([run(number) for number in range(count)])))
    watching.cancel()
    grown = {name: (most[name] - before[name]) / count / KIB for name in BOTH}
    told = ", ".join(f"{name} {size:.1f}" for name, size in grown.items())
    broken = f"{len(problems)} of {count} streams broken" + (f": {problems[0]}" if problems else "")
    lab.say(f"KiB a stream: {told}; {broken}")
    what = f"{count} streams, 1 chunk a second, {form.slow_chunks} s"
    unlike = "fewer or shorter streams than the bar's" if (count, form.slow_chunks) != (500, 60) else ""
    if problems:
        unlike = "not all streams lived to be counted"
    findings = [
        Finding("slow_bytes", what, "0 lost or reordered bytes", broken, judged(not problems)),
        Finding(
            "slow_memory",
            f"{what}: memory a stream, gateway and sessions",
            f"≤ {BAR_KIB} KiB",
            f"{sum(grown.values()):.1f} KiB ({told})",
            Verdict.NOT_JUDGED if unlike else judged(sum(grown.values()) <= BAR_KIB),
            unlike,
        ),
    ]
    return Outcome(findings, {"before_bytes": before, "most_bytes": most, "kib_a_stream": grown})


async def measure_slope(lab: Lab) -> Outcome:
    """Memory of each service under mixed load with disconnects: how it grows after a warm-up, and the most it was."""
    form = lab.form
    pids = lab.ours.pids()
    did, failures = Counter[str](), Counter[str]()
    until = time.monotonic() + form.mixed_warm_up + form.mixed
    began = time.monotonic()
    samples = defaultdict[str, list[tuple[float, float]]](list)

    async def watch() -> None:
        while time.monotonic() < until:
            await asyncio.sleep(1.0)
            passed = time.monotonic() - began
            for name, size in _resident(pids, SERVICES).items():
                samples[name].append((passed, size / MIB))

    target = lab.ours.target(MIXED_CALLERS)

    async def caller(number: int) -> None:
        chance = random.Random(number)  # noqa: S311 - a load needs no secret chance
        connection = Connection(target.url)
        while time.monotonic() < until:
            what = chance.choices(["json", "stream", "leave", "models", "refused"], [4, 4, 2, 1, 1])[0]
            try:
                await _one(what, connection, target.prompt, number, chance)
            except RequestFailed as error:
                failures[f"{what}: {str(error)[:120]}"] += 1
            did[what] += 1
            await asyncio.sleep(chance.uniform(0.05, 0.3))
        connection.hang_up()

    lab.say(f"mixed load with disconnects for {form.mixed_warm_up + form.mixed:.0f} s")
    await gathered([watch(), *(caller(number) for number in range(MIXED_CALLERS))])
    slopes, most = {}, {}
    for name in SERVICES:
        after = [(at, size) for at, size in samples[name] if at >= form.mixed_warm_up]
        slopes[name] = slope(after) * SLOPE_SECONDS * MIB / 1e6 if len(after) > 1 else 0.0
        most[name] = max(size for _, size in samples[name])
    is_long = form.mixed >= SLOPE_SECONDS
    findings = [
        Finding(
            "memory_slope",
            f"memory of each service over {form.mixed:.0f} s of mixed load with disconnects",
            f"slope < {BAR_SLOPE_MB:g} MB in 10 min",
            ", ".join(f"{name} {value:+.2f} MB" for name, value in slopes.items()),
            judged(max(slopes.values()) < BAR_SLOPE_MB) if is_long else Verdict.NOT_JUDGED,
            "" if is_long else "extrapolated: only FULL=1 lasts 10 minutes",
        ),
        Finding(
            "memory_most",
            "most memory of each service under it",
            f"≤ {BAR_MIB} MB",
            ", ".join(f"{name} {value * MIB / 1e6:.0f} MB" for name, value in most.items()),
            judged(max(most.values()) * MIB / 1e6 <= BAR_MIB),
        ),
    ]
    lab.say(f"{sum(did.values())} requests, {sum(failures.values())} of them failed")
    raw = {"did": did, "failures": failures, "slopes_mb": slopes, "most_mib": most, "samples_mib": samples}
    return Outcome(findings, raw)


async def _one(
    what: str,
    connection: Connection,
    prompt: Callable[[int, Wish | None], bytes],
    number: int,
    chance: random.Random,
) -> None:
    match what:
        case "json":
            await connection.ask(prompt(number, None))
        case "stream":
            await connection.ask(prompt(number, Wish(number, chance.randint(5, 60), 5)))
        case "leave":
            # somewhere in the middle, or before the first byte
            await connection.begin(prompt(number, Wish(number, 40, 10)))
            await asyncio.sleep(chance.uniform(0.0, 0.3))
            connection.hang_up()
        case "models":
            await connection.ask(request(connection.target, "/api/v1/models", {}))
        case _:
            wrong = {"Authorization": "Bearer sk-wrong"}
            await _refused(connection.ask(request(connection.target, "/api/v1/chat/completions", wrong, b"{}")))


async def _refused(asking: Awaitable[object]) -> None:
    try:
        await asking
    except RequestFailed as error:
        if not str(error).startswith("status 401"):
            raise
    else:
        raise RequestFailed("a wrong key was let in")
