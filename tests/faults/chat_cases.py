"""What is swept of a prompt: every moment from its start to its end, times what strikes whom there.

The moments in a worker come from the registry (`Step`); those at the router are reached through the simulator, which holds
the answer where we want it.
"""

import itertools
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from morpheus_common.steps import PROMPT_STEPS

from tests.faults.cases import Fault


class Victim(StrEnum):
    """Who is struck: the worker that has the prompt, or the gateway that its client is connected to."""

    WORKER = "worker"
    GATEWAY = "gateway"


class Loss(StrEnum):
    """A message that the bus does not deliver."""

    CREDIT = "chat.credit."
    CANCEL = "chat.cancel."


@dataclass(frozen=True, slots=True)
class ChatPoint:
    """A moment of a prompt: at a `step` of ours, or after `chunks` of its answer (None: not held at the router).

    `in_line`: another prompt of the key runs, and a third waits behind this one. `cannot`: what is impossible here, with the
    reason.
    """

    number: str
    title: str
    victim: Victim = Victim.WORKER
    step: str | None = None
    chunks: range | None = None
    loss: Loss | None = None
    in_line: bool = False
    cannot: Mapping[Fault, str] = field(default_factory=dict)


_NOTHING_WRITTEN = "nothing is written from here on"
_NO_DATABASE = "a gateway has no database"
_ONE_MESSAGE = "what is lost is one message"
_AT_ROUTER = {"P4": ("call out, no byte", range(1)), "P5": ("after chunk k", range(1, 9))}


def _points() -> list[ChatPoint]:
    writes = {"P1", "P3", "P6"}
    places = [
        ChatPoint(
            step.number,
            step.value.partition(" ")[2],
            step=step.number,
            cannot={} if step.number in writes else {Fault.LOST: _NOTHING_WRITTEN},
        )
        for step in PROMPT_STEPS
    ]
    places += [
        ChatPoint(number, title, chunks=chunks, cannot={Fault.LOST: _NOTHING_WRITTEN})
        for number, (title, chunks) in _AT_ROUTER.items()
    ]
    places.sort(key=lambda point: point.number)
    gateways = [
        ChatPoint(
            f"P7{letter}",
            f"gateway, at {place.number}",
            Victim.GATEWAY,
            step=place.step,
            chunks=place.chunks,
            cannot={Fault.LOST: _NO_DATABASE},
        )
        for letter, place in zip("abcdef", places, strict=True)
    ]
    lost: dict[Fault, str] = dict.fromkeys(set(Fault) - {Fault.LOST}, _ONE_MESSAGE)
    return [
        *places,
        *gateways,
        ChatPoint("P8a", "first credit lost", Victim.GATEWAY, loss=Loss.CREDIT, cannot=lost),
        ChatPoint("P8b", "cancel lost", Victim.GATEWAY, chunks=range(1, 9), loss=Loss.CANCEL, cannot=lost),
        ChatPoint(
            "P9",
            "gateway of the head of the line",
            Victim.GATEWAY,
            chunks=range(1, 9),
            in_line=True,
            cannot={Fault.LOST: _NO_DATABASE},
        ),
    ]


CHAT_POINTS: Final = tuple(_points())
CHAT_BY_NUMBER: Final = {point.number: point for point in CHAT_POINTS}


@dataclass(frozen=True, slots=True)
class ChatCase:
    """One run through one point."""

    point: ChatPoint
    fault: Fault

    @property
    def id(self) -> str:
        return f"{self.point.number}.{self.fault}"

    def chance(self, seed: int) -> random.Random:
        """What decides the details of this case."""
        return random.Random(f"{seed}/{self.id}")


def chat_case(identifier: str) -> ChatCase:
    """The case with an id. Raises `ValueError` for one that does not exist."""
    number, _, fault = identifier.partition(".")
    if number not in CHAT_BY_NUMBER:
        raise ValueError(f"no point is called {number}")
    return ChatCase(CHAT_BY_NUMBER[number], Fault(fault))


def every_chat_case() -> list[ChatCase]:
    """The full product, without what is impossible."""
    product = itertools.starmap(ChatCase, itertools.product(CHAT_POINTS, Fault))
    return [case for case in product if case.fault not in case.point.cannot]


def short_chat(cases: Iterable[ChatCase], seed: int) -> list[ChatCase]:
    """One case for each point. A pause, which lasts longer than a worker may be silent, is taken once."""
    chance = random.Random(seed)
    by_point: dict[str, list[ChatCase]] = {}
    for case in cases:
        by_point.setdefault(case.point.number, []).append(case)
    paused = chance.choice([number for number, own in by_point.items() if _pause_of(own) is not None])
    chosen = []
    for number, own in by_point.items():
        pause = _pause_of(own)
        if number == paused and pause is not None:
            chosen.append(pause)
        else:
            chosen.append(chance.choice([case for case in own if case is not pause]))
    return chosen


def _pause_of(cases: Sequence[ChatCase]) -> ChatCase | None:
    pauses = (case for case in cases if case.fault is Fault.PAUSE and case.point.victim is Victim.WORKER)
    return next(pauses, None)
