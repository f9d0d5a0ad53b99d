"""One prompt's body, credit and frames, without a bus."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from morpheus_common.bus.frames import FRAME_BYTES, Kind
from morpheus_common.bus.names import Header
from morpheus_common.contracts.chat import AcceptFrame, AnswerHead
from morpheus_common.errors import ApiError
from morpheus_sessions.prompts import Prompt
from nats.aio.client import Client

from tests.unit.sessions.samples import prompt_head

SESSION = "0x" + "5" * 64


class Bus:
    """Keeps what is published."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes, dict[str, str]]] = []

    async def publish(self, subject: str, payload: bytes, *, headers: dict[str, str]) -> None:
        self.sent.append((subject, payload, headers))

    @property
    def data(self) -> bytes:
        return b"".join(payload for _, payload, headers in self.sent if headers[Header.KIND] == Kind.DATA)

    def kinds(self) -> list[str]:
        return [headers[Header.KIND] for _, _, headers in self.sent]


def prompt(bus: Bus, *, body_bytes: int = 0, **head_fields: Any) -> Prompt:
    head = prompt_head(body_bytes=body_bytes, **head_fields)
    return Prompt(head, "_INBOX_gw.g1.a1", cast("Client", bus))


@pytest.fixture
async def running() -> AsyncIterator[list[asyncio.Task[Any]]]:
    tasks: list[asyncio.Task[Any]] = []
    yield tasks
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


# the body


@given(pieces=st.lists(st.binary(max_size=20), max_size=6), credit_at=st.integers(0, 6))
def test_a_prompt_is_complete_exactly_when_its_whole_body_and_the_first_credit_are_here(
    pieces: list[bytes], credit_at: int
) -> None:
    whole = b"".join(pieces)
    sent = prompt(Bus(), body_bytes=len(whole) + 1)
    sent.start_body(b"{")
    for number, piece in enumerate(pieces):
        if number == credit_at:
            sent.give_credit(1)
        assert sent.is_complete == (len(sent.body) == len(whole) + 1 and number >= credit_at)
        sent.add_body(piece, number)
    assert bytes(sent.body) == b"{" + whole
    assert sent.is_complete == (len(pieces) > credit_at)
    assert not sent.gone


@pytest.mark.parametrize("seqs", [[1], [0, 2], [0, 0], [0, 1, 1]])
def test_a_body_frame_that_is_missing_or_comes_twice_spoils_the_attempt(seqs: list[int]) -> None:
    sent = prompt(Bus(), body_bytes=100)
    for seq in seqs:
        sent.add_body(b"x", seq)
    assert sent.gone
    sent.give_credit(1)
    assert not sent.is_complete


def test_more_body_than_announced_is_not_kept() -> None:
    sent = prompt(Bus(), body_bytes=3)
    sent.add_body(b"abcd", 0)
    assert sent.gone
    assert sent.body == b""


# credit


async def test_nothing_is_sent_before_there_is_credit(running: list[asyncio.Task[Any]]) -> None:
    bus = Bus()
    sent = prompt(bus)
    running.append(asyncio.create_task(sent.send(b"hello")))
    await settle()
    assert bus.data == b""

    sent.give_credit(1)
    await running[0]
    assert bus.data == b"hello"


async def test_one_frame_may_overshoot_the_credit_and_the_next_waits(running: list[asyncio.Task[Any]]) -> None:
    bus = Bus()
    sent = prompt(bus)
    sent.give_credit(4)
    await sent.send(b"12345678")
    running.append(asyncio.create_task(sent.send(b"9")))
    await settle()
    assert bus.data == b"12345678"
    assert sent.waits_for_credit

    sent.give_credit(8)
    await settle()
    assert bus.data == b"12345678"

    sent.give_credit(9)
    await running[0]
    assert bus.data == b"123456789"


async def test_credit_that_is_repeated_or_comes_late_does_no_harm(running: list[asyncio.Task[Any]]) -> None:
    bus = Bus()
    sent = prompt(bus)
    for absolute in (5, 5, 3, 0):
        sent.give_credit(absolute)
    await sent.send(b"12345")
    running.append(asyncio.create_task(sent.send(b"6")))
    sent.give_credit(5)
    await settle()
    assert bus.data == b"12345"


async def test_a_large_event_goes_in_frames_of_which_each_but_the_last_says_more() -> None:
    bus = Bus()
    sent = prompt(bus)
    sent.give_credit(10 * FRAME_BYTES)
    data = bytes(range(256)) * (FRAME_BYTES // 100)

    await sent.send(data)

    assert bus.data == data
    assert all(len(payload) <= FRAME_BYTES for _, payload, _ in bus.sent)
    assert [Header.MORE in headers for _, _, headers in bus.sent] == [True] * (len(bus.sent) - 1) + [False]


async def test_credit_that_came_with_the_start_counts_as_any_other(running: list[asyncio.Task[Any]]) -> None:
    bus = Bus()
    sent = prompt(bus, body_bytes=2, credit=4)
    sent.start_body(b"{")
    assert not sent.is_complete
    sent.add_body(b"}", 0)
    assert sent.is_complete

    await sent.send(b"1234")
    running.append(asyncio.create_task(sent.send(b"5")))
    await settle()
    assert bus.data == b"1234"


# frames


async def test_every_frame_has_the_next_number_whatever_its_kind() -> None:
    bus = Bus()
    sent = prompt(bus)
    sent.give_credit(100)
    await sent.accept(AcceptFrame(worker="w1"))
    await sent.beat()
    await sent.send(b"a")
    await sent.beat()
    await sent.end()

    assert [int(headers[Header.SEQ]) for _, _, headers in bus.sent] == [0, 1, 2, 3, 4]
    assert bus.kinds() == ["accept", "beat", "data", "beat", "end"]
    assert {subject for subject, _, _ in bus.sent} == {"_INBOX_gw.g1.a1"}


async def test_what_the_answer_is_about_comes_with_its_first_data_frame_only() -> None:
    bus = Bus()
    sent = prompt(bus)
    sent.give_credit(100)
    sent.announce(AnswerHead(model="m", session_id=SESSION, provider="0xp"))
    await sent.send(b"a")
    await sent.send(b"b")

    first, second = (headers.get(Header.HEAD) for _, _, headers in bus.sent)
    told = json.loads(first or "")
    assert told.pop("elsewhere") >= 0
    assert told == {"model": "m", "session_id": SESSION, "provider": "0xp"}
    assert second is None


async def test_the_gateway_is_told_how_long_a_prompt_waited_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of the time to the first byte is ours, and measured there."""
    now = 100.0
    monkeypatch.setattr("morpheus_sessions.prompts.time.monotonic", lambda: now)
    bus = Bus()
    sent = prompt(bus)
    sent.give_credit(100)
    sent.waited(2.0)
    now += 10  # of our own
    sent.announce(AnswerHead(model="m", session_id=SESSION, provider="0xp"))
    now += 5  # a provider that fails, and the next session
    sent.waited(4.0)
    sent.announce(AnswerHead(model="m", session_id=SESSION, provider="0xq"))
    now += 1
    await sent.send(b"a")

    assert json.loads(bus.sent[0][2][Header.HEAD])["elsewhere"] == 2 + 5 + 1


async def test_an_error_in_any_script_travels_in_ascii() -> None:
    bus = Bus()
    await prompt(bus).fail(ApiError("provider_rejected", "zu groß … 😀\r\nX-Injected: 1"), upstream_code="too_long")

    head = bus.sent[0][2][Header.HEAD]
    assert head.isascii()
    assert "\n" not in head
    assert "\r" not in head
    assert json.loads(head)["message"] == "zu groß … 😀\r\nX-Injected: 1"
    assert json.loads(head)["not_sent"] is False


# leaving


async def test_leaving_ends_a_prompt_at_once(running: list[asyncio.Task[Any]]) -> None:
    sent = prompt(Bus())
    sent.task = asyncio.create_task(sent.complete())
    running.append(sent.task)
    await settle()
    sent.leave()
    with pytest.raises(asyncio.CancelledError):
        await sent.task
    assert sent.gone


async def test_a_prompt_that_the_router_runs_to_its_end_keeps_running_when_its_client_leaves(
    running: list[asyncio.Task[Any]],
) -> None:
    sent = prompt(Bus())
    sent.task = asyncio.create_task(sent.complete())
    running.append(sent.task)
    sent.interruptible = False
    await settle()
    sent.leave()
    await settle()
    assert sent.gone
    assert not sent.task.done()


async def test_the_last_piece_says_that_it_is_the_end_to_a_gateway_that_knows_this() -> None:
    bus = Bus()
    sent = prompt(bus, credit=10 * FRAME_BYTES, takes_last=True)
    await sent.send(b"a")
    await sent.send(b"b" * (FRAME_BYTES + 1), last=True)
    await sent.end()

    assert bus.kinds() == ["data", "data", "last"]
    assert [Header.MORE in headers for _, _, headers in bus.sent] == [False, True, False]


async def test_a_gateway_that_knows_no_last_piece_is_told_of_the_end_by_itself() -> None:
    bus = Bus()
    sent = prompt(bus, credit=100)
    await sent.send(b"a", last=True)
    await sent.end()

    assert bus.kinds() == ["data", "end"]
