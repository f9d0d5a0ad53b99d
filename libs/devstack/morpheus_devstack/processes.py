"""Processes: started, watched, started again when they die, and ended in order."""

import asyncio
import collections
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from morpheus_devstack.errors import StackError

DEATHS_ALLOWED = 5
DEATHS_WINDOW_SECONDS = 60.0
"""A process that dies `DEATHS_ALLOWED` times within this is not going to recover by being started once more."""
FIRST_BACKOFF_SECONDS = 0.1
LONGEST_BACKOFF_SECONDS = 5.0
LOG_TAIL_BYTES = 4_096
PYDANTIC_HELP = "For further information visit"
"""How the last line of a complaint about a setting begins; the line before says what is wrong."""

Say = Callable[[str], None]
"""Takes one sentence for whoever started the stack."""

PR_SET_PDEATHSIG = 1
"""From linux/prctl.h."""
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


@dataclass(frozen=True)
class Command:
    """How a process is started. Its standard error (and output) go to `log`, appended."""

    name: str
    argv: Sequence[str]
    log: Path
    env: Mapping[str, str] | None = None
    grace_seconds: float = 10.0
    """How long it may take to end after SIGTERM."""


def die_with(parent: int) -> Callable[[], None]:
    """Return what a child does before it becomes its program: ask the kernel to end it when the stack dies.

    Without it a stack ended by SIGKILL would leave its servers running. Linux only; elsewhere `morpheus up` has to be
    ended with a signal it can handle.
    """

    def before_exec() -> None:
        if _libc is not None:
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # it died in between, and nobody will tell
                os._exit(1)

    return before_exec


async def spawn(command: Command) -> asyncio.subprocess.Process:
    """Start a process in a session of its own, so that a Ctrl-C in the terminal reaches the stack only, which then
    drains in order.

    Raises:
        StackError: the program cannot be started.
    """
    command.log.parent.mkdir(parents=True, exist_ok=True)
    with command.log.open("ab") as log:
        try:
            return await asyncio.create_subprocess_exec(
                *command.argv,
                env=command.env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with(os.getpid()),
            )
        except OSError as error:
            raise StackError(f"{command.name} could not be started: {error.strerror}: {command.argv[0]}.") from error


async def end(process: asyncio.subprocess.Process, grace_seconds: float) -> bool:
    """End a process with SIGTERM, after `grace_seconds` with SIGKILL; tell whether SIGTERM was enough."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(grace_seconds):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        return False
    return True


def how_it_ended(returncode: int) -> str:
    """Say in words what a return code means."""
    if returncode < 0:
        return f"was killed by {signal.Signals(-returncode).name}"
    return f"ended with status {returncode}"


def last_words(log: Path) -> str:
    """Return the last line of a log that says something; an empty string if there is none."""
    if not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    telling = [line for line in lines if line and not line.startswith(PYDANTIC_HELP)]
    return telling[-1] if telling else ""


class Supervised:
    """One process of the stack, started again when it dies."""

    def __init__(self, command: Command, *, say: Say, on_change: Callable[[], None], restarts: bool) -> None:
        self.command = command
        self._say = say
        self._on_change = on_change
        self._restarts = restarts
        self._process: asyncio.subprocess.Process | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._deaths: collections.deque[float] = collections.deque(maxlen=DEATHS_ALLOWED)
        self._start_now = asyncio.Event()

    @property
    def name(self) -> str:
        """What the process is called in messages, logs and `pids.json`."""
        return self.command.name

    @property
    def pid(self) -> int | None:
        """The running process, None while there is none."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self) -> asyncio.subprocess.Process:
        """Start the process. Nobody watches it yet: a death before `watch` is the caller's to notice."""
        self._process = await spawn(self.command)
        self._on_change()
        return self._process

    def death(self) -> str | None:
        """Return a sentence about a process that is dead, None while it lives."""
        if self._process is None or self._process.returncode is None:
            return None
        words = last_words(self.command.log)
        hint = f" (its last words: {words})" if words else ""
        return f"{self.name} {how_it_ended(self._process.returncode)}{hint}; its log is {self.command.log}."

    async def until_death(self) -> str:
        """Wait for the process to die and return the sentence about it."""
        assert self._process is not None  # noqa: S101 - `start` came before; this is for the type checker
        await self._process.wait()
        return self.death() or ""

    def watch(self, gave_up: asyncio.Future[str]) -> None:
        """Start it again whenever it dies. When it dies too often `gave_up` gets the sentence that says so."""
        self._watcher = asyncio.create_task(self._watch(gave_up), name=f"watch {self.name}")

    def start_now(self) -> None:
        """Start the process at once if it is dead, without waiting for the backoff to pass."""
        self._start_now.set()

    async def _watch(self, gave_up: asyncio.Future[str]) -> None:
        while True:
            assert self._process is not None  # noqa: S101 - `start` came before; this is for the type checker
            self._start_now.clear()
            await self._process.wait()
            self._on_change()
            now = time.monotonic()
            self._deaths.append(now)
            recent = [death for death in self._deaths if now - death < DEATHS_WINDOW_SECONDS]
            if not self._restarts:
                self._say(f"{self.name} {how_it_ended(self._process.returncode or 0)}; it stays down.")
                await self._start_now.wait()
            elif len(recent) >= DEATHS_ALLOWED:
                if not gave_up.done():
                    gave_up.set_result(
                        f"{self.name} died {len(recent)} times within {DEATHS_WINDOW_SECONDS:.0f} s: {self.death()}"
                    )
                return
            else:
                pause = min(FIRST_BACKOFF_SECONDS * 4 ** (len(recent) - 1), LONGEST_BACKOFF_SECONDS)
                self._say(
                    f"{self.name} {how_it_ended(self._process.returncode or 0)}; it is started again in {pause:g} s."
                )
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._start_now.wait()
            try:
                await self.start()
            except StackError as error:
                if not gave_up.done():
                    gave_up.set_result(str(error))
                return

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def stop(self) -> None:
        """End the process for good."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        if self._process is not None and self._process.returncode is None:
            if not await end(self._process, self.command.grace_seconds):
                self._say(f"{self.name} did not end within {self.command.grace_seconds:g} s and was killed.")
            self._on_change()
