"""What the router answers when something fails; the edge turns these into HTTP in one place (``app.py``)."""

from typing import Any


class RouterError(Exception):
    """Answered as ``{"error": text}``; 500 for everything but parameters that cannot be read (contract section 0)."""

    def __init__(self, text: str, status: int = 500) -> None:
        super().__init__(text)
        self.text = text
        self.status = status
        self.body: dict[str, Any] = {"error": text}


class BadRequestError(RouterError):
    """A parameter or body that cannot be read: 400."""

    def __init__(self, text: str) -> None:
        super().__init__(text, 400)


class ModelError(Exception):
    """The model behind the provider did not answer 200 (contract section 4).

    The router answers 400 with ``{"providerModelError": body}``. Newer routers pass the status of the model through
    and name it in ``statusCode``; ``pass_status`` asks for that.
    """

    def __init__(self, body: object, status: int = 400, *, pass_status: bool = False) -> None:
        super().__init__(f"model answered {status}")
        self.status = status if pass_status else 400
        self.body: dict[str, Any] = {"providerModelError": body}
        if pass_status:
            self.body["statusCode"] = status


class ConnectionCutError(Exception):
    """The connection ends here without a word, as when the router panics."""
