"""Rows that know how they were before the last block, and which of them the state file does not have yet."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

V = TypeVar("V")


class Table(dict[str, V], Generic[V]):
    """A dict that is changed with ``put`` and ``remove``, and knows what of it was not saved yet."""

    def __init__(self, encode: Callable[[V], Any], decode: Callable[[Any], V]) -> None:
        """``encode`` makes a JSON value of a row, ``decode`` a row of that."""
        super().__init__()
        self._encode = encode
        self._decode = decode
        self._unsaved: set[str] = set()

    def put(self, key: str, value: V) -> None:
        """Set a row."""
        self._unsaved.add(key)
        self[key] = value

    def remove(self, key: str) -> None:
        """Remove a row, if it is there."""
        if key in self:
            self._unsaved.add(key)
            del self[key]

    def empty(self) -> None:
        """Remove all rows."""
        for key in list(self):
            self.remove(key)

    def all_rows(self) -> dict[str, Any]:
        """Every row as a JSON value. From now on all count as saved."""
        self._unsaved.clear()
        return {key: self._encode(value) for key, value in self.items()}

    def unsaved_rows(self) -> dict[str, Any]:
        """The rows that changed since the last question, as JSON values (None: removed). They count as saved now."""
        rows = {key: self._encode(self[key]) if key in self else None for key in sorted(self._unsaved)}
        self._unsaved.clear()
        return rows

    def load(self, rows: dict[str, Any]) -> None:
        """Take over saved rows instead of those that are there."""
        self.clear()
        self.update((key, self._decode(row)) for key, row in rows.items())
        self._unsaved.clear()


class HistoryTable(Table[V]):
    """A table of values that are never changed, only replaced, which can go back to how it was."""

    def __init__(self, encode: Callable[[V], Any], decode: Callable[[Any], V]) -> None:
        super().__init__(encode, decode)
        self._before: dict[str, V | None] = {}

    def put(self, key: str, value: V) -> None:
        self._before.setdefault(key, self.get(key))
        super().put(key, value)

    def remove(self, key: str) -> None:
        self._before.setdefault(key, self.get(key))
        super().remove(key)

    def take_changes(self) -> dict[str, V | None]:
        """What the rows that changed since the last question were before (None: not there)."""
        changes, self._before = self._before, {}
        return changes

    def undo(self, changes: dict[str, V | None]) -> None:
        """Make those rows what they were."""
        for key, value in changes.items():
            if value is None:
                self.remove(key)
            else:
                self.put(key, value)
        self._before = {}


def as_is(value: Any) -> Any:
    """For tables whose rows are JSON values themselves."""
    return value
