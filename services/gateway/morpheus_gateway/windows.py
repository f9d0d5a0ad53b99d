"""Counting over windows that move, in this process: never more than so many in any so many seconds."""

import time
from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

MAX_CALLERS = 100_000
"""So many callers are remembered by a limit; the one that did not count for longest is forgotten."""
MAX_STAMPS = 1_000_000
"""So many times are remembered by a limit, of all its callers: 8 MB."""
_COMPACT = 64


@dataclass(frozen=True, slots=True)
class Window:
    """At most `limit` in any `seconds`."""

    limit: int
    seconds: int


class Count(NamedTuple):
    """How much of a window a caller has used. In seconds from now: `wait` until there is room for one more (0.0 if there is),
    `reset` until nothing counts any more.
    """

    used: int
    wait: float
    reset: float


class Counted(NamedTuple):
    """What was found, a `Count` for each window. `is_full`: one of them has no room for one more, or had none.
    `stamp`: what was counted, if it was, by the clock of whoever counts.
    """

    counts: list[Count]
    is_full: bool
    stamp: float | None = None


def with_one_more(before: Counted, windows: Sequence[Window], stamp: float) -> Counted:
    """Return what is found after one for which there was room was counted in each window."""
    counts = [
        Count(count.used + 1, 0.0, float(window.seconds)) for count, window in zip(before.counts, windows, strict=True)
    ]
    return Counted(counts, False, stamp)


class _Stamps:
    """When a caller counted, oldest first; those before `first` have left."""

    __slots__ = ("first", "times")

    def __init__(self) -> None:
        self.times = array("d")
        self.first = 0


class WindowMemory:
    """The memory of one limit, whose windows are given the shortest first. Nothing here waits, so that no two can meet.

    One list serves all windows, and a request costs a search in it: it is never copied, and what has left is cut off when it
    is half of it.
    """

    def __init__(self, windows: tuple[Window, ...], clock: Callable[[], float] = time.monotonic) -> None:
        self._windows = windows
        self._longest = windows[-1].seconds
        self._clock = clock
        self._callers: OrderedDict[str, _Stamps] = OrderedDict()
        self._size = 0

    def count(self, caller: str, *, take: bool) -> Counted:
        """Tell how a caller stands; with `take` count it, if every window has room."""
        now = self._clock()
        stamps = self._callers.get(caller)
        if stamps is not None:
            self._cut(stamps, now)
        counted = self._found(stamps, now)
        if not take or counted.is_full:
            return counted
        self._add(caller, stamps, now)
        return with_one_more(counted, self._windows, now)

    def give_back(self, caller: str, stamp: float) -> None:
        """Make uncounted what was counted then."""
        stamps = self._callers.get(caller)
        if stamps is None:
            return
        place = bisect_left(stamps.times, stamp, stamps.first)
        if place < len(stamps.times) and stamps.times[place] == stamp:
            stamps.times.pop(place)
            self._size -= 1

    def _found(self, stamps: _Stamps | None, now: float) -> Counted:
        counts, is_full = [], False
        for window in self._windows:
            used, wait, reset = 0, 0.0, 0.0
            if stamps is not None:
                times = stamps.times
                used = len(times) - bisect_right(times, now - window.seconds, stamps.first)
                if used:
                    reset = times[-1] + window.seconds - now
                if used >= window.limit:
                    is_full = True
                    # until the one leaves that makes room
                    wait = times[-window.limit] + window.seconds - now
            counts.append(Count(used, wait, reset))
        return Counted(counts, is_full)

    def _cut(self, stamps: _Stamps, now: float) -> None:
        stamps.first = bisect_right(stamps.times, now - self._longest, stamps.first)
        if stamps.first >= _COMPACT and 2 * stamps.first >= len(stamps.times):
            del stamps.times[: stamps.first]
            self._size -= stamps.first
            stamps.first = 0

    def _add(self, caller: str, stamps: _Stamps | None, now: float) -> None:
        if stamps is None:
            stamps = self._callers[caller] = _Stamps()
        else:
            self._callers.move_to_end(caller)
        stamps.times.append(now)
        self._size += 1
        # two for each that is added: those who left are forgotten faster than others come
        for _ in range(2):
            oldest = next(iter(self._callers.values()))
            if oldest.times and oldest.times[-1] > now - self._longest:
                break
            self._forget_oldest()
        while len(self._callers) > MAX_CALLERS or (self._size > MAX_STAMPS and len(self._callers) > 1):
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        _, stamps = self._callers.popitem(last=False)
        self._size -= len(stamps.times)
