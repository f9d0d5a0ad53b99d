"""Cutting a provider's bytes into events, however they arrive."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from morpheus_sessions.sse import MAX_EVENT_BYTES, EventSplitter

ENDS = [b"\n", b"\r\n", b"\r"]

line = st.binary(min_size=1, max_size=12).filter(lambda data: not set(data) & {10, 13})
events = st.lists(st.lists(line, min_size=1, max_size=2), max_size=5)


def split(stream: bytes, cuts: list[int]) -> list[bytes]:
    splitter = EventSplitter()
    found: list[bytes] = []
    borders = [0, *sorted({cut % (len(stream) + 1) for cut in cuts}), len(stream)]
    for start, end in pairwise(borders):
        found += splitter.feed(stream[start:end])
    return [*found, *splitter.rest()[0]]


def encoded(wanted: list[list[bytes]], line_ends: list[bytes]) -> bytes:
    """The events as a stream whose lines end as `line_ends` says, in turn. A lone CR before LF would be one end."""
    lines = [part for event in wanted for part in (*(b"data: " + data for data in event), b"")]
    out = b""
    for number, text in enumerate(lines):
        end = line_ends[number % len(line_ends)]
        if not text and end == b"\n" and out.endswith(b"\r"):
            end = b"\r"
        out += text + end
    return out


@given(wanted=events, line_ends=st.lists(st.sampled_from(ENDS), min_size=1, max_size=4), cuts=st.lists(st.integers(0)))
def test_events_are_the_same_wherever_the_stream_is_cut(
    wanted: list[list[bytes]], line_ends: list[bytes], cuts: list[int]
) -> None:
    assert split(encoded(wanted, line_ends), cuts) == [b"\n".join(event) for event in wanted]


@pytest.mark.parametrize("end", ENDS)
def test_events_come_through_one_byte_at_a_time(end: bytes) -> None:
    stream = end.join([b"data: one", b"", b": a comment", b"data: two", b"data: lines", b"", b"data:three", b"", b""])

    assert split(stream, list(range(len(stream)))) == [b"one", b"two\nlines", b"three"]


def test_a_blank_line_after_crlf_ends_the_event_also_when_each_byte_comes_alone() -> None:
    assert split(b"data: x\r\n\ndata: y\r\n\n", list(range(21))) == [b"x", b"y"]


def test_comments_and_other_fields_are_dropped() -> None:
    stream = b": keep-alive\n\nevent: message\nid: 7\nretry: 10\ndata: x\n\n: bye\n\n"

    assert split(stream, []) == [b"x"]


def test_only_one_space_after_the_colon_belongs_to_the_form() -> None:
    assert split(b"data:  x\n\n", []) == [b" x"]


def test_an_event_without_its_closing_blank_line_is_found_at_the_end() -> None:
    assert split(b"data: x", []) == [b"x"]


def test_a_raw_error_object_is_kept_apart_from_events() -> None:
    splitter = EventSplitter()
    splitter.feed(b'data: x\n\n{"error":"provider closed"}')

    assert splitter.rest() == ([], b'{"error":"provider closed"}')


@pytest.mark.parametrize("piece", [b"x" * 65_536, b"data: " + b"x" * 65_530 + b"\n", b"{" + b"x" * 65_534 + b"\n"])
def test_an_event_without_end_is_given_up_before_it_fills_the_memory(piece: bytes) -> None:
    splitter = EventSplitter()
    splitter.feed(b"data: ")

    for _ in range(2 * MAX_EVENT_BYTES // len(piece)):
        splitter.feed(piece)
        if splitter.overflows:
            break

    assert splitter.overflows


@pytest.mark.parametrize("cut", [0, 65_536])
@pytest.mark.parametrize("larger", [False, True])
def test_how_large_an_event_may_be_does_not_depend_on_the_pieces_it_comes_in(cut: int, larger: bool) -> None:
    """C35, C42"""
    stream = b"data: " + b"x" * (MAX_EVENT_BYTES + larger) + b"\r\n\r\n"
    splitter = EventSplitter()
    step = cut or len(stream)
    found = [event for at in range(0, len(stream), step) for event in splitter.feed(stream[at : at + step])]

    assert (len(found), splitter.overflows) == (1 - larger, larger)


def test_a_large_event_within_the_limit_passes() -> None:
    data = b"x" * (MAX_EVENT_BYTES // 2)

    assert split(b"data: " + data + b"\n\n", list(range(0, len(data), 65_536))) == [data]
