"""A reader of events that goes on through all faults: `examples/subscriber.py`, as it is shown to whoever writes one.

It tells of every event that it takes for new, and marks repeats and gaps; what it told is held against the outboxes.
"""

import asyncio
import os
import re
import signal
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from morpheus_common.bus.names import User
from morpheus_devstack.processes import die_with
from morpheus_devstack.waiting import poll

from tests.faults.records import STORES
from tests.faults.stack import FaultStack

PROGRAM: Final = Path(__file__).resolve().parents[2] / "examples" / "subscriber.py"
_LINE: Final = re.compile(r"^\S+Z  (?P<kind>\S+) +(?P<entity>\S+)  #(?P<version>\d+)(?P<rest>.*)$")
LISTENS: Final = "listening to EVENTS"
BEGIN_SECONDS: Final = 30.0
ARRIVE_SECONDS: Final = 60.0
END_SECONDS: Final = 10.0


class Told(NamedTuple):
    """An event: the service it is of, the id of its entity, the entity's version."""

    service: str
    entity: str
    version: int


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reader made of the events. `lost` were decided and never told of, `doubled` told of as new twice."""

    lost: list[Told]
    doubled: list[Told]
    unknown: list[Told]
    gaps: int
    repeats: int

    @property
    def wrong(self) -> list[str]:
        """What must not be, in sentences."""
        told = [f"event lost: {event}" for event in self.lost]
        told += [f"event told of twice: {event}" for event in self.doubled]
        told += [f"event that nobody decided: {event}" for event in self.unknown]
        return [*told, *([f"the reader saw {self.gaps} gaps"] if self.gaps else [])]


@dataclass
class EventReader:
    """The program, and what it has told so far."""

    stack: FaultStack
    new: list[Told] = field(default_factory=list)
    gaps: int = 0
    repeats: int = 0
    _process: asyncio.subprocess.Process | None = None
    _reading: "asyncio.Task[None] | None" = None

    async def start(self) -> None:
        """Begin with the first event that is kept. Raises `RuntimeError` when the program does not begin to listen."""
        if not await poll(self._begins, seconds=BEGIN_SECONDS, every=0.1):
            raise RuntimeError(f"the subscriber does not listen; its log is {self._log}")

    @property
    def _log(self) -> Path:
        return self.stack.folder / "logs" / "subscriber.log"

    async def _begins(self) -> bool:
        """Start the program, again if it gave up: it tries once, as whoever supervises it knows. Tell whether it listens."""
        if self._process is None or self._process.returncode is not None:
            await self._spawn()
        return LISTENS in self._log.read_text()

    async def _spawn(self) -> None:
        places = self.stack.places
        env = {
            **os.environ,
            "NATS_URL": places.nats.url,
            "NATS_SEED": places.secrets.nats_seeds[User.SUBSCRIBER],
        }
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                str(PROGRAM),
                "--since",
                "all",
                env=env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                preexec_fn=die_with(os.getpid()),
            )
        self._reading = asyncio.create_task(self._read())

    async def stop(self) -> None:
        """End the program."""
        if self._process is None or self._reading is None:
            return
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGINT)
        try:
            await asyncio.wait_for(self._process.wait(), END_SECONDS)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        await self._reading

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.note(line.decode().rstrip("\n"))

    def note(self, line: str) -> None:
        """Take what the program says of one event."""
        told = _LINE.match(line)
        if told is None:
            raise ValueError(f"the subscriber said what no test knows: {line[:200]}")
        if "[repeat:" in told["rest"]:
            self.repeats += 1
            return
        self.gaps += "[gap:" in told["rest"]
        self.new.append(Told(told["kind"].partition(".")[0], told["entity"], int(told["version"])))

    async def compared(self) -> Reading:
        """Hold what was told against what was decided, once all of it should be here."""
        if self._reading is None or self._reading.done():
            raise RuntimeError(f"the subscriber ended; its log is {self._log}")
        reading = self.compare(await self._decided())

        async def is_whole() -> bool:
            nonlocal reading
            reading = self.compare(await self._decided())
            return not reading.lost

        _ = await poll(is_whole, seconds=ARRIVE_SECONDS, every=0.3)
        return reading

    def compare(self, decided: set[Told]) -> Reading:
        """Hold what was told against these."""
        counts = Counter(self.new)
        return Reading(
            lost=sorted(decided - counts.keys()),
            doubled=sorted(event for event, count in counts.items() if count > 1),
            unknown=sorted(counts.keys() - decided),
            gaps=self.gaps,
            repeats=self.repeats,
        )

    async def _decided(self) -> set[Told]:
        return {
            Told(row["subject"].split(".")[1], row["entity"], row["version"])
            for store in STORES
            async for row in self.stack.mongo[store]["outbox"].find({}, {"subject": 1, "entity": 1, "version": 1})
        }
