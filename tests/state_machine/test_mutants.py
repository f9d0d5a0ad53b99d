"""The machine finds what it is there for: a mistake planted in the product, one at a time. And it finds nothing where
nothing can be lost: without the lease calls overlap, and that is all.
"""

from collections.abc import Iterator

import pytest
from morpheus_common.store.mongo import apply_indexes
from morpheus_sessions.documents import DOCUMENTS

from tests.state_machine.examining import examine
from tests.state_machine.house import House
from tests.state_machine.invariants import Violation
from tests.state_machine.mutants import MUTANTS, Mutant, without_lease
from tests.state_machine.world import TO_THE_END, World

RULES = 30
WITHOUT_LEASE = 25
REPLAYED = next(mutant for mutant in MUTANTS if mutant.name == "the id on chain is not unique")


@pytest.fixture
def mutable(stage: House, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    """The stage; afterwards it is as before."""
    stage.violation = None
    yield stage
    monkeypatch.undo()
    stage.run(stage.clear())
    stage.run(apply_indexes(stage.database, DOCUMENTS))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mutant", [item for item in MUTANTS if item.order is None], ids=str)
def test_a_mistake_is_found(mutable: House, monkeypatch: pytest.MonkeyPatch, mutant: Mutant) -> None:
    mutant.plant(monkeypatch, mutable)
    ended = examine(mutable, examples=mutant.examples, rules=RULES, seed=1)
    problem = mutable.violation
    assert problem is not None, ended
    assert str(problem).startswith(mutant.breaks)


@pytest.mark.parametrize("mutant", [item for item in MUTANTS if item.order is not None], ids=str)
def test_a_rare_mistake_is_found_in_the_order_that_shows_it(
    mutable: House, monkeypatch: pytest.MonkeyPatch, mutant: Mutant
) -> None:
    # without the mistake the same order ends well
    mutable.run(_follow(World(mutable), mutant))
    mutant.plant(monkeypatch, mutable)
    with pytest.raises(Violation) as caught:
        mutable.run(_follow(World(mutable), mutant))
    assert str(caught.value).startswith(mutant.breaks)


async def _follow(world: World, mutant: Mutant) -> None:
    assert mutant.order is not None
    await world.begin(skews=(0, 0), ahead=0, both=False)
    try:
        await mutant.order(world)
    finally:
        await world.end()


@pytest.mark.timeout(600)
def test_what_is_found_is_found_again_with_the_same_seed(mutable: House, monkeypatch: pytest.MonkeyPatch) -> None:
    REPLAYED.plant(monkeypatch, mutable)

    def found() -> tuple[int, int, str]:
        examples, rules = mutable.examples, mutable.rules
        problem = examine(mutable, examples=REPLAYED.examples, rules=RULES, seed=1)
        assert isinstance(problem, Violation), problem
        return mutable.examples - examples, mutable.rules - rules, str(problem).partition(":")[0]

    assert found() == found()


@pytest.mark.timeout(600)
def test_without_the_lease_random_orders_lose_and_double_nothing(
    mutable: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_lease(monkeypatch)
    assert examine(mutable, examples=WITHOUT_LEASE, rules=RULES, seed=1) is None


@pytest.mark.parametrize("call", ["router.open", "router.close"])
def test_without_the_lease_two_processes_call_at_once_and_it_costs_gas(
    mutable: House, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    without_lease(monkeypatch)
    mutable.run(_overlap(World(mutable), call))
    before = mutable.seen["overlaps"]
    mutable.run(mutable.count_events())
    assert mutable.seen["overlaps"] > before


async def _overlap(world: World, call: str) -> None:
    """Let one process stand at a call, bytes not out, while the other makes the same."""
    await world.begin(skews=(0, 0), ahead=0, both=True)
    try:
        await world.open(world.process(0), "k1", "small", None)
        if call == "router.close":
            await world.work()
            await world.close(world.process(0), "k1")
        (first,) = await world._due(world.process(0))
        await world.run(first, TO_THE_END, until=call)
        assert first.at == call
        for _ in range(3):
            await world.pass_time(12)
            for second in await world._due(world.process(1)):
                await world.run(second, TO_THE_END)
        assert first.at == call
        await world.come_to_rest()
        # the second of the two is refused: an approval opens one session, and a session is closed once
        opens = [row for row in (await world.house.records()).operations if row["kind"] == "open"]
        assert len(world.ledger.ever_opened) == len(opens)
    finally:
        await world.end()
