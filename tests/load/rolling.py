"""Restart every process of every service, one after the other, under streams: `make rolling`. None may be cut."""

import argparse
import asyncio
import sys
import time
from pathlib import Path

from morpheus_devstack.waiting import poll
from rich.console import Console

from tests.faults.records import Records
from tests.faults.stack import GATEWAYS, WORKERS, FaultStack, Part, Plan, fault_stack
from tests.load.balancer import Balancer
from tests.load.canary import KEPT, PATH, RETRY_SECONDS, Caller, Tally
from tests.load.client import PATIENT, Answer, Client, Unreachable
from tests.load.judging import Ending, Question, judge, simulated
from tests.load.soundness import unsound
from tests.load.tenants import callers
from tests.run_folder import add_folder, in_folder

AUTHS = ("auth-1", "auth-2")
AUTOMATIONS = ("automation-1", "automation-2")
"""Of a service that has one process nothing is answered while that is restarted."""
ANSWER_SECONDS = 2.0
NOTICE_SECONDS = 3.0
"""Many looks of the balancer, on an idle machine."""
DRAIN_SECONDS = 30.0
END_SECONDS = DRAIN_SECONDS + 10.0
UP_SECONDS = 60.0
READY = b'"event": "ready"'


class Streams:
    """One stream after the other for each caller, until `enough`."""

    def __init__(self, made: list[Caller], port: int, *, seed: int) -> None:
        self._made = made
        self._port = port
        self._expect = simulated(seed)
        self.enough = asyncio.Event()
        self.tally = Tally()
        self.running = 0
        self.again = 0

    async def all_run(self) -> bool:
        """Whether every caller has one under way."""
        return self.running == len(self._made)

    async def all_answered(self) -> bool:
        """Whether there were two answers for each caller."""
        return self.tally.done >= 2 * len(self._made)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number, caller in enumerate(self._made):
                group.create_task(self._stream(number, caller))

    async def _stream(self, number: int, caller: Caller) -> None:
        client = Client(self._port)
        count = 0
        while not self.enough.is_set():
            canary = f"canary-{number % 100:02}-{number * 10_000 + count:08}"
            question = Question(canary, f"{canary} rolls on", caller.models[0], stream=True, max_tokens=40)
            count += 1
            started = time.monotonic()
            self.running += 1
            try:
                answer = await client.post(PATH, caller.key, question.body)
            except Unreachable:
                answer = Answer(0, b"", ended=False, left=False, request_id="")
            finally:
                self.running -= 1
            judgement = judge(question, answer, self._expect)
            self.tally.add(question, judgement, PATIENT, seconds=time.monotonic() - started)
            if judgement.ending is not Ending.WHOLE and judgement.wrong is None:
                self.tally.wrong.append(f"{canary}: {judgement.ending} {judgement.code or ''} {answer.request_id}")
                await asyncio.sleep(RETRY_SECONDS)
        self.again += client.again
        client.close()


async def _has_said_ready(part: Part, before: int) -> bool:
    return part.command.log.read_bytes().count(READY) > before


async def restart(stack: FaultStack, name: str) -> list[str]:
    """Ask a process to go and start it again; return what was wrong with that."""
    part = stack.parts[name]
    wrong = []
    code = await part.end(END_SECONDS)
    if code != 0:
        wrong.append(f"{name} ended with {code}")
    before = part.command.log.read_bytes().count(READY)
    await part.start()
    if name in GATEWAYS:
        is_up = await stack.until_ready(name, seconds=UP_SECONDS)
    else:
        is_up = await poll(lambda: _has_said_ready(part, before), seconds=UP_SECONDS)
    return wrong if is_up else [*wrong, f"{name} did not come back"]


async def roll(stack: FaultStack, streams: Streams, count: int, console: Console) -> list[str]:
    """Restart one after the other, each with all streams running."""
    wrong = []
    # nothing is cold any more
    _ = await poll(streams.all_answered, seconds=UP_SECONDS)
    for name in (*AUTHS, *AUTOMATIONS, *WORKERS, *GATEWAYS):
        if not await poll(streams.all_run, seconds=UP_SECONDS):
            wrong.append(f"{streams.running} of {count} streams run")
        started, running = time.monotonic(), streams.running
        wrong += await restart(stack, name)
        console.print(
            f"{name} restarted under {running} streams in {time.monotonic() - started:.1f} s", highlight=False
        )
    if not await poll(streams.all_run, seconds=UP_SECONDS):
        wrong.append(f"{streams.running} of {count} streams run at the end")
    return wrong


async def run(options: argparse.Namespace, console: Console, folder: Path) -> bool:
    """Return whether no stream was cut."""
    # waits as in production: what is looked at here is no fault
    settings = {
        "DRAIN_SECONDS": DRAIN_SECONDS,
        "DRAIN_NOTICE": NOTICE_SECONDS,
        "RELAY_SILENCE": 15.0,
        "MONGO_TIMEOUT_MS": 5_000,
    }
    plan = Plan(
        gateways=GATEWAYS,
        auths=AUTHS,
        automations=AUTOMATIONS,
        settings=settings,
        answer_seconds=ANSWER_SECONDS,
        struck=False,
    )
    async with fault_stack(folder / "stack", seed=options.seed, plan=plan) as stack:
        made = await callers(stack, options.streams)
        balancer = Balancer(list(stack.gateway_ports.values()))
        await balancer.start()
        streams = Streams(made, balancer.port, seed=options.seed)
        started = time.monotonic()
        streaming = asyncio.create_task(streams.run())
        try:
            wrong = await roll(stack, streams, len(made), console)
            streams.enough.set()
            await streaming
        finally:
            streaming.cancel()
            await asyncio.gather(streaming, return_exceptions=True)
            await balancer.stop()
        seconds = time.monotonic() - started
        records = Records(stack.mongo, stack.places.observer_url)
        try:
            wrong += await unsound(stack, records, killed=False)
        finally:
            await records.aclose()
    tally = streams.tally
    cut = tally.done - tally.endings[Ending.WHOLE]
    for text in (*tally.wrong[:KEPT], *wrong):
        console.print(f"FAIL {text}", markup=False, highlight=False)
    passed = not wrong and not tally.wrong and not cut and not balancer.refused
    console.print(
        f"rolling restart: {tally.done:,} streams of {len(made)} keys, {cut} not whole, {balancer.refused} refused, "
        f"{streams.again} asked again on a new connection, slowest {tally.slowest:.1f} s; {seconds:.0f} s; seed {options.seed}"
        + ("" if passed else f"; logs in {folder}"),
        highlight=False,
    )
    return passed


def parser() -> argparse.ArgumentParser:
    commands = argparse.ArgumentParser(prog="python -m tests.load.rolling", description=__doc__)
    add = commands.add_argument
    add("--streams", type=int, default=200, help="streams at once, each of a key of its own (default 200)")
    add("--seed", type=int, default=1, help="decides what the provider says (default 1)")
    add_folder(commands)
    return commands


def main() -> int:
    options = parser().parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120)
    return in_folder(options.folder, "rolling-", lambda folder: asyncio.run(run(options, console, folder)))


if __name__ == "__main__":
    sys.exit(main())
