"""Many logins at once: the work for passwords is bounded, and does not slow what every prompt waits for."""

import asyncio
import statistics
import time
from collections import Counter
from pathlib import Path

from morpheus_auth.settings import AuthSettings
from morpheus_common.contracts.auth import CHECK_KEY, CheckKey
from morpheus_common.errors import ApiError

from tests.service.auth.harness import Gateway, answered_by, new_key, process, sha256, until

LOGINS = 200
MEMORY_KIB = 65_536
AT_ONCE, WAITING = 2, 64
SLOWER = 6
QUIET_CHECKS = 200


async def login(gateway: Gateway, number: int) -> str:
    """Try an account that does not exist, which is as much work as one that does."""
    try:
        await gateway.login(f"user-{number}@example.com", address=f"203.0.113.{number}")
    except ApiError as error:
        return f"{error.code} {error.retry_after}"
    return "let in"


async def check(gateway: Gateway, key: str) -> float:
    """Return how long it takes to check an API key (seconds)."""
    question = CheckKey(sha256=sha256(key))
    started = time.perf_counter()
    await gateway.rpc.call(CHECK_KEY, question, timeout=15)
    return time.perf_counter() - started


def memory_kib(pid: int, kind: str) -> int:
    """Return `VmRSS` (now) or `VmHWM` (the most so far) of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:"))


async def test_two_hundred_logins_at_once_are_bounded_and_slow_no_check_of_a_key(
    settings: AuthSettings, idle_gateway: Gateway, tmp_path: Path
) -> None:
    """F34, C10"""
    cost = {"ARGON2_MEMORY_KIB": str(MEMORY_KIB), "ARGON2_PASSES": "1", "ARGON2_LANES": "4"}
    key = new_key()
    async with process(settings, "a", tmp_path / "log", **cost) as worker:
        await until(answered_by(idle_gateway, "a"), within=60)
        ada = await idle_gateway.register("ada@example.com")
        await idle_gateway.create_key(ada.id, key)
        quiet = [await check(idle_gateway, key) for _ in range(QUIET_CHECKS)]
        resting = memory_kib(worker.pid, "VmRSS")
        logins = [asyncio.create_task(login(idle_gateway, number)) for number in range(LOGINS)]
        busy = []
        while not all(task.done() for task in logins):
            busy.append(await check(idle_gateway, key))
        quiet += [await check(idle_gateway, key) for _ in range(QUIET_CHECKS)]
        answers = Counter(await asyncio.gather(*logins))
        grown = (memory_kib(worker.pid, "VmHWM") - resting) // 1024
    before, meanwhile = statistics.median(quiet) * 1000, statistics.median(busy) * 1000
    figures = f"{dict(answers)}; check {before:.1f} ms, meanwhile {meanwhile:.1f} ms ({len(busy)}); {grown} MiB more"
    print(figures)  # noqa: T201 - the figures are what is to be seen
    # on a slow machine the last in line are waited for in vain
    assert set(answers) <= {"invalid_credentials None", "overloaded 1", "service_timeout 1"}, figures
    assert answers["invalid_credentials None"] > AT_ONCE, figures
    assert 0 < answers["overloaded 1"] <= LOGINS - AT_ONCE - WAITING, figures
    # a hash has 64 MiB; sixty-six of them had four GiB
    assert grown < 2 * AT_ONCE * MEMORY_KIB // 1024, figures
    # measured: less than twice as long; the rest is for whatever else the machine does
    assert meanwhile < SLOWER * before, figures
