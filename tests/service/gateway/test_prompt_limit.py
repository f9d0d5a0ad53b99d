"""How many prompts a key sends in a minute, and how every answer tells of it."""

import asyncio
import time
from collections import Counter

import httpx2
import pytest
from morpheus_common.contracts.auth import Scope
from openai import RateLimitError

from tests.service.gateway.conftest import House, MakeHouse
from tests.service.gateway.test_address_limits import assert_limited, bearer, told

CHAT = "/api/v1/chat/completions"
EMBEDDINGS = "/api/v1/embeddings"


async def embed(house: House) -> httpx2.Response:
    """Ask for embeddings of a model that has none: it counts like any prompt."""
    body = {"model": "mistral-small", "input": "one two three"}
    return await house.http.post(EMBEDDINGS, json=body, headers=house.by_key)


async def test_a_key_sends_sixty_prompts_a_minute(house: House) -> None:
    answers = await asyncio.gather(*(house.chat() for _ in range(61)))
    assert Counter(answer.status_code for answer in answers) == {200: 60, 429: 1}
    assert {told(answer) for answer in answers if answer.status_code == 200} == {("60", str(n)) for n in range(60)}
    limited = next(answer for answer in answers if answer.status_code == 429)
    assert_limited(limited, 60)
    assert limited.headers["x-should-retry"] == "true"
    assert len(house.worker.prompts) == 60


async def test_streams_and_embeddings_count_with_chats_under_either_path(make_house: MakeHouse) -> None:
    house = await make_house(chats_per_minute=6)
    assert told(await house.chat()) == ("6", "5")
    stream = await house.chat(stream=True)
    assert (stream.headers["content-type"].partition(";")[0], told(stream)) == ("text/event-stream", ("6", "4"))
    assert stream.headers["x-ratelimit-reset-requests"] == "1m0s"
    assert ((await embed(house)).status_code, told(await house.chat(model="none"))) == (400, ("6", "2"))
    body = {"messages": [{"role": "user", "content": "hi"}]}
    assert told(await house.http.post("/v1/chat/completions/", json=body, headers=house.by_key)) == ("6", "1")
    assert told(await embed(house)) == ("6", "0")
    for answer in (await house.chat(), await house.chat(stream=True), await embed(house)):
        assert_limited(answer, 6)
        assert answer.headers["x-should-retry"] == "true"


async def test_every_answer_to_a_prompt_tells_how_the_key_stands_but_401(make_house: MakeHouse) -> None:
    """C19"""
    house = await make_house(chats_per_minute=100, body_limit=100_000)
    headers = house.by_key | {"Content-Type": "application/json"}

    async def post(content: bytes, path: str = CHAT, **more: str) -> httpx2.Response:
        return await house.http.post(path, content=content, headers=headers | more)

    for counted, answer in enumerate(
        [
            await post(b"{"),
            await post(b"{}"),
            await post(b"x", **{"Content-Type": "text/plain"}),
            await house.chat(model="no-such-model"),
        ],
        start=1,
    ):
        assert answer.status_code in {400, 404, 415}
        assert told(answer) == ("100", str(100 - counted))
    # refused before anything was looked at: it costs nothing and does not count
    for content, path, status in ((b"x" * 100_001, CHAT, 413), (b"{}", CHAT + "?a=1&a=2", 422)):
        answer = await post(content, path)
        assert (answer.status_code, told(answer)) == (status, ("100", "96")), path
    for wrong in ({}, bearer("sk-nonsense"), house.by_token):
        unknown = await house.http.post(CHAT, content=b"x" * 100_001, headers=wrong)
        assert (unknown.status_code, told(unknown)) == (413, (None, None))
        unknown = await house.http.post(CHAT, content=b"{}", headers=wrong)
        assert (unknown.status_code, told(unknown)) == (401, (None, None))


async def test_a_key_that_may_not_chat_is_counted_all_the_same(make_house: MakeHouse) -> None:
    house = await make_house(chats_per_minute=1)
    key = house.auth.add_key(scopes=[Scope.SESSIONS])
    refused = await house.http.post(CHAT, json={"messages": [{}]}, headers=bearer(key))
    assert (refused.status_code, told(refused)) == (403, ("1", "0"))
    assert_limited(await house.http.post(CHAT, json={"messages": [{}]}, headers=bearer(key)), 1)


async def test_keys_of_one_user_do_not_count_for_each_other(make_house: MakeHouse) -> None:
    house = await make_house(chats_per_minute=1)
    assert (await house.chat()).status_code == 200
    assert (await house.chat()).status_code == 429
    other = house.auth.add_key()
    assert (await house.chat(headers=bearer(other))).status_code == 200


async def test_a_key_over_its_limit_is_refused_before_its_body_is_read_and_asks_nobody(make_house: MakeHouse) -> None:
    """C16"""
    house = await make_house(chats_per_minute=1)
    await house.chat()
    started = len(house.worker.prompts)
    asked = house.auth.asked["check_key"].copy()

    # a body that is announced and never comes
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {house.key}\r\nContent-Length: 100000\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", house.gateway.port)
    writer.write(head.encode())
    async with asyncio.timeout(5):
        assert b" 429 " in await reader.readline()
    writer.close()
    took = []
    for _ in range(20):
        begun = time.monotonic()
        assert_limited(await house.chat("x" * 100_000), 1)
        took.append(time.monotonic() - begun)
    # of the best: the machine may do other things
    assert min(took) < 0.05
    assert len(house.worker.prompts) == started
    # auth is asked again as for any key it last answered for a second ago
    assert len(house.auth.asked["check_key"]) - len(asked) <= 3


async def test_others_are_served_while_a_key_runs_into_its_limit(make_house: MakeHouse) -> None:
    """One that is over its limit takes no place that others wait for."""
    house = await make_house(chats_per_minute=5)
    greedy, patient = house.auth.add_key(), house.auth.add_key()
    flood = [asyncio.create_task(house.chat(headers=bearer(greedy))) for _ in range(200)]
    answers = [await house.chat(headers=bearer(patient)) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200] * 5
    assert Counter(answer.status_code for answer in await asyncio.gather(*flood)) == {200: 5, 429: 195}


async def test_openais_client_is_told_to_wait(make_house: MakeHouse) -> None:
    """C19"""
    house = await make_house(chats_per_minute=1)
    async with house.openai as client:
        ask = {"model": "mistral-small", "messages": [{"role": "user", "content": "hi"}]}
        raw = await client.chat.completions.with_raw_response.create(**ask)  # type: ignore[call-overload]  # a dict
        assert raw.headers["x-ratelimit-remaining-requests"] == "0"
        with pytest.raises(RateLimitError) as caught:
            await client.chat.completions.create(**ask)  # type: ignore[call-overload]  # a dict
    assert caught.value.code == "rate_limit_exceeded"
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60
