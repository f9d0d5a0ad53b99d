"""One file that holds the simulator's world between runs: its first line is the whole world, the others add to it."""

import errno
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any, Final

from proxy_router_sim.table import Table

FORMAT: Final = 2
_LEAST_TO_REWRITE = 1024 * 1024
"""Bytes of additions below which the file is not written anew."""


@dataclass(slots=True)
class World:
    """What a file holds: facts, and the rows of tables by name and key."""

    facts: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, line: dict[str, Any]) -> None:
        """Take over one line."""
        self.facts = line["facts"]
        for name, rows in line["rows"].items():
            table = self.tables.setdefault(name, {})
            for key, row in rows.items():
                if row is None:
                    table.pop(key, None)
                else:
                    table[key] = row


class StateFile:
    """Appended to on every change, in one write, and swapped for a shorter one when it has grown.

    A crash leaves the world before a change or the one after it. What ``save`` returned from is on the disk.
    """

    def __init__(self, path: Path, tables: Mapping[str, Table[Any]], facts: Callable[[], dict[str, Any]]) -> None:
        self._path = path
        self._tables = tables
        self._facts = facts
        self._file: FileIO | None = None
        self._additions = 0
        self._most_additions = _LEAST_TO_REWRITE

    def save(self) -> None:
        """Write what changed since the last time."""
        if self._file is None or self._additions > self._most_additions:
            self._write_whole()
            return
        line = self._line({name: rows for name, table in self._tables.items() if (rows := table.unsaved_rows())})
        try:
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
            os.fdatasync(self._file.fileno())
        except OSError:
            # Half a line may stand at the end now. The next time the file is written anew.
            self.close()
            raise
        self._additions += len(line)

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write_whole(self) -> None:
        self.close()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        line = self._line({name: table.all_rows() for name, table in self._tables.items()})
        draft = self._path.with_name(self._path.name + ".draft")
        with draft.open("wb") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._path)
        self._file = FileIO(self._path, "ab")
        self._additions, self._most_additions = 0, max(_LEAST_TO_REWRITE, 4 * len(line))

    def _line(self, rows: dict[str, dict[str, Any]]) -> bytes:
        line = {"format": FORMAT, "facts": self._facts(), "rows": rows}
        return json.dumps(line, separators=(",", ":")).encode() + b"\n"


def load(path: Path) -> World | None:
    """The stored world, or None if there is none yet. Raises ValueError for a file of another format."""
    if not path.exists():
        return None
    world = World()
    # What follows the last end of a line was being written when the process died.
    whole, _, _torn = path.read_bytes().rpartition(b"\n")
    for line in whole.split(b"\n"):
        parsed = _parsed(line)
        if parsed is None or parsed.get("format") != FORMAT:
            raise ValueError(
                f"{path} is not a state of this simulator (format {FORMAT}); move it away and it starts a new world"
            )
        world.add(parsed)
    return world


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        parsed = json.loads(line)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) else None
