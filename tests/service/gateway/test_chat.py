"""Prompts that go well: OpenAI's own client, both modes, large bodies, sessions with an owner."""

import asyncio
import json
import random

import pytest
from morpheus_common.bus.frames import FRAME_BYTES, WINDOW_BYTES
from openai import AuthenticationError, NotFoundError
from openai.types.chat import ChatCompletionMessageParam

from tests.service.gateway.conftest import House, MakeHouse
from tests.service.gateway.fakes import (
    SESSION_ID,
    FakePrompt,
    FakeWorker,
    chain_id,
    chunk,
    sse,
)

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "how are you"}]


async def test_openais_client_gets_a_completion(house: House) -> None:
    async with house.openai as client:
        answer = await client.chat.completions.create(model="mistral-small", messages=HELLO)
    assert answer.choices[0].message.content == "how are you"
    assert answer.usage is not None


async def test_openais_client_gets_a_stream(house: House) -> None:
    async with house.openai as client:
        stream = await client.chat.completions.create(model="mistral-small", messages=HELLO, stream=True)
        words = [event.choices[0].delta.content async for event in stream]
    assert words == ["how", " are", " you", None]


async def test_openais_client_is_told_of_an_unknown_model(house: House) -> None:
    async with house.openai as client:
        with pytest.raises(NotFoundError) as caught:
            await client.chat.completions.create(model="mistral-smal", messages=HELLO)
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    assert caught.value.body["details"]["suggestions"] == ["mistral-small"]  # type: ignore[index]  # the SDK types a body as object


async def test_openais_client_is_told_of_a_bad_key(house: House) -> None:
    """C1."""
    async with house.openai.with_options(api_key="sk-wrong") as client:
        with pytest.raises(AuthenticationError) as caught:
            await client.chat.completions.create(model="mistral-small", messages=HELLO)
    assert caught.value.code == "invalid_api_key"
    assert house.auth.asked["check_key"] == [], "a key that can be none costs no look-up"


async def test_the_worker_is_told_everything_it_decides_by(house: House) -> None:
    options = {"stream_options": {"include_usage": True}, "n": 2}
    response = await house.chat("a b", stream=True, session_id=SESSION_ID, **options)
    head = house.worker.prompts[0].head
    row = next(iter(house.auth.rows.values()))
    assert head.request_id == response.headers["x-request-id"]
    assert (head.user_id, head.key_id, head.key_prefix) == (row.user_id, row.id, row.key_prefix)
    assert head.model_id == chain_id(2)
    assert (head.stream, head.include_usage, head.choices, head.session_id) == (True, True, 2, SESSION_ID)
    assert "session_id" not in house.worker.prompts[0].prompt


async def test_a_stream_has_its_headers_and_exactly_the_workers_bytes(house: House) -> None:
    response = await house.chat("one two", stream=True)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache, no-transform"
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["x-morpheus-model"] == "Llama 3.3 70B"
    assert response.headers["x-morpheus-session"] == SESSION_ID
    assert response.headers["x-morpheus-provider"] == "0xprovider"
    expected = sse(chunk("one")) + sse(chunk(" two")) + sse(chunk(None, finish="stop")) + b"data: [DONE]\n\n"
    assert response.content == expected


async def test_accept_chooses_the_mode_where_the_body_does_not(house: House) -> None:
    response = await house.chat(headers={"Accept": "text/event-stream"})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert house.worker.prompts[0].prompt["stream"] is True


async def test_a_body_of_megabytes_arrives_as_it_was_sent(house: House) -> None:
    random.seed(7)
    text = "".join(random.choices('äb \\"c€\n', k=1_500_000))
    sent = json.dumps({"messages": [{"role": "user", "content": text}], "model": "mistral-small", "x": 1.0}).encode()
    headers = house.by_key | {"Content-Type": "application/json"}
    response = await house.http.post("/v1/chat/completions", content=sent, headers=headers)
    assert response.json()["choices"][0]["message"]["content"] == text
    prompt = house.worker.prompts[0]
    assert bytes(prompt.body) == sent
    assert len(sent) > 20 * FRAME_BYTES
    assert prompt.body_seqs == list(range((len(sent) - 1) // FRAME_BYTES))


async def test_a_second_prompt_goes_straight_to_the_worker_that_took_the_first(house: House) -> None:
    await house.chat()
    await house.chat()
    assert [prompt.addressed for prompt in house.worker.prompts] == [False, True]


async def test_a_worker_that_is_gone_is_not_waited_for(house: House) -> None:
    await house.chat()
    await house.worker.stop()
    other = FakeWorker(house.worker.connection, "w2")
    await other.start()
    response = await house.chat()
    assert response.status_code == 200
    assert [prompt.addressed for prompt in other.prompts] == [False]


async def test_a_worker_that_does_not_own_the_session_sends_the_prompt_on(house: House) -> None:
    owner = FakeWorker(house.worker.connection, "w2", shares=False)
    await owner.start()

    async def refer(prompt: FakePrompt) -> None:
        await prompt.owner("w2")

    house.worker.script = refer
    assert (await house.chat("to the owner")).json()["choices"][0]["message"]["content"] == "to the owner"
    assert house.worker.prompts[0].credits == []
    assert house.worker.prompts[0].head.attempt != owner.prompts[0].head.attempt
    await house.chat()
    assert len(owner.prompts) == 2, "the owner is remembered"


async def test_no_more_is_sent_than_the_client_has_taken_and_the_window(house: House) -> None:
    """The credit is absolute: what was consumed, and the window beyond it."""
    seen: list[int] = []

    async def answer(prompt: FakePrompt) -> None:
        await prompt.accept()
        await prompt.complete()
        event = b'data: {"choices": [], "text": "' + b"x" * 60_000 + b'"}\n\n'
        for number in range(40):
            await prompt.data(event, first=number == 0)
            seen.append(prompt.credit - prompt.sent)
        await prompt.data(b"data: [DONE]\n\n")
        await prompt.end()

    house.worker.script = answer
    response = await house.chat(stream=True)
    assert len(response.content) == 40 * 60_035 + 14
    assert house.worker.prompts[0].credits[0][1] == WINDOW_BYTES
    assert max(seen) < WINDOW_BYTES


async def test_many_prompts_at_once_get_their_own_answers(house: House) -> None:
    answers = await asyncio.gather(*(house.chat(f"number {n}", stream=n % 2 == 0) for n in range(40)))
    for n, answer in enumerate(answers):
        if n % 2:
            assert answer.json()["choices"][0]["message"]["content"] == f"number {n}"
        else:
            assert f'" {n}"' in answer.text


async def test_running_streams_finish_when_the_gateway_drains(make_house: MakeHouse) -> None:
    house = await make_house()
    go_on = asyncio.Event()

    async def answer(prompt: FakePrompt) -> None:
        await prompt.accept()
        await prompt.complete()
        await prompt.data(sse(chunk("half")), first=True)
        await go_on.wait()
        await prompt.data(b"data: [DONE]\n\n")
        await prompt.end()

    house.worker.script = answer
    body = {"messages": HELLO, "stream": True}
    async with house.http.stream("POST", "/v1/chat/completions", json=body, headers=house.by_key) as response:
        pieces = response.aiter_raw()
        first = await anext(pieces)
        house.gateway.server.stop()
        await asyncio.sleep(0.2)
        go_on.set()
        rest = b"".join([piece async for piece in pieces])
    assert (first + rest).endswith(b"data: [DONE]\n\n")
