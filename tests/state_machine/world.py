"""The processes, the chain and the clocks of one example: what can happen to them, and what must hold meanwhile."""

from collections.abc import Callable, Coroutine
from typing import Any, Final

from morpheus_common.contracts.sessions import CloseSession, OpenSession, SessionState, Slot
from morpheus_common.errors import ApiError
from morpheus_common.ids import uuid7
from morpheus_common.steps import Step
from morpheus_sessions.catalogue import CatalogueCopy
from morpheus_sessions.documents import SessionDocument
from morpheus_sessions.journal import StateChanged
from morpheus_sessions.lifecycle import is_usable
from morpheus_sessions.router import ROUTER_ERRORS, Approval

from tests.state_machine.actors import Actor, start
from tests.state_machine.house import House
from tests.state_machine.invariants import Violation, at_any_time, at_rest, is_ours, require, stake_of, unsettled
from tests.state_machine.ledger import BUDGET, PLENTY, Fate, Ledger
from tests.state_machine.process import DURATION, USER, Auth, Process, Surroundings, shown
from tests.state_machine.router import BIDS, MODELS, WALLET, LedgerRouter, Trouble
from tests.unit.sessions.samples import MemoryNames

KEYS: Final = ("k1", "k2", "k3", "k4")
MORTAL: Final = KEYS[:2]
"""Keys that may be revoked: with all of them gone nothing would happen any more."""
WORKERS: Final = ("w1", "w2")
TO_THE_END: Final = 2_000
"""Gates. An actor that passes more in one go runs in a circle."""
REST_SECONDS: Final = 1_000
"""Past every pause of an operation."""
ROUNDS: Final = 40
"""So often may everybody do what is due before all must have come to rest."""

Work = Callable[[Process], Coroutine[Any, Any, Any]]


class World:
    """Everything there is in an example."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.ledger = Ledger(WALLET)
        self.router = LedgerRouter(self.ledger, self._sends, self._closes)
        self.auth = Auth()
        self.processes: list[Process] = []
        self.actors: list[Actor] = []
        self.asked: list[OpenSession] = []
        self._gone: list[Actor] = []
        self._prompting: set[str] = set()
        self._sent: dict[str, str] = {}

    async def begin(self, *, skews: tuple[int, int], ahead: int, both: bool) -> None:
        """Start two workers. Their clocks are ahead by `skews`, the chain's by `ahead` (seconds). `both`: both think
        that the wallet is theirs.
        """
        await self.house.clear()
        self.house.listener.unexpected.clear()
        self.ledger.skew = ahead
        catalogue = CatalogueCopy(self.router, MemoryNames(), seconds=30)
        await catalogue.refresh()
        around = Surroundings(
            client=self.house.client,
            database=self.house.database,
            router=self.router,
            catalogue=catalogue,
            auth=self.auth,
            released=self._is_released,
        )
        for name, skew in zip(WORKERS, skews, strict=True):
            self.processes.append(await Process.start(name, around, skew=skew))
        self.lease(holds=(True, both))

    async def end(self) -> None:
        """Drop all that still waits somewhere."""
        for actor in [*self._gone, *self.actors]:
            await actor.drop()

    # what must hold

    async def check(self) -> None:
        """Raise `Violation` if something is broken."""
        for problem in self.house.listener.unexpected:
            if isinstance(problem, Violation):
                raise problem
            raise Violation(f"unexpected: {shown(problem)}") from problem
        at_any_time(await self.house.records(), self.ledger)

    async def _sends(self, approval: Approval, stake: int) -> None:
        """I3: what goes out is on disk, and an open sends nothing else, ever."""
        row = await self.house.database.get_collection("operations").find_one({"approval": approval.data})
        if row is None:
            raise self._broken("I3", "an approval goes out that the journal does not hold")
        if stake_of(row) != stake:
            raise self._broken("I3", f"{stake} goes out, the journal holds {stake_of(row)}")
        if row["state"] in {"pending", "failed"}:
            raise self._broken("I3", f"an open that is {row['state']} goes out")
        if self._sent.setdefault(row["_id"], approval.data) != approval.data:
            raise self._broken("I3", "an open sends another approval than before")

    def _closes(self, session: str) -> None:
        """I10: nothing is closed that does not carry our tag."""
        if not any(found.id == session and is_ours(found.stake) for found in self.ledger.ever_opened):
            raise self._broken("I10", f"{session} is closed, which does not carry our tag")

    def _broken(self, name: str, text: str) -> Violation:
        """Keep a violation where no `except` of the product hides it."""
        problem = Violation(f"{name}: {text}")
        self.house.listener.unexpected.append(problem)
        return problem

    # actors

    async def run(self, actor: Actor, gates: int, trouble: Trouble | None = None, until: str | None = None) -> None:
        """Let an actor go on for so many gates, or until it stands at a step, or cannot go on."""
        actor.trouble = trouble
        for passed in range(gates):
            if actor.done or actor.process.asleep:
                break
            waited = actor.waits
            self.house.gates += 1
            await actor.go_on()
            while actor.holds_transaction and not actor.done:
                await actor.go_on()
            if (actor.waits and waited) or actor.at == until:
                break
            require(passed < TO_THE_END - 1, "ends", f"{actor.name} runs in a circle at {actor.at}")
        if trouble is not None and actor.trouble is None:
            self.house.seen[f"fault: {trouble.call}: {trouble.fault}"] += 1
        actor.trouble = None
        self._reap()

    def _reap(self) -> None:
        for actor in [item for item in self.actors if item.done]:
            self.actors.remove(actor)
            problem = actor.outcome()
            expected = (ApiError, StateChanged, *ROUTER_ERRORS)
            if isinstance(problem, Exception) and not isinstance(problem, expected):
                raise Violation(f"unexpected: {actor.name}: {shown(problem)}") from problem

    async def finish_all(self) -> None:
        """Let everybody go on until nobody can."""
        for _ in range(TO_THE_END):
            before = [(actor, actor.at) for actor in self.actors if not actor.process.asleep]
            for actor in list(self.actors):
                await self.run(actor, TO_THE_END)
            if [(actor, actor.at) for actor in self.actors if not actor.process.asleep] == before:
                return

    def awake(self, pick: int) -> Actor | None:
        """One of the actors that can go on."""
        awake = [actor for actor in self.actors if not actor.process.asleep]
        return awake[pick % len(awake)] if awake else None

    def process(self, pick: int) -> Process:
        """One of the processes."""
        return self.processes[pick % len(self.processes)]

    async def _begin(self, name: str, process: Process, work: Work) -> Actor:
        actor = Actor(f"{process.name} {name}", process)
        await start(actor, lambda: work(process))
        self.actors.append(actor)
        return actor

    # commands

    async def obey(self, process: Process, name: str, work: Work, gates: int = TO_THE_END) -> None:
        """Begin to carry a command out."""
        await self.run(await self._begin(name, process, work), gates)

    async def open(self, process: Process, key: str, model: str, bid: str | None, gates: int = TO_THE_END) -> None:
        """A user asks for a session."""
        command = OpenSession(
            operation_id=uuid7(),
            user_id=USER,
            key_id=key,
            key_prefix="sk-abc",
            model_id=MODELS[model] if bid is None else None,
            bid_id=None if bid is None else BIDS[bid].id,
            duration=DURATION,
            wait=0,
        )
        self.asked.append(command)
        await self.obey(process, f"opens for {key}", lambda it: it.lifecycle.open(command), gates)

    async def open_again(self, process: Process, which: int, gates: int) -> None:
        """A gateway that got no answer sends a command once more."""
        if self.asked:
            command = self.asked[which % len(self.asked)]
            await self.obey(process, f"opens for {command.key_id}", lambda it: it.lifecycle.open(command), gates)

    async def prompt(
        self, process: Process, key: str, model: str, gates: int = TO_THE_END, *, rests: bool = False
    ) -> None:
        """A prompt comes, and automation opens, switches or resumes."""
        await self.obey(process, f"prompts for {key}", lambda it: it.prompt(key, MODELS[model], rests=rests), gates)

    async def close(self, process: Process, key: str, gates: int = TO_THE_END) -> None:
        """A user closes a key's sessions."""
        command = CloseSession(operation_id=uuid7(), user_id=USER, key_id=key, wait=0)
        await self.obey(process, f"closes for {key}", lambda it: it.lifecycle.close(command), gates)

    async def revoke(self, process: Process, key: str, gates: int, *, is_told: bool) -> None:
        """A key ends; its event arrives, or is lost."""
        self.auth.ended.add(key)
        if is_told:
            await self.obey(process, f"revokes {key}", lambda it: it.journal.revoke(key, USER), gates)

    async def look_at_keys(self, process: Process, gates: int = TO_THE_END) -> None:
        """A process asks which keys have ended."""
        await self.obey(process, "looks at keys", lambda it: it.keys.look(), gates)

    async def lose(self, process: Process, key: str, gates: int) -> None:
        """A provider does not know a key's session any more."""
        await self.obey(process, f"loses the session of {key}", lambda it: it.lose(key), gates)

    # what the processes do

    async def _due(self, process: Process) -> list[Actor]:
        """Have the loop of a process begin all that is due."""
        if not process.holds or process.asleep:
            return []
        await process.loop._start_what_is_due()
        begun = []
        for actor, task in process.started:
            await actor.start(task)
            begun.append(actor)
        process.started.clear()
        self.actors += begun
        return begun

    async def work(self, gates: int = TO_THE_END, trouble: Trouble | None = None) -> None:
        """Whoever has the wallet begins what is due; something goes wrong with the first of it."""
        for process in self.processes:
            for actor in await self._due(process):
                await self.run(actor, gates, trouble)
                trouble = None

    async def everybody_works(self, trouble: Trouble | None = None) -> None:
        """All go on to their ends, then begin and end what is due."""
        await self.finish_all()
        await self.work(TO_THE_END, trouble)

    async def reconcile(self, process: Process, gates: int = TO_THE_END, trouble: Trouble | None = None) -> None:
        """Begin a pass: a process makes one at a time, and only while it has the wallet."""
        name = "reconciles"
        runs = any(actor.process is process and actor.name.endswith(name) for actor in self.actors)
        if process.holds and not process.asleep and not runs:
            await self.run(await self._begin(name, process, lambda it: it.reconciler.run_pass()), gates, trouble)

    async def go_to_step(self, actor: Actor, step: Step, trouble: Trouble | None, *, dies: bool) -> None:
        """Somebody comes to a step, and stays there or dies there."""
        await self.run(actor, TO_THE_END, trouble, until=step.value)
        if dies and not actor.done and actor.at == step.value:
            await self.die(actor.process)

    # what befalls the processes

    async def die(self, process: Process) -> None:
        """End a process; another of the same name starts, and knows what the database knows."""
        self._gone += [actor for actor in self.actors if actor.process is process]
        self.actors = [actor for actor in self.actors if actor.process is not process]
        fresh = await Process.start(process.worker, process.around, skew=process.skew)
        fresh.holds = process.holds
        self.processes[self.processes.index(process)] = fresh

    async def die_in_transaction(self, actor: Actor) -> None:
        """End a process inside the next transaction that settles something; nothing, if none comes."""
        while not actor.done:
            waited = actor.waits
            await actor.go_on()
            if actor.holds_transaction and not actor.done:
                await actor.die()
                await self.die(actor.process)
                break
            if actor.waits and waited:
                break
        self._reap()

    async def fall_asleep(self, process: Process) -> None:
        """Stop a process as SIGSTOP does: what it holds it believes to hold. If one sleeps, it goes on instead."""
        if any(item.asleep for item in self.processes):
            await self.wake_up()
        else:
            process.asleep = True

    async def wake_up(self) -> None:
        """All go on."""
        for process in self.processes:
            process.asleep = False
            await process.beat()

    def lease(self, *, holds: tuple[bool, bool]) -> None:
        """Say who takes the wallet for its own; a sleeper learns nothing."""
        for process, its in zip(self.processes, holds, strict=True):
            if not process.asleep:
                process.holds = its

    async def _is_released(self, session: SessionDocument) -> bool:
        return session.id not in self._prompting

    async def run_prompt(self, key: str, *, runs: bool) -> None:
        """A prompt of a key's sessions runs, or ends: a close waits for it."""
        query = {"key_id": key, "state": {"$in": ["active", "closing"]}}
        ids = {row["_id"] for row in await self.house.database.get_collection("sessions").find(query).to_list()}
        self._prompting = self._prompting | ids if runs else self._prompting - ids

    # chain and time

    async def pass_time(self, seconds: int) -> None:
        """Move all that is past further back."""
        self.ledger.age(seconds)
        await self.house.age(seconds)
        for process in self.processes:
            if not process.asleep:
                await process.beat()

    def mine_late(self, pick: int) -> None:
        """Mine one of the transactions of which nobody knows what became."""
        held = self.ledger.held()
        if held:
            held[pick % len(held)].fate = Fate.NEXT
        self.ledger.mine(2)

    def open_past_us(self, bid: str, stake: int) -> None:
        """Somebody else opens a session with our wallet."""
        self.ledger.send_open(f"0xfe{len(self.ledger.transactions):04d}", BIDS[bid], stake)
        self.ledger.mine()

    def close_past_us(self) -> None:
        """The router closes what has ended."""
        for session in self.ledger.open_sessions():
            if session.ends_at < self.ledger.now():
                self.ledger.send_close(session.id)
        self.ledger.mine()

    def fund(self, spare: int) -> None:
        """Leave the wallet so much MOR (wei) beside what it has staked; if it has little, give it plenty."""
        locked = sum(session.stake for session in self.ledger.open_sessions())
        self.ledger.mor = PLENTY if self.ledger.mor < PLENTY else spare + locked

    # how it ends

    async def come_to_rest(self) -> None:
        """Faults end and time goes on: nothing is left to be done, nothing stands in anybody's way, and in the end no
        stake of ours is locked.
        """
        self.router.is_away = False
        self.ledger.mor = PLENTY
        self.ledger.budget = BUDGET
        self._prompting.clear()
        await self.wake_up()
        self.lease(holds=(True, False))
        await self.finish_all()
        await self._rounds()
        for transaction in self.ledger.held():
            # mined when it was given up, or closed, long ago
            transaction.fate = Fate.NEXT
        self.ledger.mine(6)
        await self._rounds()
        await self.look_at_keys(self.processes[0])
        await self._rounds()
        await self._at_rest()
        await self._everybody_can_open()
        await self.pass_time(2 * DURATION)
        await self._rounds()
        await self._at_rest()
        left = [session.id for session in self.ledger.open_sessions() if is_ours(session.stake)]
        require(not left, "unwanted", f"{left} are open long after their ends")

    async def _at_rest(self) -> None:
        await self.check()
        at_rest(await self.house.records(), self.ledger, revoked=self.auth.ended)

    async def _rounds(self) -> None:
        """Everybody does what is due, again and again, until nothing is."""
        process = self.processes[0]
        for number in range(ROUNDS):
            await self.pass_time(REST_SECONDS if number % 2 else 12)
            self.ledger.mine(6)
            process.reconciler._passes = 0  # the next is a complete one
            await self.reconcile(process)
            await self.everybody_works()
            await self.finish_all()
            await self.check()
            if not self.actors and not list(unsettled(await self.house.records(), self.ledger)):
                break
        await self.reconcile(process)

    async def _everybody_can_open(self) -> None:
        """Each key that counts gets a session that can be used."""
        process = self.processes[0]
        counting = [key for key in KEYS if key not in self.auth.ended]
        for key in counting:
            await self.prompt(process, key, "small")
        await self.everybody_works()
        await self.check()
        for key in counting:
            current = await process.journal.session_in(key, Slot.CURRENT)
            now = await process.journal.now()
            usable = current is not None and current.state is SessionState.ACTIVE and is_usable(current, now)
            require(usable, "usable", f"key {key} cannot open a session: {current}")
