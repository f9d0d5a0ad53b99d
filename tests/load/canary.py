"""Canaries: prompts of many keys at once through shared workers, while parts fail. Each answer holds its own canary only."""

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.load.client import PATIENT, Answer, Client, Manner, Unreachable
from tests.load.judging import Ending, Expect, Judgement, Question, judge

PATH = "/api/v1/chat/completions"
SHARES = {"hangs up": 0.03, "slow": 0.01, "another model": 0.02, "large": 0.002}
"""Of the requests, whatever else happens."""
LARGE_CHARACTERS = 200_000
"""More than the first frame of a prompt holds."""
RETRY_SECONDS = 0.5
"""Who is told to come back does so after this, as OpenAI's SDKs do."""
KEPT = 20
"""So many sentences about what is wrong are kept."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A key, and the two models that it changes between."""

    key: str
    models: tuple[str, str]


@dataclass
class Tally:
    """What came of the requests so far."""

    endings: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    foreign: int = 0
    wrongs: int = 0
    wrong: list[str] = field(default_factory=list)
    slowest: float = 0.0

    @property
    def done(self) -> int:
        return self.endings.total()

    def add(self, question: Question, judgement: Judgement, manner: Manner, *, seconds: float) -> None:
        self.endings[judgement.ending] += 1
        self.modes["stream" if question.stream else "json"] += 1
        if judgement.code is not None:
            self.codes[judgement.code] += 1
        self.foreign += judgement.foreign
        self.slowest = max(self.slowest, seconds)
        wrong = judgement.wrong
        if judgement.ending is Ending.BROKEN and not manner.leaves:
            wrong = f"{question.canary}: the connection broke"
        if wrong is not None:
            self.wrongs += 1
            if len(self.wrong) < KEPT:
                self.wrong.append(wrong)


class Canaries:
    """Sends `requests` prompts, `at_once` of each caller at a time, to all gateways alike."""

    def __init__(
        self, callers: Sequence[Caller], ports: Sequence[int], expect: Expect, *, requests: int, at_once: int, seed: int
    ) -> None:
        self._callers = callers
        self._ports = ports
        self._expect = expect
        self._at_once = at_once
        self._seed = seed
        self._numbers = iter(range(requests))
        self.requests = requests
        self.tally = Tally()

    async def run(self) -> None:
        """Return when all are answered."""
        async with asyncio.TaskGroup() as group:
            clients = itertools.product(enumerate(self._callers), range(self._at_once))
            for place, ((number, caller), again) in enumerate(clients):
                group.create_task(self._use(place, caller, number, again))

    async def _use(self, place: int, caller: Caller, caller_number: int, again: int) -> None:
        chance = random.Random(f"{self._seed}/{place}")
        client = Client(self._ports[(caller_number + again) % len(self._ports)])
        for number in self._numbers:
            question = _question(chance, caller, f"canary-{caller_number:02}-{number:08}")
            manner = _manner(chance)
            started = time.monotonic()
            try:
                answer = await client.post(PATH, caller.key, question.body, manner=manner)
            except Unreachable:
                answer = Answer(0, b"", ended=False, left=False, request_id="")
            judgement = judge(question, answer, self._expect)
            self.tally.add(question, judgement, manner, seconds=time.monotonic() - started)
            if judgement.ending is Ending.REFUSED and answer.status in {429, 503}:
                await asyncio.sleep(RETRY_SECONDS)
        client.close()


def _question(chance: random.Random, caller: Caller, canary: str) -> Question:
    text = f"{canary} {chance.getrandbits(64):x}"
    if chance.random() < SHARES["large"]:
        text += " word" * (LARGE_CHARACTERS // 5)
    model = caller.models[chance.random() < SHARES["another model"]]
    return Question(canary, text, model, stream=chance.random() < 0.5, max_tokens=chance.choice([6, 12, 40]))


def _manner(chance: random.Random) -> Manner:
    dice = chance.random()
    if dice < SHARES["hangs up"]:
        return chance.choice(
            [Manner(leaves_at=chance.randrange(1, 4_000)), Manner(leaves_after=chance.uniform(0, 0.2))]
        )
    if dice < SHARES["hangs up"] + SHARES["slow"]:
        return Manner(pauses=3)
    return PATIENT
