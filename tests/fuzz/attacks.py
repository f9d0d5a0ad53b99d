"""Sending attacks, and judging what comes back."""

import itertools
from collections.abc import Callable, Iterable
from http.client import HTTPException
from urllib.parse import unquote

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings

from tests.e2e.operations import ROWS
from tests.fuzz.answers import wrongs
from tests.fuzz.hostile import KINDS, LISTS, MARKER, Attack, Ground
from tests.fuzz.people import People
from tests.fuzz.tally import Tally
from tests.fuzz.wire import send

NO_ANSWER_OF_HTTP = "no answer of HTTP"


class Attacker:
    """Sends attacks at one gateway. `never`: what no answer may hold."""

    def __init__(self, people: People, tally: Tally, never: Iterable[str], base_url: str) -> None:
        self._people = people
        self._tally = tally
        self._never = list(never)
        self._url = base_url
        self._ground = Ground(people)

    def run(self, kinds: Iterable[str], *, seed: int, examples: int, tell: Callable[[], None] = lambda: None) -> None:
        """Send `examples` attacks of each kind; what is wrong is noted in the tally."""
        for kind in kinds:

            @hypothesis.seed(seed)
            @settings(
                max_examples=examples,
                deadline=None,
                database=None,
                phases=(Phase.generate,),
                suppress_health_check=list(HealthCheck),
            )
            @given(KINDS[kind](self._ground))
            def attack(one: Attack) -> None:
                self._send(one)
                tell()

            attack()

    def run_lists(self, lists: Iterable[Callable[[Ground], Iterable[Attack]]] = LISTS) -> None:
        """Send the attacks that are few."""
        for attack in itertools.chain.from_iterable(one(self._ground) for one in lists):
            self._send(attack)

    def _send(self, attack: Attack) -> None:
        label, request = attack.operation, attack.request
        try:
            answer = send(request, self._url)
        except (OSError, HTTPException) as error:
            self._tally.fail(f"{label}: {attack.kind}: {NO_ANSWER_OF_HTTP}: {error!r}", request.command(self._url))
            return
        self._tally.add(label, answer, positive=False)
        sent = f"{unquote(request.target.decode('latin-1'))}{request.headers}{request.body!r}"
        submitted = [MARKER] if MARKER in sent else []
        found = wrongs(answer, secrets=self._never, submitted=submitted)
        judged = attack.judge(answer)
        for wrong in found if judged is None else [*found, judged]:
            self._tally.fail(f"{label}: {attack.kind}: {wrong}", request.command(self._url))
        if answer.status < 300 and (ROWS[label].ends or label.endswith("/refresh")):
            self._people.used_up(label)
