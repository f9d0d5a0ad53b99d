"""What can go wrong with the stack, as one sentence for whoever started it."""


class StackError(Exception):
    """The stack cannot go on. The text is one sentence that says what happened and, where there is one, the way out."""
