import itertools

import pytest
from morpheus_common.steps import SESSION_STEPS, Step

from tests.faults.cases import (
    BY_NUMBER,
    POINTS,
    Fault,
    Outcome,
    Twist,
    Wish,
    by_id,
    every_case,
    in_order,
    pairwise,
    short,
)

ROUTER_SIDE = {
    "O11",
    "O12",
    "O13",
    "O14",
    "O15",
    "O18",
    "O27",
    "O27r",
    "O29",
    "O30",
    "K6",
    "K7",
    "K8",
    "K11",
    "K12",
    "K17",
}


@pytest.mark.parametrize("step", SESSION_STEPS, ids=lambda step: step.number)
def test_every_step_of_the_code_is_swept_with_every_fault(step: Step) -> None:
    """C28"""
    assert BY_NUMBER[step.number].step == step.number
    chosen = {case.fault for case in pairwise(every_case(), 1) if case.point.number == step.number}
    assert chosen == {fault for fault in Fault if fault not in BY_NUMBER[step.number].cannot}


def test_the_moments_in_the_router_are_swept() -> None:
    assert set(BY_NUMBER) >= ROUTER_SIDE
    assert {"O24a", "O24b", "O24c"} <= set(BY_NUMBER)


def test_the_router_restarts_with_and_without_its_storage_at_each_moment_of_an_open() -> None:
    restarts = [point for point in POINTS if point.number.startswith("O28")]
    places = {(point.step, point.hold) for point in restarts}
    assert len(places) == 5
    assert {(point.step, point.hold, point.twist) for point in restarts} == {
        (*place, twist) for place in places for twist in (Twist.ROUTER_RESTARTED, Twist.ROUTER_WIPED)
    }


def test_a_point_is_reached_in_one_way() -> None:
    assert [point.number for point in POINTS if (point.step is None) == (point.hold is None)] == []
    assert len(BY_NUMBER) == len(POINTS)


def test_the_selection_meets_every_pair_that_can_be() -> None:
    everything = every_case()
    covered = set(itertools.chain.from_iterable(case.pairs for case in pairwise(everything, 5)))
    assert covered == set(itertools.chain.from_iterable(case.pairs for case in everything))


def test_the_selection_is_a_small_part_and_the_same_for_a_seed() -> None:
    everything = every_case()
    chosen = pairwise(everything, 5)
    assert len(chosen) < len(everything) / 3
    assert [case.id for case in chosen] == [case.id for case in pairwise(everything, 5)]


def test_the_short_form_takes_every_step_once_and_every_fault_and_outcome() -> None:
    chosen = short(every_case(), 1)
    numbers = [case.point.number for case in chosen]
    assert len(numbers) == len(set(numbers))
    assert {step.number for step in SESSION_STEPS} <= set(numbers)
    parts = {part for case in chosen for part in (case.fault, case.outcome, case.wish)}
    assert parts == {*Fault, *Outcome, *Wish}


def test_what_is_impossible_says_why_and_is_not_run() -> None:
    case = by_id("O19.kill.never.wanted")
    assert case.impossible == "only what the chain shows gets here"
    assert case.id not in {other.id for other in every_case()}


def test_a_case_is_found_by_its_id() -> None:
    case = by_id("O9.pause.latest.revoked")
    assert (case.point.number, case.fault, case.outcome, case.wish) == ("O9", Fault.PAUSE, Outcome.LATEST, Wish.REVOKED)
    with pytest.raises(ValueError, match="no point is called X1"):
        by_id("X1.kill.ghost.wanted")


def test_what_moves_the_clock_of_the_chain_comes_last() -> None:
    moving = [case.point.moves_time for case in in_order(every_case())]
    assert moving == sorted(moving)


def test_chance_is_the_same_for_a_case_and_a_seed() -> None:
    case = by_id("O9.kill.ghost.wanted")
    assert case.chance(3).random() == case.chance(3).random()
    assert case.chance(3).random() != case.chance(4).random()
