import asyncio
import json
from typing import Any

import aiohttp
import pytest

from tests.unit.proxy_router_sim.harness import Router, chunks_of, until


async def collect(response: aiohttp.ClientResponse, received: bytearray) -> None:
    async for data in response.content.iter_any():
        received += data


async def count_open(router: Router) -> int:
    return int((await router.get("/sim/state"))["open_count"])


async def test_a_ghost_success_answers_500_and_leaves_a_session(router: Router) -> None:
    await router.arm("open", "error_after")
    agreement = await router.agreement(router.bid())
    status, body = await router.post("/blockchain/sessions", agreement)
    assert (status, body) == (500, {"error": "failed to get session: session not found"})
    assert await count_open(router) == 1
    status, body = await router.post("/blockchain/sessions", agreement)
    assert "SessionDuplicateApproval()" in body["error"]


async def test_an_error_before_the_work_leaves_nothing(router: Router) -> None:
    await router.arm("open", "error_before", text="429 Too Many Requests: slow down", status=500)
    status, body = await router.post("/blockchain/sessions", await router.agreement(router.bid()))
    assert (status, body) == (500, {"error": "429 Too Many Requests: slow down"})
    assert await count_open(router) == 0


@pytest.mark.parametrize(("when", "opened"), [("before", 0), ("after", 1)])
async def test_a_dropped_connection_hides_the_outcome(router: Router, when: str, opened: int) -> None:
    agreement = await router.agreement(router.bid())
    await router.arm("open", "drop", when=when)
    with pytest.raises(aiohttp.ClientError):
        await router.post("/blockchain/sessions", agreement)
    assert await count_open(router) == opened


async def test_what_hangs_goes_on_when_the_fault_is_removed_even_without_its_caller(router: Router) -> None:
    agreement = await router.agreement(router.bid())
    await router.arm("open", "hang")
    asking = asyncio.create_task(router.post("/blockchain/sessions", agreement))
    await until(lambda: router.faults.view()["striking"])
    asking.cancel()
    async with router.http.delete("/sim/faults"):
        await until(lambda: router.simulator.chain.ledger.sessions)


async def test_a_delay_only_delays(router: Router) -> None:
    await router.arm("close", "delay", seconds=0.01)
    opened = await router.open()
    assert (await router.post(f"/blockchain/sessions/{opened}/close"))[0] == 200


async def test_a_fault_strikes_as_often_as_it_says_and_only_what_it_matches(router: Router) -> None:
    bid = router.bid()
    other = router.bid("qwen3-235b")
    await router.arm("initiate", "error_before", count=2, match=bid.id.upper())
    assert (await router.initiate(other))[0] == 200
    assert [(await router.initiate(bid))[0] for _ in range(3)] == [500, 500, 200]


async def test_a_fault_without_end_strikes_until_it_is_removed(router: Router) -> None:
    await router.arm("initiate", "error_before", count=None)
    assert [(await router.initiate(router.bid()))[0] for _ in range(3)] == [500, 500, 500]
    assert (await router.get("/sim/faults"))["armed"][0]["struck"] == 3
    async with router.http.delete("/sim/faults") as response:
        assert await response.json() == {"armed": [], "striking": [], "waiting": {}}
    assert (await router.initiate(router.bid()))[0] == 200


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "nothing", "action": "drop"},
        {"kind": "open", "action": "explode"},
        {"kind": "open", "action": "truncate"},
        {"kind": "open", "action": "drop", "count": 0},
        {"kind": "open", "action": "delay"},
        {"kind": "chat", "action": "cut", "params": {"at": -1}},
    ],
)
async def test_a_fault_that_could_never_strike_is_refused(router: Router, fault: dict[str, Any]) -> None:
    assert (await router.post("/sim/faults", fault))[0] == 400


async def test_a_truncated_stream_looks_like_success(router: Router) -> None:
    opened = await router.open()
    await router.arm("chat", "truncate", at=3)
    stream = await router.stream(opened)
    assert len(chunks_of(stream)) == 3
    assert b"[DONE]" not in stream
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in chunks_of(stream))


async def test_a_stream_may_lack_only_its_end_mark(router: Router) -> None:
    opened = await router.open()
    await router.arm("chat", "no_done")
    stream = await router.stream(opened)
    assert b"[DONE]" not in stream
    assert chunks_of(stream)[-1]["choices"][0]["finish_reason"] == "stop"


async def test_usage_can_be_missing(router: Router) -> None:
    opened = await router.open()
    await router.arm("chat", "no_usage", count=2)
    _, whole = await router.chat(opened)
    assert "usage" not in whole
    assert "usage_from_provider" in whole
    chunks = chunks_of(await router.stream(opened, stream_options={"include_usage": True}))
    assert not any("usage" in chunk for chunk in chunks)


async def test_a_cut_stream_breaks_the_connection_after_its_chunks(router: Router) -> None:
    opened = await router.open()
    await router.arm("chat", "cut", at=2)
    body = {"messages": [{"role": "user", "content": "x"}], "stream": True}
    async with router.http.post("/v1/chat/completions", json=body, headers={"session_id": opened}) as response:
        received = bytearray()
        with pytest.raises(aiohttp.ClientPayloadError):
            await collect(response, received)
    assert len(chunks_of(bytes(received))) == 2


async def test_an_error_in_a_running_stream_is_appended_bare(router: Router) -> None:
    opened = await router.open()
    await router.arm("chat", "raw_error", at=2, text="provider request failed: reset")
    stream = await router.stream(opened)
    assert stream.endswith(b'}\n\n{"error":"provider request failed: reset"}')
    assert len(chunks_of(stream)) == 2


async def test_an_error_before_the_first_chunk_is_500(router: Router) -> None:
    opened = await router.open()
    await router.arm("chat", "raw_error", count=2)
    assert (await router.chat(opened))[0] == 500
    assert "error" in json.loads(await router.stream(opened))


async def test_a_models_error_is_400_or_the_models_own_status_in_newer_routers(router: Router) -> None:
    opened = await router.open()
    await router.arm("chat", "model_error", body={"error": {"message": "no"}})
    assert await router.chat(opened) == (400, {"providerModelError": {"error": {"message": "no"}}})
    await router.arm("chat", "model_error", status=429, pass_status=True)
    status, body = await router.chat(opened)
    assert (status, body["statusCode"]) == (429, 429)
    await router.arm("chat", "model_error", at=1)
    assert b'}\n\n{"providerModelError":' in await router.stream(opened)


async def test_a_models_error_that_is_no_json_is_wrapped(router: Router) -> None:
    opened = await router.open()
    await router.arm("chat", "model_error", body="bad gateway")
    wrapped = {"error": {"message": "bad gateway", "type": "upstream_error"}}
    assert await router.chat(opened) == (400, {"providerModelError": wrapped})


async def test_words_of_the_router_are_a_frame_that_is_no_json(router: Router) -> None:
    opened = await router.open()
    await router.arm("chat", "control", at=2)
    stream = await router.stream(opened)
    frames = stream.split(b"\n\n")
    assert frames[2] == b"data: provider failed, failover enabled"
    whole = await router.stream(opened)
    assert len(frames) == len(whole.split(b"\n\n")) + 1
    assert stream.endswith(b"data: [DONE]\n\n")


async def test_a_model_that_cannot_stream_is_one_frame_without_end_mark(router: Router) -> None:
    opened = await router.open()
    await router.arm("chat", "unstreamed")
    [answer] = chunks_of(stream := await router.stream(opened))
    assert b"[DONE]" not in stream
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"]["content"].startswith("You asked: hello.")
    assert "usage_from_provider" in answer


@pytest.mark.parametrize("action", ["half_utf8", "invalid_json"])
async def test_one_answer_can_be_garbage_and_the_next_is_well(router: Router, action: str) -> None:
    opened = await router.open()
    await router.arm("chat", action, at=1)
    frames = (await router.stream(opened)).split(b"\n\n")
    with pytest.raises(ValueError, match=r"decode|delimiter|Unterminated|Expecting"):
        json.loads(frames[1].removeprefix(b"data: "))
    assert frames[-2] == b"data: [DONE]"
    assert len(chunks_of(await router.stream(opened))) == len(frames) - 2


@pytest.mark.parametrize("action", ["raw_error", "model_error", "cut", "truncate"])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_provider_that_hangs_is_an_error_after_a_while(router: Router, action: str, *, stream: bool) -> None:
    opened = await router.open()
    await router.arm("chat", action, seconds=600)
    asking = asyncio.create_task(router.chat(opened, stream=stream))
    await until(lambda: router.faults.view()["waiting"])
    assert not asking.done()
    async with router.http.delete("/sim/faults"):
        pass
    if action == "cut":
        with pytest.raises(aiohttp.ClientError):
            await asking
    else:
        assert (await asking)[0] in {400, 500}


async def test_a_stream_runs_on_when_its_session_is_closed_or_ends(router: Router) -> None:
    opened = await router.open()
    await router.arm("chat", "stall", at=1)
    asking = asyncio.create_task(router.stream(opened))
    await until(lambda: router.faults.view()["waiting"])
    assert (await router.post(f"/blockchain/sessions/{opened}/close"))[0] == 200
    await router.post("/sim/advance", {"seconds": 7200})
    async with router.http.delete("/sim/faults"):
        assert (await asking).endswith(b"data: [DONE]\n\n")
    assert (await router.chat(opened))[1] == {"error": "provider request failed: provider error: session expired"}


@pytest.mark.parametrize(("kind", "status"), [("models", 400), ("providers", 400), ("bid", 500), ("balance", 500)])
async def test_lists_of_models_and_providers_fail_with_400_and_the_rest_with_500(
    router: Router, kind: str, status: int
) -> None:
    paths = {"bid": f"/blockchain/bids/{router.bid().id}"}
    await router.arm(kind, "error_before")
    async with router.http.get(paths.get(kind, f"/blockchain/{kind}")) as response:
        assert response.status == status


async def test_advancing_moves_blocks_and_time(router: Router) -> None:
    before = await router.get("/sim/state")
    status, after = await router.post("/sim/advance", {"seconds": 600})
    assert status == 200
    assert after["now"] - before["now"] == 600
    assert after["block"] - before["block"] == 300
    assert (await router.post("/sim/advance", {"seconds": -1}))[0] == 400


async def test_a_pace_is_kept_before_every_chunk_from_the_one_it_names(router: Router) -> None:
    opened = await router.open()
    await router.arm("chat", "pace", seconds=3600, at=2)
    received = bytearray()
    body = {"messages": [{"role": "user", "content": "hello"}], "stream": True}
    async with router.http.post("/v1/chat/completions", json=body, headers={"session_id": opened}) as response:
        reading = asyncio.create_task(collect(response, received))
        await until(lambda: router.faults.view()["waiting"])
        assert len(chunks_of(bytes(received))) <= 2
        # what is removed lets the rest go: no chunk waits any more
        router.faults.clear()
        await reading
    assert received.endswith(b"data: [DONE]\n\n")
    status, refused = await router.post("/sim/faults", {"kind": "chat", "action": "pace"})
    assert (status, refused) == (400, {"error": "pace needs params.seconds"})
