"""The canary sees a mix-up: what it is for."""

import pytest
from morpheus_common.bus.frames import Frame, Kind
from morpheus_common.bus.inbox import Attempt

from tests.load.canary import Caller, Canaries, Tally
from tests.load.judging import Question
from tests.service.gateway.conftest import House

MODELS = ("mistral-small", "llama-3-3-70b")
KEYS = 4
REQUESTS = 200


def echoed(question: Question) -> str:
    """What the worker of these tests answers."""
    return question.text


async def sent(house: House) -> Tally:
    callers = [Caller(house.auth.add_key(), MODELS) for _ in range(KEYS)]
    canaries = Canaries(callers, [house.gateway.port], echoed, requests=REQUESTS, at_once=4, seed=1)
    await canaries.run()
    assert canaries.tally.done == REQUESTS
    return canaries.tally


@pytest.fixture
def swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each two attempts that overlap get each other's data, in the order in which it has to come."""
    deliver = Attempt.deliver
    alone: list[tuple[Attempt, Frame]] = []

    def deliver_to_another(attempt: Attempt, frame: Frame) -> None:
        if frame.kind is not Kind.DATA or frame.seq != 1:
            deliver(attempt, frame)
        elif alone and alone[-1][0] is not attempt:
            other, others = alone.pop()
            deliver(other, frame)
            deliver(attempt, others)
        else:
            alone.append((attempt, frame))

    monkeypatch.setattr(Attempt, "deliver", deliver_to_another)


async def test_every_answer_holds_its_own_canary_only(house: House) -> None:
    """F1, C37"""
    tally = await sent(house)
    assert (tally.foreign, tally.wrong) == (0, [])
    assert tally.endings["whole"] > REQUESTS * 0.8
    assert {"stream", "json"} == set(tally.modes)


@pytest.mark.usefixtures("swapped")
async def test_frames_that_reach_the_wrong_attempt_are_seen(house: House) -> None:
    """F1, C37: a mix-up is planted."""
    tally = await sent(house)
    assert tally.foreign > 0
    assert tally.wrong
