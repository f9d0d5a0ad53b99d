"""Random interleavings of commands, faults, crashes and clocks over the real journal, loops and reconcilers.

Hypothesis chooses what happens next: a command arrives, an actor goes on to its next gate, a router call goes wrong, a
process dies or sleeps, a block is mined or undone, time passes. After every rule the invariants are checked; at the end
faults stop, time goes on, and everything must come to rest with no stake locked that is not wanted.
"""

from collections.abc import Coroutine
from typing import Any, ClassVar, Final

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from morpheus_common.steps import SESSION_STEPS, Step

from tests.state_machine.actors import IN_TRANSACTION
from tests.state_machine.house import House
from tests.state_machine.invariants import Violation
from tests.state_machine.ledger import BUDGET, FINAL_BLOCKS, Fate
from tests.state_machine.router import BIDS, FAULTS, MODELS, Call, Trouble
from tests.state_machine.world import KEYS, MORTAL, TO_THE_END, World

NOT_HERE: Final = IN_TRANSACTION | {
    Step.OPEN_NAMED.value,  # in the gateway
    Step.EVENT_PUBLISHED.value,  # in the relay of the outbox
}
STEPS: Final = {step.number: step for step in SESSION_STEPS if step.value not in NOT_HERE}
MOMENTS: Final = (1, 6, 12, 70, 700, 4_000)
"""Seconds that pass at once: past a pause, an absence, a longest pause, what is given up, the end of a session."""
NOTHING: Final = "nothing"
TROUBLES: Final = {
    NOTHING: None,
    **{
        f"{call} {skip}: {fault}" if skip else f"{call}: {fault}": Trouble(call, fault, skip)
        for call, found in FAULTS.items()
        for fault in found
        for skip in (range(4) if call is Call.READ else (0,))
    },
}
"""Everything that can go wrong with a call of the router, by the words in which an example shows it."""
BUDGETS: Final = {
    "midnight": BUDGET,
    "midnight: stakes are higher": BUDGET * 9 // 10,
    "midnight: stakes are lower": BUDGET * 11 // 10,
}
FUNDS: Final = {"the wallet is emptied or filled": 0, "the wallet has enough for one, or is filled": 20 * 10**18}
FOREIGN: Final = {
    "its owner opens a session with the wallet": 11 * 10**18,
    "another deployment opens a session with the wallet": 12 * 10**18 + 2 * 10**6 + 1,
}
ROUTER_MOVES: Final = "the router goes or comes back"
ROUTER_CLOSES: Final = "the router closes what has ended"
PROMPTS: Final = {"a prompt runs": True, "a prompt ends": False}
LEASES: Final = {
    "w1 takes the wallet": (True, False),
    "w2 takes the wallet": (False, True),
    "both take the wallet": (True, True),
}
picks = st.integers(0, 7)
keys = st.sampled_from(KEYS)
models = st.sampled_from(sorted(MODELS))
bids = st.sampled_from((None, None, None, *BIDS))
gates = st.one_of(st.just(TO_THE_END), st.integers(1, 40))
"""How far an actor goes: to its end, or to somewhere on its way."""


def troubles_of(*calls: Call) -> st.SearchStrategy[str]:
    """Something that goes wrong with one of these calls, each as often as it is named; at times nothing."""
    names = [
        [name for name, trouble in TROUBLES.items() if trouble is not None and trouble.call is call] for call in calls
    ]
    return st.one_of(st.just(NOTHING), *(st.sampled_from(found) for found in names))


serving = rule(
    pick=picks,
    key=keys,
    model=models,
    bid=bids,
    automatic=st.booleans(),
    gates=gates,
    trouble=troubles_of(Call.OPEN, Call.OPEN, Call.OPEN, Call.HANDSHAKE, Call.READ),
)
"""By two rules of this kind sessions come to be: two, so that they come to be often."""
any_trouble = troubles_of(Call.OPEN, Call.CLOSE, Call.READ)


class Machine(RuleBasedStateMachine):
    """The sessions service, everything around it, and everything that can happen to it."""

    house: ClassVar[House]

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.house)
        self.broken = False
        self.house.examples += 1

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            self.house.run(work)
        except BaseException as problem:
            self.broken = True
            if isinstance(problem, Violation):
                self.house.violation = self.house.violation or problem
            raise

    def _then_check(self, work: Coroutine[Any, Any, None]) -> None:
        self.house.rules += 1
        self._do(work)
        self._do(self.world.check())

    @initialize(
        skews=st.tuples(st.sampled_from((0, 240, -240)), st.sampled_from((0, 240, -240))),
        ahead=st.sampled_from((0, 120, -120)),
        both=st.booleans(),
    )
    def begin(self, skews: tuple[int, int], ahead: int, both: bool) -> None:
        self._then_check(self.world.begin(skews=skews, ahead=ahead, both=both))

    # sessions come and go

    @serving
    def serve(self, **wish: Any) -> None:
        """A key asks for a session, or a prompt needs one, and whoever has the wallet begins to open it."""
        self._then_check(self._serve(**wish))

    @serving
    def serve_too(self, **wish: Any) -> None:
        """The same."""
        self._then_check(self._serve(**wish))

    async def _serve(
        self, pick: int, key: str, model: str, bid: str | None, automatic: bool, gates: int, trouble: str
    ) -> None:
        process = self.world.process(pick)
        if automatic:
            await self.world.prompt(process, key, model)
        else:
            await self.world.open(process, key, model, bid)
        await self.world.work(gates, TROUBLES[trouble])

    @rule(pick=picks, key=keys, gates=gates, trouble=troubles_of(Call.CLOSE, Call.CLOSE, Call.READ))
    def leave(self, pick: int, key: str, gates: int, trouble: str) -> None:
        """A key closes its sessions, and whoever has the wallet begins to close them."""
        self._then_check(self._leave(pick, key, gates, trouble))

    async def _leave(self, pick: int, key: str, gates: int, trouble: str) -> None:
        await self.world.close(self.world.process(pick), key)
        await self.world.work(gates, TROUBLES[trouble])

    @rule(
        what=st.sampled_from(
            ("open", "open again", "prompt", "prompt again", "close", "revoke", "revoke untold", "lose", "look at keys")
        ),
        pick=picks,
        key=keys,
        model=models,
        bid=bids,
        gates=gates,
    )
    def command(self, what: str, pick: int, key: str, model: str, bid: str | None, gates: int) -> None:
        """A command arrives, and is obeyed in part."""
        self._then_check(self._command(what, pick, key, model, bid, gates))

    async def _command(self, what: str, pick: int, key: str, model: str, bid: str | None, gates: int) -> None:
        world = self.world
        process = world.process(pick)
        if what == "open":
            await world.open(process, key, model, bid, gates)
        elif what == "open again":
            await world.open_again(process, pick // 2, gates)
        elif what.startswith("prompt"):
            await world.prompt(process, key, model, gates, rests=what == "prompt again")
        elif what == "close":
            await world.close(process, key, gates)
        elif what.startswith("revoke"):
            if key in MORTAL:
                await world.revoke(process, key, gates, is_told=what == "revoke")
        elif what == "lose":
            await world.lose(process, key, gates)
        else:
            await world.look_at_keys(process, gates)

    # the processes go on

    @rule(seconds=st.sampled_from((0, *MOMENTS)), gates=gates, trouble=any_trouble)
    def work(self, seconds: int, gates: int, trouble: str) -> None:
        """What is due by then is begun."""
        self._then_check(self._work(seconds, gates, trouble))

    async def _work(self, seconds: int, gates: int, trouble: str) -> None:
        if seconds:
            await self.world.pass_time(seconds)
        await self.world.work(gates, TROUBLES[trouble])

    @rule(trouble=any_trouble)
    def everybody_works(self, trouble: str) -> None:
        self._then_check(self.world.everybody_works(TROUBLES[trouble]))

    @rule(pick=picks, gates=gates, trouble=troubles_of(Call.READ))
    def reconcile(self, pick: int, gates: int, trouble: str) -> None:
        """A pass over chain and records begins."""
        self._then_check(self.world.reconcile(self.world.process(pick), gates, TROUBLES[trouble]))

    @precondition(lambda self: self.world.actors)
    @rule(pick=picks, gates=gates, trouble=any_trouble)
    def go_on(self, pick: int, gates: int, trouble: str) -> None:
        """Somebody who was on his way goes on."""
        actor = self.world.awake(pick)
        if actor is not None:
            self._then_check(self.world.run(actor, gates, TROUBLES[trouble]))

    @precondition(lambda self: self.world.actors)
    @rule(pick=picks, step=st.sampled_from(sorted(STEPS)), trouble=any_trouble, dies=st.booleans())
    def go_to_step(self, pick: int, step: str, trouble: str, dies: bool) -> None:
        """Somebody comes to a step, and stays there or dies there."""
        actor = self.world.awake(pick)
        if actor is not None:
            self._then_check(self.world.go_to_step(actor, STEPS[step], TROUBLES[trouble], dies=dies))

    # what befalls them

    @rule(what=st.sampled_from(("dies", "dies in a transaction", "sleeps or wakes", *LEASES)), pick=picks)
    def befalls(self, what: str, pick: int) -> None:
        """Something happens to a process."""
        self._then_check(self._befalls(what, pick))

    async def _befalls(self, what: str, pick: int) -> None:
        world = self.world
        if what in LEASES:
            world.lease(holds=LEASES[what])
        elif what == "dies":
            await world.die(world.process(pick))
        elif what == "sleeps or wakes":
            await world.fall_asleep(world.process(pick))
        elif (actor := world.awake(pick)) is not None:
            await world.die_in_transaction(actor)

    @rule(blocks=st.integers(1, 6), late=st.booleans(), pick=picks)
    def mine(self, blocks: int, late: bool, pick: int) -> None:
        """Blocks are mined, and one of the transactions nobody expects any more."""
        if late:
            self.world.mine_late(pick)
        self.world.ledger.mine(blocks)
        self._then_check(self._nothing())

    @rule(
        blocks=st.integers(1, FINAL_BLOCKS),
        fate=st.sampled_from(Fate),
        others=st.sampled_from((0, 0, 1)),
        turned=st.booleans(),
    )
    def undo_blocks(self, blocks: int, fate: Fate, others: int, turned: bool) -> None:
        """A reorganisation: what was in the newest blocks is mined again next, or some day, perhaps under other ids."""
        self.world.ledger.undo(blocks, fate, others=others, turned=turned)
        self._then_check(self._nothing())

    @rule(
        what=st.sampled_from((*BUDGETS, *FUNDS, *FOREIGN, *PROMPTS, ROUTER_MOVES, ROUTER_CLOSES)),
        key=keys,
        bid=st.sampled_from(sorted(BIDS)),
    )
    def change(self, what: str, key: str, bid: str) -> None:
        """Something around the processes is different from now on."""
        self._then_check(self._change(what, key, bid))

    async def _change(self, what: str, key: str, bid: str) -> None:
        world = self.world
        if what in BUDGETS:
            world.ledger.budget = BUDGETS[what]
        elif what in FUNDS:
            world.fund(FUNDS[what])
        elif what in FOREIGN:
            world.open_past_us(bid, FOREIGN[what])
        elif what in PROMPTS:
            await world.run_prompt(key, runs=PROMPTS[what])
        elif what == ROUTER_MOVES:
            world.router.is_away = not world.router.is_away
        else:
            world.close_past_us()

    async def _nothing(self) -> None:
        """Only the checks."""

    def teardown(self) -> None:
        try:
            if not self.broken and self.world.processes:
                self._do(self.world.come_to_rest())
        finally:
            self.house.run(self.world.end())
            self.house.run(self.house.count_events())
