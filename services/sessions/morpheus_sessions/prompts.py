"""One prompt on its way through this worker: its body as it arrives, its credit, its frames to the gateway."""

import asyncio
import time

from morpheus_common.bus.frames import FRAME_BYTES, Kind, frame_headers, split_frames
from morpheus_common.contracts.base import Message
from morpheus_common.contracts.chat import AnswerHead, ErrorFrame, PromptHead
from morpheus_common.errors import ApiError
from morpheus_common.service import CANCEL_AGAIN_SECONDS
from morpheus_common.tracing import NO_SPAN, Span
from nats.aio.client import Client

from morpheus_sessions.metrics import FRAMES_REFUSED
from morpheus_sessions.usage import Tally


class Prompt:
    """State of one attempt. Only the gateway that holds its inbox can give it credit or take it back."""

    def __init__(self, head: PromptHead, inbox: str, connection: Client, *, span: Span = NO_SPAN) -> None:
        self.head = head
        self.span = span
        self.started_at = time.monotonic()
        self.turn_at = self.started_at
        self.heard_at = self.started_at
        self.moved_at = self.started_at
        self.tally = Tally(head, self.started_at)
        self.body = bytearray()
        self.task: asyncio.Task[None] | None = None
        self.gone = False
        """The client or its gateway is not there any more."""
        self.interruptible = True
        self._stopping: asyncio.TimerHandle | None = None
        self._inbox = inbox
        self._connection = connection
        self._next_body_frame = 0
        self._seq = 0
        self._sent = 0
        self._credit = head.credit
        self._ended = False
        self._changed = asyncio.Event()
        self._answer_head: AnswerHead | None = None
        self._asked_at: float | None = None
        self._elsewhere = 0.0

    # what the gateway sends

    def add_body(self, data: bytes, seq: int) -> None:
        """Take a piece of the body; a gap spoils the attempt."""
        self.heard_at = time.monotonic()
        if seq != self._next_body_frame or len(self.body) + len(data) > self.head.body_bytes:
            FRAMES_REFUSED.labels("gap").inc()
            self.leave()
            return
        self._next_body_frame += 1
        self.body += data
        self._changed.set()

    def start_body(self, data: bytes) -> None:
        """Take what came with the start."""
        self.body += data

    def give_credit(self, absolute: int) -> None:
        """Note how many bytes may have been sent in all. Repeats and old values do no harm."""
        now = time.monotonic()
        self.heard_at = now
        if absolute > self._credit:
            self._credit = absolute
            self.moved_at = now
            self._changed.set()

    def leave(self) -> None:
        """The client is gone: stop as soon as the router allows."""
        if self.gone:
            return
        self.gone = True
        self._stop()

    def _stop(self) -> None:
        if self.task is None or self.task.done():
            return
        if self.interruptible:
            self.task.cancel()
        # once is not enough: see `cancel_all`
        self._stopping = asyncio.get_running_loop().call_later(CANCEL_AGAIN_SECONDS, self._stop)

    def over(self) -> None:
        """Its task has ended: nothing has to be stopped any more."""
        if self._stopping is not None:
            self._stopping.cancel()

    @property
    def is_complete(self) -> bool:
        """Tell whether the whole body is here and the gateway has committed to this attempt."""
        return len(self.body) == self.head.body_bytes and self._credit > 0

    async def complete(self) -> None:
        """Wait until `is_complete`."""
        while not self.is_complete:
            self._changed.clear()
            await self._changed.wait()

    @property
    def waits_for_credit(self) -> bool:
        """Tell whether the client is too slow for what is there to send."""
        return self._sent > 0 and self._sent >= self._credit

    # what the gateway gets

    async def _send(self, kind: Kind, data: bytes = b"", *, more: bool = False, head: Message | None = None) -> None:
        seq, self._seq = self._seq, self._seq + 1
        await self._connection.publish(self._inbox, data, headers=frame_headers(kind, seq, more=more, head=head))

    async def accept(self, frame: Message) -> None:
        """Say that this worker will run the prompt."""
        await self._send(Kind.ACCEPT, head=frame)

    async def refer(self, frame: Message) -> None:
        """Say that another worker owns the session."""
        await self._send(Kind.OWNER, head=frame)

    async def beat(self) -> None:
        """Say that the attempt is alive, unless its end has been said: nothing follows that."""
        if not self._ended:
            await self._send(Kind.BEAT)

    def announce(self, head: AnswerHead) -> None:
        """Set what goes out with the first data frame. From now on it waits for the provider."""
        self._answer_head = head
        if self._asked_at is None:
            self._asked_at = time.monotonic()

    def waited(self, seconds: float) -> None:
        """Note that it waited for others, an earlier prompt or the chain. After the first provider all of its time is others'."""
        if self._asked_at is None:
            self._elsewhere += seconds

    async def send(self, data: bytes, *, last: bool = False) -> None:
        """Send a piece of the answer, when there is credit for it. One frame may overshoot.

        `last`: the answer ends with it, which then need not be said in a frame of its own.
        """
        pieces = [data] if len(data) <= FRAME_BYTES else split_frames(data)
        for position, piece in enumerate(pieces):
            while self._sent >= self._credit:
                self._changed.clear()
                await self._changed.wait()
            head, self._answer_head = self._answer_head, None
            if head is not None and self._asked_at is not None:
                elsewhere = self._elsewhere + time.monotonic() - self._asked_at
                head = head.model_copy(update={"elsewhere": round(elsewhere, 6)})
            more = position != len(pieces) - 1
            self._ended = last and not more and self.head.takes_last
            await self._send(Kind.LAST if self._ended else Kind.DATA, piece, more=more, head=head)
            self._sent += len(piece)

    @property
    def has_answered(self) -> bool:
        """Tell whether a byte of the answer has gone out."""
        return self._sent > 0

    async def end(self) -> None:
        """Say that the answer is complete, unless its last piece has said so."""
        if not self._ended:
            self._ended = True
            await self._send(Kind.END)

    async def fail(
        self, error: ApiError, *, upstream_code: str | None = None, not_sent: bool = False, owner: str | None = None
    ) -> None:
        """Say why there is no answer, or no more of it, unless the end has been said."""
        if self._ended:
            return
        self._ended = True
        frame = ErrorFrame(
            code=error.code,
            message=error.message,
            param=error.param,
            retry_after=error.retry_after,
            details=error.details,
            upstream_code=upstream_code,
            not_sent=not_sent,
            owner=owner,
        )
        await self._send(Kind.ERROR, head=frame)
