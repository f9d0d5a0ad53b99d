"""What can go wrong with the stack, as one sentence for whoever started it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class StackError(Exception):
    """The stack cannot go on. The text is one sentence that says what happened and, where there is one, the way out."""


def names_of_settings(error: "ValidationError") -> str:
    """Return which settings an error of theirs is about, as an operator writes them."""
    return ", ".join(str(problem["loc"][0]).upper() for problem in error.errors())
