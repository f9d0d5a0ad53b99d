"""How a provider behaves: well, or in one of the ways in which real ones fail."""

import asyncio
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from proxy_router_sim.errors import BadRequestError

_LONGEST_SECONDS: Final = 86_400
_HALF_A_CHARACTER: Final = "€".encode()[:2]


class Answers(StrEnum):
    """What becomes of the answers of a provider's model."""

    WELL = "well"
    HALF_UTF8 = "half_utf8"
    """One frame, or the whole JSON answer, has bytes in it that are no text."""
    INVALID_JSON = "invalid_json"
    """One frame, or the whole JSON answer, ends in the middle."""
    ONE_BYTE = "one_byte"
    """All as it should be, each byte in a write of its own."""
    TRUNCATED = "truncated"
    """The stream ends after some chunks as if all were well; a JSON answer does not come at all."""


@dataclass(slots=True)
class Behaviour:
    """The conduct of one provider; as made, it is without fault."""

    online: bool = True
    """Whether it can be reached: handshake, ping, prompts, closing reports."""
    full: bool = False
    """It has no capacity for another session."""
    late: bool = False
    """It answers handshakes only once this is false again, be it hours later."""
    hangs_up: bool = False
    """It takes connections for handshakes and prompts and ends them without a word."""
    slow_seconds: float = 0.0
    """Wall time before it answers a handshake or begins to answer a prompt."""
    answers: Answers = Answers.WELL
    at: int = 0
    """How many chunks are well before ``answers`` shows."""
    waiting: int = 0
    """Handshakes that wait for it now."""
    _in_time: asyncio.Event = field(default_factory=asyncio.Event)

    def change(self, wish: dict[str, Any]) -> None:
        """Take over the fields of a JSON object. Raises BadRequestError for one that does not exist or fit."""
        for name, value in wish.items():
            match name:
                case "online" | "full" | "late" | "hangs_up" if isinstance(value, bool):
                    pass
                case "slow_seconds" if _is_number(value) and 0 <= value <= _LONGEST_SECONDS:
                    pass
                case "answers" if value in set(Answers):
                    pass
                case "at" if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
                    pass
                case _:
                    raise BadRequestError(
                        "a provider has online, full, late and hangs_up (true or false), slow_seconds (0 to "
                        f"{_LONGEST_SECONDS}), answers ({', '.join(Answers)}) and at (0 or more), "
                        f"but not {name} = {value!r}"
                    )
        for name, value in wish.items():
            setattr(self, name, Answers(value) if name == "answers" else value)
        if not self.late:
            self._in_time.set()
            self._in_time = asyncio.Event()

    async def answer_handshake(self) -> None:
        """Wait as long as this provider takes for a handshake."""
        self.waiting += 1
        try:
            await asyncio.sleep(self.slow_seconds)
            while self.late:
                await self._in_time.wait()
        finally:
            self.waiting -= 1

    def spoil(self, data: bytes, chunk: int) -> Iterator[bytes]:
        """The writes in which a frame, or a whole JSON answer, leaves; ``chunk`` counts from 0."""
        match self.answers:
            case Answers.HALF_UTF8 if chunk == self.at:
                head, mark, tail = data.partition(b':"')
                yield head + mark + _HALF_A_CHARACTER + tail
            case Answers.INVALID_JSON if chunk == self.at:
                end = b"\n\n" if data.endswith(b"\n\n") else b""
                yield data[: len(data) // 2] + end
            case Answers.ONE_BYTE if chunk >= self.at:
                yield from (data[i : i + 1] for i in range(len(data)))
            case _:
                yield data

    def ends_before(self, chunk: int) -> bool:
        """Whether the answer ends before this chunk."""
        return self.answers is Answers.TRUNCATED and chunk >= self.at

    def view(self) -> dict[str, Any]:
        """As JSON values."""
        shown = (item.name for item in dataclasses.fields(self) if not item.name.startswith("_"))
        return {name: getattr(self, name) for name in shown}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
