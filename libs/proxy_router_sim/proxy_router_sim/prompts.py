"""What came to the models, for tests of what lies before them: a router shows nobody a prompt."""

import contextlib
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

_MOST: Final = 20
"""Prompts with pictures have megabytes, and a test looks at the last few."""


@dataclass(slots=True)
class RecordedPrompt:
    """A chat prompt as the router got it."""

    session_id: str
    headers: dict[str, str]
    """By their names in lowercase, without the credentials."""
    body: str
    running: bool = True
    """Whether the router still works on it, for a caller who is there or not."""


class Prompts:
    """The last prompts, if ``recording``."""

    def __init__(self) -> None:
        self.recording = False
        self._prompts: deque[RecordedPrompt] = deque(maxlen=_MOST)

    @contextlib.contextmanager
    def running(self, session_id: str, headers: Mapping[str, str], body: bytes) -> Iterator[None]:
        """Record a prompt that runs in the block."""
        if not self.recording:
            yield
            return
        shown = {name.lower(): value for name, value in headers.items() if name.lower() != "authorization"}
        prompt = RecordedPrompt(session_id, shown, body.decode(errors="replace"))
        self._prompts.append(prompt)
        try:
            yield
        finally:
            prompt.running = False

    def forget(self) -> None:
        """Drop what was recorded."""
        self._prompts.clear()

    def view(self, match: str) -> list[dict[str, Any]]:
        """Those whose body has this text, oldest first, as JSON values."""
        return [asdict(prompt) for prompt in self._prompts if match in prompt.body]
