"""Stage five failures, one after the other, and tell each by its alerts alone: `make staged-failures`.

Each part of the stack is a process; what fails is killed, stopped, or told to fail. All processes are scraped meanwhile, and the
rules of production are evaluated, unchanged, on what was scraped.

What is not as in production is the clock: `BEAT_SECONDS` of a stage stand for the 15 s between two scrapes, so that `for: 2m` is over
in two seconds. Shortening the windows in a copy of the rules would come to the same and judge other rules than ours. Ratios and states do
not change by it. Ages are in true seconds: alerts on ages of minutes do not come up here, and none of them is needed to tell what failed.
"""

import argparse
import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import httpx2
from morpheus_common.bus.names import User as Service
from morpheus_devstack.ports import free_ports
from morpheus_devstack.processes import Command
from morpheus_devstack.waiting import poll
from rich.console import Console
from rich.table import Table

from tests.faults.stack import GATEWAY, SIMULATOR, FaultStack, Plan
from tests.faults.tenant import Tenant
from tests.load.client import PATIENT, Answer, Client, Manner, Unreachable
from tests.monitoring.rules import firing, metrics_in, rules
from tests.monitoring.scraping import Scraper, Target
from tests.run_folder import add_folder, in_folder

BEAT_SECONDS: Final = 0.17
WELL_SCRAPES: Final = 6
"""A minute and a half of production before something fails,"""
FAILED_SCRAPES: Final = 40
"""and ten after: a dead router is found to be away after three looks, a second apart; a share of requests has to last five minutes."""
RECOVERY_SECONDS: Final = 40.0
TENANTS: Final = 3
BAD_CLIENTS: Final = 3
"""So many send wrong requests, and so many leave their streams."""
LEAVING: Final = Manner(leaves_after=0.1)
ANSWER_SECONDS: Final = 0.3
"""Of the simulated provider: a stream can be left."""
PAUSE_SECONDS: Final = 0.1
MODEL: Final = "llama-3.3-70b"
PATH: Final = "/api/v1/chat/completions"

SETTINGS: Final = {
    "GAUGES_SECONDS": 0.3,
    "FIRST_BYTE_TIMEOUT": 1.5,
    "CHATS_PER_MINUTE": 1_000_000,
    "REFUSED_CREDENTIALS_PER_MINUTE": 1_000_000,
}
CHAIN_CALLS: Final = (
    "balance", "allowance", "latest_block", "budget", "supply", "transactions", "models", "model_bids", "rated_bids", "bid",
    "providers", "provider_bids", "sessions", "session_ids", "session", "open", "close", "approve",
)  # fmt: skip
"""What a router asks its node for, by the simulator's names."""

STANDING: Final = ("up", "morpheus_ready", "morpheus_bus_connected", "morpheus_router_up", "morpheus_chain_up")
"""What is 1 while all is well."""

ROUTER: Final = frozenset({"MorpheusRouterDown", "MorpheusAllRoutersDown"})
CHAIN: Final = frozenset({"MorpheusChainDown"})
BUS: Final = frozenset({"MorpheusBusDown", "MorpheusBusDisconnected"})
DATABASE: Final = frozenset({"MorpheusDatabaseDown"})
CLIENTS: Final = frozenset({"MorpheusClientsRefused", "MorpheusClientsLeave"})
OF_THE_MACHINE: Final = frozenset({"MorpheusOverheadHigh", "MorpheusEventLoopLag", "MorpheusDatabaseSlow"})
"""A machine that runs all parts at once, and other things besides, is slow. That is so, and no failure that is staged."""
TELLING: Final = ROUTER | CHAIN | BUS | DATABASE | CLIENTS
"""The alerts that tell what failed. All others say what follows from it."""


class MeasuredStack(FaultStack):
    """A stack whose services have private ports, and users who use it."""

    def __init__(self, folder: Path, *, seed: int) -> None:
        plan = Plan(settings=SETTINGS, struck=False, answer_seconds=ANSWER_SECONDS)
        super().__init__(folder, seed=seed, plan=plan)
        self.targets: list[Target] = []
        self.port = self.gateway_ports[GATEWAY]
        self.good: list[User] = []
        self.leavers: list[User] = []

    async def _service(self, service: Service, name: str) -> Command:
        command = await super()._service(service, name)
        [port] = free_ports(1)
        self.targets.append(Target(f"morpheus-{service}", name, port))
        return replace(command, env={**(command.env or os.environ), "METRICS_PORT": str(port)})

    async def admit_users(self) -> None:
        """Make all users, each with a key and a session."""
        [model, *_] = await self.chain.models()
        [bid, *_] = await self.chain.bids(model)
        tenants = await asyncio.gather(*(Tenant.new(self.http) for _ in range(TENANTS + BAD_CLIENTS)))
        for opened in await asyncio.gather(*(tenant.open(bid) for tenant in tenants)):
            if opened is None or not opened.is_success:
                raise RuntimeError("a session could not be opened")
        users = [User(self.port, tenant.key) for tenant in tenants]
        self.good, self.leavers = users[:TENANTS], users[TENANTS:]


class User:
    """Sends one prompt after the other."""

    def __init__(self, port: int, key: str) -> None:
        self._client = Client(port)
        self.key = key
        self.is_served = False
        """Whether the last prompt was answered well."""

    async def use(self, *, manner: Manner = PATIENT, messages: Sequence[object] | None = None) -> None:
        """Ask for ever, in both modes in turn; who leaves, leaves streams."""
        stream = True
        said = [{"role": "user", "content": "what is up"}] if messages is None else messages
        while True:
            body = json.dumps({"model": MODEL, "stream": stream, "messages": said}).encode()
            answer = await self._ask(body, manner)
            self.is_served = answer is not None and answer.status == 200 and b'"error"' not in answer.body
            stream = not stream or manner.leaves
            await asyncio.sleep(PAUSE_SECONDS)

    async def _ask(self, body: bytes, manner: Manner) -> Answer | None:
        try:
            return await self._client.post(PATH, self.key, body, manner=manner)
        except Unreachable:
            return None


@asynccontextmanager
async def _running(*jobs: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def _all_well(_: MeasuredStack) -> AsyncIterator[None]:
    yield


@asynccontextmanager
async def _router_down(stack: MeasuredStack) -> AsyncIterator[None]:
    await stack.parts[SIMULATOR].kill()
    yield


@asynccontextmanager
async def _router_hangs(stack: MeasuredStack) -> AsyncIterator[None]:
    stack.parts[SIMULATOR].pause()
    yield


@asynccontextmanager
async def _chain_away(stack: MeasuredStack) -> AsyncIterator[None]:
    for call in CHAIN_CALLS:
        await stack.chain.arm(call, "error_before", count=None, text="context deadline exceeded")
    yield
    await stack.chain.disarm()


@asynccontextmanager
async def _bus_away(stack: MeasuredStack) -> AsyncIterator[None]:
    await stack.parts["nats-server"].kill()
    yield


@asynccontextmanager
async def _database_away(stack: MeasuredStack) -> AsyncIterator[None]:
    await stack.parts["mongod"].kill()
    yield


@asynccontextmanager
async def _clients_at_fault(stack: MeasuredStack) -> AsyncIterator[None]:
    """Some have wrong keys or send no messages, some leave the streams that they asked for."""
    wrong_key = [User(stack.port, "sk-nobodys").use() for _ in range(BAD_CLIENTS)]
    no_messages = [User(stack.port, good.key).use(messages=()) for good in stack.good]
    leaving = [user.use(manner=LEAVING) for user in stack.leavers]
    async with _running(*wrong_key, *no_messages, *leaving):
        yield


@dataclass(frozen=True, slots=True)
class Stage:
    """Something that fails while a block runs. `told_by`: the telling alerts that must fire, these and no other. `alone`: no
    alert of another kind may fire beside them.
    """

    name: str
    told_by: frozenset[str]
    failing: Callable[[MeasuredStack], AbstractAsyncContextManager[None]]
    alone: bool = False
    scrapes: int = FAILED_SCRAPES


STAGES: Final = (
    Stage("nothing", frozenset(), _all_well, alone=True),
    Stage("router down", ROUTER, _router_down),
    # each of the three looks waits five seconds for an answer
    Stage("router hanging", ROUTER, _router_hangs, scrapes=4 * FAILED_SCRAPES),
    Stage("chain away", CHAIN, _chain_away),
    Stage("bus away", BUS, _bus_away),
    Stage("database away", DATABASE, _database_away),
    Stage("clients at fault", CLIENTS, _clients_at_fault, alone=True),
)


def wrong_with(stage: Stage, fired: set[str]) -> list[str]:
    """Return what is wrong with the alerts that fired in a stage."""
    wrong = [f"{name} does not fire" for name in sorted(stage.told_by - fired)]
    wrong += [f"{name} tells of another failure" for name in sorted((fired & TELLING) - stage.told_by)]
    if stage.alone:
        wrong += [f"{name} is no matter of ours" for name in sorted(fired - TELLING - OF_THE_MACHINE)]
    return wrong


class Play:
    """Runs stages on one stack."""

    def __init__(self, stack: MeasuredStack, http: httpx2.AsyncClient) -> None:
        self._stack = stack
        self._http = http
        self._wanted = {"up"}.union(*(metrics_in(rule["expr"]) for rule in rules()))
        self.seen: set[str] = set()

    async def run(self, stage: Stage) -> set[str]:
        """Have something fail, and return the alerts that fire at the end. Raises `RuntimeError` if the stack is not well before."""
        if not await poll(self._is_well, seconds=RECOVERY_SECONDS, every=BEAT_SECONDS):
            raise RuntimeError(f"before {stage.name}: the stack is not well again; missing: {await self._missing()}")
        scraper = Scraper(self._stack.targets, self._wanted)
        await self._scrape(scraper, WELL_SCRAPES)
        async with stage.failing(self._stack):
            await self._scrape(scraper, stage.scrapes)
        await self._stack.revive()
        self.seen |= scraper.seen
        return await asyncio.to_thread(firing, scraper.series(), scraper.scrapes)

    async def _scrape(self, scraper: Scraper, times: int) -> None:
        for _ in range(times):
            next_at = time.monotonic() + BEAT_SECONDS
            await scraper.scrape(self._http)
            await asyncio.sleep(max(0.0, next_at - time.monotonic()))

    async def _is_well(self) -> bool:
        return all(user.is_served for user in self._stack.good) and not await self._missing()

    async def _missing(self) -> list[str]:
        """Return what a look at all processes finds missing."""
        look = Scraper(self._stack.targets, STANDING)
        await look.scrape(self._http)
        missing = [f"{name} {labels}" for name in STANDING for labels, value in look.now(name) if not value]
        return missing + [name for name in STANDING if not look.now(name)]


async def play(folder: Path, chosen: Sequence[Stage], console: Console, *, seed: int) -> bool:
    """Run stages, show what each was told by, and tell whether each was told from the others."""
    table = Table("stage", "told by", "and what follows", "s")
    wrong: list[str] = []
    stack = MeasuredStack(folder, seed=seed)
    try:
        await stack.start()
        await stack.admit_users()
        async with httpx2.AsyncClient() as http, _running(*(user.use() for user in stack.good)):
            playing = Play(stack, http)
            for stage in chosen:
                started = time.monotonic()
                fired = await playing.run(stage)
                took = f"{time.monotonic() - started:.0f}"
                table.add_row(stage.name, " ".join(sorted(fired & TELLING)), " ".join(sorted(fired - TELLING)), took)
                wrong += [f"{stage.name}: {what}" for what in wrong_with(stage, fired)]
    finally:
        await stack.stop()
    console.print(table)
    for line in wrong:
        console.print(line, style="red", highlight=False)
    return not wrong


def main() -> int:
    commands = argparse.ArgumentParser(prog="python -m tests.monitoring.staged", description=__doc__)
    names = [stage.name for stage in STAGES]
    commands.add_argument("--stage", action="append", choices=names, help="this stage only; may be repeated")
    commands.add_argument(
        "--short", action="store_true", help="without the router that hangs, which is told as one that is down"
    )
    commands.add_argument("--seed", type=int, default=1)
    add_folder(commands)
    options = commands.parse_args()
    chosen = [stage for stage in STAGES if not options.stage or stage.name in options.stage]
    if options.short:
        chosen = [stage for stage in chosen if stage.failing is not _router_hangs]
    # our own connection to the bus is lost on purpose
    logging.getLogger("nats").setLevel(logging.CRITICAL)
    console = Console(width=None if sys.stdout.isatty() else 200)

    def run(folder: Path) -> bool:
        return asyncio.run(play(folder / "stack", chosen, console, seed=options.seed))

    return in_folder(options.folder, "morpheus-staged-", run)


if __name__ == "__main__":
    sys.exit(main())
