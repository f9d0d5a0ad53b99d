import pytest
from morpheus_common.steps import PROMPT_STEPS, Step

from tests.faults.cases import Fault
from tests.faults.chat_cases import CHAT_BY_NUMBER, CHAT_POINTS, Victim, chat_case, every_chat_case, short_chat


@pytest.mark.parametrize("step", PROMPT_STEPS, ids=lambda step: step.number)
def test_every_step_of_a_prompt_is_swept_with_every_fault_for_worker_and_gateway(step: Step) -> None:
    points = [point for point in CHAT_POINTS if point.step == step.number]
    assert {point.victim for point in points} == set(Victim)
    swept = {case.fault for case in every_chat_case() if case.point is CHAT_BY_NUMBER[step.number]}
    assert swept == set(Fault) - set(CHAT_BY_NUMBER[step.number].cannot)


def test_the_moments_at_the_router_and_the_lost_messages_are_swept() -> None:
    assert {"P4", "P5", "P8a", "P8b", "P9"} <= set(CHAT_BY_NUMBER)
    assert len(CHAT_BY_NUMBER) == len(CHAT_POINTS)


def test_the_short_form_takes_every_point_once_and_one_pause_of_a_worker() -> None:
    chosen = short_chat(every_chat_case(), 1)
    assert [case.point.number for case in chosen] == [point.number for point in CHAT_POINTS]
    paused = [case for case in chosen if case.fault is Fault.PAUSE and case.point.victim is Victim.WORKER]
    assert len(paused) == 1


def test_a_case_is_found_by_its_id() -> None:
    case = chat_case("P5.pause")
    assert (case.point.number, case.fault) == ("P5", Fault.PAUSE)
    with pytest.raises(ValueError, match="no point is called X1"):
        chat_case("X1.kill")
