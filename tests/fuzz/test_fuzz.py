"""A small part of `make fuzz`: every operation by its examples and with good and bad data, and some attacks of each kind."""

import asyncio
from pathlib import Path

from tests.fuzz.attacks import Attacker
from tests.fuzz.document import Document
from tests.fuzz.hostile import KINDS, side_effects, sizes
from tests.fuzz.people import People
from tests.fuzz.stack import Inside, fuzzed_stack
from tests.fuzz.tally import Tally

EXAMPLES = 1
ATTACKS = 12


def _fuzz(inside: Inside, document: Tally, attacks: Tally) -> None:
    people = People(inside)
    try:
        never = inside.never_to_be_told()
        attacker = Attacker(people, attacks, never, inside.base_url)
        attacker.run_lists((side_effects, sizes))
        attacker.run(KINDS, seed=1, examples=ATTACKS)
        drawn = Document(people, document, never, inside.base_url)
        drawn.run(seed=1, examples=EXAMPLES, phases=("examples", "fuzzing"))
    finally:
        people.close()


async def test_nothing_that_is_sent_is_answered_wrongly(tmp_path: Path) -> None:
    """C16, C42, C53, C54."""
    document, attacks = Tally(), Tally()
    async with fuzzed_stack(tmp_path / "stack", seed=1) as inside:
        await asyncio.to_thread(_fuzz, inside, document, attacks)
        unsound = await inside.unsound()
    assert document.failures | attacks.failures == {}
    assert unsound == []
    # the whole document was asked, and well: else all this proves nothing
    assert len(document.reached) > 25
    assert attacks.cases > ATTACKS * len(KINDS) / 2
