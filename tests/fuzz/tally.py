"""What came of all requests, by operation."""

import threading
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from morpheus_common.errors import CATALOGUE
from rich.table import Table

from tests.fuzz.answers import Answer


@dataclass
class Row:
    """Of one operation. `slowest` in seconds."""

    statuses: Counter[int] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0


class Tally:
    """Counts answers; to be used from several threads. `failures`: what is wrong, with the command that shows it again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.rows: defaultdict[str, Row] = defaultdict(Row)
        self.reached: set[str] = set()
        self.failures: dict[str, str] = {}

    @property
    def cases(self) -> int:
        return sum(row.statuses.total() for row in list(self.rows.values()))

    def add(self, label: str, answer: Answer, *, positive: bool) -> None:
        """Count an answer. `positive`: the request was as it should be."""
        with self._lock:
            row = self.rows[label]
            row.statuses[answer.status] += 1
            row.slowest = max(row.slowest, answer.seconds)
            if answer.code is not None:
                row.codes[answer.code] += 1
            if positive and answer.status < 400:
                self.reached.add(label)

    def fail(self, what: str, command: str) -> None:
        """Note what is wrong, once, with the command that was the first to show it."""
        with self._lock:
            self.failures.setdefault(what, command)

    def unreached(self, reasons: Mapping[str, str]) -> list[str]:
        """Return which operations of the document were never answered well, unless there is a reason."""
        return sorted(label for label in self.rows if label not in self.reached and label not in reasons)

    def table(self, title: str) -> Table:
        """Show the operations."""
        table = Table(title=title, title_justify="left")
        table.add_column("operation", overflow="fold")
        for name in ("cases", "slowest"):
            table.add_column(name, justify="right")
        table.add_column("statuses", overflow="fold")
        table.add_column("codes", overflow="fold")
        for label, row in sorted(self.rows.items()):
            table.add_row(
                label,
                f"{row.statuses.total():,}",
                f"{row.slowest:.2f} s",
                ", ".join(f"{status}: {count:,}" for status, count in sorted(row.statuses.items())),
                ", ".join(sorted(row.codes)),
            )
        return table

    @staticmethod
    def codes(*tallies: "Tally") -> tuple[list[str], list[str]]:
        """Return which codes of the catalogue were seen, and which never."""
        seen = {code for tally in tallies for row in tally.rows.values() for code in row.codes}
        return sorted(seen & CATALOGUE.keys()), sorted(CATALOGUE.keys() - seen)
