"""The forms that errors have in different versions of the router (contract sections 2.6, 2.8 and 4).

A client has to understand all of them, so one can be chosen while the simulator runs.
"""

from enum import StrEnum
from typing import Any, Final

from proxy_router_sim.errors import BadRequestError, ModelError, RouterError

_NOT_MINED: Final = ("not mined after all escalation attempts", "failed to wait for transaction to be mined")
_OPEN: Final = "open session failed: "
_CLOSE: Final = "close session failed: "
_APPROVE: Final = "approve failed: "


class Errors(StrEnum):
    """The version whose errors are told."""

    OLDER = "older"
    """The source that the contract describes: a model's error is 400."""
    NEWER = "newer"
    """A model's error has the model's status, and names it in ``statusCode``."""
    DEV = "dev"
    """As newer, and errors of the chain are explained in sentences."""


class Forms:
    """The version in use."""

    def __init__(self) -> None:
        self.errors = Errors.OLDER

    def change(self, wish: dict[str, Any]) -> None:
        """Take over ``errors`` of a JSON object. Raises BadRequestError."""
        if set(wish) != {"errors"} or wish["errors"] not in set(Errors):
            raise BadRequestError(f"errors is one of {', '.join(Errors)}")
        self.errors = Errors(wish["errors"])

    def answer(self, error: RouterError | ModelError) -> tuple[int, dict[str, Any]]:
        """Status and body of an error."""
        if isinstance(error, RouterError):
            return error.status, {"error": _explained(error.text) if self.errors is Errors.DEV else error.text}
        if error.pass_status or self.errors is not Errors.OLDER:
            return error.status, {"providerModelError": error.body, "statusCode": error.status}
        return 400, {"providerModelError": error.body}


def _explained(text: str) -> str:
    """The sentence of the dev branch for an error of the chain; other errors stay as they are."""
    before, opening, cause = text.partition(_OPEN)
    if opening:
        return f"{before}{_OPEN}{_why_not_opened(cause)}"
    before, closing, cause = text.partition(_CLOSE)
    if closing and ("ERC20: insufficient allowance" in cause or "transfer amount exceeds balance" in cause):
        return (
            f"{before}{_CLOSE}the protocol funding pool does not have enough MOR allowance to settle provider payment — "
            f"try again later. Original: {cause}"
        )
    return text.replace(_APPROVE, "approve MOR allowance failed: ", 1)


def _why_not_opened(cause: str) -> str:
    if "insufficient funds for gas" in cause:
        return f"insufficient ETH for gas — add ETH to the wallet. Original: {cause}"
    if "transfer amount exceeds balance" in cause:
        return f"insufficient MOR balance — add MOR to the wallet. Original: {cause}"
    if any(words in cause for words in _NOT_MINED):
        return f"transaction could not be confirmed on-chain — it may still be mined. Original: {cause}"
    return cause
