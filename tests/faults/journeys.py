"""One case: bring the stack to its point, strike, let the chain do what it does, and wait until all is at rest again."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import httpx2
from morpheus_common.clock import utc_now
from morpheus_common.contracts.renewal import RENEW_SESSION, RenewSession
from morpheus_common.contracts.sessions import AutomationWord
from morpheus_common.errors import ApiError
from morpheus_common.ids import uuid7
from morpheus_devstack.waiting import poll

from tests.faults.cases import DUPLICATES, Case, Fault, Hold, Journey, Outcome, Twist, Wish
from tests.faults.chain import Chain
from tests.faults.controller import Arrival, Trap
from tests.faults.invariants import ENDED
from tests.faults.records import Records, unsettled
from tests.faults.stack import (
    ABANDON_AFTER,
    BLOCK_SECONDS,
    CHAIN_TIMEOUT,
    GATEWAY,
    LEASE_SECONDS,
    SIMULATOR,
    WORKERS,
    FaultStack,
    Part,
)
from tests.faults.tenant import Tenant

REACH_SECONDS = 12.0
"""A point that is not reached by then is not reached."""
READY_SECONDS = 15.0
"""A router that the case before took away again and again is tried again after some seconds."""
SETTLE_SECONDS = 25.0
CUT_SECONDS = 1.0
DOWN_SECONDS = 3.0
LOST_SECONDS = 2.0
SERVED_SECONDS = 10.0
MEMPOOL_SECONDS = 4.0
PATIENCE_SECONDS = ABANDON_AFTER + CHAIN_TIMEOUT + LEASE_SECONDS + 6.0
NOTHING_SECONDS = LEASE_SECONDS + 2.0
"""A command of which nothing is written down by then has not got through."""
RENEWAL_SECONDS = 3.0
REFUSED_SECONDS = 1.0
"""A revoked key is admitted nowhere later than this after its revocation was confirmed (I6)."""
LAGGING_READS = 3
UNDONE_BLOCKS = 250
"""No more are undone: the simulator remembers 256."""
DAY = 86_400
EVERY = 0.1


@dataclass
class Verdict:
    """How a case went. `reached`: its point was. `wrong`: what does not hold."""

    case: Case
    reached: bool = False
    struck: bool = False
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    key_id: str = ""
    asked: int = 0

    @property
    def passed(self) -> bool:
        return self.reached and self.struck and not self.wrong


@dataclass(frozen=True, slots=True)
class Market:
    """Two bids on two models, to open and to switch to, and the first model's name."""

    bid: str
    other_bid: str
    model: str


class Journeyer:
    """Runs cases on one stack, one after the other."""

    def __init__(self, stack: FaultStack, records: Records, market: Market, *, seed: int) -> None:
        self._stack = stack
        self._chain: Chain = stack.chain
        self._records = records
        self._market = market
        self._seed = seed

    async def run(self, case: Case) -> Verdict:
        """Run a case to its end and leave the stack sound. What does not hold stands in the verdict."""
        started = time.monotonic()
        run = _Run(self._stack, self._records, self._market, case, case.chance(self._seed))
        try:
            await run.go()
        finally:
            await run.clean_up()
        run.verdict.seconds = time.monotonic() - started
        return run.verdict


class _Run:
    def __init__(self, stack: FaultStack, records: Records, market: Market, case: Case, chance: random.Random) -> None:
        self.stack = stack
        self.chain = stack.chain
        self.records = records
        self.market = market
        self.case = case
        self.point = case.point
        self.chance = chance
        self.verdict = Verdict(case)
        self.since = 0
        self.begun = time.monotonic()
        self.armed = 0
        self.hold: int | None = None
        self.jobs: list[asyncio.Task[None]] = []
        self.revoked_at: float | None = None
        self.money: int | None = None
        self.bid_deleted = False
        self.answered = ""
        self.duplicated = False
        self._tenant: Tenant | None = None

    @property
    def tenant(self) -> Tenant:
        assert self._tenant is not None
        return self._tenant

    def note(self, text: str) -> None:
        self.verdict.notes.append(f"{time.monotonic() % 1000:.2f} {text}")

    def wrong(self, text: str) -> None:
        self.verdict.wrong.append(text)

    # the course of a case

    async def go(self) -> None:
        await self.stack.until_ready(seconds=READY_SECONDS)
        self._tenant = await Tenant.new(self.stack.http)
        self.verdict.key_id = self.tenant.key_id
        self.since = len((await self.chain.state()).sessions)
        if self.point.journey is not Journey.OPEN:
            await self.prepare()
        prompt = self.begin(self.run_prompt()) if self.point.twist is Twist.PROMPT else None
        if prompt is not None:
            await self.until(self.prompt_runs, seconds=5.0)
        if self.point.twist is Twist.MOVED:
            await self.keep_apart()
        await self.arm()
        self.begun = time.monotonic()
        arrival = asyncio.create_task(self.arrive())
        if self.point.twist in DUPLICATES:
            _ = self.begin(self.mine_before_it_is_sent_again())
        asked = self.begin(self.ask())
        if self.point.twist is Twist.MOVED:
            _ = self.begin(self.undo_once_open())
        happening = None
        if self.point.after_mining:
            happening = self.begin(self.let_outcome_happen())
        try:
            part = await asyncio.wait_for(arrival, REACH_SECONDS)
        except TimeoutError:
            self.note("the point was not reached")
        else:
            self.verdict.reached = self.duplicated or self.point.twist not in DUPLICATES
            await self.twist(asked)
            await self.strike(part)
        self.release_traps()
        if self.hold not in {None, self.armed}:
            await self.chain.disarm(self.hold)
        if happening is None:
            happening = self.begin(self.let_outcome_happen())
        await happening
        if self.case.fault is Fault.LOST:
            await self.until(self.answer_was_lost, seconds=LOST_SECONDS)
            if not self.verdict.struck and self.point.may_be_last and not await self.records.unpublished():
                self.note("nothing was left to be written, by anybody")
                self.verdict.struck = True
        await self.stack.revive()
        await self.restore()
        await self.stack.until_ready(seconds=REACH_SECONDS)
        await self.rest()
        await self.look_at_key()
        self.verdict.asked = self.tenant.asked

    def begin(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Have something done beside the case, and ended with it."""
        task = asyncio.create_task(work)
        self.jobs.append(task)
        return task

    async def prepare(self) -> None:
        """Have a session before anything goes wrong; the case before may have left the router untried for some seconds."""
        told = "no answer"

        async def is_open() -> bool:
            nonlocal told
            answer = await self.tenant.open(self.market.bid)
            told = told if answer is None else answer.text[:300]
            return answer is not None and answer.status_code == 200

        if not await poll(is_open, seconds=READY_SECONDS, every=1.0):
            raise RuntimeError(f"no session to begin with: {told}")
        self.note("session open")

    async def ask(self) -> None:
        """What the user, or somebody for him, asks for; the answer is his, we look at the records."""
        if self.point.journey is Journey.RENEW:
            await self.renew()
            return
        if self.point.journey is Journey.CLOSE:
            if self.case.wish is Wish.REVOKED and self.chance.random() < 0.5 and self.point.number != "K15":
                await self.revoke()
                return
            answer = await self.tenant.close()
        else:
            bid = self.market.other_bid if self.point.journey is Journey.SWITCH else self.market.bid
            seconds = 330 if self.point.twist is Twist.MIDNIGHT else 3_600
            answer = await self.tenant.open(bid, seconds=seconds)
        self.note(f"answered {answer.status_code} {answer.text[:120]}" if answer is not None else "connection broke")

    async def renew(self) -> None:
        """Ask as automation does: the same command again until it is answered."""
        (current,) = [row for row in await self.records.sessions(self.tenant.key_id) if row["slot"] == "current"]
        self.tenant.asked += 1
        command = RenewSession(
            operation_id=uuid7(),
            session=current["_id"],
            user_id=current["user_id"],
            key_id=self.tenant.key_id,
            key_prefix=current["key_prefix"],
            model_id=current["model_id"],
            duration=3_600,
            word=AutomationWord(decision="renew", reason="ends_soon", at=utc_now()),
        )

        async def is_answered() -> bool:
            try:
                renewal = await self.stack.automation.call(RENEW_SESSION, command, timeout=RENEWAL_SECONDS)
            except ApiError as error:
                self.note(f"renewal: {error.code}")
                return error.code not in {"service_unavailable", "service_timeout"}
            self.note(f"renewal {renewal.progress}")
            return True

        await poll(is_answered, seconds=PATIENCE_SECONDS, every=1.0)

    async def run_prompt(self) -> None:
        await self.chain.arm("chat", "stall", at=1, seconds=0.6)
        await self.tenant.chat(self.market.model, stream=True)

    async def prompt_runs(self) -> bool:
        return any(row.get("busy") for row in await self.records.sessions(self.tenant.key_id))

    # what the chain does

    async def arm(self) -> None:
        """Arm what becomes of the transaction, and what holds its call."""
        kind = self.kind
        if self.point.primed:
            await self.chain.arm("open", "error_before", stage="before_allowance")
        if self.point.twist is Twist.ESCALATED:
            self.armed = await self.chain.arm("open", "escalated")
        elif self.case.outcome is Outcome.GHOST:
            self.armed = await self.arm_ghost(kind)
        elif self.case.outcome is Outcome.REVERT:
            self.armed = await self.chain.arm(kind, "revert")
        elif self.case.outcome is Outcome.NEVER:
            count = 2 if kind == "close" else None
            self.armed = await self.chain.arm(kind, "never_mined", count=count, seconds=self.in_mempool)
        elif self.case.outcome in {Outcome.LATE, Outcome.LATEST}:
            count = 1 if kind == "close" or self.point.twist in DUPLICATES else None
            self.armed = await self.chain.arm(kind, "mined_late", count=count, patience=self.in_mempool)
        if self.in_mempool:
            # the router waits by itself for a transaction that is not mined
            self.hold = self.armed
        elif self.point.hold is not None:
            self.hold = await self.arm_hold(self.point.hold)
        if self.point.twist is Twist.LAG:
            # after the one that is held: a node that has not got the block yet
            await self.chain.arm("session", "error_before", count=LAGGING_READS, text="session not found")

    @property
    def in_mempool(self) -> float:
        """How long the router waits for a transaction that is not mined, in seconds."""
        waits = self.point.hold is not None and self.point.hold.stage == "in_mempool"
        unmined = self.case.outcome in {Outcome.NEVER, Outcome.LATE, Outcome.LATEST}
        return MEMPOOL_SECONDS if waits and unmined else 0.0

    @property
    def kind(self) -> str:
        """The kind of call that this case is about, in the simulator's words and in ours."""
        return "close" if self.point.journey is Journey.CLOSE else "open"

    async def arm_ghost(self, kind: str) -> int:
        """Mined, and answered with an error, a broken connection, or not at all."""
        how = self.chance.choice(["error", "drop", "hang"])
        self.note(f"ghost: {how}")
        held_there = self.point.hold is not None and self.point.hold.stage == "mined"
        if held_there and how == "error":
            return await self.chain.arm(kind, "error_after")
        if held_there:
            # the hold itself is the answer that does not come
            return await self.chain.arm(kind, "drop", when="after")
        return await self.chain.arm(kind, "error_before" if how == "error" else how, stage="mined")

    async def arm_hold(self, hold: Hold) -> int:
        if hold.stage is not None:
            return await self.chain.arm(hold.kind, "hang", stage=hold.stage)
        return await self.chain.arm(hold.kind, "hang", when="before")

    async def let_outcome_happen(self) -> None:
        """Wait until the chain's part of this outcome is due, and do it."""
        outcome = self.case.outcome
        await self.chain.until_up(seconds=REACH_SECONDS)
        if outcome is not Outcome.SUCCESS:
            await self.until(self.has_struck_or_ended, seconds=PATIENCE_SECONDS)
        if outcome in {Outcome.GHOST, Outcome.LATE}:
            await self.until(self.answer_is_given_up, seconds=CHAIN_TIMEOUT + 2)
        elif outcome is Outcome.LATEST or (outcome is Outcome.NEVER and self.kind == "open"):
            await self.until(self.has_ended, seconds=PATIENCE_SECONDS)
        await self.chain.disarm()
        if outcome in {Outcome.LATE, Outcome.LATEST}:
            self.note(f"{await self.chain.release()} late transactions released")

    async def has_struck_or_ended(self) -> bool:
        return await self.chain.has_struck(self.armed) or await self.has_ended()

    async def answer_is_given_up(self) -> bool:
        """Whether our side knows that it has to look for itself: the call was answered, timed out, or taken over."""
        known = {"open": 1, "close": 0}[self.kind]
        rows = await self.under_way()
        return all(
            row["state"] not in {"pending", "sent"} or len(row["facts"]) > known or row["attempts"] > known
            for row in rows
        )

    async def has_ended(self) -> bool:
        """Whether nothing of this case is under way any more; a command that never got through is not either."""
        rows = await self.under_way()
        if not rows:
            return time.monotonic() > self.begun + NOTHING_SECONDS
        return all(row["state"] in ENDED for row in rows)

    async def under_way(self) -> list[dict[str, Any]]:
        """The operations that this case is about."""
        rows = await self.records.operations(self.tenant.key_id)
        mine = [row for row in rows if row["kind"] == self.kind]
        return mine[1:] if self.point.journey.has_first else mine

    # the strike

    async def arrive(self) -> Part:
        """Wait until the point is reached; return the process that is there, or that waits for the router there."""
        if self.point.step is not None:
            self.trap: Trap = self.stack.controller.set_trap(self.point.step, self.concerns)
            arrival = await self.trap.caught
            self.note(f"{arrival.worker} at {arrival.number} {arrival.subject}")
            part = self.stack.part_of(arrival.pid)
            if part is None:
                raise RuntimeError(f"process {arrival.pid} is no part of the stack")
            return part
        assert self.hold is not None
        await self.chain.until_held(self.hold)
        lease = await self.stack.wallet_lease()
        self.note(f"held in the router for {lease}")
        return self.stack.parts[lease.worker if lease is not None else WORKERS[0]]

    async def concerns(self, arrival: Arrival) -> bool:
        """Whether an arrival is of this case: of its key, or of something that is not written down yet."""
        if not arrival.worker.startswith(("sessions", "gateway")):
            return False
        key = await self.records.key_of(arrival.subject)
        if key is None:
            return True
        if key != self.tenant.key_id:
            return False
        return not self.point.journey.has_first or await self.is_the_second(arrival.subject)

    async def is_the_second(self, subject: str) -> bool:
        first = (await self.records.operations(self.tenant.key_id))[0]
        return subject not in {first["_id"], first["session"]}

    async def mine_before_it_is_sent_again(self) -> None:
        """Have the late transaction mined when our side has looked for it in vain and is about to send it again."""

        async def the_second_time(arrival: Arrival) -> bool:
            if not await self.concerns(arrival):
                return False
            operations = await self.records.operations(self.tenant.key_id)
            return any(row["_id"] == arrival.subject and row["state"] == "unknown" for row in operations)

        trap = self.stack.controller.set_trap("O10", the_second_time)
        try:
            await trap.caught
            self.note(f"{await self.chain.release()} late transactions released, then sent again")
            self.duplicated = await self.until(self.is_mined, seconds=REACH_SECONDS)
            if self.point.twist is Twist.WALLET_EMPTY:
                self.money = (await self.chain.state()).mor
                await self.chain.set_money(mor=0)
            elif self.point.twist is Twist.BID_DELETED:
                self.bid_deleted = True
                await self.chain.set_bid(self.market.bid, deleted=True)
        finally:
            self.stack.controller.remove(trap)

    async def keep_apart(self) -> None:
        """See to it that the blocks that will be undone have nothing in them but the open of this case."""
        await self.chain.approve(10**26)
        await self.chain.advance(UNDONE_BLOCKS * BLOCK_SECONDS)

    async def undo_once_open(self) -> None:
        """Undo the block of the session once we take it for open; it is mined again, under another id."""
        await self.until(self.is_open, seconds=PATIENCE_SECONDS)
        state = await self.chain.state()
        age = state.now - state.sessions[self.since].opened_at
        await self.chain.reorganise(min(UNDONE_BLOCKS, int(age / BLOCK_SECONDS) + 40), others=1)
        self.note("its block was undone")

    async def is_open(self) -> bool:
        return any(row["state"] == "active" for row in await self.records.sessions(self.tenant.key_id))

    async def is_mined(self) -> bool:
        return len((await self.chain.state()).sessions) > self.since

    def release_traps(self) -> None:
        trap = getattr(self, "trap", None)
        if trap is not None:
            self.stack.controller.remove(trap)
            del self.trap

    async def twist(self, asked: asyncio.Task[None]) -> None:
        """What else happens at this point."""
        simulator = self.stack.parts[SIMULATOR]
        match self.point.twist:
            case Twist.CLIENT_GONE:
                asked.cancel()
            case Twist.ROUTER_RESTARTED | Twist.ROUTER_WIPED | Twist.ROUTER_DOWN:
                await simulator.kill()
                if self.point.twist is Twist.ROUTER_DOWN:
                    _ = self.begin(self.start_later(simulator, DOWN_SECONDS))
                    return
                await simulator.start()
                await self.chain.until_up(seconds=REACH_SECONDS)
                if self.point.twist is Twist.ROUTER_WIPED:
                    await self.chain.wipe()
                await self.arm()
                if self.hold not in {None, self.armed}:
                    await self.chain.disarm(self.hold)
            case Twist.MIDNIGHT:
                now = (await self.chain.state()).now
                await self.chain.advance(DAY - now % DAY + 1)
            case Twist.EXPIRED:
                await self.chain.advance(3_600 + 120)
            case Twist.NO_GAS:
                await self.chain.set_money(eth=0)
            case _:
                # these have happened on the way here
                return

    async def start_later(self, part: Part, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await part.start()
        await self.chain.until_up(seconds=REACH_SECONDS)
        await self.arm()

    async def strike(self, part: Part) -> None:
        """Let the fault strike a process, and the wish change at this very point."""
        self.note(f"{self.case.fault} strikes {part.name}")
        before = await self.stack.wallet_lease()
        if self.case.fault is Fault.PAUSE and part.name != GATEWAY:
            part.pause()
            await self.change_wish()
        else:
            await self.change_wish()
        self.verdict.struck = self.case.fault is not Fault.LOST
        match self.case.fault:
            case Fault.KILL:
                await part.kill()
                if self.chance.random() < 0.5:
                    self.note("taken over before it is back")
                    await self.taken_over(part, before.token if before is not None else 0)
                await part.start()
            case Fault.PAUSE:
                if part.name == GATEWAY:
                    part.pause()
                await self.taken_over(part, before.token if before is not None else 0)
                if self.chance.random() < 0.3:
                    await self.until(self.has_ended, seconds=3.0)
                part.resume()
                self.note("goes on")
            case Fault.LOST:
                count = self.chance.choice([1, 2, 4])
                self.note(f"the next {count} answers to changes of the journal are lost")
                for worker in WORKERS:
                    self.stack.mongo_wires[worker].lost.clear()
                    self.stack.mongo_wires[worker].lose_answers(count)
            case Fault.CUT:
                wire = self.stack.bus_wires[part.name]
                wire.cut()
                _ = self.begin(self.mend_later(part.name))

    async def mend_later(self, name: str) -> None:
        await asyncio.sleep(CUT_SECONDS)
        self.stack.bus_wires[name].mend()

    async def answer_was_lost(self) -> bool:
        lost = [name for worker in WORKERS for name in self.stack.mongo_wires[worker].lost]
        self.verdict.struck = bool(lost)
        if lost:
            self.note(f"answers lost: {', '.join(lost)}")
        return bool(lost)

    async def taken_over(self, part: Part, token: int) -> None:
        """Wait until another has the wallet, for a little more than a lease if none takes it."""

        async def another_has_it() -> bool:
            lease = await self.stack.wallet_lease()
            return lease is not None and lease.token > token and lease.worker != part.name

        await self.until(another_has_it, seconds=LEASE_SECONDS + 1.2)

    async def change_wish(self) -> None:
        if self.case.wish is Wish.REVOKED:
            await self.revoke()

    async def revoke(self) -> None:
        if self.revoked_at is None:
            if await self.tenant.revoke():
                self.revoked_at = time.monotonic()
                self.note("key revoked")
            else:
                self.wrong("the key could not be revoked")

    # coming to rest

    async def restore(self) -> None:
        """Give back what a twist took."""
        state = await self.chain.state() if await self.chain.until_up(seconds=REACH_SECONDS) else None
        if state is None:
            self.wrong("the router did not come back")
            return
        if self.money is not None:
            await self.chain.set_money(mor=self.money)
            self.money = None
        if self.bid_deleted:
            await self.chain.set_bid(self.market.bid, deleted=False)
            self.bid_deleted = False
        if self.point.twist is Twist.NO_GAS:
            await self.chain.set_money(eth=10 * 10**18)

    async def rest(self) -> None:
        """Wait until nothing is under way, and somebody who still wants a session has one that answers."""
        await self.settled()
        if self.case.wish is Wish.REVOKED:
            await self.revoke()
            await self.settled()
            return
        if self.verdict.wrong:
            return
        if not await poll(self.is_served, seconds=SERVED_SECONDS, every=0.3):
            self.wrong(f"no usable session for who wants one: {self.answered}; {await self.state_of_key()}")

    async def is_served(self) -> bool:
        """Whether a prompt is answered; who has no session because his open came to nothing asks for another."""
        sessions = await self.records.sessions(self.tenant.key_id)
        if not any(row["state"] in {"active", "opening"} for row in sessions):
            answer = await self.tenant.open(self.market.bid)
            self.answered = f"open: {answer.status_code} {answer.text[:200]}" if answer is not None else "open: broken"
            await self.settled()
        active = [row for row in await self.records.sessions(self.tenant.key_id) if row["state"] == "active"]
        answer = await self.tenant.chat(active[0]["model_name"] if active else self.market.model)
        self.answered = f"chat: {answer.status_code} {answer.text[:200]}" if answer is not None else "chat: broken"
        if answer is None or answer.status_code != 200:
            return False
        if self.tenant.canary not in answer.text:
            self.wrong(f"I4: a prompt was answered with something else than its own answer: {answer.text[:200]}")
        return True

    async def state_of_key(self) -> str:
        """Its sessions and operations in a line."""
        sessions = await self.records.sessions(self.tenant.key_id)
        operations = await self.records.operations(self.tenant.key_id)
        told = [f"session {row['_id'][-4:]} {row['state']} in slot {row['slot']} ({row['reason']})" for row in sessions]
        for row in operations:
            facts = ", ".join(fact["what"] for fact in row["facts"])
            told.append(f"{row['kind']} {row['_id'][-4:]} {row['state']}, {row['attempts']} attempts: {facts}")
        return "; ".join(told)

    async def settled(self) -> None:
        missing: str | None = "nothing was looked at"

        async def is_settled() -> bool:
            nonlocal missing
            key = self.tenant.key_id
            missing = unsettled(
                await self.records.operations(key),
                await self.records.sessions(key),
                await self.chain.state(),
                since=self.since,
                revoked=self.revoked_at is not None,
            )
            if missing is None and (count := await self.records.unpublished()):
                missing = f"{count} events are not published"
            return missing is None

        if not await poll(is_settled, seconds=SETTLE_SECONDS, every=EVERY):
            self.wrong(f"not at rest after {SETTLE_SECONDS:.0f} s: {missing}; {await self.state_of_key()}")

    async def look_at_key(self) -> None:
        """I6: a revoked key is admitted by nobody any more."""
        if self.revoked_at is None:
            return
        await asyncio.sleep(max(0.0, self.revoked_at + REFUSED_SECONDS - time.monotonic()))
        status = await self.tenant.status_of_key()
        if status not in {401, 503}:
            self.wrong(f"I6: a revoked key was answered {status}")

    async def until(self, condition: Callable[[], Awaitable[bool]], *, seconds: float) -> bool:
        async def holds() -> bool:
            try:
                return await condition()
            except httpx2.HTTPError:  # the router may be down
                return False

        return await poll(holds, seconds=seconds, every=EVERY)

    async def clean_up(self) -> None:
        """Leave no trap, fault, dead process or task of this case behind."""
        self.release_traps()
        for job in self.jobs:
            job.cancel()
        await asyncio.gather(*self.jobs, return_exceptions=True)
        await self.stack.revive()
        if await self.chain.until_up(seconds=REACH_SECONDS):
            await self.chain.disarm()
