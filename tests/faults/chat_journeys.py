"""One case of a prompt: bring it to its point, strike, and see that its client is told the truth and the session serves again."""

import asyncio
import itertools
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from morpheus_devstack.waiting import poll

from tests.faults.cases import Fault
from tests.faults.chat_cases import ChatCase, Loss, Victim
from tests.faults.controller import Arrival, Trap
from tests.faults.journeys import Market
from tests.faults.records import Records
from tests.faults.stack import GATEWAYS, FaultStack, Part
from tests.faults.tenant import Tenant
from tests.load.client import Answer, Client, Unreachable
from tests.load.judging import Ending, Judgement, Question, judge, simulated

REACH_SECONDS = 12.0
READY_SECONDS = 20.0
ANSWER_SECONDS = 40.0
CUT_SECONDS = 1.0
LOST_SECONDS = 5.0
SERVED_SECONDS = 40.0
"""A worker that says nothing is dead for the others after 15 s; then the rest of what it left behind."""
AFTER_A_PAUSE = 6
"""So many prompts follow when a process goes on, some of them to what it still believes to own."""
PATH = "/api/v1/chat/completions"
NEAR, FAR = GATEWAYS
"""The prompt that is struck comes through the second gateway; whoever looks on uses the first."""


@dataclass
class ChatVerdict:
    """How a case went."""

    case: ChatCase
    reached: bool = False
    struck: bool = False
    seconds: float = 0.0
    told: str = ""
    """What the client of the struck prompt was told."""
    sent: int = 0
    """How often the prompt came to the provider."""
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    key_id: str = ""

    @property
    def passed(self) -> bool:
        return self.reached and self.struck and not self.wrong


class ChatJourneyer:
    """Runs cases on one stack, one after the other."""

    def __init__(self, stack: FaultStack, records: Records, market: Market, *, seed: int) -> None:
        self._stack = stack
        self._records = records
        self._market = market
        self._seed = seed
        self._numbers = itertools.count()

    async def run(self, case: ChatCase) -> ChatVerdict:
        """Run a case to its end and leave the stack sound."""
        started = time.monotonic()
        run = _Run(self._stack, self._records, self._market, case, self._seed, self._numbers)
        try:
            await run.go()
        finally:
            await run.clean_up()
        run.verdict.seconds = time.monotonic() - started
        return run.verdict


class _Run:
    def __init__(
        self,
        stack: FaultStack,
        records: Records,
        market: Market,
        case: ChatCase,
        seed: int,
        numbers: "itertools.count[int]",
    ) -> None:
        self.stack = stack
        self.chain = stack.chain
        self.records = records
        self.market = market
        self.case = case
        self.point = case.point
        self.chance = case.chance(seed)
        self.expect = simulated(stack.seed)
        self.verdict = ChatVerdict(case)
        self.numbers = numbers
        self.jobs: list[asyncio.Task[Any]] = []
        self.clients: list[Client] = []
        self.trap: Trap | None = None
        self.hold: int | None = None
        self.chunks_held = 0
        self.armed = asyncio.Event()
        self.last = ""
        self._tenant: Tenant | None = None

    @property
    def tenant(self) -> Tenant:
        assert self._tenant is not None
        return self._tenant

    def note(self, text: str) -> None:
        self.verdict.notes.append(f"{time.monotonic() % 1000:.2f} {text}")

    def wrong(self, text: str) -> None:
        self.verdict.wrong.append(text)

    def begin(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        task = asyncio.create_task(work)
        self.jobs.append(task)
        return task

    # the course of a case

    async def go(self) -> None:
        await self.everybody_is_ready()
        self._tenant = await Tenant.new(self.stack.http)
        self.verdict.key_id = self.tenant.key_id
        await self.open()
        question = self.question()
        counter = await self.chain.arm("chat", "delay", count=None, seconds=0, match=question.canary)
        line = [await self.run_before()] if self.point.in_line else []
        client = self.client(FAR)
        arrival = self.begin(self.arrive(question))
        await self.armed.wait()
        asked = self.begin(self.ask(client, question))
        if self.point.in_line:
            line.append(await self.stand_in_line())
        try:
            worker = await asyncio.wait_for(arrival, REACH_SECONDS)
        except TimeoutError:
            self.note("the point was not reached")
        else:
            self.verdict.reached = await self.is_answering(client)
            await self.strike(worker, client)
        await self.let_go()
        if self.case.fault is Fault.PAUSE and self.point.victim is Victim.GATEWAY:
            # the session serves others while a gateway stands still; its own client hears of it when it goes on
            await self.serves_again()
            await self.stack.revive()
        await self.judge_struck(question, await asyncio.wait_for(asked, ANSWER_SECONDS), counter)
        for other, task in line:
            judgement = self.judged(other, await asyncio.wait_for(task, ANSWER_SECONDS))
            if judgement.ending is not Ending.WHOLE:
                self.wrong(f"one of the line was told {judgement.ending} ({judgement.code})")
        await self.serves_again()
        if self.case.fault is Fault.PAUSE:
            await self.stack.revive()
            self.note("goes on")
            for _ in range(AFTER_A_PAUSE):
                await self.probe(self.chance.choice(GATEWAYS))
        await self.stack.revive()
        await self.everybody_is_ready()
        await self.serves_again()
        await self.look_at_records()

    async def everybody_is_ready(self) -> None:
        for gateway in GATEWAYS:
            if not await self.stack.until_ready(gateway, seconds=READY_SECONDS):
                raise RuntimeError(f"{gateway} is not ready")

    async def open(self) -> None:
        """A session, opened by hand: nothing opens another in its place."""

        async def is_open() -> bool:
            answer = await self.tenant.open(self.market.bid)
            return answer is not None and answer.status_code == 200

        if not await poll(is_open, seconds=READY_SECONDS, every=0.5):
            raise RuntimeError("no session to begin with")

    def question(self) -> Question:
        canary = f"canary-99-{next(self.numbers):08}"
        stream = self.point.chunks is not None or self.chance.random() < 0.6
        return Question(canary, f"{canary} says hello", self.market.model, stream=stream, max_tokens=40)

    def client(self, gateway: str) -> Client:
        client = Client(self.stack.gateway_ports[gateway])
        self.clients.append(client)
        return client

    async def ask(self, client: Client, question: Question) -> Answer:
        try:
            return await client.post(PATH, self.tenant.key, question.body)
        except Unreachable:
            return Answer(0, b"", ended=False, left=False, request_id="")

    def judged(self, question: Question, answer: Answer) -> Judgement:
        judgement = judge(question, answer, self.expect)
        if judgement.wrong is not None:
            self.wrong(f"I4: {judgement.wrong}")
        return judgement

    async def run_before(self) -> "tuple[Question, asyncio.Task[Answer]]":
        """Have a prompt of the same key run, held at the router."""
        question = self.question()
        self.hold = await self.hold_answer(question)
        task = self.begin(self.ask(self.client(NEAR), question))
        await asyncio.wait_for(self.chain.until_held(self.hold), REACH_SECONDS)
        return question, task

    async def stand_in_line(self) -> "tuple[Question, asyncio.Task[Answer]]":
        """Have another prompt wait behind the one that is to be struck."""
        trap = self.trap
        assert trap is not None
        await asyncio.wait_for(asyncio.shield(trap.caught), REACH_SECONDS)
        self.stack.controller.remove(trap)
        self.trap = None
        question = self.question()
        behind = self.stack.controller.set_trap("P2", self.concerns)
        task = self.begin(self.ask(self.client(NEAR), question))
        await asyncio.wait_for(behind.caught, REACH_SECONDS)
        self.stack.controller.remove(behind)
        return question, task

    # reaching and striking

    async def hold_answer(self, question: Question) -> int:
        """Have the answer to a prompt stand still at the router."""
        assert self.point.chunks is not None
        self.chunks_held = self.chance.choice(self.point.chunks)
        return await self.chain.arm("chat", "stall", at=self.chunks_held, match=question.canary)

    async def arrive(self, question: Question) -> Part:
        """Wait until the point is reached; return the worker that has the prompt."""
        if self.point.loss is Loss.CREDIT:
            self.stack.bus_wires[FAR].lose_messages(1, Loss.CREDIT)
        step = "P2" if self.point.in_line or self.point.loss is Loss.CREDIT else self.point.step
        if step is not None:
            self.trap = self.stack.controller.set_trap(step, self.concerns)
            self.armed.set()
            arrival = await asyncio.shield(self.trap.caught)
            part = self.stack.part_of(arrival.pid)
            if part is None:
                raise RuntimeError(f"process {arrival.pid} is no part of the stack")
            return part
        self.hold = await self.hold_answer(question)
        self.armed.set()
        await self.chain.until_held(self.hold)
        (session,) = await self.records.sessions(self.tenant.key_id)
        return self.stack.parts[session["owner"]["worker"]]

    async def is_answering(self, client: Client) -> bool:
        """Wait until the client has what the router let through."""
        if self.point.in_line or self.chunks_held < 1:
            return True

        async def has_some() -> bool:
            return client.received > 0

        return await poll(has_some, seconds=REACH_SECONDS)

    async def concerns(self, arrival: Arrival) -> bool:
        return arrival.subject == self.tenant.key_id

    async def strike(self, worker: Part, client: Client) -> None:
        part = worker if self.point.victim is Victim.WORKER else self.stack.parts[FAR]
        self.note(f"{self.case.fault} strikes {part.name}, the prompt is with {worker.name}")
        self.verdict.struck = self.case.fault is not Fault.LOST
        match self.case.fault:
            case Fault.KILL:
                await part.kill()
                if part is not worker or self.chance.random() < 0.75:
                    await part.start()
            case Fault.PAUSE:
                part.pause()
            case Fault.CUT:
                self.stack.bus_wires[part.name].cut()
                _ = self.begin(self.mend_later(part.name))
            case Fault.LOST if self.point.loss is None:
                wire = self.stack.mongo_wires[part.name]
                wire.lost.clear()
                wire.lose_answers(1)
                await self.let_go()
                self.verdict.struck = await poll(lambda: _has(wire.lost), seconds=LOST_SECONDS)
            case Fault.LOST:
                await self.lose_message(client)

    async def lose_message(self, client: Client) -> None:
        wire = self.stack.bus_wires[FAR]
        if self.point.loss is Loss.CANCEL:
            wire.lost.clear()
            wire.lose_messages(1, Loss.CANCEL)
            client.close()
        else:
            await self.let_go()
        self.verdict.struck = await poll(lambda: _has(wire.lost), seconds=LOST_SECONDS)

    async def mend_later(self, name: str) -> None:
        await asyncio.sleep(CUT_SECONDS)
        self.stack.bus_wires[name].mend()

    async def let_go(self) -> None:
        if self.trap is not None:
            self.stack.controller.remove(self.trap)
            self.trap = None
        if self.hold is not None:
            await self.chain.disarm(self.hold)
            self.hold = None

    # what must hold

    async def judge_struck(self, question: Question, answer: Answer, counter: int) -> None:
        """Its client is told the truth, and its prompt ran once at most."""
        judgement = self.judged(question, answer)
        self.verdict.told = f"{judgement.ending} {judgement.code or ''}".strip()
        self.note(f"told: {self.verdict.told}")
        killed_gateway = self.point.victim is Victim.GATEWAY and self.case.fault is Fault.KILL
        if judgement.ending is Ending.BROKEN and not killed_gateway:
            self.wrong("the client's connection broke")
        if judgement.ending is Ending.LEFT and self.point.loss is not Loss.CANCEL:
            self.wrong("the client left, which it did not want to")
        self.verdict.sent = await self.chain.strikes(counter)
        if self.verdict.sent > 1:
            self.wrong(f"the prompt came to the provider {self.verdict.sent} times")
        if judgement.ending is Ending.WHOLE and self.verdict.sent != 1:
            self.wrong("an answer, and no prompt at the provider")

    async def probe(self, gateway: str) -> bool:
        """Ask once; tell whether there was a whole answer. Everything else has to be an honest refusal."""
        question = self.question()
        counter = await self.chain.arm("chat", "delay", count=None, seconds=0, match=question.canary)
        judgement = self.judged(question, await self.ask(self.client(gateway), question))
        if await self.chain.strikes(counter) > 1:
            self.wrong("a prompt after it came to the provider twice")
        await self.chain.disarm(counter)
        self.clients.pop().close()
        self.last = f"{judgement.ending} {judgement.code or ''}".strip()
        return judgement.ending is Ending.WHOLE

    async def serves_again(self) -> None:
        """The session answers through each gateway that runs."""
        struck = self.stack.parts[FAR]
        for gateway in GATEWAYS:
            if gateway == FAR and (struck.is_paused or not struck.runs):
                continue
            started = time.monotonic()
            if not await poll(partial(self.probe, gateway), seconds=SERVED_SECONDS, every=0.3):
                self.wrong(f"no answer through {gateway} after {SERVED_SECONDS:.0f} s, the last was {self.last}")
            self.note(f"serves again through {gateway} after {time.monotonic() - started:.1f} s")

    async def look_at_records(self) -> None:
        """One session as before, and nothing that says that a prompt runs."""

        async def is_free() -> bool:
            return all(row.get("busy") is None for row in await self.records.sessions(self.tenant.key_id))

        if not await poll(is_free, seconds=LOST_SECONDS):
            self.wrong("the session is marked as busy, and nothing runs in it")
        states = [row["state"] for row in await self.records.sessions(self.tenant.key_id)]
        if states != ["active"]:
            self.wrong(f"its sessions are {states}")

    async def clean_up(self) -> None:
        if self.trap is not None:
            self.stack.controller.remove(self.trap)
        for client in self.clients:
            client.close()
        for job in self.jobs:
            job.cancel()
        await asyncio.gather(*self.jobs, return_exceptions=True)
        await self.stack.revive()
        if await self.chain.until_up(seconds=REACH_SECONDS):
            await self.chain.disarm()


async def _has(lost: list[str]) -> bool:
    return bool(lost)
