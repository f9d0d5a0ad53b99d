"""The simulator's own time, in unix seconds: what blocks, sessions, midnight and the auto-closer follow."""

import abc
import asyncio
import heapq
import itertools
import time


class Clock(abc.ABC):
    """Time that can be read, waited for and moved forward."""

    def __init__(self) -> None:
        self._waiters: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    @abc.abstractmethod
    def now(self) -> float:
        """Unix seconds."""

    @abc.abstractmethod
    def advance(self, seconds: float) -> None:
        """Jump forward and wake everything that became due."""

    @abc.abstractmethod
    def _arm(self) -> None:
        """Arrange that the earliest waiter is woken."""

    async def sleep(self, seconds: float) -> None:
        """Wait until ``seconds`` of this clock have passed."""
        await self.sleep_until(self.now() + seconds)

    async def sleep_until(self, moment: float) -> None:
        """Wait until this clock shows ``moment`` (unix seconds)."""
        if moment <= self.now():
            return
        waiter = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiters, (moment, next(self._order), waiter))
        self._arm()
        await waiter

    def _wake_due(self) -> None:
        now = self.now()
        while self._waiters and (self._waiters[0][0] <= now or self._waiters[0][2].done()):
            _, _, waiter = heapq.heappop(self._waiters)
            if not waiter.done():
                waiter.set_result(None)
        if self._waiters:
            self._arm()


class SystemClock(Clock):
    """Runs with the machine's monotonic clock, ``speed`` times as fast, from ``start`` (unix seconds)."""

    def __init__(self, speed: float = 1.0, start: float | None = None) -> None:
        super().__init__()
        self.speed = speed
        self._start = time.time() if start is None else start
        self._monotonic_start = time.monotonic()
        self._timer: asyncio.TimerHandle | None = None

    def now(self) -> float:
        return self._start + (time.monotonic() - self._monotonic_start) * self.speed

    def advance(self, seconds: float) -> None:
        self._start += seconds
        self._wake_due()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay = max(0.0, self._waiters[0][0] - self.now()) / self.speed
        self._timer = asyncio.get_running_loop().call_later(delay, self._wake_due)


class VirtualClock(Clock):
    """Stands still until advanced. With ``automatic`` it jumps to whatever is waited for, so nothing waits."""

    def __init__(self, start: float, *, automatic: bool = False) -> None:
        super().__init__()
        self._now = start
        self.automatic = automatic

    def now(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds
        self._wake_due()

    def _arm(self) -> None:
        if self.automatic:
            asyncio.get_running_loop().call_soon(self._jump)

    def _jump(self) -> None:
        if self._waiters:
            self._now = max(self._now, self._waiters[0][0])
            self._wake_due()
