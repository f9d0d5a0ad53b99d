"""What checking the API key costs: questions to auth on the bus, and time to the first byte."""

import asyncio
import time

from morpheus_common.contracts.auth import CHECK_KEY

from benchmarks.bus import Bus, listening, subject_kind
from benchmarks.client import Connection
from benchmarks.figures import percentile
from benchmarks.findings import Finding, Outcome, judged
from benchmarks.lab import Lab
from benchmarks.targets import Target, Wish

KEYS = 6
SPACING = 0.06
"""Between two prompts, in both halves: a process that slept longer answers later, whatever it has to ask."""
STALE_SECONDS = 1.1
"""An answer of auth counts for 0.8 s; after this every key has to be asked about again."""
BAR_MS = 0.3
"""What counts as nothing: less than two runs of the same thing differ."""
STREAM = Wish(number=0, chunks=2)


async def measure(lab: Lab) -> Outcome:
    """In each cycle every key asks twice, six prompts after one another: first when auth must be asked, then when not."""
    target = lab.ours.target(KEYS)
    connections = [Connection(target.url) for _ in range(KEYS)]
    asked: dict[str, list[int]] = {"stale": [], "fresh": []}
    first_byte: dict[str, list[float]] = {"stale": [], "fresh": []}
    async with listening(lab.ours.nats_url) as bus:
        await _pass(target, connections)
        for cycle in range(lab.form.cycles):
            await asyncio.sleep(STALE_SECONDS)
            for kind in ("stale", "fresh"):
                bus.forget()
                seconds = await _pass(target, connections)
                questions = await _questions(bus)
                if cycle:  # the first finds cold caches
                    asked[kind].append(questions)
                    first_byte[kind] += [one * 1000 for one in seconds]
    for connection in connections:
        connection.hang_up()
    prompts = len(first_byte["stale"])
    p50 = {kind: percentile(values, 0.5) for kind, values in first_byte.items()}
    added = p50["stale"] - p50["fresh"]
    findings = [
        Finding(
            "caller_fresh",
            f"caller check within 0.8 s, {prompts} prompts",
            "0 messages",
            f"{sum(asked['fresh'])}",
            judged(sum(asked["fresh"]) == 0),
        ),
        Finding(
            "caller_stale",
            f"caller check after 0.8 s, {prompts} prompts",
            "one question each",
            f"{sum(asked['stale'])}",
            judged(set(asked["stale"]) == {KEYS}),
        ),
        Finding(
            "caller_first_byte",
            "what that question adds to the first byte, p50",
            f"nothing (< {BAR_MS:g} ms)",
            f"{added:+.2f} ms ({p50['stale']:.2f} beside {p50['fresh']:.2f} ms)",
            judged(added < BAR_MS),
        ),
    ]
    return Outcome(findings, {"questions": asked, "first_byte_p50_ms": p50})


async def _pass(target: Target, connections: list[Connection]) -> list[float]:
    """Let every key ask once, evenly spaced; return the seconds to each first byte."""
    found = []
    began = time.monotonic()
    for number, connection in enumerate(connections):
        await asyncio.sleep(began + number * SPACING - time.monotonic())
        found.append((await connection.ask(target.prompt(number, STREAM))).first_byte)
    return found


async def _questions(bus: Bus) -> int:
    return (await bus.heard())[subject_kind(CHECK_KEY.subject)]
