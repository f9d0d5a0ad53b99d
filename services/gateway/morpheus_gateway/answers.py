"""The answer to a prompt as an ASGI response: the worker's bytes as they come, and the truth about how it ended."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote

import orjson
from morpheus_common.bus.frames import FRAME_BYTES, Frame, FrameError, Kind, read_head
from morpheus_common.contracts.chat import AnswerHead
from morpheus_common.errors import ApiError
from morpheus_common.logs import get_logger
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from morpheus_gateway.client_watch import ClientGone, ClientWatch
from morpheus_gateway.errors import AnswerFailed, error_body, error_response
from morpheus_gateway.metrics import PromptTimes, error_answered
from morpheus_gateway.relay import Passage, Prompt, Relay

log = get_logger(__name__)

KEEP_ALIVE = b": keep-alive\n\n"
_FOREVER = float("inf")


@dataclass(frozen=True, slots=True)
class AnswerTimes:
    """`commit`: a stream's status goes out after so long, whatever has come. `keep_alive`: silence before a comment."""

    commit: float = 20.0
    keep_alive: float = 15.0


class PromptResponse(Response):
    """Runs a prompt and sends its answer."""

    def __init__(
        self,
        relay: Relay,
        prompt: Prompt,
        admit: Callable[[], Awaitable[object]],
        *,
        times: AnswerTimes,
        json_limit: int,
        began: float,
    ) -> None:
        super().__init__()
        self._relay = relay
        self._prompt = prompt
        self._admit = admit
        self._times = times
        self._json_limit = json_limit
        self._began = began

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer, or its failure as JSON if nothing was sent yet."""
        measured = PromptTimes(self._prompt.head.endpoint, stream=self._prompt.head.stream, began=self._began)
        try:
            async with ClientWatch(receive) as client:
                async with self._relay.passage(self._prompt, self._admit, client.hang_up) as passage:
                    if self._prompt.head.stream:
                        await _Stream(passage, send, self._times, measured).run()
                    else:
                        await self._send_json(passage, send, measured)
        except ClientGone:
            measured.outcome = "left"
            log.info("client gone before the end of its answer")
        except ApiError as error:
            await error_response(error, scope["path"])(scope, receive, send)
        finally:
            measured.ended()

    async def _send_json(self, passage: Passage, send: Send, measured: PromptTimes) -> None:
        """Collect the object and send it whole: a status that went out could not be taken back."""
        body, head = await whole_answer(passage, self._json_limit)
        measured.answering(None if head is None else head.elsewhere)
        length = str(len(body)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", length), *_origin(head)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        measured.outcome = "ok"


async def whole_answer(passage: Passage, limit: int) -> tuple[bytes, AnswerHead | None]:
    """Run a prompt and return all of its answer, and who gave it. `limit` in bytes. Raises `ApiError`."""
    await passage.start()
    pieces: list[bytes] = []
    size = 0
    head: AnswerHead | None = None
    while (frame := await passage.read(_FOREVER)) is not None and frame.kind is Kind.DATA:
        head = head or _head_of(frame)
        pieces.append(frame.data)
        size += len(frame.data)
        if size > limit:
            raise AnswerFailed("provider_error", "The provider's answer is too large.", should_retry=False)
        await passage.handed_over(len(frame.data))
    if not pieces:
        raise AnswerFailed("provider_error")
    return b"".join(pieces), head


class _Stream:
    """One answer as server-sent events. The frames' bytes are the events, finished by the worker."""

    def __init__(self, passage: Passage, send: Send, times: AnswerTimes, measured: PromptTimes) -> None:
        self._passage = passage
        self._send = send
        self._times = times
        self._measured = measured
        self._committed = False
        self._in_event = False

    async def run(self) -> None:
        """Send the stream. Raises `ApiError` only while nothing was sent."""
        commit_at = time.monotonic() + self._times.commit
        try:
            await self._passage.start()
            quiet_until = commit_at
            while True:
                frame = await self._passage.read(quiet_until)
                if frame is None:
                    await self._break_silence()
                elif frame.kind is Kind.END:
                    break
                else:
                    await self._pass_on(frame)
                quiet_until = time.monotonic() + self._times.keep_alive
            if not self._passage.answering:
                raise AnswerFailed("provider_error")
        except ApiError as error:
            if not self._committed:
                raise
            log.warning("a stream failed after its status had gone out", code=error.code)
            error_answered(error.code)
            # half an event must not swallow what follows it
            border = b"\n\n" if self._in_event else b""
            event = b"data: " + orjson.dumps(error_body(error)) + b"\n\ndata: [DONE]\n\n"
            await self._send(_body(border + event, more=False))
        else:
            await self._send(_body(b"", more=False))
            self._measured.outcome = "ok"

    async def _pass_on(self, frame: Frame) -> None:
        head = _head_of(frame)
        if not self._committed:
            await self._commit(head)
        if head is not None:
            self._measured.answering(head.elsewhere)
        pieces = [frame.data]
        size = len(frame.data)
        while size < FRAME_BYTES and (following := self._passage.take()) is not None:
            frame = following
            pieces.append(frame.data)
            size += len(frame.data)
        self._in_event = frame.more
        self._passage.handing_over()
        await self._send(_body(b"".join(pieces) if len(pieces) > 1 else pieces[0], more=True))
        await self._passage.handed_over(size)

    async def _break_silence(self) -> None:
        if not self._committed:
            await self._commit(None)
        elif not self._in_event:
            self._passage.handing_over()
            await self._send(_body(KEEP_ALIVE, more=True))
            await self._passage.handed_over(0)

    async def _commit(self, head: AnswerHead | None) -> None:
        self._committed = True
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache, no-transform"),
            (b"x-accel-buffering", b"no"),
            *_origin(head),
        ]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})


def _body(data: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


def _head_of(frame: Frame) -> AnswerHead | None:
    if frame.head is None:
        return None
    try:
        return read_head(AnswerHead, frame)
    except FrameError as error:
        log.error("an answer's head does not fit", problem=str(error))
        return None


def _origin(head: AnswerHead | None) -> list[tuple[bytes, bytes]]:
    """Who answered. Names on chain are free text: what a header cannot hold is percent-encoded."""
    if head is None:
        return []
    return [
        (b"x-morpheus-model", _header_value(head.model)),
        (b"x-morpheus-session", _header_value(head.session_id)),
        (b"x-morpheus-provider", _header_value(head.provider)),
    ]


@lru_cache(maxsize=1_024)
def _header_value(text: str) -> bytes:
    return quote(text, safe=" !#$&'()*+,-./:;<=>?@[]^_`{|}~").encode()
