"""Prompts that go wrong: who is told what, and what never happens twice."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import openai
import pytest
from morpheus_common.bus.frames import WINDOW_BYTES, Kind
from morpheus_common.contracts.auth import CHECK_KEY, Caller, CheckKey
from morpheus_devstack.waiting import poll
from morpheus_gateway.relay import RelayTimes
from openai.types.chat import ChatCompletionMessageParam

from tests.service.gateway.conftest import House, MakeHouse
from tests.service.gateway.fakes import (
    FakePrompt,
    FakeWorker,
    Script,
    answer_with_echo,
    chunk,
    completion,
    sse,
)

# one wait each is short: the others must not run out on a machine that is busy
UNHEARD = RelayTimes(accept=0.25)
SILENT = RelayTimes(accept=5.0, silence=0.4, credit_repeat=0.1)
STALLED = RelayTimes(accept=5.0, credit_repeat=0.1, slow_client=0.4)
HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "how are you"}]


def error_of(response: httpx2.Response) -> dict[str, Any]:
    """Return the error, after checking the form that every one has."""
    error: dict[str, Any] = response.json()["error"]
    assert {"message", "type", "param", "code"} <= error.keys()
    assert response.headers["x-request-id"]
    assert response.headers["x-should-retry"] in {"true", "false"}
    return error


def events_of(stream: bytes) -> list[str]:
    return [event.removeprefix("data: ") for event in stream.decode().split("\n\n") if event]


def takes(then: Script) -> Script:
    """A worker that accepts, waits for body and credit, and then …"""

    async def script(prompt: FakePrompt) -> None:
        await prompt.accept()
        await prompt.complete()
        await then(prompt)

    return script


def first_then(first: Script, then: Script) -> Script:
    """A worker that does one thing with the first attempt and another with all later ones."""
    count = 0

    async def script(prompt: FakePrompt) -> None:
        nonlocal count
        count += 1
        await (first if count == 1 else then)(prompt)

    return script


async def ignore(_: FakePrompt) -> None:
    return


# the caller


async def test_a_known_key_is_checked_while_a_worker_makes_ready(house: House) -> None:
    """The check adds nothing to the first byte: auth's answer comes after the worker has the prompt, and before its accept."""
    await house.chat()
    house.gateway.let_callers_age(1.0)
    order: list[str] = []
    worker_has_it, checked = asyncio.Event(), asyncio.Event()

    async def answer_when_the_worker_has_it(question: CheckKey) -> Caller:
        await worker_has_it.wait()
        order.append("checked")
        checked.set()
        return await house.auth._check_key(question)

    async def accept_when_checked(prompt: FakePrompt) -> None:
        order.append("worker has the prompt")
        worker_has_it.set()
        await checked.wait()
        await answer_with_echo(prompt)

    await house.auth.answer(CHECK_KEY, answer_when_the_worker_has_it)
    house.worker.script = accept_when_checked
    assert (await house.chat()).status_code == 200
    assert order == ["worker has the prompt", "checked"]


async def test_credit_waits_for_the_caller_check(house: House) -> None:
    await house.chat()
    house.gateway.let_callers_age(1.0)
    house.auth.check_delay = 0.3
    asked = time.monotonic()
    assert (await house.chat()).status_code == 200
    prompt = house.worker.prompts[1]
    assert prompt.credits[0][0] - asked >= 0.3
    assert len(house.auth.asked["check_key"]) == 2


async def test_a_revoked_key_gets_no_credit(house: House) -> None:
    """C5: the worker makes ready by what was known, but nothing is sent to a provider."""
    await house.chat()
    house.auth.revoke(house.key)
    house.gateway.let_callers_age(1.0)
    response = await house.chat()
    assert response.status_code == 401
    assert error_of(response)["code"] == "invalid_api_key"
    assert response.headers["www-authenticate"] == "Bearer"
    prompt = await house.worker.nth(2)
    await prompt.until(prompt.cancelled.is_set)
    assert prompt.credits == []
    checks = len(house.auth.asked["check_key"])
    assert (await house.chat()).status_code == 401
    assert len(house.auth.asked["check_key"]) == checks, "a wrong key is remembered for a while"


async def test_without_an_answer_of_auth_nobody_is_admitted(house: House) -> None:
    await house.chat()
    house.gateway.let_callers_age(1.0)
    house.auth.check_delay = 5.0
    response = await house.chat()
    assert response.status_code == 503
    assert error_of(response)["code"] == "service_unavailable"
    assert house.worker.prompts[1].credits == []


async def test_requests_at_once_share_one_question_to_auth(house: House) -> None:
    house.auth.check_delay = 0.1
    await asyncio.gather(*(house.chat() for _ in range(10)))
    assert len(house.auth.asked["check_key"]) == 1


async def test_a_key_without_the_scope_cannot_chat(house: House) -> None:
    house.key = house.auth.add_key(scopes=["sessions"])
    response = await house.chat()
    assert response.status_code == 403
    assert error_of(response)["code"] == "insufficient_scope"


async def test_a_key_limited_to_models_uses_no_other(house: House) -> None:
    house.key = house.auth.add_key(allowed_models=[house.sessions.models[0].id])
    assert error_of(await house.chat())["code"] == "model_not_allowed"
    assert (await house.chat(model="llama-3-3-70b")).status_code == 200
    assert error_of(await house.chat(model=None))["code"] == "missing_required_parameter"


async def test_an_access_token_cannot_chat(house: House) -> None:
    response = await house.chat(headers=house.by_token)
    assert response.status_code == 401
    assert error_of(response)["code"] == "wrong_credential_kind"


async def test_a_model_of_another_type_cannot_chat(house: House) -> None:
    """F27"""
    response = await house.chat(model="nomic-embed")
    assert response.status_code == 400
    assert error_of(response)["code"] == "model_type_mismatch"


# attempts


async def test_a_lost_start_is_made_again_with_a_new_token(make_house: MakeHouse) -> None:
    house = await make_house(times=UNHEARD)
    house.worker.script = first_then(ignore, answer_with_echo)
    assert (await house.chat()).status_code == 200
    first, second = house.worker.prompts
    assert first.head.attempt != second.head.attempt
    assert first.credits == []


async def test_a_worker_that_accepts_too_late_is_told_so(make_house: MakeHouse) -> None:
    house = await make_house(times=UNHEARD)
    second_started = asyncio.Event()
    accepted = asyncio.Event()

    async def late(prompt: FakePrompt) -> None:
        await second_started.wait()
        await prompt.accept()
        accepted.set()

    async def second(prompt: FakePrompt) -> None:
        second_started.set()
        first = house.worker.prompts[0]
        await accepted.wait()
        await prompt.accept()
        # the first stands in line before this one: until it is gone, this one's turn does not come
        await first.until(first.cancelled.is_set, seconds=2.0)
        await prompt.complete()
        await prompt.data(json.dumps(completion("done")).encode(), first=True)
        await prompt.end()

    house.worker.script = first_then(late, second)
    assert (await house.chat()).status_code == 200
    assert house.worker.prompts[0].credits == []


async def test_a_worker_that_accepts_when_the_client_has_left_is_told_so(house: House) -> None:
    """C33, F16"""
    left = asyncio.Event()

    async def accepts_late(prompt: FakePrompt) -> None:
        await left.wait()
        await prompt.accept()

    house.worker.script = accepts_late
    asking = asyncio.create_task(house.chat())
    prompt = await house.worker.nth(1)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert await poll(nobody_waits(house), seconds=5)
    left.set()
    await prompt.until(prompt.cancelled.is_set)
    assert prompt.credits == []


def nobody_waits(house: House) -> Callable[[], Awaitable[bool]]:
    async def is_empty() -> bool:
        return not house.gateway.context.inbox

    return is_empty


async def test_three_starts_that_nobody_takes_are_the_end(make_house: MakeHouse) -> None:
    house = await make_house(times=UNHEARD)
    house.worker.script = ignore
    response = await house.chat()
    assert response.status_code == 503
    assert error_of(response)["code"] == "service_unavailable"
    assert response.headers["retry-after"] == "1"
    assert response.headers["x-should-retry"] == "true"
    assert len(house.worker.prompts) == 3


async def test_without_any_worker_the_client_knows_at_once(make_house: MakeHouse) -> None:
    house = await make_house(times=RelayTimes(accept=10.0))
    await house.worker.stop()
    asked = time.monotonic()
    response = await house.chat()
    assert time.monotonic() - asked < 5, "not even one wait for an accept"
    assert response.status_code == 503
    assert response.headers["x-should-retry"] == "true"


async def test_workers_that_send_a_prompt_round_in_circles_are_stopped(house: House) -> None:
    other = FakeWorker(house.worker.connection, "w2", shares=False)
    await other.start()

    async def to_other(prompt: FakePrompt) -> None:
        await prompt.owner("w2")

    async def back(prompt: FakePrompt) -> None:
        await prompt.owner("w1")

    house.worker.script, other.script = to_other, back
    assert (await house.chat()).status_code == 503
    assert len(house.worker.prompts) + len(other.prompts) == 6


async def test_what_was_not_sent_goes_to_the_owner_the_worker_names(house: House) -> None:
    owner = FakeWorker(house.worker.connection, "w2", shares=False)
    await owner.start()

    async def gave_it_up(prompt: FakePrompt) -> None:
        await prompt.error("service_unavailable", not_sent=True, owner="w2")

    house.worker.script = takes(gave_it_up)
    assert (await house.chat("again")).json()["choices"][0]["message"]["content"] == "again"
    assert [prompt.addressed for prompt in owner.prompts] == [True]


async def test_what_was_not_sent_is_sent_again_once_only(house: House) -> None:
    async def gave_it_up(prompt: FakePrompt) -> None:
        await prompt.error("provider_overloaded", not_sent=True, retry_after=7)

    house.worker.script = takes(gave_it_up)
    response = await house.chat()
    assert (response.status_code, response.headers["retry-after"]) == (503, "7")
    assert len(house.worker.prompts) == 2


async def test_after_credit_an_error_is_final(house: House) -> None:
    async def fails(prompt: FakePrompt) -> None:
        await prompt.error("session_lost")

    house.worker.script = takes(fails)
    response = await house.chat()
    assert (response.status_code, error_of(response)["code"]) == (502, "session_lost")
    assert len(house.worker.prompts) == 1


# lost workers


async def test_silence_before_the_first_byte_is_a_lost_worker_and_no_reason_to_send_again(
    make_house: MakeHouse,
) -> None:
    house = await make_house(times=SILENT)
    house.worker.script = takes(ignore)
    response = await house.chat(stream=True)
    assert (response.status_code, error_of(response)["code"]) == (503, "service_unavailable")
    assert response.headers["x-should-retry"] == "false", "the prompt may be running"
    assert len(house.worker.prompts) == 1


async def test_beats_keep_a_silent_worker_alive(make_house: MakeHouse) -> None:
    house = await make_house(times=SILENT)

    async def thinks(prompt: FakePrompt) -> None:
        for _ in range(6):
            await asyncio.sleep(0.15)
            await prompt.beat()
        await prompt.data(json.dumps(completion("at last")).encode(), first=True)
        await prompt.end()

    house.worker.script = takes(thinks)
    assert (await house.chat()).status_code == 200


async def test_silence_in_a_stream_is_told_as_truncation(make_house: MakeHouse) -> None:
    """F21, B2: a stream that just ended would look like success."""
    house = await make_house(times=SILENT)

    async def stops(prompt: FakePrompt) -> None:
        await prompt.data(sse(chunk("half")), first=True)

    house.worker.script = takes(stops)
    response = await house.chat(stream=True)
    assert response.status_code == 200
    half, error, done = events_of(response.content)
    assert json.loads(half)["choices"][0]["delta"]["content"] == "half"
    assert json.loads(error)["error"]["code"] == "stream_truncated"
    assert done == "[DONE]"


async def test_a_gap_in_a_stream_is_told_as_truncation(house: House) -> None:
    async def loses(prompt: FakePrompt) -> None:
        await prompt.data(sse(chunk("one")), first=True)
        prompt.lose_a_frame()
        await prompt.data(sse(chunk("three")))
        await prompt.end()

    house.worker.script = takes(loses)
    events = events_of((await house.chat(stream=True)).content)
    assert "three" not in "".join(events)
    assert json.loads(events[-2])["error"]["code"] == "stream_truncated"
    prompt = house.worker.prompts[0]
    await prompt.until(prompt.cancelled.is_set)


async def test_a_gap_in_a_json_answer_is_an_error_and_no_half_object(house: House) -> None:
    async def loses(prompt: FakePrompt) -> None:
        await prompt.data(b'{"choices"', first=True, more=True)
        prompt.lose_a_frame()
        await prompt.data(b"[]}")
        await prompt.end()

    house.worker.script = takes(loses)
    response = await house.chat()
    assert (response.status_code, error_of(response)["code"]) == (502, "stream_truncated")


@pytest.mark.parametrize("stream", [True, False])
async def test_an_end_without_an_answer_is_an_error(house: House, stream: bool) -> None:
    """F20: an empty 200 helps nobody."""

    async def ends(prompt: FakePrompt) -> None:
        await prompt.end()

    house.worker.script = takes(ends)
    response = await house.chat(stream=stream)
    assert (response.status_code, error_of(response)["code"]) == (502, "provider_error")


async def test_a_frame_of_an_unknown_kind_of_error_is_not_passed_on(house: House) -> None:
    async def fails(prompt: FakePrompt) -> None:
        await prompt.send(Kind.ERROR)

    house.worker.script = takes(fails)
    response = await house.chat()
    assert (response.status_code, error_of(response)["code"]) == (500, "internal_error")


# what a stream tells before and after its status is out


async def test_an_error_before_the_first_event_has_its_real_status(house: House) -> None:
    """F19, B3"""

    async def rejects(prompt: FakePrompt) -> None:
        await prompt.error(
            "provider_rejected", "Too long: ärger.", param="messages", upstream_code="context_length_exceeded"
        )

    house.worker.script = takes(rejects)
    response = await house.chat(stream=True)
    assert response.status_code == 400
    assert error_of(response) == {
        "message": "Too long: ärger.",
        "type": "invalid_request_error",
        "param": "messages",
        "code": "context_length_exceeded",
    }
    assert response.headers["x-should-retry"] == "false"


async def test_openais_client_raises_on_an_error_in_the_stream(house: House) -> None:
    async def breaks(prompt: FakePrompt) -> None:
        await prompt.data(sse(chunk("half")), first=True)
        await prompt.error("provider_timeout")

    house.worker.script = takes(breaks)
    words = []
    async with house.openai as client:
        stream = await client.chat.completions.create(model="mistral-small", messages=HELLO, stream=True)

        async def read() -> None:
            async for event in stream:
                words.append(event.choices[0].delta.content)  # noqa: PERF401 - what came before the error counts

        with pytest.raises(openai.APIError) as caught:
            await read()
    assert words == ["half"]
    assert caught.value.code == "provider_timeout"


async def test_a_broken_event_does_not_swallow_the_error_after_it(house: House) -> None:
    async def breaks(prompt: FakePrompt) -> None:
        await prompt.data(b'data: {"choices": [', first=True, more=True)
        await prompt.error("provider_error")

    house.worker.script = takes(breaks)
    events = events_of((await house.chat(stream=True)).content)
    assert json.loads(events[-2])["error"]["code"] == "provider_error"


async def test_the_status_goes_out_when_the_wait_was_long_and_comments_only_after_it(make_house: MakeHouse) -> None:
    house = await make_house(stream_commit=0.3, keep_alive=0.1)
    waited = asyncio.Event()

    async def slow(prompt: FakePrompt) -> None:
        await waited.wait()
        await prompt.data(sse(chunk("late")) + b"data: [DONE]\n\n", first=True)
        await prompt.end()

    house.worker.script = takes(slow)
    asked = time.monotonic()
    async with streaming(house) as response:
        assert time.monotonic() - asked > 0.25
        assert response.status_code == 200
        assert "x-morpheus-model" not in response.headers
        pieces = response.aiter_raw()
        assert await anext(pieces) == b": keep-alive\n\n"
        waited.set()
        rest = b"".join([piece async for piece in pieces])
    assert rest.endswith(sse(chunk("late")) + b"data: [DONE]\n\n")


async def test_an_error_after_a_long_wait_is_an_event(make_house: MakeHouse) -> None:
    house = await make_house(stream_commit=0.1)

    async def fails(prompt: FakePrompt) -> None:
        await asyncio.sleep(0.25)
        await prompt.error("no_provider_available", retry_after=5, details={"reasons": ["no_capacity"]})

    house.worker.script = takes(fails)
    response = await house.chat(stream=True)
    assert response.status_code == 200
    error, done = events_of(response.content)
    assert json.loads(error)["error"]["code"] == "no_provider_available"
    assert json.loads(error)["error"]["details"] == {"reasons": ["no_capacity"]}
    assert done == "[DONE]"


async def test_no_comment_breaks_an_event(make_house: MakeHouse) -> None:
    house = await make_house(keep_alive=0.1)

    async def pauses(prompt: FakePrompt) -> None:
        await prompt.data(b'data: {"choices":', first=True, more=True)
        await asyncio.sleep(0.35)
        await prompt.data(b" []}\n\ndata: [DONE]\n\n")
        await prompt.end()

    house.worker.script = takes(pauses)
    assert (await house.chat(stream=True)).content == b'data: {"choices": []}\n\ndata: [DONE]\n\n'


# clients that leave, or take their time


@asynccontextmanager
async def streaming(house: House, *, stream: bool = True) -> AsyncIterator[httpx2.Response]:
    body = {"messages": HELLO, "stream": stream}
    async with house.http.stream("POST", "/v1/chat/completions", json=body, headers=house.by_key) as response:
        yield response


@asynccontextmanager
async def raw_request(house: House, *, stream: bool, receive_buffer: int | None = None) -> AsyncIterator[Any]:
    """A client at the level of its socket. Yields reader and writer."""
    body = json.dumps({"messages": HELLO, "stream": stream}).encode()
    limit = receive_buffer or 2**16
    reader, writer = await asyncio.open_connection("127.0.0.1", house.gateway.port, limit=limit)
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n"
        + f"Authorization: Bearer {house.key}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    try:
        yield reader, writer
    finally:
        writer.close()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_before_the_answer_takes_its_prompt_back(house: House, stream: bool) -> None:
    """F16, B16"""
    house.worker.script = takes(ignore)
    async with raw_request(house, stream=stream):
        prompt = await house.worker.nth(1)
        await prompt.complete()
    await prompt.until(prompt.cancelled.is_set, seconds=3.0)


async def test_a_client_that_leaves_in_the_middle_takes_its_prompt_back(house: House) -> None:
    async def half(prompt: FakePrompt) -> None:
        await prompt.data(sse(chunk("half")), first=True)

    house.worker.script = takes(half)
    async with raw_request(house, stream=True) as (reader, _):
        await reader.readuntil(b"half")
    prompt = await house.worker.nth(1)
    await prompt.until(prompt.cancelled.is_set, seconds=3.0)


async def test_a_client_that_leaves_before_anyone_accepted_takes_its_prompt_back(house: House) -> None:
    await house.chat()
    house.worker.script = ignore
    async with raw_request(house, stream=True):
        prompt = await house.worker.nth(2)
    await prompt.until(prompt.cancelled.is_set, seconds=3.0)


async def test_a_complete_answer_is_not_cancelled(house: House) -> None:
    async with raw_request(house, stream=True) as (reader, _):
        await reader.readuntil(b"[DONE]")
    await house.chat()
    assert not house.worker.prompts[0].cancelled.is_set()
    assert len(house.gateway.context.inbox) == 0, "no attempt is left open"


async def test_credit_is_repeated_so_that_the_worker_knows_we_are_there(make_house: MakeHouse) -> None:
    house = await make_house(times=SILENT)

    async def thinks(prompt: FakePrompt) -> None:
        await prompt.until(lambda: len(prompt.credits) > 3)
        await prompt.data(json.dumps(completion("done")).encode(), first=True)
        await prompt.end()

    async def thinks_and_beats(prompt: FakePrompt) -> None:
        thinking = asyncio.ensure_future(thinks(prompt))
        while not thinking.done():
            await asyncio.sleep(0.1)
            await prompt.beat()

    house.worker.script = takes(thinks_and_beats)
    await house.chat()
    assert {credit for _, credit in house.worker.prompts[0].credits} == {WINDOW_BYTES}


async def test_a_slow_client_stops_the_worker_and_gets_everything_in_the_end(house: House) -> None:
    """C17: what a slow reader makes us hold is bounded, however long the answer is."""
    event = b"data: " + b"x" * 65_000 + b"\n\n"
    total = 400

    async def pours(prompt: FakePrompt) -> None:
        for number in range(total):
            await prompt.data(event, first=number == 0)
        await prompt.end()

    house.worker.script = takes(pours)
    async with raw_request(house, stream=True) as (reader, _):
        prompt = await house.worker.nth(1)
        await prompt.complete()
        before = -1
        while prompt.sent != before:
            before = prompt.sent
            await asyncio.sleep(0.3)
        # sockets hold megabytes on loopback; the rest of 26 MB stays with the worker
        assert before < total * len(event) / 2
        held = house.gateway.context.inbox._attempts[prompt.head.attempt]._bytes
        assert held <= WINDOW_BYTES + 2 * len(event)
        received = 0
        while not (piece := await reader.read(2**20)).endswith(b"0\r\n\r\n"):
            received += len(piece)
    assert prompt.sent == total * len(event)


async def test_a_client_that_takes_nothing_is_cut_off(make_house: MakeHouse) -> None:
    house = await make_house(times=STALLED)
    event = b"data: " + b"x" * 65_000 + b"\n\n"

    async def pours(prompt: FakePrompt) -> None:
        while not prompt.cancelled.is_set():
            await prompt.data(event, first=prompt.sent == 0)

    async def pours_and_beats(prompt: FakePrompt) -> None:
        pouring = asyncio.ensure_future(pours(prompt))
        while not prompt.cancelled.is_set():
            await asyncio.sleep(0.1)
            await prompt.beat()
        pouring.cancel()

    house.worker.script = takes(pours_and_beats)
    async with raw_request(house, stream=True):
        prompt = await house.worker.nth(1)
        await prompt.until(prompt.cancelled.is_set)
