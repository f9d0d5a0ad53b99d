"""Faults on demand: armed by a test, each strikes the next matching calls of a route and is then used up."""

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from proxy_router_sim.behaviour import Answers
from proxy_router_sim.errors import BadRequestError, ConnectionCutError, ModelError, RouterError
from proxy_router_sim.models import DONE, Chunk

CALL_ACTIONS = frozenset({"delay", "hang", "drop", "error_before", "error_after"})
"""Strike a whole call, of any route."""
TRANSACTION_ACTIONS = frozenset({"revert", "never_mined", "mined_late", "escalated"})
"""Decide what becomes of a transaction, and so how the call that waits for it ends."""
SPOILING_ACTIONS: Final[frozenset[str]] = frozenset(Answers) - {Answers.WELL, Answers.TRUNCATED}
"""What one answer of chat can suffer of what a provider's answers can: see ``behaviour.py``."""
CHAT_ACTIONS = SPOILING_ACTIONS | {
    "truncate", "cut", "raw_error", "model_error", "stall", "no_done", "no_usage", "control", "unstreamed",
    "pace",
}  # fmt: skip
"""Strike an answer of chat at a chunk."""


class Stage(StrEnum):
    """Where a call to the chain can be struck on its way, in order of time."""

    BEFORE_ALLOWANCE = "before_allowance"
    """Nothing was sent."""
    REPORT = "report"
    """A close asks the provider for its closing report; nothing was sent."""
    AFTER_ALLOWANCE = "after_allowance"
    """The allowance is high enough (its transaction is mined), openSession was not sent."""
    IN_MEMPOOL = "in_mempool"
    """The transaction was sent and is not mined. It is not mined either while a fault holds its call here."""
    MINED = "mined"
    """The transaction is mined; the caller has no answer (an open waits for one block more here)."""


HANDSHAKE: Final = "handshake"
"""Kind of the question to a provider for a session, by whichever route it is opened."""
CLOSING_REPORT: Final = "closing_report"
"""Kind of the question to a provider for its closing report, by whomever the session is closed."""
AUTO_CLOSE: Final = "auto_close"
"""Kind of a close by the router's own closer."""
STAGES: Final[dict[str, frozenset[Stage]]] = {
    "open": frozenset(Stage) - {Stage.REPORT},
    "close": frozenset({Stage.REPORT, Stage.IN_MEMPOOL, Stage.MINED}),
    AUTO_CLOSE: frozenset({Stage.REPORT, Stage.IN_MEMPOOL, Stage.MINED}),
    "approve": frozenset({Stage.IN_MEMPOOL, Stage.MINED}),
}
"""The stages of each kind of call that sends transactions."""
OTHER_KINDS: Final = frozenset({HANDSHAKE, CLOSING_REPORT, AUTO_CLOSE})
"""Kinds that are no route's."""

_STAGE_TEXT = {
    ("open", Stage.BEFORE_ALLOWANCE): "failed to send transaction: failed to get current MOR allowance: "
    "429 Too Many Requests",
    ("open", Stage.AFTER_ALLOWANCE): "failed to send transaction: open session failed: failed to build transaction: "
    "429 Too Many Requests",
    ("open", Stage.IN_MEMPOOL): "failed to send transaction: open session failed: "
    "failed to wait for transaction to be mined: context deadline exceeded",
    ("open", Stage.MINED): "failed to get session: session not found",
}
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
    ("wallet", "error_before"): "wallet not set",
}
"""Texts of contract sections 2.2 and 6 that suit the moment."""
_DEFAULT_STATUS = {"models": 400, "providers": 400}
"""These lists answer 400 whatever fails (contract section 0); everything else 500."""
_CONTROL_TEXT = "provider failed, failover enabled"
_CHAT_TEXT = "provider request failed: invalid response: unexpected EOF"
_ENDS = frozenset({"truncate", "cut", "raw_error", "model_error"})
"""Of CHAT_ACTIONS those after which no more of the answer comes."""
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
    probability: float = 1.0
    """Of striking a call that it fits."""
    released: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the fault is removed; what hangs goes on then."""
    waiting: int = 0
    """How many calls it holds at this moment."""

    @property
    def stage(self) -> str | None:
        """The stage of a call to the chain at which it strikes; None for the edge of the route."""
        stage = self.params.get("stage")
        return None if stage is None else str(stage)

    @property
    def seconds(self) -> float | None:
        """``params.seconds``, if given."""
        seconds = self.params.get("seconds")
        return None if seconds is None else float(seconds)

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
        default = _DEFAULT_TEXT.get((self.kind, self.action), default)
        if self.stage is not None:
            default = _STAGE_TEXT.get((self.kind, Stage(self.stage)), default)
        text = self.params.get("text", default)
        return RouterError(str(text), int(self.params.get("status", _DEFAULT_STATUS.get(self.kind, 500))))

    async def wait(self) -> None:
        """Wait ``seconds`` of wall time, or without them until the fault is removed."""
        with self.holding(), contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.released.wait(), self.seconds)

    @contextlib.contextmanager
    def holding(self) -> Iterator[None]:
        """Count a call as held by this fault."""
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    def view(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "id": self.id,
            "kind": self.kind,
            "action": self.action,
            "count": self.count,
            "probability": self.probability,
            "struck": self.struck,
            "waiting": self.waiting,
            "params": self.params,
        }


class Faults:
    """All armed faults, oldest first. ``seed`` decides whom those with a probability strike."""

    def __init__(self, *, seed: int = 1) -> None:
        self._kinds = set(OTHER_KINDS)
        self._armed: list[Fault] = []
        self._holding: list[Fault] = []
        self._ids = itertools.count(1)
        self._chance = random.Random(f"faults/{seed}")

    def know(self, kinds: Iterable[str]) -> None:
        """Add the kinds of routes."""
        self._kinds.update(kinds)

    def arm(self, wish: Any) -> Fault:
        """Arm what a JSON object describes. Raises BadRequestError for what could never strike."""
        if not isinstance(wish, dict):
            raise BadRequestError("a fault is an object")
        kind, action = wish.get("kind", wish.get("route")), wish.get("action")
        probability = wish.get("probability", 1.0)
        count, params = wish.get("count", None if "probability" in wish else 1), wish.get("params", {})
        if kind not in self._kinds:
            raise BadRequestError(f"unknown kind {kind!r}, known: {', '.join(sorted(self._kinds))}")
        if not (count is None or (isinstance(count, int) and not isinstance(count, bool) and count > 0)):
            raise BadRequestError("count is a positive number, or null for a fault without end")
        if isinstance(probability, bool) or not isinstance(probability, int | float) or not 0 < probability <= 1:
            raise BadRequestError("probability is a number over 0, at most 1")
        if not isinstance(params, dict):
            raise BadRequestError("params is an object")
        _check_action(str(kind), action, params)
        fault = Fault(next(self._ids), str(kind), str(action), count, params, probability=float(probability))
        self._armed.append(fault)
        return fault

    def take(
        self, kind: str, actions: frozenset[str], about: str, *, stage: Stage | None = None, transaction: str = ""
    ) -> Fault | None:
        """The oldest fault that strikes this call here, one strike used up. The caller says ``done`` afterwards.

        ``about`` is the text in which ``params.match`` is looked for: path, query, session and body of the call.
        Without ``stage`` here is the edge of the route. ``transaction`` is the name of one that is about to be sent.
        """
        for fault in self._armed:
            # A bid stands without 0x inside the approval of an open.
            match = str(fault.params.get("match", "")).lower().removeprefix("0x")
            if (
                fault.kind == kind
                and fault.action in actions
                and fault.stage == stage
                and (kind != "open" or not transaction or fault.params.get("transaction", "open") == transaction)
                and match in about
                and (fault.probability == 1 or self._chance.random() < fault.probability)
            ):
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

    def clear(self, fault_id: int | None = None) -> None:
        """Remove all, or the one with this id, and let go what hangs in them."""
        for fault in [*self._armed, *self._holding]:
            if fault_id in {None, fault.id}:
                fault.released.set()
        self._armed = [fault for fault in self._armed if not fault.released.is_set()]

    def view(self) -> dict[str, Any]:
        """What is armed, what strikes a call at this moment, and how many calls wait where."""
        waiting: dict[str, dict[str, int]] = {}
        for fault in {fault.id: fault for fault in [*self._armed, *self._holding]}.values():
            if fault.waiting and not fault.released.is_set():
                place = fault.stage or ("after" if fault.after_work else "before")
                at = waiting.setdefault(fault.kind, {})
                at[place] = at.get(place, 0) + fault.waiting
        return {
            "armed": [fault.view() for fault in self._armed],
            "striking": [fault.view() for fault in self._holding],
            "waiting": waiting,
        }


def _check_action(kind: str, action: object, params: dict[str, Any]) -> None:
    """Raises BadRequestError for an action or parameter that this kind does not know."""
    known = {
        *CALL_ACTIONS,
        *(CHAT_ACTIONS if kind == "chat" else ()),
        *(TRANSACTION_ACTIONS if kind in STAGES else ()),
    }
    if kind == "approve":
        known.discard("escalated")  # this transaction is sent once (contract section 2.5)
    if action not in known:
        raise BadRequestError(f"unknown action {action!r} for {kind}, known: {', '.join(sorted(known))}")
    for name in ("seconds", "at", "status"):
        value = params.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise BadRequestError(f"{name} is a number, 0 or more")
    if action in {"delay", "pace"} and "seconds" not in params:
        raise BadRequestError(f"{action} needs params.seconds")
    if "stage" in params:
        stages = sorted(STAGES.get(kind, ()))
        if action not in CALL_ACTIONS or params["stage"] not in stages:
            raise BadRequestError(f"stages of {kind}: {', '.join(stages) or 'none'}, for {', '.join(CALL_ACTIONS)}")
    if "transaction" in params and not (
        kind == "open" and action in TRANSACTION_ACTIONS and params["transaction"] in {"open", "allowance"}
    ):
        raise BadRequestError("transaction is open or allowance, for what befalls a transaction of an open")


class Strikes:
    """The faults that can strike one call on its way: at its stages, and at the transactions it sends."""

    def __init__(self, faults: Faults, kind: str, about: str) -> None:
        self._faults = faults
        self._kind = kind
        self._about = about.lower()

    @contextlib.contextmanager
    def at(self, stage: Stage) -> Iterator[Fault | None]:
        """The fault that strikes at a stage, while it is dealt with."""
        with self._taken(self._faults.take(self._kind, CALL_ACTIONS, self._about, stage=stage)) as fault:
            yield fault

    async def reached(self, stage: Stage) -> None:
        """Let the fault of a stage strike. Raises RouterError or ConnectionCutError."""
        with self.at(stage) as fault:
            if fault is not None:
                await strike(fault)

    @contextlib.contextmanager
    def on(self, transaction: str) -> Iterator[Fault | None]:
        """The fault that decides what becomes of a transaction, while it is dealt with."""
        taken = self._faults.take(self._kind, TRANSACTION_ACTIONS, self._about, transaction=transaction)
        with self._taken(taken) as fault:
            yield fault

    @contextlib.contextmanager
    def _taken(self, fault: Fault | None) -> Iterator[Fault | None]:
        try:
            yield fault
        finally:
            if fault is not None:
                self._faults.done(fault)


async def strike(fault: Fault) -> None:
    """What a fault of ``CALL_ACTIONS`` does to a call. Raises RouterError or ConnectionCutError."""
    match fault.action:
        case "delay" | "hang":
            await fault.wait()
        case "drop":
            raise ConnectionCutError
        case _:
            raise fault.error()


async def strike_stream(chunks: AsyncGenerator[Chunk, None], fault: Fault) -> AsyncGenerator[Chunk, None]:
    """The chunks of an answer as the fault leaves them.

    Raises what the fault stands for once ``fault.chunk`` chunks are through: RouterError, ModelError, or
    ConnectionCutError.
    """
    passed = 0
    async with aclosing(chunks):
        async for chunk in chunks:
            if fault.action == "no_done" and chunk == DONE:
                return
            if fault.action == "no_usage" and not isinstance(chunk, str) and chunk.get("usage"):
                continue
            if fault.action == "pace" and passed >= fault.chunk:
                await fault.wait()
            elif passed == fault.chunk:
                match fault.action:
                    case "truncate":
                        await _wait_before_it(fault)
                        return
                    case "stall":
                        await fault.wait()
                    case "control":
                        yield str(fault.params.get("text", _CONTROL_TEXT))
                    case _:
                        await _wait_before_it(fault)
                        _raise(fault)
            yield chunk
            passed += 1


async def strike_whole(fault: Fault) -> None:
    """The same for an answer that is one JSON object."""
    match fault.action:
        case "stall":
            await fault.wait()
        case "truncate":
            await _wait_before_it(fault)
            raise RouterError("provider request failed: provider closed connection without sending any data")
        case _:
            await _wait_before_it(fault)
            _raise(fault)


async def _wait_before_it(fault: Fault) -> None:
    """A provider that hangs is an error only after a while (contract section 4)."""
    if fault.action in _ENDS and fault.seconds is not None:
        await fault.wait()


def _raise(fault: Fault) -> None:
    match fault.action:
        case "cut":
            raise ConnectionCutError
        case "raw_error":
            raise fault.error()
        case "model_error":
            status, newer = int(fault.params.get("status", 429)), bool(fault.params.get("pass_status"))
            body = fault.params.get("body", _MODEL_ERROR)
            if isinstance(body, str):
                body = {"error": {"message": body, "type": "upstream_error"}}
            raise ModelError(body, status, pass_status=newer)
