"""How often an address or a key may do what costs, over windows that move.

Counted in this process: several gateways allow as many times more, unless they share a store (`LIMITS_URL`). While that
is away every gateway counts for itself: nobody is locked out by a store, and no limit is off. What is money (stakes, opens,
approvals) is not counted here, but by sessions in the transaction that records it.
"""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple, Self

from morpheus_common.errors import ApiError
from morpheus_common.logs import get_logger

from morpheus_gateway.limit_store import SharedStore, StoreAway
from morpheus_gateway.settings import GatewaySettings
from morpheus_gateway.windows import Counted, Window, WindowMemory

log = get_logger(__name__)

MAX_PROVEN = 50_000
PROVEN_SECONDS = 300.0
"""So long a credential that was good is let past the limit of those that are not. Whether it is still good is asked anew."""
MAX_REFUSED = 10_000
REFUSED_SECONDS = 1.0
"""So long who was refused by the shared store is refused without it: what is over its limit costs one question a second."""


class Standing(NamedTuple):
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
    """The caller has to wait so many seconds."""

    def __init__(self, limit: str, standing: Standing, wait: float) -> None:
        super().__init__("rate_limit_exceeded", retry_after=math.ceil(wait))
        self.limit = limit
        self.standing = standing
        self.wait = wait


@dataclass(frozen=True, slots=True)
class Reservation:
    """What was counted of a caller and may be given back. `stamp` is of the store that it was counted in."""

    caller: str
    stamp: float
    is_shared: bool


class Limit:
    """What a caller may do so often in each of some windows, the shortest first."""

    def __init__(
        self,
        name: str,
        *windows: Window,
        shared: SharedStore | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._windows = windows
        self._shared = shared
        self._clock = clock
        self._memory = WindowMemory(windows, clock)
        self._refused: OrderedDict[str, tuple[float, RateLimited]] = OrderedDict()

    async def take(self, caller: str) -> Standing:
        """Count what a caller does. Raises `RateLimited`, and then does not count it."""
        counted, _ = await self._count(caller, take=True)
        return self._standing(counted)

    async def look(self, caller: str) -> Standing:
        """Return how a caller stands and count nothing. Raises `RateLimited` if the next would be one too many."""
        counted, _ = await self._count(caller, take=False)
        return self._standing(counted)

    async def reserve(self, caller: str) -> Reservation:
        """Count what may turn out not to count. Raises `RateLimited`."""
        counted, is_shared = await self._count(caller, take=True)
        return Reservation(caller, counted.stamp or 0.0, is_shared)

    def give_back(self, reservation: Reservation) -> None:
        """Make uncounted what did not count."""
        self._refused.pop(reservation.caller, None)
        if reservation.is_shared and self._shared is not None:
            self._shared.give_back(self._name, reservation.caller, reservation.stamp)
        else:
            self._memory.give_back(reservation.caller, reservation.stamp)

    async def _count(self, caller: str, *, take: bool) -> tuple[Counted, bool]:
        """Return what was found and whether the shared store found it. Raises `RateLimited`."""
        is_shared = self._shared is not None
        if self._shared is not None:
            self._refuse_at_once(caller)
            try:
                counted = await self._shared.count(self._name, self._windows, caller, take=take)
            except StoreAway:
                # the policy for a store that is away: each gateway counts for itself
                is_shared = False
                counted = self._memory.count(caller, take=take)
        else:
            counted = self._memory.count(caller, take=take)
        if counted.is_full:
            refusal = self._refusal(counted)
            if is_shared:
                self._remember(caller, refusal)
            raise refusal
        return counted, is_shared

    def _refuse_at_once(self, caller: str) -> None:
        """Spare the store who was refused a moment ago: until the wait that it told is over, it would say the same."""
        refused = self._refused.get(caller)
        if refused is None:
            return
        refused_at, refusal = refused
        since = self._clock() - refused_at
        if since >= min(refusal.wait, REFUSED_SECONDS):
            del self._refused[caller]
            return
        standing = refusal.standing
        raise RateLimited(self._name, Standing(standing.limit, 0, standing.reset - since), refusal.wait - since)

    def _remember(self, caller: str, refusal: RateLimited) -> None:
        self._refused[caller] = (self._clock(), refusal)
        if len(self._refused) > MAX_REFUSED:
            self._refused.popitem(last=False)

    def _refusal(self, counted: Counted) -> RateLimited:
        window, count = max(zip(self._windows, counted.counts, strict=True), key=lambda found: found[1].wait)
        return RateLimited(self._name, Standing(window.limit, 0, count.reset), count.wait)

    def _standing(self, counted: Counted) -> Standing:
        standings = [
            Standing(window.limit, window.limit - count.used, count.reset)
            for window, count in zip(self._windows, counted.counts, strict=True)
        ]
        return min(standings, key=lambda standing: standing.remaining)


class FailureLimit:
    """A limit on what fails, by one of `codes`: each try counts from its beginning, and no longer once it did not fail, so
    that no more run at once than may fail, at whatever gateways.

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
        try:
            return await self._limit.look(caller)
        except RateLimited as refusal:
            raise self._as_it_is(caller, refusal) from None

    @asynccontextmanager
    async def attempt(self, caller: str, credential: str | None = None) -> AsyncIterator[None]:
        """Try something that may fail. Raises `RateLimited` before it is tried.

        `credential` is a digest of what is tried, if it is something that can be good for long.
        """
        tried: Hashable = object() if credential is None else credential
        reservation = await self._reserve(caller, tried)
        failed = False
        try:
            yield
        except ApiError as error:
            failed = error.code in self._codes
            if failed:
                self._proven.pop(tried, None)
                if reservation is None:
                    await self._count_failure(caller)
            raise
        else:
            if credential is not None:
                self._prove(credential)
        finally:
            if reservation is not None:
                if not failed:
                    self._limit.give_back(reservation)
                self._leave(caller, tried, failed=failed)

    async def _reserve(self, caller: str, tried: Hashable) -> Reservation | None:
        """Wait for those who try the same, and count as one who failed, until that is known. None: nothing is counted."""
        while True:
            if self._is_proven(tried):
                return None
            others = self._tried.setdefault(caller, {})
            if tried not in others:
                break
            if not await asyncio.shield(others[tried]):
                # it did not fail, or for a reason that says nothing of what was tried
                return None
        others[tried] = asyncio.get_running_loop().create_future()
        try:
            return await self._limit.reserve(caller)
        except BaseException as error:
            self._leave(caller, tried, failed=True)
            if isinstance(error, RateLimited):
                raise self._as_it_is(caller, error) from None
            raise

    def _leave(self, caller: str, tried: Hashable, *, failed: bool) -> None:
        others = self._tried[caller]
        others.pop(tried).set_result(failed)
        if not others:
            del self._tried[caller]

    def _as_it_is(self, caller: str, refusal: RateLimited) -> RateLimited:
        """Return what a caller is told who may have to wait for no failure, but for tries that are decided in a moment."""
        if caller not in self._tried:
            return refusal
        return RateLimited(refusal.limit, Standing(refusal.standing.limit, 0, max(1.0, refusal.standing.reset)), 1.0)

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
    """All that is limited. Prompts and pings by API key, everything else by the client's address."""

    chats: Limit
    public_gets: Limit
    registrations: Limit
    failed_logins: FailureLimit
    refreshes: Limit
    refused_credentials: FailureLimit
    pings: Limit
    shared: SharedStore | None

    @classmethod
    def build(cls, settings: GatewaySettings) -> Self:
        """Return the limits that the settings say."""
        url = settings.limits_url
        shared = SharedStore.at(url.get_secret_value()) if url is not None else None

        def limit(name: str, *windows: Window) -> Limit:
            return Limit(name, *windows, shared=shared)

        return cls(
            chats=limit("chats", Window(settings.chats_per_minute, 60)),
            public_gets=limit("public_gets", Window(settings.public_gets_per_minute, 60)),
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
            shared=shared,
        )

    async def open(self) -> None:
        """Connect to the store, if there is one."""
        if self.shared is not None:
            await self.shared.open()

    async def close(self) -> None:
        """Leave the store."""
        if self.shared is not None:
            await self.shared.close()


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
