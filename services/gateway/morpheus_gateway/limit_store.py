"""A store that several gateways count in together: Redis or Valkey, which judge each request by their own clock."""

import asyncio
import hashlib
import math
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from morpheus_common.logs import get_logger
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from morpheus_gateway.windows import Count, Counted, Window, with_one_more

log = get_logger(__name__)

STORE_SECONDS = 0.25
"""Longest wait of a request for the shared store: for the call that is under way, and for its own."""
CALL_SECONDS = STORE_SECONDS / 2
CALL_STEPS = 5
CONNECT_SECONDS = 2.0
"""Longest wait for a store when no request waits: at the start, and when it was away."""
STORE_AWAY_SECONDS = 5.0
"""So long a store that failed is left alone; then one question is put to it, for which no request waits."""
MAX_TOGETHER = 64
"""So many questions are put in one call. Each keeps the store busy for about 5 µs (measured)."""
_PREFIX = "{morpheus:limits}"
"""The braces keep all keys in one place of a store that shares them out, so that one call can name several."""
_MICROSECONDS = 1_000_000
_SCRIPT = """
-- When a caller counted, oldest first, in microseconds of this server's clock. `low` finds the first later than `horizon`.
local function low(key, length, horizon)
  local from, to = 0, length
  while from < to do
    local middle = math.floor((from + to) / 2)
    if tonumber(redis.call('LINDEX', key, middle)) > horizon then to = middle else from = middle + 1 end
  end
  return from
end

local time = redis.call('TIME')
local clock = time[1] * 1000000 + time[2]
local answers = {}
local at = 1
for number, key in ipairs(KEYS) do
  local verb, size = ARGV[at], tonumber(ARGV[at + 1])
  if verb == 'back' then
    redis.call('LREM', key, -1, ARGV[at + 2])
    answers[number] = {}
  else
    -- the list stays in order when the clock is set back
    local newest = tonumber(redis.call('LINDEX', key, -1) or 0)
    local now = math.max(clock, newest)
    local longest = tonumber(ARGV[at + 1 + size])
    local length = redis.call('LLEN', key)
    local gone = low(key, length, now - longest)
    if gone > 0 then
      redis.call('LTRIM', key, gone, -1)
      length = length - gone
    end
    local room = true
    local answer = {0}
    for place = at + 2, at + size, 2 do
      local limit, span = tonumber(ARGV[place]), tonumber(ARGV[place + 1])
      local used = length - low(key, length, now - span)
      local wait, reset = 0, 0
      if used >= limit then
        room = false
        wait = redis.call('LINDEX', key, length - limit) + span - now
      end
      if used > 0 then reset = newest + span - now end
      table.insert(answer, used)
      table.insert(answer, wait)
      table.insert(answer, reset)
    end
    if verb == 'take' and room then
      answer[1] = now
      redis.call('RPUSH', key, string.format('%.0f', now))
      redis.call('PEXPIRE', key, math.ceil(longest / 1000))
    end
    answers[number] = answer
  end
  at = at + 2 + size
end
return answers
"""


class StoreAway(Exception):
    """The shared store cannot be asked now."""


@dataclass(frozen=True, slots=True)
class _Question:
    """`arguments`: a verb, how many more there are, and these. `size`: how many numbers answer it."""

    key: str
    arguments: tuple[str | int, ...]
    size: int
    answer: asyncio.Future[list[int]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class SharedStore:
    """Questions of one moment go together, and no two calls run at once: one connection, and a call that costs 60 µs of our
    CPU costs 3 µs a question when 64 wait (measured).

    A store that fails is left alone for a while, and that is logged once. No call is repeated: what was counted and not
    answered would count twice.
    """

    def __init__(self, client: Redis, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._script = client.register_script(_SCRIPT)
        self._clock = clock
        self._waiting: deque[_Question] = deque()
        self._asking: asyncio.Task[None] | None = None
        self._call_took = 0.0
        """Seconds, what the last calls took at least."""
        self._away_until = -math.inf
        self._is_away = True
        self._is_told = False

    @classmethod
    def at(cls, url: str) -> Self:
        """Return the store at a URL of redis://, rediss://, valkey:// or valkeys://; nothing is connected yet."""
        # the client speaks to both servers, and knows one name of them
        known = "redis" + url.removeprefix("valkey") if url.startswith("valkey") else url
        client = Redis.from_url(
            known,
            protocol=2,
            socket_timeout=CONNECT_SECONDS,
            socket_connect_timeout=CONNECT_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        return cls(client)

    async def open(self) -> None:
        """Connect, so that no request waits for that. A store that is not there is away."""
        self._look_again()
        if self._asking is not None:
            await self._asking

    async def close(self) -> None:
        """Leave the store. Those who wait are told that it is away."""
        self._is_away, self._away_until = True, math.inf
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
        # a task that is cancelled before it began does not end by itself
        self._turn_away()
        await self._client.aclose()

    @property
    def answers(self) -> bool:
        """Tell whether it did the last time."""
        return not self._is_away

    async def count(self, name: str, windows: Sequence[Window], caller: str, *, take: bool) -> Counted:
        """Tell how a caller stands with a limit; with `take` count it, if every window has room.

        Raises `StoreAway`, after `STORE_SECONDS` at the latest.
        """
        if self._is_away:
            self._look_again()
            raise StoreAway
        calls = len(self._waiting) // MAX_TOGETHER + 1
        if calls > 1 and calls * self._call_took > STORE_SECONDS:
            # the store is slow, and more ask than it answers: else they would wait for each other without end
            raise StoreAway
        stamp, *numbers = await self._count(_key(name, caller), windows, take=take).answer
        counts = [
            Count(numbers[at], numbers[at + 1] / _MICROSECONDS, numbers[at + 2] / _MICROSECONDS)
            for at in range(0, len(numbers), 3)
        ]
        found = Counted(counts, any(count.wait for count in counts))
        return with_one_more(found, windows, stamp) if stamp else found

    def give_back(self, name: str, caller: str, stamp: float) -> None:
        """Make uncounted what was counted then. Nobody waits for it; without the store it leaves with its window."""
        if not self._is_away:
            self._ask(_key(name, caller), ("back", 1, int(stamp)), size=0)

    def _count(self, key: str, windows: Sequence[Window], *, take: bool) -> _Question:
        spans = [number for window in windows for number in (window.limit, window.seconds * _MICROSECONDS)]
        return self._ask(key, ("take" if take else "look", len(spans), *spans), size=1 + 3 * len(windows))

    def _ask(self, key: str, arguments: tuple[str | int, ...], *, size: int) -> _Question:
        question = _Question(key, arguments, size)
        # those who gave up, or never wait, look at no failure
        question.answer.add_done_callback(_mark_seen)
        self._waiting.append(question)
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask_all(CONNECT_SECONDS if self._is_away else CALL_SECONDS))
        return question

    async def _ask_all(self, seconds: float) -> None:
        try:
            while self._waiting:
                began = self._clock()
                batch = [self._waiting[place] for place in range(min(MAX_TOGETHER, len(self._waiting)))]
                told = await _within(
                    seconds,
                    self._script(
                        keys=[question.key for question in batch],
                        args=[argument for question in batch for argument in question.arguments],
                    ),
                )
                # one that was late may have been late because of us
                self._call_took = min(self._clock() - began, 2 * self._call_took + 0.001)
                _deliver(batch, told)
                for _ in batch:
                    self._waiting.popleft()
        except Exception as error:  # noqa: BLE001 - whatever the client makes of what a stranger answers: it is no store
            self._note_failure(error)
        else:
            self._note_success()
        finally:
            self._asking = None
            self._turn_away()

    def _turn_away(self) -> None:
        """Tell those who still wait that the store is away."""
        while self._waiting:
            question = self._waiting.popleft()
            if not question.answer.done():
                question.answer.set_exception(StoreAway())

    def _look_again(self) -> None:
        """Ask whether the store is back, if it is time to. It has to do all that it does for a request."""
        if self._asking is None and self._clock() >= self._away_until:
            self._away_until = math.inf
            self._count(f"{_PREFIX}:back", (Window(1_000, 1),), take=True)

    def _note_failure(self, error: Exception) -> None:
        self._away_until = self._clock() + STORE_AWAY_SECONDS
        self._is_away = True
        if not self._is_told:
            # a message of the client's can hold the URL, which has a password in it
            log.warning("the store of limits is away; counting in memory", problem=type(error).__name__)
        self._is_told = True

    def _note_success(self) -> None:
        self._is_away = False
        if self._is_told:
            log.info("the store of limits is back")
        self._is_told = False


async def _within(seconds: float, call: Coroutine[Any, Any, Any]) -> Any:
    """Return what a call returns. Raises `TimeoutError` after so many seconds.

    They are counted in steps, which the event loop has to come round to: a store is not away because we are late.
    """
    task = asyncio.create_task(call)
    try:
        for _ in range(CALL_STEPS):
            if (await asyncio.wait([task], timeout=seconds / CALL_STEPS))[0]:
                return await task
        raise TimeoutError
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _key(name: str, caller: str) -> str:
    """Return where a caller is counted: under a digest, which hides addresses and ids from who lists the keys.

    It has no secret: whoever tries all addresses of IPv4 finds one. What limits that is that each key leaves the store with
    its window, at the latest after a day.
    """
    return f"{_PREFIX}:{name}:{hashlib.blake2b(caller.encode(), digest_size=16).hexdigest()}"


def _deliver(batch: Sequence[_Question], told: Any) -> None:
    """Give each its answer. Raises `ValueError` or `TypeError` when these are no answers to those."""
    answers = [[int(number) for number in answer] for answer in told]
    if [len(answer) for answer in answers] != [question.size for question in batch]:
        msg = "these are no answers to what was asked"
        raise ValueError(msg)
    for question, answer in zip(batch, answers, strict=True):
        if not question.answer.done():
            question.answer.set_result(answer)


def _mark_seen(answer: asyncio.Future[list[int]]) -> None:
    if not answer.cancelled():
        answer.exception()
