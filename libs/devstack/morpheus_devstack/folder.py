"""The folder of a stack: whose it is, who uses it, what stands where."""

import fcntl
import json
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from morpheus_devstack.errors import StackError
from morpheus_devstack.secrets import write_private


@dataclass(frozen=True)
class StackFolder:
    """A stack's data, secrets and logs."""

    path: Path

    @property
    def marker(self) -> Path:
        """Says that `morpheus up` made this folder and may wipe it."""
        return self.path / ".morpheus-stack"

    @property
    def lock_file(self) -> Path:
        """Locked, and holding the process id, while a stack runs here."""
        return self.path / "stack.lock"

    @property
    def pids_file(self) -> Path:
        """`{name: pid}` of every process that runs."""
        return self.path / "pids.json"

    @property
    def env_file(self) -> Path:
        """Where everything is, as environment variables; for the other commands, and for a shell to source."""
        return self.path / "stack.env"

    @property
    def demo_file(self) -> Path:
        """The demo user and key."""
        return self.path / "demo.json"

    def log(self, name: str) -> Path:
        """Return where a process logs to."""
        return self.path / "logs" / f"{name}.log"

    @contextmanager
    def held(self, *, fresh: bool) -> Iterator[None]:
        """Have the folder for oneself while the block runs; `fresh` empties it first.

        Raises:
            StackError: it is somebody else's, or another stack runs in it.
        """
        foreign = self.path.exists() and not self.marker.exists()
        if foreign and (not self.path.is_dir() or any(self.path.iterdir())):
            raise StackError(f"{self.path} was not made by `morpheus up`; choose another folder with --data.")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.marker.touch()
            file = self.lock_file.open("a+")
        except OSError as error:
            raise StackError(f"{self.path} cannot be used: {error.strerror}.") from error
        with file:
            if not _lock(file.fileno()):
                raise StackError(
                    f"A stack is running in {self.path} (process {self.owner()}); "
                    f"`morpheus down --data {self.path}` ends it, --data chooses another folder."
                )
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            if fresh:
                self._wipe()
            try:
                yield
            finally:
                self.pids_file.unlink(missing_ok=True)
                file.truncate(0)

    def _wipe(self) -> None:
        for path in self.path.iterdir():
            if path not in {self.marker, self.lock_file}:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()

    def owner(self) -> int | None:
        """Return the process of the stack that runs here, None if none does."""
        try:
            with self.lock_file.open() as file:
                if _lock(file.fileno()):
                    return None
                text = file.read()
        except FileNotFoundError:
            return None
        return int(text) if text.isdecimal() else None

    def write_pids(self, pids: Mapping[str, int]) -> None:
        """Tell who runs, in one step: a reader sees the old list or the new one."""
        write_private(self.pids_file, json.dumps(pids, indent=2))

    def pids(self) -> dict[str, int]:
        """Return who runs, by name; nobody if no stack does."""
        try:
            pids: dict[str, int] = json.loads(self.pids_file.read_text())
        except FileNotFoundError:
            return {}
        return pids

    def write_env(self, values: Mapping[str, str]) -> None:
        """Write `stack.env`; it holds passwords."""
        write_private(self.env_file, "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items()))

    def env(self) -> dict[str, str]:
        """Return what `stack.env` says; nothing if there is none."""
        try:
            text = self.env_file.read_text()
        except FileNotFoundError:
            return {}
        return dict(word.split("=", 1) for word in shlex.split(text))


def _lock(descriptor: int) -> bool:
    """Take the lock, which ends with the process whatever becomes of it; False if another process has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
