"""Stored chats, and the panics of a router that stores them."""

import aiohttp
import pytest

from tests.unit.proxy_router_sim.harness import Router

CHAT = "0x" + "cd" * 32


async def ask(router: Router, session_id: str, *, stream: bool, **fields: object) -> bytes:
    body = {"messages": [{"role": "user", "content": "hello"}], "stream": stream, **fields}
    headers = {"session_id": session_id, "chat_id": CHAT}
    async with router.http.post("/v1/chat/completions", json=body, headers=headers) as response:
        return await response.read()


async def test_nothing_is_stored_unless_it_is_switched_on(router: Router) -> None:
    opened = await router.open()
    await ask(router, opened, stream=False)
    assert await router.get("/v1/chats") == []
    assert await router.post("/sim/chats", {"stored": True}) == (200, {"stored": True})
    await ask(router, opened, stream=False)
    await ask(router, opened, stream=True)
    [chat] = await router.get("/v1/chats")
    assert (chat["chatId"], chat["title"], chat["modelId"], chat["isLocal"]) == (
        CHAT,
        "hello",
        router.bid().model_id,
        False,
    )
    history = await router.get(f"/v1/chats/{CHAT}")
    first, second = history["messages"]
    assert first["prompt"]["messages"] == [{"content": "hello", "role": "user"}]
    assert first["response"] == second["response"] != ""


async def test_a_chat_is_renamed_and_deleted(router: Router) -> None:
    opened = await router.open()
    await router.post("/sim/chats", {"stored": True})
    await ask(router, opened, stream=False)
    assert await router.post(f"/v1/chats/{CHAT}", {"title": "another"}) == (200, {"result": True})
    assert (await router.get("/v1/chats"))[0]["title"] == "another"
    async with router.http.delete(f"/v1/chats/{CHAT}") as response:
        assert await response.json() == {"result": True}
    assert await router.get("/v1/chats") == []
    async with router.http.get(f"/v1/chats/{CHAT}") as response:
        assert response.status == 500
        assert await response.json() == {"error": f"open chats/{CHAT}.json: no such file or directory"}


async def test_only_the_last_hundred_chats_are_kept(router: Router) -> None:
    opened = await router.open()
    await router.post("/sim/chats", {"stored": True})
    for _ in range(101):
        await router.chat(opened)
    assert len(await router.get("/v1/chats")) == 100


async def test_a_router_that_stores_breaks_the_connection_after_a_chunk_with_nothing_but_usage(router: Router) -> None:
    opened = await router.open()
    asked = {"stream_options": {"include_usage": True}}
    assert (await ask(router, opened, stream=True, **asked)).endswith(b"data: [DONE]\n\n")
    await router.post("/sim/chats", {"stored": True})
    body = {"messages": [{"role": "user", "content": "hello"}], "stream": True, **asked}
    pieces: list[bytes] = []

    async def read(content: aiohttp.StreamReader) -> None:
        while not content.at_eof():
            pieces.append(await content.readany())

    async with router.http.post("/v1/chat/completions", json=body, headers={"session_id": opened}) as response:
        with pytest.raises(aiohttp.ClientPayloadError):
            await read(response.content)
    assert b"".join(pieces).endswith(b"data: [DONE]\n\n")
    assert await ask(router, opened, stream=True)


async def test_a_router_that_stores_breaks_the_connection_for_a_prompt_without_messages(router: Router) -> None:
    opened = await router.open()
    await router.post("/sim/chats", {"stored": True})
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await router.post("/v1/chat/completions", {"messages": []}, session_id=opened)


async def test_a_bad_chat_id_and_a_bad_switch_are_400(router: Router) -> None:
    opened = await router.open()
    status, body = await router.post(
        "/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}, session_id=opened, chat_id="0x12"
    )
    assert (status, body) == (400, {"error": "invalid hash length"})
    assert (await router.post("/sim/chats", {"stored": "yes"}))[0] == 400
