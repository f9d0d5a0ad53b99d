"""What a gateway measures moves when what it measures happens, and none of it can be seen from outside."""

import asyncio
import dataclasses
import json
import time

import httpx2
import pytest
from morpheus_common.bus.frames import Kind
from morpheus_common.contracts.chat import AnswerHead, Endpoint
from morpheus_common.metrics import REGISTRY
from morpheus_devstack.waiting import poll
from morpheus_gateway import metrics
from morpheus_gateway.limits import FailureLimit, Limit
from morpheus_gateway.metrics import PromptTimes

from tests.metrics import Moves, shown
from tests.service.gateway.conftest import House, MakeHouse
from tests.service.gateway.fakes import SESSION_ID, FakePrompt, chunk, completion, sse

CHAT = {"http_request_method": "POST", "http_route": "/api/v1/chat/completions"}
MODEL = {"http_request_method": "GET", "http_route": "/api/v1/models/{model_id}"}
NO_ROUTE = {"http_request_method": "_OTHER", "http_route": "none"}


async def at_last(moves: Moves, name: str, count: float, **labels: str) -> None:
    """Wait until a series has moved so far: the answer can be here before its request is over there."""

    async def moved() -> bool:
        return moves.of(name, **labels) == count

    assert await poll(moved, seconds=10, every=0.01), f"{name} moved by {moves.of(name, **labels)}"


async def test_a_request_is_counted_by_its_route_and_status(house: House) -> None:
    moves = Moves()
    for name in ("mistral-small", "nothing-of-that-name"):
        await house.http.get(f"/api/v1/models/{name}")
        await house.http.head(f"/v1/models/{name}/")
    for status in ("200", "404"):
        await at_last(moves, "http_server_requests_total", 2, http_response_status_code=status, **MODEL)
    assert moves.of("http_server_request_duration_seconds_count", **MODEL) == 4
    assert moves.of("morpheus_errors_total", code="model_not_found") == 2
    assert shown("http_server_active_requests") == 0


async def test_paths_and_methods_of_a_strangers_choice_are_one_value_each(house: House) -> None:
    """C49."""
    moves = Moves()
    for method, path in [
        ("GET", "/nothing/sk-of-somebody"),
        ("POST", "/0x5f3a"),
        ("DELETE", "/api/v1/models"),
        ("PROPFIND", "/api/v1/models"),
        ("TRACE", "/pot"),
    ]:
        await house.http.request(method, house.gateway.url + path)
    await at_last(moves, "http_server_request_duration_seconds_count", 5, **NO_ROUTE)
    assert moves.of("http_server_requests_total", http_response_status_code="404", **NO_ROUTE) >= 2
    assert moves.of("http_server_requests_total", http_response_status_code="4xx", **NO_ROUTE) >= 1


async def test_a_prompt_is_measured_by_what_came_of_it(house: House) -> None:
    moves = Moves()
    assert (await house.chat("one", stream=True)).status_code == 200
    assert (await house.chat("two")).status_code == 200

    async def refuse(prompt: FakePrompt) -> None:
        await prompt.error("no_provider_available")

    async def break_off(prompt: FakePrompt) -> None:
        await prompt.accept()
        await prompt.complete()
        await prompt.data(sse(chunk("one")), first=True)
        await prompt.error("stream_truncated")

    house.worker.script = refuse
    assert (await house.chat("three")).status_code == 503
    house.worker.script = break_off
    assert (await house.chat("four", stream=True)).status_code == 200
    duration = "gen_ai_server_request_duration_seconds_count"
    for mode in ("stream", "json"):
        for outcome in ("ok", "error"):
            labels = {"gen_ai_operation_name": "chat", "mode": mode, "outcome": outcome}
            await at_last(moves, duration, 1, **labels)
    assert moves.of("gen_ai_server_time_to_first_token_seconds_count", gen_ai_operation_name="chat") == 2
    assert moves.of("morpheus_errors_total", code="no_provider_available") == 1
    assert moves.of("morpheus_errors_total", code="stream_truncated") == 1
    assert shown("morpheus_streams") == 0


async def test_a_stream_is_in_flight_until_its_client_leaves(house: House) -> None:
    moves, begun = Moves(), asyncio.Event()

    async def go_on_for_ever(prompt: FakePrompt) -> None:
        await prompt.accept()
        await prompt.complete()
        await prompt.data(sse(chunk("one")), first=True)
        begun.set()
        await prompt.cancelled.wait()

    house.worker.script = go_on_for_ever
    body = {"model": "mistral-small", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    async with house.http.stream("POST", "/api/v1/chat/completions", json=body, headers=house.by_key):
        await begun.wait()
        assert shown("morpheus_streams") == 1
        assert shown("http_server_active_requests") >= 1
        assert shown("morpheus_connections") >= 1
    left = {"gen_ai_operation_name": "chat", "mode": "stream", "outcome": "left"}
    await at_last(moves, "gen_ai_server_request_duration_seconds_count", 1, **left)
    assert shown("morpheus_streams") == 0


@pytest.mark.parametrize("stream", [True, False])
async def test_what_the_worker_says_was_not_ours_is_no_overhead(house: House, stream: bool) -> None:
    moves, mode = Moves(), "stream" if stream else "json"

    async def answer_late(prompt: FakePrompt) -> None:
        await prompt.accept()
        await prompt.complete()
        waited = 0.3
        await asyncio.sleep(waited)  # the provider, which takes its time
        head = AnswerHead(model="m", session_id=SESSION_ID, provider="0xp", elsewhere=waited)
        content = sse(chunk("one")) + b"data: [DONE]\n\n" if stream else json.dumps(completion("one")).encode()
        await prompt.send(Kind.DATA, content, head=head)
        await prompt.end()

    house.worker.script = answer_late
    began = time.monotonic()
    assert (await house.chat("one", stream=stream)).status_code == 200
    took = time.monotonic() - began
    await at_last(moves, "morpheus_overhead_seconds_count", 1, mode=mode)
    assert moves.of("morpheus_overhead_seconds_sum", mode=mode) <= took - 0.3


async def test_a_worker_that_does_not_say_it_is_no_reason_to_guess(house: House) -> None:
    """C52: a worker of the release before."""
    moves = Moves()
    assert (await house.chat("one", stream=True)).status_code == 200
    await at_last(moves, "gen_ai_server_time_to_first_token_seconds_count", 1, gen_ai_operation_name="chat")
    assert moves.of("morpheus_overhead_seconds_count", mode="stream") == 0


def test_the_time_in_which_a_body_comes_is_its_clients() -> None:
    moves = Moves()
    times = PromptTimes(Endpoint.EMBEDDINGS, stream=False, began=time.monotonic() - 7)
    times.answering(6.5)
    times.outcome = "ok"
    times.ended()
    assert moves.of("morpheus_overhead_seconds_sum", mode="json") == pytest.approx(0.5, abs=0.4)
    embeddings = {"gen_ai_operation_name": "embeddings", "mode": "json", "outcome": "ok"}
    assert moves.of("gen_ai_server_request_duration_seconds_sum", **embeddings) >= 7


async def test_who_is_over_a_limit_is_counted_by_which(make_house: MakeHouse) -> None:
    house = await make_house(chats_per_minute=1, refreshes_per_minute=1)
    moves = Moves()
    statuses = [(await house.chat("one")).status_code for _ in range(3)]
    assert statuses == [200, 429, 429]
    assert moves.of("morpheus_limit_refusals_total", limit="chats") == 2
    assert moves.of("morpheus_errors_total", code="rate_limit_exceeded") == 2


async def test_every_limit_has_its_series_from_the_start(house: House) -> None:
    limits = house.gateway.context.limits
    kinds = [getattr(limits, field.name) for field in dataclasses.fields(limits)]
    names = [
        limit._name if isinstance(limit, Limit) else limit._limit._name
        for limit in kinds
        if isinstance(limit, Limit | FailureLimit)
    ]
    assert sorted(names) == sorted(metrics.LIMITS)


async def test_the_copies_that_are_served_from_are_shown(house: House) -> None:
    assert shown("morpheus_models") == len(house.gateway.context.catalogue.models) > 0
    assert 0 <= shown("morpheus_catalogue_age_seconds") < 60


async def test_a_store_of_limits_is_shown_only_where_there_is_one(make_house: MakeHouse) -> None:
    await make_house()
    assert REGISTRY.get_sample_value("morpheus_limit_store_up") is None
    await make_house(limits_url="redis://127.0.0.1:9", worker_id="gw-other")
    assert REGISTRY.get_sample_value("morpheus_limit_store_up") == 0


@pytest.mark.parametrize("path", ["/metrics", "/metrics/", "/api/v1/metrics", "/-/metrics", "/asyncapi.json"])
async def test_no_metrics_and_nothing_of_the_bus_on_the_public_port(house: House, path: str) -> None:
    """C53."""
    answer = await house.http.get(path)
    assert answer.status_code == 404
    assert "morpheus_" not in answer.text


async def test_what_the_private_port_says_of_being_alive_is_not_said_in_public(house: House) -> None:
    """C53: the public `/live` and `/ready` name nothing that is missing."""
    for path in ("/live", "/ready"):
        answer: httpx2.Response = await house.http.get(path)
        assert set(answer.json()) == {"status"}
