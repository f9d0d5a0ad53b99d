"""What the person who started the stack sees. Progress goes to stderr; stdout is for what was asked."""

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.status import Status


class Progress:
    """Sentences on stderr; in a terminal with a line at the bottom that shows what is being waited for."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._status: Status | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._status = self._console.status("")
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None

    def say(self, sentence: str) -> None:
        """Write a sentence."""
        self._console.print(sentence, markup=False)

    @property
    def is_live(self) -> bool:
        """Whether the line at the bottom is shown."""
        return self._status is not None

    def waiting_done(self) -> None:
        """Take the line at the bottom away."""
        if self._status is not None:
            self._status.stop()

    def waiting_for(self, what: str) -> None:
        """Show what is being waited for; shown for a moment only, and not at all without a terminal."""
        if self._status is not None:
            self._status.update(what)


def write_out(text: str) -> None:
    """Write to stdout at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def write_err(text: str) -> None:
    """Write to stderr at once."""
    sys.stderr.write(text)
    sys.stderr.flush()
