"""Frames of the chat relay: what flows between a gateway and the session worker that runs a prompt.

A frame's kind and order are in headers, its bytes are the message's body, untouched. Architecture, section 7.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeVar

from nats.aio.msg import Msg

from morpheus_common.bus.names import Header
from morpheus_common.contracts.base import Message

FRAME_BYTES: Final = 128 * 1024
"""Largest body of one frame, in bytes: an eighth of the server's limit, so that frames of many streams interleave."""
WINDOW_BYTES: Final = 256 * 1024
"""How much a worker may send beyond what the gateway has consumed, in bytes. One frame may overshoot."""
SILENCE_SECONDS: Final = 15.0
"""After so long without a word of it the other side is lost."""
BEATS_A_SILENCE: Final = 3
"""So many beats, or repeats of the credit, have to be missed for that."""
ACCEPT_SECONDS: Final = 1.0
"""How long a gateway waits for a worker to take an attempt before it makes the next."""
MAX_ATTEMPTS: Final = 3

_NO_RESPONDERS = "503"


class Kind(StrEnum):
    """What a frame says."""

    ACCEPT = "accept"
    OWNER = "owner"
    DATA = "data"
    BEAT = "beat"
    END = "end"
    LAST = "last"
    """Data and the end in one message; only for a gateway that said it knows it (`PromptHead.takes_last`)."""
    ERROR = "error"
    NOBODY = "nobody"
    """Never sent: how a gateway sees the server's word that no worker listens."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame. `seq` counts all frames of an attempt from 0; `more`: the next frame continues the same event."""

    kind: Kind
    seq: int
    data: bytes
    more: bool = False
    head: str | None = None


class FrameError(ValueError):
    """A message on a relay subject that is no frame."""


def frame_headers(kind: Kind, seq: int, *, more: bool = False, head: Message | None = None) -> dict[str, str]:
    """Return the headers of a frame."""
    headers = {Header.KIND: kind.value, Header.SEQ: str(seq)}
    if more:
        headers[Header.MORE] = "1"
    if head is not None:
        headers[Header.HEAD] = encode_head(head)
    return headers


def encode_head(head: Message) -> str:
    """Return a head as it stands in the header `Mor-Head`: JSON in ASCII, because headers are not UTF-8 everywhere."""
    return head.model_dump_json(ensure_ascii=True)


def parse_frame(msg: Msg) -> Frame:
    """Read a frame. Raises `FrameError`."""
    headers = msg.headers or {}
    if not msg.data and headers.get(Header.STATUS) == _NO_RESPONDERS:
        return Frame(Kind.NOBODY, 0, b"")
    try:
        return Frame(
            Kind(headers[Header.KIND]),
            int(headers[Header.SEQ]),
            msg.data,
            Header.MORE in headers,
            headers.get(Header.HEAD),
        )
    except (KeyError, ValueError) as error:
        raise FrameError(str(error)) from None


M = TypeVar("M", bound=Message)


def read_head(model: type[M], frame: Frame) -> M:
    """Read the JSON head of a frame. Raises `FrameError`."""
    if frame.head is None:
        msg = f"a {frame.kind} frame needs a head"
        raise FrameError(msg)
    try:
        return model.model_validate_json(frame.head)
    except ValueError as error:
        raise FrameError(type(error).__name__) from None


def split_frames(data: bytes, limit: int = FRAME_BYTES) -> list[bytes]:
    """Cut `data` into pieces of at most `limit` bytes; no piece for no bytes."""
    return [data[start : start + limit] for start in range(0, len(data), limit)]
