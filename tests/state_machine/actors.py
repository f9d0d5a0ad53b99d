"""Coroutines that run one at a time, from one gate to the next, so that the order of everything is chosen by the test.

A gate is a step of the product, a call of its journal, or either side of a router call. Between two gates an actor talks
to the database alone, and nobody else runs meanwhile.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from morpheus_common.steps import Step

IN_TRANSACTION: Final = frozenset({Step.OPEN_SETTLING.value, Step.CLOSE_SETTLING.value, Step.SESSION_MOVING.value})
"""Here an actor may die, but not wait: it would hold what the others need, as no process can for longer than a minute."""
WAITS: Final = "waits for the wallet's turn"


class Crash(BaseException):
    """The process ends here. Not an `Exception`: nothing in the product may take it for an error of its own."""


class Actor:
    """One task of one process. `trouble` is what goes wrong with a call of the router that it makes."""

    def __init__(self, name: str, process: Any) -> None:
        self.name = name
        self.process = process
        self.trouble: Any = None
        self.at = ""
        self.task: asyncio.Task[Any] | None = None
        self._go: asyncio.Future[None] | None = None
        self._stopped: asyncio.Future[None] | None = None

    @property
    def done(self) -> bool:
        return self.task is not None and self.task.done()

    @property
    def holds_transaction(self) -> bool:
        return self.at in IN_TRANSACTION

    @property
    def waits(self) -> bool:
        """Whether another task of its process has what it needs."""
        return self.at == WAITS

    async def stop_at(self, gate: str) -> None:
        """Stay here until the test lets the actor go on."""
        self.at = gate
        self._go = asyncio.get_running_loop().create_future()
        self._say_stopped()
        await self._go

    async def go_on(self) -> None:
        """Let the actor run to its next gate, or to its end."""
        await self._resume(None)

    async def die(self) -> None:
        """Have the actor's process end inside its transaction, which is then as if it had never been."""
        await self._resume(Crash())

    async def _resume(self, crash: Crash | None) -> None:
        assert self._go is not None
        self._stopped = asyncio.get_running_loop().create_future()
        go, self._go = self._go, None
        if crash is None:
            go.set_result(None)
        else:
            go.set_exception(crash)
        await self._stopped

    def _say_stopped(self) -> None:
        if self._stopped is not None and not self._stopped.done():
            self._stopped.set_result(None)

    async def start(self, task: asyncio.Task[Any]) -> None:
        """Follow a task that stops at a gate first of all."""
        self.task = task
        task.add_done_callback(lambda _: self._say_stopped())
        if not self.at and not task.done():
            self._stopped = asyncio.get_running_loop().create_future()
            await self._stopped

    async def drop(self) -> None:
        """End the task of a process that is gone; what it still does is nobody's."""
        if self.task is None:
            return
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    def outcome(self) -> BaseException | None:
        """What the task ended with."""
        if self.task is None or not self.task.done() or self.task.cancelled():
            return None
        return self.task.exception()


_current: ContextVar[Actor | None] = ContextVar("actor", default=None)


def current() -> Actor | None:
    """The actor that runs."""
    return _current.get()


async def gate(name: str) -> None:
    """Let the test decide when the running actor goes on. Nothing where no actor runs."""
    actor = _current.get()
    if actor is not None:
        await actor.stop_at(name)


@contextmanager
def acting(actor: Actor | None) -> Any:
    """What is started in the block acts as `actor`."""
    token = _current.set(actor)
    try:
        yield
    finally:
        _current.reset(token)


async def start(actor: Actor, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """Begin some work as an actor; it waits at its first gate."""

    async def body() -> Any:
        await gate("start")
        return await work()

    with acting(actor):
        task = asyncio.create_task(body())
    await actor.start(task)


class OneAtATime:
    """The lock within a process, at which an actor waits where the test can see it."""

    def __init__(self) -> None:
        self._taken = False

    async def __aenter__(self) -> None:
        while self._taken:
            await gate(WAITS)
        self._taken = True

    async def __aexit__(self, *_: object) -> None:
        self._taken = False


def gated(name: str, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Return a method that stops at a gate before it begins."""

    async def stopping(*args: Any, **kwargs: Any) -> Any:
        await gate(name)
        return await method(*args, **kwargs)

    return stopping
