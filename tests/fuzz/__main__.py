"""Fuzz the whole HTTP API of a stack of its own: `python -m tests.fuzz` (see `make fuzz`)."""

import argparse
import asyncio
import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from tests.fuzz.attacks import Attacker
from tests.fuzz.document import PHASES, Document
from tests.fuzz.hostile import KINDS
from tests.fuzz.people import People
from tests.fuzz.reasons import UNREACHED
from tests.fuzz.stack import Inside, fuzzed_stack
from tests.fuzz.tally import Tally
from tests.run_folder import add_folder, in_folder

TELL_SECONDS = 15.0
A_ROUND = 100
"""Examples of each operation in a phase of a round; each round draws others."""
ATTACKS = 200
"""Attacks of each kind in a round."""
EVERY_OPERATION = 5_000
"""From so many cases on, every operation has to be reached by good data."""


def parser() -> argparse.ArgumentParser:
    commands = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    add = commands.add_argument
    add(
        "--cases",
        type=int,
        default=50_000,
        help="so many requests by schemathesis, and those of attacks (default 50000)",
    )
    add("--seed", type=int, default=1, help="decides what is sent (default 1)")
    add_folder(commands)
    return commands


class Told:
    """Tells now and then how far it is."""

    def __init__(self, console: Console, cases: int, document: Tally, attacks: Tally) -> None:
        self._console = console
        self._cases = cases
        self._document = document
        self._attacks = attacks
        self._started = self._told_at = time.monotonic()
        self._shown: set[str] = set()

    def __call__(self) -> None:
        self.failures()
        now = time.monotonic()
        if now - self._told_at < TELL_SECONDS:
            return
        self._told_at = now
        done = self._document.cases
        left = (now - self._started) * (self._cases - done) / done if done else float("inf")
        self._console.print(
            f"{done:,}/{self._cases:,} cases, {self._attacks.cases:,} attacks, "
            f"{len(self._document.failures) + len(self._attacks.failures)} failures, about {max(0.0, left):.0f} s left",
            highlight=False,
        )

    def failures(self) -> None:
        """Show what has failed since the last time, with the command that repeats it."""
        for what, command in (*self._document.failures.items(), *self._attacks.failures.items()):
            if what not in self._shown:
                self._shown.add(what)
                self._console.print(f"FAIL {what}", markup=False, highlight=False)
                self._console.print(f"     {command}", markup=False, highlight=False, soft_wrap=True)


def fuzz(inside: Inside, document: Tally, attacks: Tally, *, cases: int, seed: int, tell: Callable[[], None]) -> None:
    """Send `cases` requests that the document tells of, and attacks with them; all is noted in the tallies."""
    people = People(inside)
    try:
        never = inside.never_to_be_told()
        drawn = Document(people, document, never, inside.base_url)
        attacker = Attacker(people, attacks, never, inside.base_url)
        attacker.run_lists()
        for number in itertools.count(seed * 10_000):
            attacker.run(KINDS, seed=number, examples=ATTACKS, tell=tell)
            is_first = number == seed * 10_000
            phases = PHASES if is_first else PHASES[2:]
            drawn.run(seed=number, examples=A_ROUND, phases=phases, most=cases - document.cases, tell=tell)
            if document.cases >= cases:
                return
    finally:
        people.close()


async def run(options: argparse.Namespace, console: Console, folder: Path) -> bool:
    """Return whether all is as it must be."""
    document, attacks = Tally(), Tally()
    tell = Told(console, options.cases, document, attacks)
    console.print(f"{options.cases:,} cases and attacks, seed {options.seed}, logs in {folder}", highlight=False)
    started = time.monotonic()
    async with fuzzed_stack(folder / "stack", seed=options.seed) as inside:
        await asyncio.to_thread(fuzz, inside, document, attacks, cases=options.cases, seed=options.seed, tell=tell)
        seconds = time.monotonic() - started
        wrong = await inside.unsound()
    console.print(document.table("Operations, as the document has them"))
    console.print(attacks.table("Operations under attack"))
    seen, unseen = Tally.codes(document, attacks)
    console.print(f"codes seen: {', '.join(seen)}", highlight=False)
    console.print(f"codes never seen: {', '.join(unseen)}", highlight=False)
    if options.cases >= EVERY_OPERATION:
        wrong += [f"{label}: never reached by good data" for label in document.unreached(UNREACHED)]
    for label, why in UNREACHED.items():
        console.print(f"not reached by good data: {label}: {why}", highlight=False)
    tell.failures()
    failures = len(document.failures) + len(attacks.failures) + len(wrong)
    for text in wrong:
        console.print(f"FAIL {text}", markup=False, highlight=False)
    passed = not failures and document.cases >= options.cases
    console.print(
        f"fuzz: {document.cases:,} cases, {attacks.cases:,} attacks, {failures} failures; invariants and audit "
        f"looked at; {seconds:.0f} s; seed {options.seed}" + ("" if passed else f"; logs in {folder}"),
        highlight=False,
    )
    return passed


def main() -> int:
    options = parser().parse_args()
    console = Console(width=None if sys.stdout.isatty() else 160)
    return in_folder(options.folder, "fuzz-", lambda folder: asyncio.run(run(options, console, folder)))


if __name__ == "__main__":
    sys.exit(main())
