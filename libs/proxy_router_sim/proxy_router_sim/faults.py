"""Faults on demand: armed by a test, each strikes the next matching calls of a route and is then used up."""

import asyncio
import itertools
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from proxy_router_sim.errors import BadRequestError, ConnectionCutError, ModelError, RouterError
from proxy_router_sim.models import Chunk

CALL_ACTIONS = frozenset({"delay", "hang", "drop", "error_before", "error_after"})
"""Strike a whole call, of any route."""
CHAT_ACTIONS = frozenset({"truncate", "cut", "raw_error", "model_error", "stall", "no_done", "no_usage"})
"""Strike an answer of chat at a chunk."""

_DEFAULT_TEXT = {
    ("initiate", "error_before"): (
        "provider request failed: code: 500, msg: <nil>, error: "
        "failed to connect to provider: dial tcp 10.77.0.11:3333: i/o timeout"
    ),
    ("open", "error_before"): (
        "failed to send transaction: open session failed: failed to build transaction: 429 Too Many Requests"
    ),
    ("open", "error_after"): "failed to get session: session not found",
    ("close", "error_before"): "failed to get session report from user: 429 Too Many Requests",
    ("close", "error_after"): "failed to wait for transaction to be mined: context deadline exceeded",
}
"""Texts of contract section 6 that suit the moment."""
_CHAT_TEXT = "provider request failed: invalid response: read tcp 10.77.0.1:51000->10.77.0.11:3333: i/o timeout"
_MODEL_ERROR = {"error": {"message": "Rate limit reached", "type": "rate_limit_error", "code": "rate_limit_exceeded"}}


@dataclass(slots=True)
class Fault:
    """One armed fault. ``count`` strikes are left; None is without end."""

    id: int
    kind: str
    action: str
    count: int | None
    params: dict[str, Any]
    struck: int = 0
    released: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the fault is removed; what hangs goes on then."""

    @property
    def after_work(self) -> bool:
        """Whether it strikes when the work of the call is done."""
        return self.action == "error_after" or self.params.get("when") == "after"

    @property
    def chunk(self) -> int:
        """How many chunks of an answer get through."""
        return int(self.params.get("at", 0))

    def error(self) -> RouterError:
        """The error it answers."""
        default = _CHAT_TEXT if self.kind == "chat" else "context deadline exceeded"
        text = self.params.get("text", _DEFAULT_TEXT.get((self.kind, self.action), default))
        return RouterError(str(text), int(self.params.get("status", 500)))

    async def wait(self) -> None:
        """Wait ``seconds`` of wall time, or without them until the fault is removed."""
        seconds = self.params.get("seconds")
        try:
            await asyncio.wait_for(self.released.wait(), None if seconds is None else float(seconds))
        except TimeoutError:
            return

    def view(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "id": self.id,
            "kind": self.kind,
            "action": self.action,
            "count": self.count,
            "struck": self.struck,
            "params": self.params,
        }


class Faults:
    """All armed faults, oldest first."""

    def __init__(self, kinds: frozenset[str]) -> None:
        self._kinds = kinds
        self._armed: list[Fault] = []
        self._holding: list[Fault] = []
        self._ids = itertools.count(1)

    def arm(self, wish: Any) -> Fault:
        """Arm what a JSON object describes. Raises BadRequestError for what could never strike."""
        if not isinstance(wish, dict):
            raise BadRequestError("a fault is an object")
        kind, action = wish.get("kind", wish.get("route")), wish.get("action")
        count, params = wish.get("count", 1), wish.get("params", {})
        if kind not in self._kinds:
            raise BadRequestError(f"unknown kind {kind!r}, known: {', '.join(sorted(self._kinds))}")
        if action not in CALL_ACTIONS and not (action in CHAT_ACTIONS and kind == "chat"):
            raise BadRequestError(f"unknown action {action!r} for {kind}")
        if not (count is None or (isinstance(count, int) and not isinstance(count, bool) and count > 0)):
            raise BadRequestError("count is a positive number, or null for a fault without end")
        if not isinstance(params, dict):
            raise BadRequestError("params is an object")
        for name in ("seconds", "at", "status"):
            if not isinstance(params.get(name, 0), int | float) or params.get(name, 0) < 0:
                raise BadRequestError(f"{name} is a number, 0 or more")
        if action == "delay" and "seconds" not in params:
            raise BadRequestError("delay needs params.seconds")
        fault = Fault(next(self._ids), str(kind), str(action), count, params)
        self._armed.append(fault)
        return fault

    def take(self, kind: str, actions: frozenset[str], about: str) -> Fault | None:
        """The oldest fault that strikes this call, one strike used up.

        ``about`` is the text in which ``params.match`` is looked for: path, query, session and body of the call.
        """
        for fault in self._armed:
            match = str(fault.params.get("match", "")).lower()
            if fault.kind == kind and fault.action in actions and match in about:
                fault.struck += 1
                if fault.count is not None:
                    fault.count -= 1
                    if not fault.count:
                        self._armed.remove(fault)
                self._holding.append(fault)
                return fault
        return None

    def wanted(self, kind: str) -> bool:
        """Whether a fault of this kind is armed, so that nobody has to prepare for one in vain."""
        return any(fault.kind == kind for fault in self._armed)

    def done(self, fault: Fault) -> None:
        """The call that a fault struck is over."""
        self._holding.remove(fault)

    def clear(self) -> None:
        """Remove all, and let go what hangs in them."""
        for fault in [*self._armed, *self._holding]:
            fault.released.set()
        self._armed.clear()

    def view(self) -> dict[str, Any]:
        """What is armed, and what holds a call at this moment."""
        return {
            "armed": [fault.view() for fault in self._armed],
            "striking": [fault.view() for fault in self._holding],
        }


async def strike_stream(chunks: AsyncGenerator[Chunk, None], fault: Fault) -> AsyncGenerator[Chunk, None]:
    """The chunks of an answer as the fault leaves them.

    Raises what the fault stands for once ``fault.chunk`` chunks are through: RouterError, ModelError, or
    ConnectionCutError.
    """
    passed = 0
    async with aclosing(chunks):
        async for chunk in chunks:
            if fault.action == "no_done" and isinstance(chunk, str):
                return
            if fault.action == "no_usage" and not isinstance(chunk, str) and chunk.get("usage"):
                continue
            if passed == fault.chunk:
                match fault.action:
                    case "truncate":
                        return
                    case "stall":
                        await fault.wait()
                    case _:
                        _raise(fault)
            yield chunk
            passed += 1


async def strike_whole(fault: Fault) -> None:
    """The same for an answer that is one JSON object."""
    match fault.action:
        case "stall":
            await fault.wait()
        case "truncate":
            raise RouterError("provider request failed: provider closed connection without sending any data")
        case _:
            _raise(fault)


def _raise(fault: Fault) -> None:
    match fault.action:
        case "cut":
            raise ConnectionCutError
        case "raw_error":
            raise fault.error()
        case "model_error":
            status, newer = int(fault.params.get("status", 429)), bool(fault.params.get("pass_status"))
            raise ModelError(fault.params.get("body", _MODEL_ERROR), status, pass_status=newer)
