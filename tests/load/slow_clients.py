"""Attack a gateway with clients that take their time while others work: `make slow-clients`. Only the attackers may notice.

Slow headers (Slowloris), slow bodies, and streams that nobody reads. Rounds with and without them take turns, on one machine;
what is compared is the median round of each. `--short` judges what is not noise on a busy machine: that all attackers were cut
off in time, that memory stayed within its bound, and that everybody else was served.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from morpheus_gateway.settings import GatewaySettings
from rich.console import Console
from rich.table import Table

from tests.faults.stack import GATEWAY, FaultStack, Plan, fault_stack
from tests.load.attackers import READY, Orders
from tests.load.canary import PATH, Caller
from tests.load.client import Answer, Client, Unreachable
from tests.load.judging import Question
from tests.load.tenants import callers
from tests.run_folder import add_folder, in_folder

PATIENT = {"RELAY_SILENCE": 15.0, "ROUTER_READ_TIMEOUT": 15.0, "MONGO_TIMEOUT_MS": 5_000}
"""Waits of production behind the gateway, where the stack of the fault sweeps has short ones."""
LISTERS = 4
PROMPTERS = 4
PAUSE_SECONDS = 0.01
PLACED_SECONDS = 120.0
SLACK_SECONDS = 5.0
KIB_A_CONNECTION = 512
"""Most that a connection of an attacker may hold, in KiB: a relay's window (256), the frame over it (128), and the buffer of
a reader (64), with as much again as the allocator keeps."""
LISTS, PROMPTS = "GET /models", "prompt"


@dataclass(frozen=True, slots=True)
class Form:
    """How long it takes. `attackers`: of each kind. `dearer`: factor by which the p99 of others may rise. `settings`: of the
    gateway, where they are not those of production.
    """

    attackers: int
    rounds: int
    seconds: float
    dearer: float
    settings: dict[str, float] = field(default_factory=dict)


FULL = Form(attackers=200, rounds=3, seconds=20.0, dearer=1.1)
SHORT = Form(
    attackers=40,
    rounds=1,
    seconds=4.0,
    dearer=10.0,
    settings={"HEADER_TIMEOUT": 2.0, "BODY_GRACE": 3.0, "SLOW_CLIENT": 8.0},
)


@dataclass
class Round:
    """What one round showed. `seconds`: of each request, by kind. `kib`: resident memory of the gateway at its end."""

    attacked: bool
    seconds: dict[str, list[float]] = field(default_factory=lambda: {LISTS: [], PROMPTS: []})
    failed: list[str] = field(default_factory=list)
    kib: int = 0

    def p99(self, kind: str) -> float:
        """Milliseconds."""
        return statistics.quantiles(self.seconds[kind], n=100)[98] * 1000

    def median(self, kind: str) -> float:
        """Milliseconds."""
        return statistics.median(self.seconds[kind]) * 1000


class Others:
    """Those who work meanwhile."""

    def __init__(self, port: int, made: Sequence[Caller]) -> None:
        self._port = port
        self._made = made

    async def work(self, round_: Round, seconds: float) -> None:
        until = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            for _ in range(LISTERS):
                group.create_task(self._ask(round_, LISTS, until, lambda client: client.get("/v1/models")))
            for caller in self._made:
                body = Question("word", "word", caller.models[0], stream=False, max_tokens=5).body

                def prompt(client: Client, key: str = caller.key, body: bytes = body) -> Awaitable[Answer]:
                    return client.post(PATH, key, body)

                group.create_task(self._ask(round_, PROMPTS, until, prompt))

    async def _ask(self, round_: Round, kind: str, until: float, ask: Callable[[Client], Awaitable[Answer]]) -> None:
        client = Client(self._port)
        while time.monotonic() < until:
            began = time.monotonic()
            try:
                answer = await ask(client)
            except Unreachable:
                round_.failed.append(f"{kind}: no connection")
                continue
            round_.seconds[kind].append(time.monotonic() - began)
            if answer.status != 200 or not answer.ended:
                round_.failed.append(f"{kind}: {answer.status} {answer.request_id}")
            await asyncio.sleep(PAUSE_SECONDS)
        client.close()


class Attackers:
    """The process of `tests.load.attackers`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def placed(cls, orders: Orders) -> "Attackers":
        """Start all of them, and return when each does what it is there for."""
        pipe = asyncio.subprocess.PIPE
        argv = (sys.executable, "-m", "tests.load.attackers")
        attackers = cls(await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe))
        try:
            attackers._write(json.dumps(asdict(orders)))
            said = await attackers._line(PLACED_SECONDS)
        except BaseException:
            await attackers.kill()
            raise
        if said != READY:
            raise RuntimeError("the attackers did not get to their places")
        return attackers

    async def cut_off(self, seconds: float) -> dict[str, dict[str, float]]:
        """Begin no attack any more; return what became of all, by kind. Raises `TimeoutError` if some are not cut off."""
        self._write("")
        fates: dict[str, dict[str, float]] = json.loads(await self._line(seconds))
        await self._process.wait()
        return fates

    async def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")

    async def _line(self, seconds: float) -> str:
        assert self._process.stdout is not None
        async with asyncio.timeout(seconds):
            return (await self._process.stdout.readline()).decode().strip()


def _resident_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def _limits(form: Form) -> dict[str, float]:
    """Return how long an attacker of each kind may last, by the gateway's settings."""
    defaults = GatewaySettings.model_fields
    given = {name: form.settings.get(name.upper(), defaults[name].default) for name in defaults}
    # a reader is looked at once in so long, and just before it could not yet be told from a slow one
    return {"headers": given["header_timeout"], "bodies": given["body_grace"], "readers": 2 * given["slow_client"]}


async def attacked(
    orders: Orders, round_: Round, others: Others, form: Form, pid: int
) -> tuple[list[str], dict[str, dict[str, float]]]:
    """Run a round under attack; return what was wrong, and what became of the attackers."""
    limits = _limits(form)
    attackers = await Attackers.placed(orders)
    try:
        await others.work(round_, form.seconds)
        round_.kib = _resident_kib(pid)
        fates = await attackers.cut_off(max(limits.values()) + SLACK_SECONDS)
    except TimeoutError:
        return ["attackers are not cut off"], {}
    finally:
        await attackers.kill()
    late = [
        f"{kind}: one lasted {fate['longest']:.1f} s of {limits[kind]:.0f}"
        for kind, fate in fates.items()
        if fate["longest"] > limits[kind] + SLACK_SECONDS
    ]
    odd = [f"{kind}: {fate['odd']:.0f} ended otherwise than cut off" for kind, fate in fates.items() if fate["odd"]]
    return late + odd, fates


def report(rounds: Sequence[Round], form: Form, console: Console) -> list[str]:
    """Show what the rounds showed; return what is wrong with it."""
    table = Table("ms, median of rounds", "alone", "under attack", "ratio")
    wrong = []
    for kind in (LISTS, PROMPTS):
        for name, figure in (("p50", Round.median), ("p99", Round.p99)):
            alone, under = (
                statistics.median(figure(round_, kind) for round_ in rounds if round_.attacked is attack)
                for attack in (False, True)
            )
            table.add_row(f"{kind}, {name}", f"{alone:.2f}", f"{under:.2f}", f"{under / alone:.2f}")
            if name == "p99" and under > form.dearer * alone:
                wrong.append(f"{kind}: the p99 of others is {under / alone:.2f} times as high")
    console.print(table)
    more = max(round_.kib for round_ in rounds if round_.attacked) - rounds[0].kib
    each = more / (3 * form.attackers)
    console.print(
        f"memory of the gateway: {rounds[0].kib:,} KiB alone, {each:.0f} KiB more for each attacker", highlight=False
    )
    if each > KIB_A_CONNECTION:
        wrong.append(f"{each:.0f} KiB for each attacker")
    failed = [text for round_ in rounds for text in round_.failed]
    return wrong + failed[:20]


async def run(form: Form, console: Console, folder: Path) -> bool:
    """Return whether only the attackers noticed."""
    plan = Plan(settings={**PATIENT, **form.settings}, struck=False)
    async with fault_stack(folder / "stack", seed=1, plan=plan) as stack:
        made = await callers(stack, form.attackers + PROMPTERS)
        wrong, rounds = await _take_turns(stack, made, form, console)
    wrong += report(rounds, form, console)
    for text in wrong:
        console.print(f"FAIL {text}", markup=False, highlight=False)
    console.print(f"slow clients: {'failed' if wrong else 'passed'}" + (f"; logs in {folder}" if wrong else ""))
    return not wrong


async def _take_turns(
    stack: FaultStack, made: Sequence[Caller], form: Form, console: Console
) -> tuple[list[str], list[Round]]:
    port, pid = stack.gateway_ports[GATEWAY], stack.parts[GATEWAY].pid
    others = Others(port, made[form.attackers :])
    orders = Orders(
        port,
        made[0].models[0],
        headers=form.attackers,
        bodies=form.attackers,
        keys=[caller.key for caller in made[: form.attackers]],
    )
    # nothing is cold any more
    await others.work(Round(attacked=False), form.seconds / 4)
    wrong: list[str] = []
    rounds: list[Round] = []
    for _ in range(form.rounds):
        alone, under = Round(attacked=False), Round(attacked=True)
        await others.work(alone, form.seconds)
        alone.kib = _resident_kib(pid)
        problems, fates = await attacked(orders, under, others, form, pid)
        for kind, fate in fates.items():
            console.print(
                f"{kind}: {fate['cut']:.0f} cut off, the last after {fate['longest']:.1f} s; {fate['refused']:.0f} refused",
                highlight=False,
            )
        wrong += problems
        rounds += [alone, under]
    if stack.parts[GATEWAY].pid != pid or not stack.parts[GATEWAY].runs:
        wrong.append("the gateway did not live through it")
    return wrong, rounds


def main() -> int:
    commands = argparse.ArgumentParser(prog="python -m tests.load.slow_clients", description=__doc__)
    commands.add_argument("--short", action="store_true", help="less of all, and short limits: under a minute")
    commands.add_argument("--rounds", type=int, help="rounds alone, and as many under attack")
    add_folder(commands)
    options = commands.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120)
    form = SHORT if options.short else FULL
    if options.rounds is not None:
        form = replace(form, rounds=options.rounds)
    return in_folder(options.folder, "slow-clients-", lambda folder: asyncio.run(run(form, console, folder)))


if __name__ == "__main__":
    sys.exit(main())
