"""Orders of events that the state machine found, a step at a time."""

from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from tests.state_machine.house import House
from tests.state_machine.ledger import Fate
from tests.state_machine.world import World


@pytest.fixture
def world(stage: House) -> Iterator[World]:
    found = World(stage)
    stage.run(found.begin(skews=(0, 0), ahead=0, both=False))
    yield found
    stage.run(found.end())


Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture
def run(stage: House) -> Run:
    def running(work: Coroutine[Any, Any, None]) -> None:
        stage.run(work)

    return running


@pytest.mark.parametrize("fate", Fate)
def test_a_session_whose_block_is_undone_and_that_is_mined_again_under_another_id_is_ours(
    world: World, run: Run, fate: Fate
) -> None:
    run(world.open(world.process(0), "k1", "small", None))
    run(world.work())
    before = set(world.ledger.sessions)
    world.ledger.undo(2, fate, others=1)
    run(world.come_to_rest())
    assert not before & set(world.ledger.sessions)


def test_two_sessions_that_exchange_their_ids_are_each_closed_for_its_own_key(world: World, run: Run) -> None:
    for key in ("k1", "k2"):
        run(world.open(world.process(0), key, "small", None))
    run(world.work())
    before = {session.id: session.stake for session in world.ledger.open_sessions()}
    world.ledger.undo(world.ledger.height - 100, Fate.NEXT, turned=True)
    world.ledger.mine(2)
    after = {session.id: session.stake for session in world.ledger.open_sessions()}
    assert before.keys() == after.keys()
    assert before != after
    run(world.close(world.process(0), "k1"))
    run(world.everybody_works())
    run(world.come_to_rest())


def test_a_session_that_goes_back_to_its_first_id_leaves_none_open(world: World, run: Run) -> None:
    run(world.open(world.process(0), "k1", "small", None))
    run(world.work())
    (first,) = world.ledger.sessions
    moved = []
    for others in (1, 0):
        world.ledger.undo(3, Fate.NEXT, others=others)
        world.ledger.mine(2)
        run(world.reconcile(world.process(0)))
        moved += [session != first for session in world.ledger.sessions]
    assert moved == [True, False]
    run(world.come_to_rest())


def test_a_session_that_is_undone_and_cannot_be_paid_again_leaves_its_key_usable(world: World, run: Run) -> None:
    run(world.open(world.process(0), "k1", "small", None))
    run(world.work())
    world.ledger.undo(2, Fate.NEXT)
    world.fund(0)
    world.ledger.mine(1)
    assert not world.ledger.open_sessions()
    run(world.come_to_rest())
