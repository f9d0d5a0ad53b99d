"""Who is asked, and with what."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.client import request

BODY_BYTES = 1_000
"""About what a prompt has."""


@dataclass(frozen=True)
class Wish:
    """A stream that is asked of the upstream: so many chunks, so far apart. `number` is in each of its chunks."""

    number: int
    chunks: int
    gap_ms: int = 0

    def __str__(self) -> str:
        return f"[stream={self.number} chunks={self.chunks} gap_ms={self.gap_ms}]"


def body(model: str, wish: Wish | None) -> bytes:
    """Return a prompt of about `BODY_BYTES`; JSON mode without a wish."""
    text = f"{wish or ''} "
    text += "All of this is one question. " * ((BODY_BYTES - 100) // 29)
    asked: dict[str, object] = {"model": model, "messages": [{"role": "user", "content": text}]}
    if wish is not None:
        asked["stream"] = True
    return json.dumps(asked).encode()


@dataclass(frozen=True)
class Target:
    """Something with an OpenAI-compatible chat route. `callers`: headers of one caller each; ours runs one prompt of a key
    at a time, so it has as many keys as connections. `pids`: all its processes, by name.
    """

    name: str
    url: str
    path: str
    model: str
    callers: tuple[Mapping[str, str], ...]
    pids: Mapping[str, int] = field(default_factory=dict)

    def prompt(self, caller: int, wish: Wish | None = None) -> bytes:
        """Return a whole request of one caller."""
        headers = self.callers[caller % len(self.callers)]
        return request(self.url, self.path, headers, body(self.model, wish))
