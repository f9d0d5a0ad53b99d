"""Where a long run keeps its logs and data: in a folder that was asked for, or in one that stays only after a failure."""

import argparse
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def add_folder(commands: argparse.ArgumentParser) -> None:
    """Let a command be asked for a folder."""
    commands.add_argument(
        "--folder", type=Path, help="where logs and data go, and stay; else a temporary one that stays after a failure"
    )


def in_folder(asked: Path | None, prefix: str, run: Callable[[Path], bool]) -> int:
    """Run in the folder that was asked for, or in a temporary one; return the exit status."""
    folder = asked or Path(tempfile.mkdtemp(prefix=prefix))
    folder.mkdir(parents=True, exist_ok=True)
    passed = run(folder)
    if passed and asked is None:
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if passed else 1
