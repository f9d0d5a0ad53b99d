"""Providers that misbehave on demand, one at a time."""

import asyncio
import json
from typing import Any

import pytest
from proxy_router_sim.behaviour import Answers, Behaviour

from tests.unit.proxy_router_sim.harness import HOUR_STAKE, Router, chunks_of, until


async def behave(router: Router, provider: str, **wish: Any) -> Any:
    status, shown = await router.post("/sim/providers", {"address": provider, **wish})
    assert status == 200, shown
    return shown


async def raw(router: Router, session_id: str, *, stream: bool) -> bytes:
    body = {"messages": [{"role": "user", "content": "one two three"}], "stream": stream}
    async with router.http.post("/v1/chat/completions", json=body, headers={"session_id": session_id}) as response:
        assert response.status == 200
        return await response.read()


async def test_a_full_provider_says_so_with_the_time_it_said_it(router: Router) -> None:
    bid = router.bid()
    await behave(router, bid.provider, full=True)
    status, body = await router.initiate(bid)
    milliseconds = int(router.simulator.clock.now() * 1000)
    expected = f"response error: error: no capacity, result: {{{milliseconds} 0x00}}"
    assert (status, body) == (500, {"error": expected})
    status, body = await router.post(f"/blockchain/bids/{bid.id}/session", {"sessionDuration": 3600})
    assert body["error"].startswith("failed to initiate session: response error: error: no capacity, result: {")


async def test_an_open_by_model_goes_past_a_full_provider_and_one_that_hangs_up(router: Router) -> None:
    bids = [bid for bid, _ in router.simulator.node.marketplace.rated_bids(router.bid().model_id)]
    await behave(router, bids[0].provider, full=True)
    await behave(router, bids[1].provider, hangs_up=True)
    path = f"/blockchain/models/{bids[0].model_id}/session"
    status, opened = await router.post(path, {"sessionDuration": 3600})
    assert status == 200
    session = await router.get(f"/blockchain/sessions/{opened['sessionID']}")
    assert session["session"]["BidID"] == bids[2].id


async def test_a_provider_that_hangs_up_ends_handshakes_and_prompts_without_a_word(router: Router) -> None:
    opened = await router.open()
    await behave(router, router.bid().provider, hangs_up=True)
    _, body = await router.initiate(router.bid())
    assert body["error"] == ("provider request failed: code: 400, msg: <nil>, error: failed to decode response: EOF")
    assert await router.chat(opened) == (
        500,
        {"error": "provider request failed: provider closed connection without sending any data"},
    )


async def test_a_late_provider_answers_when_it_is_let_and_the_approval_still_opens(router: Router) -> None:
    bid = router.bid()
    await behave(router, bid.provider, late=True)
    asking = asyncio.create_task(router.initiate(bid))
    behaviour = router.simulator.providers.behaviour(bid.provider)
    await until(lambda: behaviour.waiting == 1)
    router.simulator.clock.advance(5 * 3600)
    assert (await router.get("/sim/providers"))[0]["waiting"] == 1
    assert not asking.done()
    await behave(router, bid.provider, late=False)
    status, agreed = await asking
    assert status == 200
    assert agreed["timestamp"] <= int(router.simulator.clock.now() * 1000) - 5 * 3_600_000
    body = {"approval": agreed["approval"], "approvalSig": agreed["approvalSig"], "stake": str(HOUR_STAKE)}
    assert (await router.post("/blockchain/sessions", body))[0] == 200


async def test_only_the_named_provider_changes_and_all_can_be_mended_at_once(router: Router) -> None:
    bid = router.bid()
    await behave(router, bid.provider, late=True, slow_seconds=0.01, answers="one_byte", at=2)
    asking = asyncio.create_task(router.initiate(bid))
    shown = await router.get("/sim/providers")
    assert [one["late"] for one in shown] == [True, False, False]
    await until(lambda: router.simulator.providers.behaviour(bid.provider).waiting == 1)
    async with router.http.delete("/sim/providers") as response:
        mended = await response.json()
    assert (await asking)[0] == 200
    well = {name: value for name, value in Behaviour().view().items() if name != "waiting"}
    assert [{**well, "address": one["address"], "waiting": one["waiting"]} for one in mended] == mended


async def test_a_slow_provider_takes_its_time_for_handshakes_and_prompts(router: Router) -> None:
    opened = await router.open()
    await behave(router, router.bid().provider, slow_seconds=0.2)
    for call in (router.initiate(router.bid()), router.chat(opened)):
        started = asyncio.get_running_loop().time()
        assert (await call)[0] == 200
        assert asyncio.get_running_loop().time() - started >= 0.19


async def test_half_a_character_in_one_frame_and_the_rest_is_well(router: Router) -> None:
    opened = await router.open()
    await behave(router, router.bid().provider, answers="half_utf8", at=1)
    frames = (await raw(router, opened, stream=True)).split(b"\n\n")
    with pytest.raises(UnicodeDecodeError):
        frames[1].decode()
    assert [i for i, frame in enumerate(frames) if b"\xe2\x82" in frame] == [1]
    assert frames[-2] == b"data: [DONE]"


async def test_half_a_character_in_a_whole_answer(router: Router) -> None:
    opened = await router.open()
    await behave(router, router.bid().provider, answers="half_utf8")
    with pytest.raises(UnicodeDecodeError):
        (await raw(router, opened, stream=False)).decode()


async def test_json_that_ends_in_the_middle_of_a_frame_and_of_a_whole_answer(router: Router) -> None:
    opened = await router.open()
    await behave(router, router.bid().provider, answers="invalid_json")
    frames = (await raw(router, opened, stream=True)).decode().split("\n\n")
    for text in (frames[0].removeprefix("data: "), (await raw(router, opened, stream=False)).decode()):
        with pytest.raises(json.JSONDecodeError):
            json.loads(text)
    assert json.loads(frames[1].removeprefix("data: "))["object"] == "chat.completion.chunk"


@pytest.mark.parametrize("stream", [True, False])
async def test_byte_by_byte_is_the_same_answer_in_many_pieces(router: Router, *, stream: bool) -> None:
    opened = await router.open()
    await behave(router, router.bid().provider, answers="one_byte")
    body = {"messages": [{"role": "user", "content": "“one” two"}], "stream": stream}
    pieces = []
    async with router.http.post("/v1/chat/completions", json=body, headers={"session_id": opened}) as response:
        async for data, ended in response.content.iter_chunks():
            assert len(data) <= 1 or not ended
            pieces.append(data)
    whole = b"".join(pieces)
    assert len(pieces) > 20
    assert "“one” two".encode() in whole if not stream else chunks_of(whole)


@pytest.mark.parametrize("at", [1, 3])
async def test_a_truncated_answer_ends_as_if_all_were_well(router: Router, at: int) -> None:
    opened = await router.open()
    await behave(router, router.bid().provider, answers="truncated", at=at)
    chunks = chunks_of(await raw(router, opened, stream=True))
    assert len(chunks) == at
    assert not any(choice["finish_reason"] for chunk in chunks for choice in chunk["choices"])


async def test_an_answer_truncated_before_its_first_chunk_is_an_error(router: Router) -> None:
    opened = await router.open()
    await behave(router, router.bid().provider, answers="truncated")
    silence = {"error": "provider request failed: provider closed connection without sending any data"}
    assert await router.chat(opened) == (500, silence)
    assert json.loads(await router.stream(opened)) == silence


@pytest.mark.parametrize(
    "wish",
    [
        {},
        {"late": 1},
        {"slow_seconds": -1},
        {"slow_seconds": True},
        {"answers": "sometimes"},
        {"at": 1.5},
        {"waiting": 3},
        {"colour": "red"},
        {"address": "0x" + "ab" * 20, "late": True},
        {"address": 7, "late": True},
    ],
)
async def test_a_wish_that_makes_no_sense_is_refused_whole(router: Router, wish: dict[str, Any]) -> None:
    provider = router.bid().provider
    status, body = await router.post("/sim/providers", {"address": provider, "full": True, **wish} if wish else wish)
    assert status == 400
    assert body["error"]
    assert not router.simulator.providers.behaviour(provider).full


def test_every_kind_of_answer_can_be_wished_for() -> None:
    for answers in Answers:
        behaviour = Behaviour()
        behaviour.change({"answers": str(answers)})
        assert behaviour.answers is answers


@pytest.mark.parametrize(
    ("action", "params", "error"),
    [
        ("error_before", {}, "response error: error: no capacity, result: {"),
        ("error_before", {"text": "provider request failed: away"}, "provider request failed: away"),
        ("drop", {}, "provider request failed: code: 400, msg: <nil>, error: failed to decode response: EOF"),
    ],
)
async def test_one_handshake_can_fail_and_the_next_is_well(
    router: Router, action: str, params: dict[str, Any], error: str
) -> None:
    bid = router.bid()
    await router.arm("handshake", action, match=bid.provider, **params)
    status, body = await router.initiate(bid)
    assert status == 500
    assert body["error"].startswith(error)
    assert (await router.initiate(bid))[0] == 200


async def test_a_handshake_that_fails_sends_an_open_by_model_to_the_next_bid(router: Router) -> None:
    bids = [bid for bid, _ in router.simulator.node.marketplace.rated_bids(router.bid().model_id)]
    await router.arm("handshake", "error_before", match=bids[0].id)
    status, opened = await router.post(f"/blockchain/models/{bids[0].model_id}/session", {"sessionDuration": 3600})
    assert status == 200
    session = await router.get(f"/blockchain/sessions/{opened['sessionID']}")
    assert session["session"]["BidID"] == bids[1].id


async def test_a_handshake_that_hangs_is_answered_hours_later_and_its_approval_opens(router: Router) -> None:
    bid = router.bid()
    await router.arm("handshake", "hang")
    asking = asyncio.create_task(router.initiate(bid))
    await until(lambda: router.faults.view()["waiting"] == {"handshake": {"before": 1}})
    router.simulator.clock.advance(5 * 3600)
    async with router.http.delete("/sim/faults"):
        status, agreed = await asking
    assert status == 200
    body = {"approval": agreed["approval"], "approvalSig": agreed["approvalSig"], "stake": str(HOUR_STAKE)}
    assert (await router.post("/blockchain/sessions", body))[0] == 200


async def test_chance_makes_some_providers_full(router: Router) -> None:
    wish = {"kind": "handshake", "action": "error_before", "probability": 0.5}
    status, armed = await router.post("/sim/faults", wish)
    assert (status, armed["probability"], armed["count"]) == (201, 0.5, None)
    assert {(await router.initiate(router.bid()))[0] for _ in range(40)} == {200, 500}
