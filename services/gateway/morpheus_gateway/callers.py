"""Who is asking: auth's answers, kept only as long as they may be used."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from morpheus_common.contracts.auth import Caller
from morpheus_common.errors import ApiError

USABLE_SECONDS = 0.8
"""A positive answer counts this long from the moment its question was sent: what was revoked at R is admitted nowhere
after R + 1 s, whatever the clocks of others say."""
KNOWN_SECONDS = 300.0
"""How long we remember whose credential it was, to start work while auth is asked again. Never an admission."""
WRONG_SECONDS = 5.0
MAX_KNOWN = 50_000
MAX_WRONG = 50_000


@dataclass(frozen=True, slots=True)
class _Answer:
    caller: Caller
    asked_at: float


class CallerCache:
    """Callers by what identifies them (the digest of a key, the ids in a token)."""

    def __init__(self, ask: Callable[[str], Awaitable[Caller]], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._clock = clock
        self._known: OrderedDict[str, _Answer] = OrderedDict()
        self._wrong: OrderedDict[str, tuple[float, ApiError]] = OrderedDict()
        self._asking: dict[str, asyncio.Task[_Answer]] = {}

    async def check(self, presented: str) -> Caller:
        """Return the caller by an answer of auth that counts now.

        Raises auth's refusal, or `service_unavailable` without an answer in time: an old one is never used.
        """
        self._refuse_if_wrong(presented)
        answer = self._known.get(presented)
        if answer is not None and self._counts(answer):
            return answer.caller
        for _ in range(2):
            try:
                answer = await asyncio.shield(self._question(presented))
            except ApiError as error:
                if error.kind.status in {401, 403}:
                    raise
                if error.code != "service_timeout":
                    break
                continue
            if self._counts(answer):
                return answer.caller
        raise ApiError("service_unavailable", retry_after=1)

    async def recognise(self, presented: str) -> Caller:
        """Return who it is, by memory if there is one; auth is asked in the meantime.

        Only `check` admits: whoever acts on what this returns must call it before anything that counts.
        """
        self._refuse_if_wrong(presented)
        answer = self._known.get(presented)
        if answer is None or self._clock() - answer.asked_at > KNOWN_SECONDS:
            return await self.check(presented)
        if not self._counts(answer):
            # put now, so that the answer is there when it is needed
            _ = self._question(presented)
        return answer.caller

    def checked(self, presented: str) -> Caller | None:
        """Return the caller if an answer of auth is here that counts now."""
        answer = self._known.get(presented)
        return answer.caller if answer is not None and self._counts(answer) else None

    def _counts(self, answer: _Answer) -> bool:
        return self._clock() - answer.asked_at <= USABLE_SECONDS

    def _refuse_if_wrong(self, presented: str) -> None:
        wrong = self._wrong.get(presented)
        if wrong is None:
            return
        until, error = wrong
        if self._clock() < until:
            raise ApiError(error.code, error.message)
        del self._wrong[presented]

    def _question(self, presented: str) -> asyncio.Task[_Answer]:
        task = self._asking.get(presented)
        if task is None:
            task = asyncio.create_task(self._put_question(presented))
            self._asking[presented] = task
            task.add_done_callback(_mark_seen)
        return task

    async def _put_question(self, presented: str) -> _Answer:
        asked_at = self._clock()
        try:
            caller = await self._ask(presented)
        except ApiError as error:
            if error.kind.status == 401:
                self._known.pop(presented, None)
                self._wrong[presented] = (self._clock() + WRONG_SECONDS, error)
                if len(self._wrong) > MAX_WRONG:
                    self._wrong.popitem(last=False)
            raise
        else:
            answer = _Answer(caller, asked_at)
            self._known[presented] = answer
            self._known.move_to_end(presented)
            if len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
            return answer
        finally:
            del self._asking[presented]


def _mark_seen(task: asyncio.Task[_Answer]) -> None:
    # those who asked may all have left; asyncio would complain about an error nobody looked at
    if not task.cancelled():
        task.exception()
