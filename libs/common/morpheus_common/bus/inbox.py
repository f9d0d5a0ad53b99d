"""The gateway's side of the relay: one wildcard subscription for all attempts, a bounded buffer for each."""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from morpheus_common.bus.frames import FRAME_BYTES, WINDOW_BYTES, Frame, FrameError, Kind, parse_frame, read_head
from morpheus_common.bus.names import chat_cancel, relay_inbox
from morpheus_common.contracts.chat import AcceptFrame
from morpheus_common.errors import ApiError
from morpheus_common.ids import uuid7
from morpheus_common.logs import get_logger

log = get_logger(__name__)

PENDING_BYTES = 512 * 1024 * 1024
"""nats-py drops messages beyond this. Admission keeps (streams x window) under half of it, so it never does: 1,024 streams a
gateway. It is a bound and no reserve: a stream whose client keeps up holds next to nothing."""
MAX_FRAMES = 4_096
"""Frames an attempt may have waiting. Small frames cost more than their bytes."""
_LAST = frozenset({Kind.OWNER, Kind.LAST, Kind.END, Kind.ERROR, Kind.NOBODY})
"""Kinds of frames that nothing follows."""


class Attempt:
    """The frames of one attempt, in order of arrival."""

    def __init__(self, attempt_id: str, inbox: str) -> None:
        self.id = attempt_id
        self.inbox = inbox
        self._frames: deque[Frame] = deque()
        self._bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = 0.0
        self._overflowed = False

    def deliver(self, frame: Frame) -> None:
        """Put a frame in; called by the subscription, never waits."""
        if self._overflowed:
            return
        if self._bytes + len(frame.data) > WINDOW_BYTES + 2 * FRAME_BYTES or len(self._frames) >= MAX_FRAMES:
            # a worker that ignores its credit: keep nothing more of it, let the reader fail on the gap
            self._overflowed = True
            frame = Frame(Kind.ERROR, -1, b"")
        self._bytes += len(frame.data)
        self._frames.append(frame)
        self._wake()

    def take(self) -> Frame | None:
        """Return the next frame if one is here."""
        if not self._frames:
            return None
        frame = self._frames.popleft()
        self._bytes -= len(frame.data)
        return frame

    async def next(self, timeout: float) -> Frame | None:
        """Return the next frame, or None after `timeout` seconds without one. One reader at a time.

        A timer that rings too early is set anew then: time limits move on with each frame, and a timer for each is a
        third of what a frame costs.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        while (frame := self.take()) is None and loop.time() < until:
            if self._timer is None or self._rings_at > until:
                self.close()
                self._rings_at = until
                self._timer = loop.call_at(until, self._ring)
            self._waiter = loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return frame

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class RelayInbox:
    """All attempts of one gateway process."""

    def __init__(self, connection: Client, gateway: str) -> None:
        self._connection = connection
        self.gateway = gateway
        self._attempts: dict[str, Attempt] = {}
        self._over: set[str] = set()
        """Those of `_attempts` that nothing more comes for: a prompt may have been sent on a few times."""
        self._subscription: Subscription | None = None

    @property
    def max_attempts(self) -> int:
        """How many attempts may be open at once."""
        return PENDING_BYTES // 2 // WINDOW_BYTES

    def __len__(self) -> int:
        return len(self._attempts)

    async def start(self) -> None:
        """Subscribe once, for ever."""
        self._subscription = await self._connection.subscribe(
            relay_inbox(self.gateway, "*"),
            cb=self._on_message,
            pending_bytes_limit=PENDING_BYTES,
            pending_msgs_limit=1_000_000,
        )

    async def stop(self) -> None:
        """Stop listening."""
        if self._subscription is not None and not self._connection.is_closed:
            await self._subscription.unsubscribe()

    @contextmanager
    def attempt(self) -> Iterator[Attempt]:
        """Open an attempt; its frames are dropped from the moment the block is left.

        Raises `ApiError` (overloaded) when as many streams run as the subscription's buffer is made for.
        """
        if len(self._attempts) - len(self._over) >= self.max_attempts:
            raise ApiError("overloaded", retry_after=1)
        attempt_id = uuid7().replace("-", "")
        attempt = Attempt(attempt_id, relay_inbox(self.gateway, attempt_id))
        self._attempts[attempt_id] = attempt
        try:
            yield attempt
        finally:
            attempt.close()
            del self._attempts[attempt_id]
            self._over.discard(attempt_id)

    async def _on_message(self, msg: Msg) -> None:
        # never awaits: one slow stream must not hold up the others
        attempt_id = msg.subject.rpartition(".")[2]
        attempt = self._attempts.get(attempt_id)
        try:
            frame = parse_frame(msg)
            if attempt is not None:
                attempt.deliver(frame)
                if frame.kind in _LAST:
                    self._over.add(attempt_id)
            elif frame.kind is Kind.ACCEPT:
                # its client left before we knew who has the prompt; untold, the worker would keep it until silence ends it
                await self._connection.publish(chat_cancel(read_head(AcceptFrame, frame).worker, attempt_id), b"")
        except FrameError as error:
            log.warning("not a frame", problem=str(error))
        except NatsError as error:
            log.warning("a worker could not be told that nobody waits", problem=type(error).__name__)
