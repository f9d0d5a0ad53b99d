"""How often an address or a key may do what costs, over windows that move.

Counted in this process: several gateways allow as many times more, unless they share a store (`LIMITS_URL`). While that
is away every gateway counts for itself: nobody is locked out by a store, and no limit is off.
"""

import asyncio
import math
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self, TypeVar

from limits.aio.storage import MemoryStorage, MovingWindowSupport
from limits.errors import StorageError
from limits.storage import storage_from_string
from morpheus_common.errors import ApiError
from morpheus_common.logs import get_logger

from morpheus_gateway.settings import GatewaySettings

log = get_logger(__name__)

MAX_CALLERS = 100_000
"""So many callers are remembered by a limit; the one that did not count for longest is forgotten."""
MAX_PROVEN = 50_000
PROVEN_SECONDS = 300.0
"""So long a credential that was good is let past the limit of those that are not. Whether it is still good is asked anew."""
STORE_SECONDS = 0.25
"""Longest wait for the shared store. Without it a store that hangs would stall every request."""
STORE_AWAY_SECONDS = 5.0
"""So long a store that failed is left alone."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Standing:
    """How a caller stands. `reset`: seconds until nothing of what it did counts any more."""

    limit: int
    remaining: int
    reset: float

    def headers(self) -> dict[str, str]:
        """Return the headers that tell it, named and written as OpenAI does."""
        return {
            "x-ratelimit-limit-requests": str(self.limit),
            "x-ratelimit-remaining-requests": str(self.remaining),
            "x-ratelimit-reset-requests": go_duration(self.reset),
        }


class RateLimited(ApiError):
    """The caller has to wait."""

    def __init__(self, standing: Standing, wait: float) -> None:
        super().__init__("rate_limit_exceeded", retry_after=math.ceil(wait))
        self.standing = standing


@dataclass(frozen=True, slots=True)
class Window:
    """At most `limit` in any `seconds`."""

    limit: int
    seconds: int


class BoundedMemory(MemoryStorage):
    """The memory of one limit: what counts of each caller, oldest first. Nothing here waits, so that no two can meet.

    `limits` has one of its own, which has no bound and looks through all callers with each request, a thread for each:
    0.2 s of a CPU when it remembers 5,000 of them (measured).
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock
        self._taken: OrderedDict[str, list[float]] = OrderedDict()

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count, unless that would be more than `limit` in `expiry` seconds."""
        taken = self._counting(key, expiry)
        if len(taken) + amount > limit:
            return False
        taken.extend([self._clock()] * amount)
        self._taken[key] = taken
        self._taken.move_to_end(key)
        if len(self._taken) > MAX_CALLERS:
            self._taken.popitem(last=False)
        return True

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """Return when the oldest of the last `limit` that count was counted, and how many those are."""
        taken = self._counting(key, expiry)[-limit:]
        return (taken[0], len(taken)) if taken else (self._clock(), 0)

    def _counting(self, key: str, expiry: int) -> list[float]:
        taken = self._taken.get(key, [])
        del taken[: bisect_right(taken, self._clock() - expiry)]
        return taken


class StoreAway(Exception):
    """The shared store cannot be asked now."""


class SharedStore:
    """A store that several gateways count in. One that fails is left alone for a while, and that is logged once."""

    def __init__(self, storage: MovingWindowSupport, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._storage = storage
        self._clock = clock
        self._asked_again_at = -math.inf
        self._is_away = False

    @classmethod
    def at(cls, url: str) -> Self:
        """Return the store at this address of Redis or Valkey."""
        options = {"implementation": "redispy"} if url.startswith("redis") else {}
        storage = storage_from_string(f"async+{url}", wrap_exceptions=True, **options)
        if not isinstance(storage, MovingWindowSupport):
            msg = "LIMITS_URL names a store without moving windows"
            raise TypeError(msg)
        return cls(storage)

    async def ask(self, question: Callable[[MovingWindowSupport], Awaitable[T]]) -> T:
        """Ask the store. Raises `StoreAway`, after `STORE_SECONDS` at the latest."""
        if self._clock() < self._asked_again_at:
            raise StoreAway
        try:
            async with asyncio.timeout(STORE_SECONDS):
                answer = await question(self._storage)
        except (StorageError, OSError) as error:
            # a TimeoutError is an OSError
            self._asked_again_at = self._clock() + STORE_AWAY_SECONDS
            if not self._is_away:
                log.warning("the store of limits is away; counting in memory", problem=type(error).__name__)
            self._is_away = True
            raise StoreAway from None
        if self._is_away:
            log.info("the store of limits is back")
        self._is_away = False
        return answer


class Limit:
    """What a caller may do so often in each of some windows, the shortest first."""

    def __init__(
        self,
        name: str,
        *windows: Window,
        shared: SharedStore | None = None,
        # the stamps in a shared store are times of day, so all are
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._name = name
        self._windows = windows
        self._shared = shared
        self._clock = clock
        self._memory = BoundedMemory(clock)

    async def take(self, caller: str) -> Standing:
        """Count what a caller does. Raises `RateLimited`, and then does not count it."""
        return await self._ask(lambda storage: self._take(storage, caller))

    async def look(self, caller: str) -> Standing:
        """Return how a caller stands and count nothing. Raises `RateLimited` if the next would be one too many."""
        return await self._ask(lambda storage: self._look(storage, caller))

    async def _ask(self, question: Callable[[MovingWindowSupport], Awaitable[Standing]]) -> Standing:
        if self._shared is not None:
            try:
                return await self._shared.ask(question)
            except StoreAway:
                # the policy for a store that is away: each gateway counts for itself
                return await question(self._memory)
        return await question(self._memory)

    async def _take(self, storage: MovingWindowSupport, caller: str) -> Standing:
        # what a longer window refuses must not count in a shorter one
        await self._look(storage, caller)
        for window in self._windows:
            if not await storage.acquire_entry(self._key(window, caller), window.limit, window.seconds):
                # another was faster between the look and this
                await self._look(storage, caller)
        return min((await self._standings(storage, caller)), key=lambda found: found[0].remaining)[0]

    async def _look(self, storage: MovingWindowSupport, caller: str) -> Standing:
        standing, wait = min(await self._standings(storage, caller), key=lambda found: (found[0].remaining, -found[1]))
        if standing.remaining <= 0:
            raise RateLimited(standing, wait)
        return standing

    async def _standings(self, storage: MovingWindowSupport, caller: str) -> list[tuple[Standing, float]]:
        """Return for each window how the caller stands, and in how many seconds the oldest leaves it."""
        found = []
        for window in self._windows:
            key = self._key(window, caller)
            oldest, count = await storage.get_moving_window(key, window.limit, window.seconds)
            if not count:
                found.append((Standing(window.limit, window.limit, 0.0), 0.0))
                continue
            newest = oldest if count == 1 else (await storage.get_moving_window(key, 1, window.seconds))[0]
            until = window.seconds - self._clock()
            found.append((Standing(window.limit, window.limit - count, newest + until), oldest + until))
        return found

    def _key(self, window: Window, caller: str) -> str:
        return f"{self._name}/{window.seconds}/{caller}"


class FailureLimit:
    """A limit on what fails: tries count when they have failed, by one of `codes`, and no more run at once than may fail.

    A credential that was good within the last five minutes is let through whatever its neighbours do: many people can
    have one address, and one of them must not lock out the others.
    """

    def __init__(self, limit: Limit, codes: frozenset[str], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._codes = codes
        self._clock = clock
        self._proven: OrderedDict[Hashable, float] = OrderedDict()
        self._tried: dict[str, dict[Hashable, asyncio.Future[bool]]] = {}

    async def look(self, caller: str) -> Standing:
        """Return how a caller stands. Raises `RateLimited`."""
        return await self._limit.look(caller)

    @asynccontextmanager
    async def attempt(self, caller: str, credential: str | None = None) -> AsyncIterator[None]:
        """Try something that may fail. Raises `RateLimited` before it is tried.

        `credential` is a digest of what is tried, if it is something that can be good for long.
        """
        tried: Hashable = object() if credential is None else credential
        has_place = await self._take_place(caller, tried)
        failed = False
        try:
            yield
        except ApiError as error:
            failed = error.code in self._codes
            if failed:
                self._proven.pop(tried, None)
                await self._count_failure(caller)
            raise
        else:
            if credential is not None:
                self._prove(credential)
        finally:
            if has_place:
                self._leave_place(caller, tried, failed=failed)

    async def _take_place(self, caller: str, tried: Hashable) -> bool:
        """Wait for those who try the same, and be one of those who may still fail. False: no place is needed."""
        while True:
            if self._is_proven(tried):
                return False
            others = self._tried.setdefault(caller, {})
            if tried not in others:
                break
            if not await asyncio.shield(others[tried]):
                # it did not fail, or for a reason that says nothing of what was tried
                return False
        before = len(others)
        others[tried] = asyncio.get_running_loop().create_future()
        try:
            standing = await self._limit.look(caller)
            if before >= standing.remaining:
                # those before are decided in a moment
                raise RateLimited(Standing(standing.limit, 0, max(1.0, standing.reset)), 1.0)
        except BaseException:
            self._leave_place(caller, tried, failed=True)
            raise
        return True

    def _leave_place(self, caller: str, tried: Hashable, *, failed: bool) -> None:
        others = self._tried[caller]
        others.pop(tried).set_result(failed)
        if not others:
            del self._tried[caller]

    async def _count_failure(self, caller: str) -> None:
        try:
            await self._limit.take(caller)
        except RateLimited:
            # it failed with a credential that was good before, or another gateway was faster: the limit is reached
            log.debug("a failure more than the limit counts")

    def _is_proven(self, tried: Hashable) -> bool:
        proven_at = self._proven.get(tried)
        return proven_at is not None and self._clock() - proven_at <= PROVEN_SECONDS

    def _prove(self, credential: str) -> None:
        self._proven[credential] = self._clock()
        self._proven.move_to_end(credential)
        if len(self._proven) > MAX_PROVEN:
            self._proven.popitem(last=False)


@dataclass(frozen=True, slots=True)
class Limits:
    """All that is limited. Pings by API key, everything else by the client's address."""

    registrations: Limit
    failed_logins: FailureLimit
    refreshes: Limit
    refused_credentials: FailureLimit
    pings: Limit

    @classmethod
    def build(cls, settings: GatewaySettings) -> Self:
        """Return the limits that the settings say."""
        url = settings.limits_url
        shared = SharedStore.at(url.get_secret_value()) if url is not None else None

        def limit(name: str, *windows: Window) -> Limit:
            return Limit(name, *windows, shared=shared)

        return cls(
            registrations=limit(
                "registrations",
                Window(settings.registrations_per_hour, 3_600),
                Window(settings.registrations_per_day, 86_400),
            ),
            failed_logins=FailureLimit(
                limit("failed_logins", Window(settings.failed_logins_per_ten_minutes, 600)),
                frozenset({"invalid_credentials"}),
            ),
            refreshes=limit("refreshes", Window(settings.refreshes_per_minute, 60)),
            refused_credentials=FailureLimit(
                limit("refused_credentials", Window(settings.refused_credentials_per_minute, 60)),
                # an expired token is no guess: we signed it
                frozenset({"invalid_api_key", "invalid_token"}),
            ),
            pings=limit("pings", Window(settings.pings_per_minute, 60)),
        )


def go_duration(seconds: float) -> str:
    """Return a duration as Go writes it: `850ms`, `1.5s`, `6m0s`."""
    # what a sum of floats has too much at its last digits is no millisecond
    milliseconds = max(0, math.ceil(round(seconds * 1000, 3)))
    if milliseconds < 1000:
        return f"{milliseconds}ms" if milliseconds else "0s"
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text
