"""One JSON file that holds the simulator's world between runs."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

FORMAT = 1


class StateFile:
    """Written whole and swapped in, so that a crash leaves the old world or the new one."""

    def __init__(self, path: Path, dump: Callable[[], dict[str, Any]]) -> None:
        self._path = path
        self._dump = dump

    def save(self) -> None:
        """Write what ``dump`` gives now."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_name(self._path.name + ".draft")
        with draft.open("w", encoding="utf-8") as file:
            json.dump({"format": FORMAT, **self._dump()}, file, separators=(",", ":"))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._path)


def load(path: Path) -> dict[str, Any] | None:
    """The stored world, or None if there is none yet. Raises ValueError for a file of another format."""
    if not path.exists():
        return None
    world = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(world, dict) or world.get("format") != FORMAT:
        raise ValueError(f"{path} is not a state of this simulator (format {FORMAT})")
    return world
