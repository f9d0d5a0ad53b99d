"""Work that ends when its client hangs up. A plain endpoint would not notice (measured)."""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self

from starlette.types import Receive

from morpheus_gateway.errors import BodyRefused


class ClientGone(Exception):
    """The client closed the connection before its answer was complete."""


LOOKED_AT_AFTER = 0.05
"""Seconds. What is answered sooner needs no watcher, which is a task of its own; who left before is seen then at once."""


class ClientWatch:
    """A block that is left with `ClientGone` as soon as the client is gone, but not before `LOOKED_AT_AFTER`.

    To be entered after the request's body was read: from then on all that can arrive is the disconnect.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._hung_up = False

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            msg = "a client is watched from a task"
            raise RuntimeError(msg)
        self._task = task
        self._watcher: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(LOOKED_AT_AFTER, self._begin)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        # the count tells our own cancellation from one that came from outside and must go on (as asyncio.timeout does)
        if self._hung_up and self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise ClientGone from error

    def hang_up(self) -> None:
        """Leave the block now, as if the client had gone."""
        if not self._hung_up:
            self._hung_up = True
            self._task.cancel()

    def _begin(self) -> None:
        self._watcher = asyncio.create_task(self._wait())

    async def _wait(self) -> None:
        with suppress(BodyRefused):  # a body that nobody reads went wrong: this connection ends as well
            while (await self._receive())["type"] != "http.disconnect":
                pass
        self.hang_up()
