"""Database operations that a prompt waits for, and what is written behind its back; as mongod's profiler saw them."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

from morpheus_sessions.ownership import MARKS_COMMENT, REFRESH_COMMENT
from pymongo import AsyncMongoClient

from benchmarks.client import Connection, RequestFailed
from benchmarks.findings import Finding, Outcome, judged
from benchmarks.lab import Lab
from benchmarks.load import at_once, one_by_one
from benchmarks.processes import cpu_seconds

CALLERS = 16
PROMPTS = 200
PROFILE_BYTES = 32 * 1024 * 1024
IDLE_SECONDS = 2.0
LEAST_SHARE = 0.05
LEAST_COUNT = 3
"""Loops on clocks come a little more or less often than when nobody asks; less than both of these is not a prompt's."""
BUSY_SECONDS = 4.0
BAR_WRITES = 21.0
OTHERS = ("auth", "automation")
BURST_SECONDS = 0.02
WRITES = ("insert", "update", "delete", "findAndModify")
BEHIND = (MARKS_COMMENT, REFRESH_COMMENT)
"""How operations that nobody waits for call themselves; a new one that comes with every prompt needs a name here."""
READY_SECONDS = 30.0

Client = AsyncMongoClient[dict[str, Any]]


async def measure(lab: Lab) -> Outcome:
    """Operations a prompt on warm sessions and after a worker's restart, and write commands a second at c=16."""
    async with AsyncMongoClient[dict[str, Any]](lab.ours.mongo_url()) as client:
        writes = await _writes_a_second(lab, client)
        lab.say(f"writes a second at c=16: {writes:.1f}")
        idle = await _idle(client)
        await _profile(client)
        began = time.monotonic()
        await one_by_one(lab.ours.target(1), PROMPTS)
        warm = waited_for(kinds_of(await _noted(client)), PROMPTS, idle, time.monotonic() - began)
        lab.say(f"operations a warm prompt waits for: {warm or 'none'}")
        lab.ours.restart("sessions")
        connections = [Connection(lab.ours.gateway_url) for _ in range(CALLERS)]
        await _until_answered(lab, connections[0])
        idle = await _idle(client)
        await _profile(client)
        began = time.monotonic()
        for number, connection in enumerate(connections[1:], 1):
            await connection.ask(lab.ours.target(CALLERS).prompt(number))
            connection.hang_up()
        claimed = waited_for(kinds_of(await _noted(client)), CALLERS - 1, idle, time.monotonic() - began)
        lab.say(f"operations the first prompt of a key waits for at a new worker: {claimed or 'none'}")
    findings = [
        Finding("operations_warm", "database operations a prompt waits for, warm session", "0",
            f"{sum(warm.values()):g}", judged(not warm), _told(warm)),
        Finding("operations_claim", "the same when a worker first takes the session", "1",
            f"{sum(claimed.values()):g}", judged(sum(claimed.values()) <= 1), _told(claimed)),
        Finding("writes", "write commands of a session worker a second at c=16", f"≤ {BAR_WRITES:g}",
            f"{writes:.1f}", judged(writes <= BAR_WRITES)),
    ]  # fmt: skip
    return Outcome(findings, {"warm": warm, "claimed": claimed, "writes_a_second": writes})


def _told(operations: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {count:g}" for name, count in operations.items())


async def _writes_a_second(lab: Lab, client: Client) -> float:
    """Return the write commands of the sessions worker: all of the server's, without those of the other services."""
    target = lab.ours.target(CALLERS)
    requests = [target.prompt(caller) for caller in range(CALLERS)]
    await at_once(target.url, requests, 0.5)
    for service in OTHERS:
        await _profile(client, service)
    before, began = await _write_commands(client), time.monotonic()
    await at_once(target.url, requests, min(BUSY_SECONDS, 2 * lab.form.burst))
    seconds, everybody = time.monotonic() - began, await _write_commands(client) - before
    others = 0
    for service in OTHERS:
        rows = await _noted(client, service)
        others += bursts([row["ts"].timestamp() for row in rows if is_write(row)])
    return (everybody - others) / seconds


def is_write(row: Mapping[str, Any]) -> bool:
    """Tell whether a document of `system.profile` is about a write."""
    command = row.get("command") or {}
    return row["op"] in {"insert", "update", "remove"} or "findAndModify" in command or "findandmodify" in command


def bursts(moments: Iterable[float]) -> int:
    """Return how many runs of moments (seconds) there are: mongod notes each document of a bulk write by itself.

    Two commands close together count as one, so that the others' are counted too low rather than too high.
    """
    ordered = sorted(moments)
    return len(ordered[:1]) + sum(later - earlier > BURST_SECONDS for earlier, later in pairwise(ordered))


async def _write_commands(client: Client) -> int:
    commands = (await client.admin.command("serverStatus"))["metrics"]["commands"]
    return sum(int(commands[name]["total"]) for name in WRITES)


async def _profile(client: Client, name: str = "sessions") -> None:
    """Have every operation on a database noted, beginning with an empty page."""
    database = client[name]
    await database.command("profile", 0)
    await database.drop_collection("system.profile")
    await database.create_collection("system.profile", capped=True, size=PROFILE_BYTES)
    await database.command("profile", 2)


async def _noted(client: Client, name: str = "sessions") -> list[dict[str, Any]]:
    """Note no more, and return what was."""
    await client[name].command("profile", 0)
    return await client[name]["system.profile"].find({}).to_list()


async def _idle(client: Client) -> dict[str, float]:
    """Return how many operations of each kind there are in a second while nobody asks anything."""
    await _profile(client)
    began = time.monotonic()
    await asyncio.sleep(IDLE_SECONDS)
    seconds = time.monotonic() - began
    return {kind: count / seconds for kind, count in kinds_of(await _noted(client)).items()}


def kinds_of(rows: list[dict[str, Any]]) -> Counter[str]:
    """Count operations by kind, without those that nobody waits for. `rows` are documents of `system.profile`."""
    kinds = Counter[str]()
    for row in rows:
        command = row.get("command") or {}
        if row["ns"].endswith(".system.profile") or command.get("comment") in BEHIND or "profile" in command:
            continue
        verb = "findAndModify" if "findAndModify" in command or "findandmodify" in command else row["op"]
        kinds[f"{verb} {row['ns'].partition('.')[2]}"] += 1
    return kinds


def waited_for(operations: Counter[str], prompts: int, idle: Mapping[str, float], seconds: float) -> dict[str, float]:
    """Return how many operations of each kind there were for each of `prompts`, made in so many seconds, beyond what there
    is without any (`idle`, a second).
    """
    beyond = {kind: count - idle.get(kind, 0.0) * seconds for kind, count in operations.items()}
    return {
        kind: round(count / prompts, 2)
        for kind, count in beyond.items()
        if count > max(LEAST_COUNT, LEAST_SHARE * prompts)
    }


async def _until_answered(lab: Lab, connection: Connection) -> None:
    """Wait until prompts are answered again, and until the worker has done what it does at its start."""
    until = time.monotonic() + READY_SECONDS
    data = lab.ours.target(CALLERS).prompt(0)
    while True:
        try:
            await connection.ask(data)
        except RequestFailed:
            if time.monotonic() > until:
                raise
            await asyncio.sleep(0.2)
        else:
            break
    while time.monotonic() < until:
        worker = lab.ours.pids()["sessions"]
        before = cpu_seconds([worker])
        await asyncio.sleep(1.0)
        if cpu_seconds([worker]) - before < 0.1:
            return
