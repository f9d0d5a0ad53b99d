"""Embeddings: the same way as a chat's, with a body and models of their own."""

import json

import httpx2
import pytest
from morpheus_common.contracts.auth import Scope
from morpheus_common.contracts.chat import Endpoint

from tests.service.gateway.conftest import House
from tests.service.gateway.fakes import SESSION_ID, FakePrompt, chain_id

VECTORS = b'{"object":"list","data":[{"object":"embedding","embedding":"AACAPw==","index":0}],"model":"nomic-embed","usage":{}}'


async def answer_with_vectors(prompt: FakePrompt) -> None:
    await prompt.accept()
    await prompt.complete()
    await prompt.data(VECTORS, first=True)
    await prompt.end()


@pytest.fixture
def house(house: House) -> House:
    """A house whose worker turns texts into vectors."""
    house.worker.script = answer_with_vectors
    return house


async def embed(house: House, headers: dict[str, str] | None = None, **fields: object) -> httpx2.Response:
    body = {"model": "nomic-embed", "input": "hello", **fields}
    return await house.http.post("/api/v1/embeddings", json=body, headers=house.by_key | (headers or {}))


def code_of(response: httpx2.Response) -> str:
    return str(response.json()["error"]["code"])


async def test_a_worker_gets_texts_as_they_were_sent_and_the_client_its_vectors(house: House) -> None:
    sent = json.dumps({"input": ["hello", "€"], "model": "nomic-embed", "dimensions": 1.0}).encode()
    headers = house.by_key | {"Content-Type": "application/json"}
    for path in ("/v1/embeddings", "/api/v1/embeddings"):
        response = await house.http.post(path, content=sent, headers=headers)
        assert response.status_code == 200
        assert response.content == VECTORS
        assert response.headers["content-type"] == "application/json"
        assert response.headers["x-morpheus-session"] == SESSION_ID
        assert {"x-morpheus-model", "x-morpheus-provider", "x-request-id"} <= set(response.headers)
    prompt = house.worker.prompts[0]
    assert (prompt.head.endpoint, prompt.head.model_id, prompt.head.stream) == (Endpoint.EMBEDDINGS, chain_id(3), False)
    assert bytes(prompt.body) == sent


async def test_openais_client_asks_for_base64_and_unpacks_it(house: House) -> None:
    async with house.openai as client:
        answer = await client.embeddings.create(model="nomic-embed", input="hello")
    assert answer.data[0].embedding == [1.0]
    assert house.worker.prompts[0].prompt["encoding_format"] == "base64"


async def test_embeddings_are_one_object_whatever_accept_says_and_never_a_stream(house: House) -> None:
    response = await embed(house, {"Accept": "text/event-stream"})
    assert response.headers["content-type"] == "application/json"
    refused = await embed(house, stream=True)
    assert (refused.status_code, code_of(refused)) == (400, "invalid_value")
    assert refused.json()["error"]["param"] == "stream"
    assert len(house.worker.prompts) == 1


async def test_a_model_that_chats_has_no_embeddings(house: House) -> None:
    """F27"""
    response = await embed(house, model="mistral-small")
    assert (response.status_code, code_of(response)) == (400, "model_type_mismatch")
    assert house.worker.prompts == []


async def test_who_may_chat_may_have_embeddings_of_the_models_of_the_key(house: House) -> None:
    """C14"""
    house.key = house.auth.add_key(scopes=[Scope.SESSIONS])
    assert code_of(await embed(house)) == "insufficient_scope"
    house.key = house.auth.add_key(allowed_models=[chain_id(2)])
    assert code_of(await embed(house)) == "model_not_allowed"
    assert code_of(await embed(house, model=None)) == "missing_required_parameter"
    house.key = house.auth.add_key(allowed_models=[chain_id(3)])
    assert (await embed(house)).status_code == 200


async def test_a_session_can_be_insisted_on(house: House) -> None:
    assert (await embed(house, session_id=SESSION_ID)).status_code == 200
    prompt = house.worker.prompts[0]
    assert prompt.head.session_id == SESSION_ID
    assert "session_id" not in prompt.prompt
    assert code_of(await embed(house, session_id="0x1")) == "invalid_value"


async def test_a_client_that_leaves_takes_its_texts_back(house: House) -> None:
    """B16"""

    async def only_accept(prompt: FakePrompt) -> None:
        await prompt.accept()

    house.worker.script = only_accept
    with pytest.raises(httpx2.ReadTimeout):
        await house.http.post(
            "/v1/embeddings", json={"model": "nomic-embed", "input": "x"}, headers=house.by_key, timeout=0.3
        )
    prompt = await house.worker.nth(1)
    await prompt.until(prompt.cancelled.is_set)
