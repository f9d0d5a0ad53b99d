"""The gateway's side of the chat relay: brings a prompt to one session worker and the answer's frames back.

No credit is given before the caller was checked, and only one attempt ever gets credit: what has none sends nothing to
a router, so that attempts may be repeated without running a prompt twice.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

from morpheus_common.bus.connection import fits
from morpheus_common.bus.frames import (
    ACCEPT_SECONDS,
    BEATS_A_SILENCE,
    FRAME_BYTES,
    MAX_ATTEMPTS,
    SILENCE_SECONDS,
    WINDOW_BYTES,
    Frame,
    FrameError,
    Kind,
    encode_head,
    read_head,
    split_frames,
)
from morpheus_common.bus.inbox import Attempt, RelayInbox
from morpheus_common.bus.names import CHAT_START, Header, chat_body, chat_cancel, chat_credit, chat_start_at
from morpheus_common.contracts.base import Message
from morpheus_common.contracts.chat import AcceptFrame, ErrorFrame, OwnerFrame, PromptHead
from morpheus_common.errors import CATALOGUE
from morpheus_common.logs import get_logger
from morpheus_common.request_context import request_id
from morpheus_common.tracing import CLIENT, NO_SPAN, span
from nats.aio.client import Client
from nats.errors import Error as NatsError

from morpheus_gateway.errors import AnswerFailed

log = get_logger(__name__)

M = TypeVar("M", bound=Message)

MAX_STARTS = 6
"""Starts of one prompt in all: three that nobody takes, and as many that workers send on to each other."""
MAX_RESENDS = 1
"""How often a prompt is sent again on a worker's word that no byte of it went to a router."""
MAX_OWNERS = 100_000
MAX_WORKERS = 1_000
TRUSTED_SECONDS = 2.0
"""A worker that was heard of within this is taken for alive: a prompt may carry its credit to it from the start."""


@dataclass(frozen=True, slots=True)
class RelayTimes:
    """The relay's waits, in seconds."""

    accept: float = ACCEPT_SECONDS
    silence: float = SILENCE_SECONDS
    credit_repeat: float = SILENCE_SECONDS / BEATS_A_SILENCE
    slow_client: float = 60.0


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt to run. `head` is complete but for its attempt, which each attempt fills in.

    `admitted`: its caller was checked just now, so that there is nothing to wait for before the first credit.
    """

    head: PromptHead
    payload: bytes
    admitted: bool = False


class Relay:
    """All prompts of this process."""

    def __init__(self, connection: Client, inbox: RelayInbox, times: RelayTimes) -> None:
        self.times = times
        self._connection = connection
        self._inbox = inbox
        self._owners: OrderedDict[str, str] = OrderedDict()
        self._heard: dict[str, float] = {}
        self._passages: set[Passage] = set()

    def passage(self, prompt: Prompt, admit: Callable[[], Awaitable[object]], hang_up: Callable[[], None]) -> "Passage":
        """Return the way of one prompt, to be entered.

        `admit` is awaited before the first credit; what it raises ends the prompt. `hang_up` is called when the client
        takes nothing for too long.
        """
        return Passage(self, self._connection, self._inbox, prompt, admit, hang_up)

    def owner_of(self, key_id: str) -> str | None:
        """Return the worker that took this key's last prompt."""
        return self._owners.get(key_id)

    def remember_owner(self, key_id: str, worker: str) -> None:
        """Note who took this key's prompt."""
        self._owners[key_id] = worker
        self._owners.move_to_end(key_id)
        if len(self._owners) > MAX_OWNERS:
            self._owners.popitem(last=False)

    def forget_owner(self, key_id: str) -> None:
        """Ask anyone next time."""
        self._owners.pop(key_id, None)

    def hear(self, worker: str, now: float) -> None:
        """Note a sign of life of a worker (monotonic seconds)."""
        if worker not in self._heard and len(self._heard) >= MAX_WORKERS:
            self._heard.clear()
        self._heard[worker] = now

    def is_trusted(self, worker: str) -> bool:
        """Tell whether a worker was heard of a moment ago."""
        heard_at = self._heard.get(worker)
        return heard_at is not None and time.monotonic() - heard_at <= TRUSTED_SECONDS

    def enter(self, passage: "Passage") -> None:
        """Take care of a passage's credit from now on."""
        self._passages.add(passage)

    def leave(self, passage: "Passage") -> None:
        """A passage is over."""
        self._passages.discard(passage)

    async def repeat_credits(self) -> None:
        """Repeat the credit of every running prompt for ever (a background job).

        One job for all: a stream whose client is slow hangs in `send` and could not do it itself.
        """
        while True:
            await asyncio.sleep(min(1.0, self.times.credit_repeat / 4))
            now = time.monotonic()
            for passage in list(self._passages):
                await passage.tick(now)


class Passage:
    """The way of one prompt to a worker and of its answer back."""

    def __init__(
        self,
        relay: Relay,
        connection: Client,
        inbox: RelayInbox,
        prompt: Prompt,
        admit: Callable[[], Awaitable[object]],
        hang_up: Callable[[], None],
    ) -> None:
        self._relay = relay
        self._times = relay.times
        self._connection = connection
        self._inbox = inbox
        self._prompt = prompt
        self._admit = admit
        self._hang_up = hang_up
        self._attempts = ExitStack()
        self._attempt: Attempt | None = None
        self._late: list[Attempt] = []
        self._held: Frame | None = None
        self._worker: str | None = None
        self._finished = False
        self._resends = 0
        self._expected = 0
        self._heard_at = 0.0
        self._consumed = 0
        self._credited = False
        self._unaccepted = False
        self._credit_base = 0
        self._credit_at = 0.0
        self._handing_since: float | None = None
        self._span = NO_SPAN
        self.answering = False
        """Whether data of the answer has been seen."""

    async def __aenter__(self) -> Self:
        self._relay.enter(self)
        self._span = span(
            "relay prompt", CLIENT, {"messaging.system": "nats", "messaging.destination.name": CHAT_START}
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._relay.leave(self)
        if error is not None:
            self._span.fail(error)
        self._span.end()
        try:
            await self._cancel_late()
            if self._attempt is not None and self._worker is not None and not self._finished:
                await self._cancel(self._worker, self._attempt)
        finally:
            self._attempts.close()

    async def start(self) -> None:
        """Bring the prompt to a worker, and give it credit. Raises `ApiError`."""
        owner = self._relay.owner_of(self._prompt.head.key_id)
        if owner is not None and self._may_go_with_credit(owner):
            await self._start_with_credit(owner)
        else:
            await self._start(owner)

    def _may_go_with_credit(self, owner: str) -> bool:
        fits_one_frame = len(self._prompt.payload) <= FRAME_BYTES
        return self._prompt.admitted and fits_one_frame and self._relay.is_trusted(owner)

    async def _start_with_credit(self, owner: str) -> None:
        """Send the prompt and its credit in one message to the worker that took the key's last prompt.

        It saves two messages of five. From here on nobody else is given the prompt, unless the server says that nobody
        got it or the worker says that it did not run it: what it does not answer may run.
        """
        attempt = self._attempts.enter_context(self._inbox.attempt())
        self._attempt, self._worker = attempt, owner
        self._expected = 0
        self._credit_at = self._heard_at = time.monotonic()
        self._credited = self._unaccepted = True
        self._relay.remember_owner(self._prompt.head.key_id, owner)
        await self._publish_start(attempt, owner, credit=WINDOW_BYTES)

    async def _start(self, target: str | None) -> None:
        """Offer the prompt until a worker accepts it: to `target` first, to all if None. Then give it credit."""
        key_id = self._prompt.head.key_id
        self._credited = self._unaccepted = False
        unheard = 0
        for _ in range(MAX_STARTS):
            attempt = self._attempts.enter_context(self._inbox.attempt())
            self._attempt, self._worker = attempt, target
            self._finished = False
            frame = await self._offer(attempt, target)
            if frame is None:
                self._late.append(attempt)
                unheard += 1
                if target is not None:
                    self._relay.forget_owner(key_id)
                    await self._cancel(target, attempt)
                log.warning("no worker took the prompt in time", attempt=attempt.id, worker=target)
                if unheard == MAX_ATTEMPTS:
                    break
                target = None
                continue
            # a worker that did not accept has nothing of ours to cancel
            self._finished = True
            match frame.kind:
                case Kind.NOBODY if target is not None:
                    self._relay.forget_owner(key_id)
                    target = None
                case Kind.OWNER:
                    target = _read(OwnerFrame, frame).worker
                case Kind.ERROR:
                    target = self._after_error(frame)
                case Kind.ACCEPT:
                    self._finished = False
                    await self._accepted(attempt, frame)
                    return
                case _:
                    break
        raise AnswerFailed("service_unavailable", retry_after=1)

    async def read(self, until: float) -> Frame | None:
        """Return the next data frame, the end frame, or None when the monotonic clock passes `until`.

        Raises `AnswerFailed` for what the worker reports, and for a worker that is lost.
        """
        while True:
            attempt = self._running
            frame, self._held = self._held or attempt.take(), None
            if frame is None:
                now = time.monotonic()
                lost_at = self._heard_at + self._times.silence
                if now >= lost_at:
                    raise self._lost("silence")
                if now >= until:
                    return None
                frame = await attempt.next(min(until, lost_at) - now)
                if frame is None:
                    continue
            self._check_order(frame)
            match frame.kind:
                case Kind.DATA:
                    self.answering = True
                    return frame
                case Kind.LAST:
                    self.answering = True
                    self._held = Frame(Kind.END, frame.seq + 1, b"")
                    return Frame(Kind.DATA, frame.seq, frame.data, frame.more, frame.head)
                case Kind.END:
                    self._finished = True
                    return frame
                case Kind.BEAT:
                    await self._cancel_late()
                case Kind.ERROR:
                    await self._start(self._after_error(frame))
                case Kind.NOBODY if self._unaccepted:
                    await self._start_elsewhere(None)
                case Kind.OWNER if self._unaccepted:
                    await self._start_elsewhere(_read(OwnerFrame, frame).worker)
                case Kind.ACCEPT if self._unaccepted:
                    # a worker that does not know of credit at the start
                    self._unaccepted = False
                    await self._accepted(attempt, frame)
                case _:
                    raise self._lost("unexpected frame")

    def take(self) -> Frame | None:
        """Return the next data frame if one is here already: what is ready together goes out together."""
        if self._held is not None:
            # the end may be among what is held: nothing that comes after it may take its place
            return None
        frame = self._running.take()
        if frame is None:
            return None
        if frame.kind is not Kind.DATA or frame.seq != self._expected:
            self._held = frame
            return None
        self._check_order(frame)
        return frame

    @property
    def _running(self) -> Attempt:
        if self._attempt is None:
            msg = "the prompt was not started"
            raise RuntimeError(msg)
        return self._attempt

    def handing_over(self) -> None:
        """The client is being given bytes; if it takes none for too long, it is cut off."""
        self._handing_since = time.monotonic()

    async def handed_over(self, count: int) -> None:
        """The client took `count` bytes, so that the worker may send as many more."""
        self._handing_since = None
        self._consumed += count
        if self._consumed - self._credit_base >= WINDOW_BYTES // 2 and not self._finished:
            await self._give_credit()

    async def tick(self, now: float) -> None:
        """Repeat the credit when it is time, and cut off a client that takes nothing."""
        if self._handing_since is not None and now - self._handing_since >= self._times.slow_client:
            log.info("client takes nothing; cut off", attempt=self._running.id)
            self._hang_up()
        elif self._credited and not self._finished and now - self._credit_at >= self._times.credit_repeat:
            await self._give_credit()

    async def _start_elsewhere(self, target: str | None) -> None:
        """Begin anew, after an attempt that nobody ran."""
        self._finished = True
        self._relay.forget_owner(self._prompt.head.key_id)
        await self._start(target)

    async def _offer(self, attempt: Attempt, target: str | None) -> Frame | None:
        """Publish the start of the prompt; return the first frame, None if there was none in time."""
        await self._publish_start(attempt, target, credit=0)
        give_up_at = time.monotonic() + self._times.accept
        frame = await attempt.next(self._times.accept)
        while frame is not None and frame.kind is Kind.BEAT:
            # alive, but not ours yet: it is still claiming the session
            frame = await attempt.next(give_up_at - time.monotonic())
        return frame

    async def _publish_start(self, attempt: Attempt, target: str | None, *, credit: int) -> None:
        subject = CHAT_START if target is None else chat_start_at(target)
        head = self._prompt.head.model_copy(update={"attempt": attempt.id, "credit": credit, "takes_last": True})
        headers = {Header.HEAD: encode_head(head)}
        if current := request_id.get():
            headers[Header.REQUEST_ID] = current
        if trace := self._span.traceparent:
            headers[Header.TRACEPARENT] = trace
        if not self._connection.is_connected:
            raise AnswerFailed("service_unavailable", retry_after=1)
        first = self._prompt.payload[:FRAME_BYTES]
        if not fits(self._connection, first, headers):
            log.error("the head of a prompt is too large", bytes=len(headers[Header.HEAD]))
            raise AnswerFailed("request_too_large")
        try:
            await self._connection.publish(subject, first, reply=attempt.inbox, headers=headers)
        except NatsError as error:
            log.warning("the prompt could not be published", problem=type(error).__name__)
            raise AnswerFailed("service_unavailable", retry_after=1) from None

    async def _accepted(self, attempt: Attempt, frame: Frame) -> None:
        self._worker = worker = _read(AcceptFrame, frame).worker
        self._expected = frame.seq + 1
        self._heard_at = time.monotonic()
        self._relay.remember_owner(self._prompt.head.key_id, worker)
        self._relay.hear(worker, self._heard_at)
        await self._cancel_late()
        rest = split_frames(self._prompt.payload[FRAME_BYTES:])
        for seq, piece in enumerate(rest):
            headers = {Header.SEQ: str(seq)}
            if seq < len(rest) - 1:
                headers[Header.MORE] = "1"
            await self._publish(chat_body(worker, attempt.id), piece, headers)
        await self._admit()
        self._credited = True
        self._consumed = 0
        await self._give_credit()

    async def _give_credit(self) -> None:
        if self._worker is not None:
            self._credit_base = self._consumed
            self._credit_at = time.monotonic()
            credit = str(self._consumed + WINDOW_BYTES).encode()
            await self._publish(chat_credit(self._worker, self._running.id), credit)

    async def _cancel(self, worker: str, attempt: Attempt) -> None:
        await self._publish(chat_cancel(worker, attempt.id), b"")

    async def _cancel_late(self) -> None:
        """Tell workers that took an attempt after we had made the next one."""
        for attempt in self._late:
            while (frame := attempt.take()) is not None:
                if frame.kind is Kind.ACCEPT:
                    await self._cancel(_read(AcceptFrame, frame).worker, attempt)

    async def _publish(self, subject: str, payload: bytes, headers: dict[str, str] | None = None) -> None:
        # what does not arrive shows as silence on the other side, and then here
        try:
            await self._connection.publish(subject, payload, headers=headers)
        except NatsError as error:
            log.warning("a frame was not published", subject=subject, problem=type(error).__name__)

    def _check_order(self, frame: Frame) -> None:
        if frame.seq != self._expected:
            raise self._lost("gap")
        self._expected += 1
        self._heard_at = time.monotonic()
        if self._worker is not None and frame.kind is not Kind.NOBODY:
            self._relay.hear(self._worker, self._heard_at)

    def _lost(self, how: str) -> AnswerFailed:
        log.warning("worker lost", how=how, worker=self._worker, attempt=self._running.id)
        self._relay.forget_owner(self._prompt.head.key_id)
        if self.answering:
            return AnswerFailed("stream_truncated", should_retry=False)
        # it may have begun to run the prompt
        return AnswerFailed("service_unavailable", retry_after=1, should_retry=False)

    def _after_error(self, frame: Frame) -> str | None:
        """Return where to send the prompt again (None: to anyone), or raise what the worker reported."""
        self._finished = True
        self._credited = False
        report = _read(ErrorFrame, frame)
        if report.not_sent and not self.answering and self._resends < MAX_RESENDS:
            self._resends += 1
            self._relay.forget_owner(self._prompt.head.key_id)
            return report.owner
        if report.code not in CATALOGUE:
            log.error("a worker reported an unknown error", code=report.code)
            raise AnswerFailed("internal_error")
        raise AnswerFailed(
            report.code,
            report.message,
            param=report.param,
            retry_after=report.retry_after,
            details=report.details,
            shown_code=report.upstream_code,
        )


def _read(model: type[M], frame: Frame) -> M:
    try:
        return read_head(model, frame)
    except FrameError as error:
        log.error("a frame's head does not fit", kind=frame.kind, problem=str(error))
        raise AnswerFailed("internal_error") from None
