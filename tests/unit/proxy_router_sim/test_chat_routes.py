import asyncio
import base64
import json
import re
import struct
from typing import Any

import pytest

from tests.unit.proxy_router_sim.harness import Router, chunks_of, until


def text_of(stream: bytes, index: int = 0) -> str:
    choices = (choice for chunk in chunks_of(stream) for choice in chunk["choices"] if choice["index"] == index)
    return "".join(choice["delta"].get("content") or "" for choice in choices)


async def test_a_stream_has_the_frames_of_the_router(router: Router) -> None:
    opened = await router.open()
    stream = await router.stream(opened, "say <hi> & wave", max_tokens=3)
    shown = re.sub(rb'"created":\d+,"id":"chatcmpl-\w+"', b'"created":1,"id":"i"', stream).decode()
    tail = '"created":1,"id":"i","model":"llama-3.3-70b","object":"chat.completion.chunk"'
    usage = '{"completion_tokens":4,"prompt_tokens":10,"total_tokens":14}'
    assert shown == (
        'data: {"choices":[{"delta":{"content":"You","role":"assistant"},"finish_reason":null,"index":0}],'
        f"{tail}}}\n\n"
        'data: {"choices":[{"delta":{"content":" asked:"},"finish_reason":null,"index":0}],'
        f"{tail}}}\n\n"
        'data: {"choices":[{"delta":{"content":" say"},"finish_reason":null,"index":0}],'
        f"{tail}}}\n\n"
        'data: {"choices":[{"delta":{},"finish_reason":"length","index":0}],'
        f'{tail},"usage_from_consumer":{usage},"usage_from_provider":{usage}}}\n\n'
        "data: [DONE]\n\n"
    )


async def test_go_escapes_markup_in_json(router: Router) -> None:
    stream = await router.stream(await router.open(), "\u2028<b>&")
    assert rb'{"content":" \u2028\u003cb\u003e\u0026."}' in stream


async def test_both_modes_say_the_same_and_contain_the_question(router: Router) -> None:
    opened = await router.open()
    question = "tell me about “bridges” in <Zürich>\nplease"
    status, whole = await router.chat(opened, question)
    assert status == 200
    assert question in whole["choices"][0]["message"]["content"]
    assert text_of(await router.stream(opened, question)) == whole["choices"][0]["message"]["content"]
    assert whole["object"] == "chat.completion"
    assert whole["usage"] == whole["usage_from_provider"] == whole["usage_from_consumer"]


async def test_json_mode_has_sorted_keys_and_no_length(router: Router) -> None:
    opened = await router.open()
    body = {"messages": [{"role": "user", "content": "hello"}]}
    async with router.http.post("/v1/chat/completions", json=body, headers={"session_id": opened}) as response:
        raw = await response.text()
        assert response.headers["Content-Type"] == "application/json"
        assert response.headers["Transfer-Encoding"] == "chunked"
    assert raw == json.dumps(json.loads(raw), sort_keys=True, separators=(",", ":"))


async def test_usage_comes_as_a_last_chunk_without_choices_when_asked_for(router: Router) -> None:
    opened = await router.open()
    plain = chunks_of(await router.stream(opened))
    asked = chunks_of(await router.stream(opened, stream_options={"include_usage": True}))
    assert not any("usage" in chunk for chunk in plain)
    assert asked[-1]["choices"] == []
    assert asked[-1]["usage"] == asked[-1]["usage_from_provider"] == asked[-2]["usage_from_consumer"]
    assert not any("usage" in chunk for chunk in asked[:-1])


async def test_several_choices_are_interleaved_and_complete(router: Router) -> None:
    opened = await router.open()
    _, whole = await router.chat(opened, n=3)
    stream = await router.stream(opened, n=3)
    assert [text_of(stream, i) for i in range(3)] == [c["message"]["content"] for c in whole["choices"]]
    assert [chunk["choices"][0]["index"] for chunk in chunks_of(stream)[:3]] == [0, 1, 2]


async def test_a_very_long_question_is_streamed_in_few_frames(router: Router) -> None:
    question = " ".join(str(i) for i in range(20_000))
    stream = await router.stream(await router.open(), question)
    assert question in text_of(stream)
    assert len(chunks_of(stream)) < 250


TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["place", "days"],
        },
    },
}


async def test_a_tool_call_is_the_same_in_both_modes(router: Router) -> None:
    opened = await router.open()
    _, whole = await router.chat(opened, "in Bern", tools=[TOOL])
    choice = whole["choices"][0]
    [call] = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert json.loads(call["function"]["arguments"]) == {"place": "in Bern", "days": 1}

    chunks = chunks_of(await router.stream(opened, "in Bern", tools=[TOOL]))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    [first] = deltas[0]["tool_calls"]
    assert (first["id"], first["index"], first["type"]) == (call["id"], 0, "function")
    assert first["function"] == {"arguments": "", "name": "weather"}
    fragments = [delta["tool_calls"][0] for delta in deltas[1:-1]]
    assert all(set(fragment) == {"function", "index"} for fragment in fragments)
    assert "".join(f["function"]["arguments"] for f in fragments) == call["function"]["arguments"]
    assert chunks[-1]["choices"][0] == {"delta": {}, "finish_reason": "tool_calls", "index": 0}


async def test_prompts_of_a_session_wait_for_each_other_in_order(router: Router) -> None:
    opened = await router.open()
    await router.arm("chat", "stall", at=0, match='"first"')
    node = router.simulator.node
    finished: list[str] = []

    async def ask(text: str) -> None:
        await router.chat(opened, text)
        finished.append(text)

    asking = []
    for text in ("first", "second", "third"):
        asking.append(asyncio.create_task(ask(text)))
        await until(lambda: node.counters["prompts"] == len(asking))
    state = await router.get("/sim/state")
    assert (state["prompts_served"], state["max_unfinished_prompts_of_a_session"]) == (0, 3)
    assert finished == []
    async with router.http.delete("/sim/faults"):
        await asyncio.gather(*asking)
    assert finished == ["first", "second", "third"]


async def test_another_session_does_not_wait(router: Router) -> None:
    slow, quick = await router.open(), await router.open()
    await router.arm("chat", "stall", match=slow)
    waiting = asyncio.create_task(router.chat(slow))
    assert (await router.chat(quick))[0] == 200
    assert not waiting.done()
    async with router.http.delete("/sim/faults"):
        assert (await waiting)[0] == 200


async def test_a_queued_prompt_runs_although_its_caller_has_gone(router: Router) -> None:
    opened = await router.open()
    node = router.simulator.node
    await router.arm("chat", "stall", match='"first"')
    first = asyncio.create_task(router.chat(opened, "first"))
    await until(lambda: node.counters["prompts"] == 1)
    second = asyncio.create_task(router.chat(opened, "second"))
    await until(lambda: node.counters["prompts"] == 2)
    second.cancel()
    async with router.http.delete("/sim/faults"):
        await first
    await until(lambda: node.counters["prompts_served"] == 2)


async def test_hanging_up_on_a_stream_frees_the_session(router: Router) -> None:
    opened = await router.open()
    await router.arm("chat", "stall", at=2, seconds=0.05)
    body = {"messages": [{"role": "user", "content": "word " * 5000}], "stream": True}
    response = await router.http.post("/v1/chat/completions", json=body, headers={"session_id": opened})
    await response.content.readany()
    response.close()
    assert (await asyncio.wait_for(router.chat(opened), 5))[0] == 200
    assert router.simulator.node.counters["prompts_served"] == 1


async def test_the_provider_says_when_a_session_has_expired(router: Router) -> None:
    opened = await router.open()
    router.simulator.clock.advance(3700)
    assert await router.chat(opened) == (
        500,
        {"error": "provider request failed: provider error: session expired"},
    )


async def test_a_session_closed_early_still_answers(router: Router) -> None:
    opened = await router.open()
    await router.post(f"/blockchain/sessions/{opened}/close")
    assert (await router.chat(opened))[0] == 200


async def test_a_provider_that_is_away_refuses_the_connection(router: Router) -> None:
    opened = await router.open()
    await router.post("/sim/providers", {"address": router.bid().provider, "online": False})
    status, body = await router.chat(opened)
    assert status == 500
    assert body["error"].startswith("provider request failed: failed to connect to provider: dial tcp 10.77.0.11:3333:")


async def test_an_early_error_of_a_stream_is_json_under_the_streams_type(router: Router) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "stream": True}
    headers = {"session_id": "0x" + "ab" * 32}
    async with router.http.post("/v1/chat/completions", json=body, headers=headers) as response:
        assert response.status == 500
        assert response.headers["Content-Type"] == "text/event-stream"
        assert await response.text() == '{"error":"session not found"}'


async def test_a_bad_session_header_is_400_and_a_missing_one_500(router: Router) -> None:
    assert await router.chat("0x12") == (400, {"error": "invalid hash length"})
    body = {"messages": [{"role": "user", "content": "x"}]}
    assert await router.post("/v1/chat/completions", body) == (500, {"error": "api adapter not found: "})


@pytest.mark.parametrize("messages", [[], None])
async def test_no_messages_is_the_models_error(router: Router, messages: Any) -> None:
    opened = await router.open()
    status, body = await router.post("/v1/chat/completions", {"messages": messages}, session_id=opened)
    assert (status, list(body)) == (400, ["providerModelError"])


async def test_embeddings_are_deterministic_and_near_for_like_texts(router: Router) -> None:
    opened = await router.open("text-embedding-bge-m3")
    request = {"input": ["a red boat", "a red ship", "quantum chromodynamics"], "model": "ignored"}
    status, body = await router.post("/v1/embeddings", request, session_id=opened)
    assert status == 200
    boat, ship, other = (item["embedding"] for item in body["data"])
    assert body["model"] == "text-embedding-bge-m3"
    assert [item["index"] for item in body["data"]] == [0, 1, 2]

    def likeness(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    assert likeness(boat, ship) > likeness(boat, other)
    assert (await router.post("/v1/embeddings", request, session_id=opened))[1] == body


async def test_embeddings_can_be_packed_and_sized(router: Router) -> None:
    opened = await router.open("text-embedding-bge-m3")
    plain = {"input": "boat", "dimensions": 8}
    _, floats = await router.post("/v1/embeddings", plain, session_id=opened)
    _, packed = await router.post("/v1/embeddings", {**plain, "encoding_format": "base64"}, session_id=opened)
    unpacked = struct.unpack("<8f", base64.b64decode(packed["data"][0]["embedding"]))
    assert unpacked == pytest.approx(floats["data"][0]["embedding"], abs=1e-6)


async def test_a_model_refuses_what_it_cannot_do(router: Router) -> None:
    llm, embedding = await router.open(), await router.open("text-embedding-bge-m3")
    assert (await router.post("/v1/embeddings", {"input": "x"}, session_id=llm))[0] == 400
    assert (await router.chat(embedding))[0] == 400


async def test_a_json_prompt_whose_caller_hung_up_keeps_its_session_to_the_end(router: Router) -> None:
    opened = await router.open()
    node = router.simulator.node
    await router.arm("chat", "stall", match='"left"')
    left = asyncio.create_task(router.chat(opened, "left"))
    await until(lambda: router.faults.view()["striking"])
    left.cancel()
    following = asyncio.create_task(router.chat(opened, "following"))
    await until(lambda: node.counters["prompts"] == 2)
    assert node.counters["prompts_served"] == 0
    assert not following.done()
    async with router.http.delete("/sim/faults"):
        assert (await following)[0] == 200
    assert node.counters["prompts_served"] == 2


async def test_likelihoods_come_when_asked_for_and_are_the_same_in_both_modes(router: Router) -> None:
    opened = await router.open()
    _, plain = await router.chat(opened)
    assert "logprobs" not in plain["choices"][0]
    _, whole = await router.chat(opened, logprobs=True, top_logprobs=2)
    tokens = whole["choices"][0]["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens) == whole["choices"][0]["message"]["content"]
    assert all(len(token["top_logprobs"]) == 2 and token["logprob"] < 0 for token in tokens)
    assert all(bytes(token["bytes"]).decode() == token["token"] for token in tokens)
    streamed = chunks_of(await router.stream(opened, logprobs=True, top_logprobs=2))
    parts = [chunk["choices"][0].get("logprobs", {"content": []}) for chunk in streamed]
    assert [token for part in parts for token in part["content"]] == tokens


async def test_prompts_are_recorded_as_they_came_once_that_is_wanted(router: Router) -> None:
    opened = await router.open()
    await router.chat(opened, "before")
    assert await router.post("/sim/prompts", {"recorded": True}) == (200, {"recorded": True})
    raw = b'{"messages": [{"role":"user","content":"as it came"}], "temperature": 1.0, "seed": 0}'
    headers = {"session_id": opened, "X-Request-Id": "r-1"}
    async with router.http.post("/v1/chat/completions", data=raw, headers=headers) as response:
        assert response.status == 200
    await router.chat(opened, "another")
    [prompt] = await router.get("/sim/prompts", match="as it came")
    assert (prompt["session_id"], prompt["body"], prompt["running"]) == (opened, raw.decode(), False)
    assert prompt["headers"]["x-request-id"] == "r-1"
    assert "authorization" not in prompt["headers"]
    assert len(await router.get("/sim/prompts")) == 2
    for number in range(25):
        await router.chat(opened, f"number {number}")
    kept = [json.loads(one["body"])["messages"][0]["content"] for one in await router.get("/sim/prompts")]
    assert kept == [f"number {number}" for number in range(5, 25)]
    await router.post("/sim/prompts", {"recorded": False})
    assert await router.get("/sim/prompts") == []
    status, refused = await router.post("/sim/prompts", {"recorded": "yes"})
    assert (status, refused) == (400, {"error": "recorded is true or false"})


async def test_a_recorded_prompt_runs_until_the_router_is_done_with_it(router: Router) -> None:
    opened = await router.open()
    await router.post("/sim/prompts", {"recorded": True})
    await router.arm("chat", "stall", at=1)
    asking = asyncio.create_task(router.stream(opened))
    await until(lambda: router.faults.view()["striking"])
    assert [prompt["running"] for prompt in await router.get("/sim/prompts")] == [True]
    router.faults.clear()
    await asking
    assert [prompt["running"] for prompt in await router.get("/sim/prompts")] == [False]


async def test_answers_take_as_long_as_is_wanted(router: Router) -> None:
    opened = await router.open()
    await router.post("/sim/prompts", {"recorded": True})
    assert await router.post("/sim/answers", {"seconds": 3600}) == (200, {"seconds": 3600})
    asking = asyncio.create_task(router.chat(opened))

    async def runs() -> bool:
        return any(prompt["running"] for prompt in await router.get("/sim/prompts"))

    await until(runs)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asking, 0.2)
    assert await router.post("/sim/answers", {"seconds": 0}) == (200, {"seconds": 0})
    assert (await router.chat(await router.open()))[0] == 200
    for wrong in (-1, True, "1"):
        assert (await router.post("/sim/answers", {"seconds": wrong}))[0] == 400
