"""The code of an earlier commit, beside this one."""

import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("libs/common", "services/auth", "services/automation", "services/gateway", "services/sessions")


class HistoryError(Exception):
    """The earlier code cannot be had; the text says why, and what to do."""


@dataclass(frozen=True)
class Earlier:
    """The code of a commit in a folder."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """What makes Python take the services and what they share from there, and all else from where we have it."""
        return {"PYTHONPATH": os.pathsep.join(str(self.folder / package) for package in PACKAGES)}

    def contract(self, commit: str) -> str:
        """Return what this code says and understands, by our program."""
        return self._python(str(ROOT / "tests" / "versions" / "contract.py"), commit)

    def check(self) -> None:
        """Raise `HistoryError` unless it is this code that runs, and not ours under its name."""
        modules = [Path(package).name for package in PACKAGES]
        names = ", ".join("morpheus_" + name for name in modules)
        places = self._python("-c", f"import {names}\nfor module in ({names}):\n    print(module.__file__)").split()
        if not all(Path(place).is_relative_to(self.folder) for place in places):
            raise HistoryError(f"Python takes the earlier code from elsewhere: {', '.join(places)}.")

    def _python(self, *arguments: str) -> str:
        made = subprocess.run(
            [sys.executable, *arguments],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            raise HistoryError(f"The earlier code in {self.folder} does not run: {made.stderr.strip()[-2000:]}")
        return made.stdout


def full_hash(commit: str) -> str:
    """Return the whole hash of a commit.

    Raises:
        HistoryError: this checkout has no such commit.
    """
    found = _git("rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}")
    if found.returncode:
        raise HistoryError(
            f"This checkout does not hold commit {commit}, whose code would run beside this one. It needs the history: "
            "`git fetch --unshallow`, or a clone without --depth."
        )
    return found.stdout.decode().strip()


@contextmanager
def earlier(commit: str) -> Iterator[Earlier]:
    """Have the code of a commit while the block runs.

    Raises:
        HistoryError: this checkout has no such commit.
    """
    packed = _git("archive", "--format=tar", full_hash(commit), *PACKAGES)
    if packed.returncode:
        raise HistoryError(f"git does not give the code of {commit}: {packed.stderr.decode().strip()}")
    with tempfile.TemporaryDirectory(prefix="morpheus-previous-") as folder:
        with tarfile.open(fileobj=BytesIO(packed.stdout)) as archive:
            archive.extractall(folder, filter="data")
        made = Earlier(Path(folder))
        made.check()
        yield made


def _git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)
    except FileNotFoundError:
        raise HistoryError("git is needed, to have the code of an earlier commit, and is not on PATH.") from None
