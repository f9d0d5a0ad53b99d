"""Embeddings run in a key's session as chats do."""

import json
from typing import Any

import pytest
from morpheus_common.contracts.chat import Endpoint

from tests.service.sessions.house import Answer, House

EMBEDDER = "text-embedding-bge-m3"


async def embed(house: House, *texts: str, **wish: Any) -> Answer:
    wish.setdefault("model_id", house.gateway.model(EMBEDDER))
    body = {"input": list(texts), "encoding_format": "float"}
    return await house.gateway.chat(stream=False, endpoint=Endpoint.EMBEDDINGS, body=body, **wish)


async def test_texts_become_vectors_in_a_session_that_is_opened_for_them(house: House) -> None:
    async with house.worker():
        answer = await embed(house, "a", "b")
        again = await embed(house, "a", "b")
    answer.assert_whole()
    said = json.loads(answer.body)
    assert (said["object"], said["model"], [item["index"] for item in said["data"]]) == ("list", EMBEDDER, [0, 1])
    assert said["usage"]["total_tokens"] > 0
    assert again.body == answer.body
    assert len(await house.simulator.sessions()) == 1


async def test_a_key_that_chats_and_embeds_changes_between_two_sessions_and_opens_no_third(house: House) -> None:
    """F3"""
    async with house.worker():
        for _ in range(2):
            (await house.gateway.chat(stream=False)).assert_whole()
            (await embed(house, "a")).assert_whole()
    state = await house.simulator.state()
    assert state["opens_total"] == state["open_count"] == 2


@pytest.mark.parametrize("insists", [False, True])
async def test_a_session_of_the_other_type_is_not_taken_for_want_of_a_model(house: House, insists: bool) -> None:
    """F27: the provider is not asked what it cannot answer."""
    async with house.worker():
        chatting = await house.gateway.open()
        wish: dict[str, Any] = {"session_id": chatting.session_id} if insists else {}
        assert (await embed(house, "a", model_id=None, **wish)).code == "model_type_mismatch"
        embedding = await house.gateway.open(model_id=house.gateway.model(EMBEDDER))
        await house.session_is("closed")
        wish = {"session_id": embedding.session_id} if insists else {}
        for stream in (False, True):
            refused = await house.gateway.chat(model_id=None, stream=stream, **wish)
            assert refused.code == "model_type_mismatch"
        assert await house.simulator.prompts() == 0
        (await embed(house, "a", model_id=None, **wish)).assert_whole()


async def test_a_provider_that_fails_to_embed_is_told_as_for_a_chat(house: House) -> None:
    """F11"""
    text = "provider request failed: invalid response: unknown embeddings response format"
    async with house.worker():
        (await embed(house, "a")).assert_whole()
        await house.simulator.arm("embeddings", "error_before", text=text)
        assert (await embed(house, "a")).code == "provider_error"
        await house.simulator.arm("embeddings", "drop")
        assert (await embed(house, "a")).code == "provider_error"
        (await embed(house, "a")).assert_whole()
    assert len(await house.simulator.sessions()) == 1


async def test_a_lost_session_is_opened_again_once_for_embeddings_too(house: House) -> None:
    """F29"""
    lost = "provider request failed: provider error: session expired"
    async with house.worker():
        (await embed(house, "a")).assert_whole()
        await house.simulator.arm("embeddings", "error_before", text=lost)
        (await embed(house, "a")).assert_whole()
        assert len(await house.simulator.sessions()) == 2
        await house.simulator.arm("embeddings", "error_before", count=2, text=lost)
        assert (await embed(house, "a")).code == "session_lost"
