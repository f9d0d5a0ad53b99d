"""What the router answers when something fails; the edge turns these into HTTP in one place (``app.py``)."""


class RouterError(Exception):
    """Answered as ``{"error": text}``; 500 for everything but parameters that cannot be read (contract section 0)."""

    def __init__(self, text: str, status: int = 500) -> None:
        super().__init__(text)
        self.text = text
        self.status = status


class BadRequestError(RouterError):
    """A parameter or body that cannot be read: 400."""

    def __init__(self, text: str) -> None:
        super().__init__(text, 400)


class ModelError(Exception):
    """The model behind the provider answered ``body`` with a ``status`` that is not 200 (contract section 4).

    Whether the caller sees that status depends on the version (``forms.py``); ``pass_status`` asks for it in any.
    """

    def __init__(self, body: object, status: int = 400, *, pass_status: bool = False) -> None:
        super().__init__(f"model answered {status}")
        self.body = body
        self.status = status
        self.pass_status = pass_status


class ConnectionCutError(Exception):
    """The connection ends here without a word, as when the router panics."""
