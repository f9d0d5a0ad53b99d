"""Readings that many ask for and one makes."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class _Reading(Generic[Value]):
    """A reading, made or still being made, and when it was begun."""

    task: asyncio.Task[Value]
    begun: float


class Shared(Generic[Key, Value]):
    """Reads a thing once for all who ask while it is read, or within `seconds` of its begin.

    At most `most` things are remembered: the one that was read first is forgotten. What fails, fails for those who waited
    for it, and is not remembered.
    """

    def __init__(
        self,
        read: Callable[[Key], Awaitable[Value]],
        *,
        seconds: float,
        most: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._seconds = seconds
        self._most = most
        self._clock = clock
        self._readings: OrderedDict[Key, _Reading[Value]] = OrderedDict()
        self._running: set[asyncio.Task[Value]] = set()

    async def get(self, key: Key) -> Value:
        """Return what was read of `key`. Raises what the reading raises."""
        reading = self._readings.get(key)
        if reading is None or (reading.task.done() and reading.begun <= self._clock() - self._seconds):
            reading = self._begin(key)
        # whoever leaves takes the reading from nobody
        return await asyncio.shield(reading.task)

    def _begin(self, key: Key) -> _Reading[Value]:
        task = asyncio.ensure_future(self._call(key))
        reading = _Reading(task, self._clock())
        self._readings.pop(key, None)
        self._readings[key] = reading
        while len(self._readings) > self._most:
            self._readings.popitem(last=False)
        self._running.add(task)
        task.add_done_callback(lambda done: self._ended(key, done))
        return reading

    async def _call(self, key: Key) -> Value:
        return await self._read(key)

    def _ended(self, key: Key, task: asyncio.Task[Value]) -> None:
        self._running.discard(task)
        known = self._readings.get(key)
        if (task.cancelled() or task.exception() is not None) and known is not None and known.task is task:
            del self._readings[key]
