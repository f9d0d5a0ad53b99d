"""Frames of the chat relay, and the gateway's bounded buffers for them."""

import asyncio
import json
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from morpheus_common.bus.frames import (
    FRAME_BYTES,
    WINDOW_BYTES,
    Frame,
    FrameError,
    Kind,
    encode_head,
    frame_headers,
    parse_frame,
    read_head,
    split_frames,
)
from morpheus_common.bus.inbox import MAX_FRAMES, Attempt, RelayInbox
from morpheus_common.bus.names import Header
from morpheus_common.contracts.chat import ErrorFrame, OwnerFrame
from morpheus_common.errors import ApiError
from nats.aio.client import Client
from nats.aio.msg import Msg


def message(data: bytes = b"", headers: dict[str, str] | None = None, subject: str = "_INBOX_gw.g1.a1") -> Msg:
    return Msg(cast("Client", None), subject=subject, data=data, headers=headers)


@given(data=st.binary(max_size=2000), limit=st.integers(1, 300))
def test_pieces_are_the_whole_and_none_is_larger_than_the_limit(data: bytes, limit: int) -> None:
    pieces = split_frames(data, limit)

    assert b"".join(pieces) == data
    assert all(0 < len(piece) <= limit for piece in pieces)


@given(kind=st.sampled_from(Kind), seq=st.integers(0, 10**9), more=st.booleans(), data=st.binary(), text=st.text())
def test_a_frame_is_read_as_it_was_written(kind: Kind, seq: int, more: bool, data: bytes, text: str) -> None:
    head = ErrorFrame(code="c", message=text)
    headers = frame_headers(kind, seq, more=more, head=head)
    assert all(value.isascii() and not set(value) & {"\r", "\n", "\0"} for value in headers.values())

    frame = parse_frame(message(data, headers))
    assert (frame.kind, frame.seq, frame.data, frame.more) == (kind, seq, data, more)
    assert read_head(ErrorFrame, frame) == head


@pytest.mark.parametrize(
    "headers",
    [
        None,
        {},
        {Header.KIND: "data"},
        {Header.SEQ: "1"},
        {Header.KIND: "data", Header.SEQ: "one"},
        {Header.KIND: "unheard", Header.SEQ: "1"},
    ],
)
def test_a_message_that_is_no_frame_is_refused(headers: dict[str, str] | None) -> None:
    with pytest.raises(FrameError):
        parse_frame(message(b"x", headers))


def test_the_servers_word_that_nobody_listens_is_a_frame() -> None:
    assert parse_frame(message(b"", {Header.STATUS: "503"})).kind is Kind.NOBODY


def test_a_body_with_a_503_of_its_own_is_not_the_servers_word() -> None:
    with pytest.raises(FrameError):
        parse_frame(message(b"x", {Header.STATUS: "503"}))


@pytest.mark.parametrize("head", [None, "", "{}", "[]", "not json", '{"worker": 5}'])
def test_a_head_that_does_not_fit_is_refused(head: str | None) -> None:
    with pytest.raises(FrameError):
        read_head(OwnerFrame, Frame(Kind.OWNER, 0, b"", head=head))


def test_a_head_travels_in_ascii() -> None:
    assert json.loads(encode_head(OwnerFrame(worker="ü😀"))) == {"worker": "ü😀"}
    assert encode_head(OwnerFrame(worker="ü😀")).isascii()


# one attempt


def data_frame(seq: int, size: int = 1) -> Frame:
    return Frame(Kind.DATA, seq, b"x" * size)


async def test_frames_come_out_in_the_order_they_came_in() -> None:
    attempt = Attempt("a1", "inbox")
    for seq in range(5):
        attempt.deliver(data_frame(seq))

    assert [(await attempt.next(1)).seq for _ in range(5)] == [0, 1, 2, 3, 4]  # type: ignore[union-attr]  # a double stands in
    assert attempt.take() is None


async def test_who_waits_gets_the_frame_when_it_comes_and_nothing_when_none_does() -> None:
    attempt = Attempt("a1", "inbox")
    waiting = asyncio.create_task(attempt.next(5))
    await asyncio.sleep(0)
    attempt.deliver(data_frame(7))

    frame = await waiting
    assert frame is not None
    assert frame.seq == 7
    assert await attempt.next(0.001) is None


async def test_a_worker_within_its_credit_fits_also_when_one_frame_overshoots() -> None:
    attempt = Attempt("a1", "inbox")
    sent = 0
    seq = 0
    while sent < WINDOW_BYTES:
        attempt.deliver(data_frame(seq, FRAME_BYTES - 1))
        sent += FRAME_BYTES - 1
        seq += 1

    frames = [await attempt.next(1) for _ in range(seq)]
    assert {frame.kind for frame in frames if frame} == {Kind.DATA}


def kept(attempt: Attempt) -> list[Frame]:
    frames = []
    while (frame := attempt.take()) is not None:
        frames.append(frame)
    return frames


@pytest.mark.parametrize("size", [0, 1, FRAME_BYTES])
def test_a_worker_that_ignores_its_credit_fills_no_memory_and_is_found_out(size: int) -> None:
    attempt = Attempt("a1", "inbox")
    for seq in range(3 * MAX_FRAMES):
        attempt.deliver(data_frame(seq, size))

    frames = kept(attempt)
    assert len(frames) <= MAX_FRAMES + 1
    assert sum(len(frame.data) for frame in frames) <= WINDOW_BYTES + 2 * FRAME_BYTES
    gap = next(number for number, frame in enumerate(frames) if frame.seq != number)
    assert frames[gap].kind is Kind.ERROR
    assert all(frame.kind is Kind.DATA for frame in frames[:gap])


def test_after_a_gap_nothing_more_is_taken_for_data() -> None:
    attempt = Attempt("a1", "inbox")
    for seq in range(MAX_FRAMES + 1):
        attempt.deliver(data_frame(seq))
    assert len(kept(attempt)) == MAX_FRAMES + 1

    attempt.deliver(data_frame(MAX_FRAMES + 1))
    assert [frame.kind for frame in kept(attempt)] != [Kind.DATA]


# all attempts


class Bus:
    """Keeps the callback of the one subscription."""

    is_closed = False

    def __init__(self) -> None:
        self.subjects: list[str] = []
        self.callback: Any = None

    async def subscribe(self, subject: str, *, cb: Any, **_: Any) -> None:
        self.subjects.append(subject)
        self.callback = cb


async def test_one_subscription_serves_all_attempts_and_each_gets_its_own_frames() -> None:
    bus = Bus()
    inbox = RelayInbox(cast("Client", bus), "g1")
    await inbox.start()
    with inbox.attempt() as one, inbox.attempt() as other:
        assert one.inbox != other.inbox
        await bus.callback(message(b"1", frame_headers(Kind.DATA, 0), subject=one.inbox))
        await bus.callback(message(b"2", frame_headers(Kind.DATA, 0), subject=other.inbox))
        await bus.callback(message(b"?", {}, subject=one.inbox))
        await bus.callback(message(b"3", frame_headers(Kind.DATA, 1), subject="_INBOX_gw.g1.unknown"))

        assert [frame.data for frame in kept(one)] == [b"1"]
        assert [frame.data for frame in kept(other)] == [b"2"]
    assert bus.subjects == ["_INBOX_gw.g1.*"]


async def test_a_frame_that_comes_after_its_attempt_is_dropped() -> None:
    bus = Bus()
    inbox = RelayInbox(cast("Client", bus), "g1")
    await inbox.start()
    with inbox.attempt() as attempt:
        pass
    await bus.callback(message(b"1", frame_headers(Kind.DATA, 0), subject=attempt.inbox))

    assert attempt.take() is None
    assert len(inbox) == 0


def test_more_attempts_than_the_buffer_is_made_for_are_refused() -> None:
    inbox = RelayInbox(cast("Client", Bus()), "g1")
    inbox._attempts = {str(number): Attempt(str(number), "") for number in range(inbox.max_attempts)}

    with pytest.raises(ApiError) as caught, inbox.attempt():
        pass
    assert caught.value.code == "overloaded"


@pytest.mark.parametrize(("before", "now"), [(0.02, 0.1), (30.0, 0.1)])
async def test_a_wait_ends_at_its_own_time_whatever_was_waited_for_before(before: float, now: float) -> None:
    loop = asyncio.get_running_loop()
    attempt = Attempt("a1", "_INBOX_gw.g1.a1")
    loop.call_soon(attempt.deliver, Frame(Kind.DATA, 0, b"x"))
    assert await attempt.next(before) is not None

    started = loop.time()
    async with asyncio.timeout(10):
        assert await attempt.next(now) is None
    assert loop.time() - started >= now - 0.005
    attempt.close()
