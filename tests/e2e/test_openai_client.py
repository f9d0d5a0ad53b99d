"""OpenAI's own Python SDK, unmodified, against the whole house."""

import json
import secrets
from typing import Any

import pytest
from openai import APIError, AuthenticationError, BadRequestError, NotFoundError, OpenAI

from tests.clients.provider import Provider
from tests.e2e.house import Account, House


def _say(client: OpenAI, model: str, text: str) -> str:
    answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}])
    assert answer.choices[0].finish_reason == "stop"
    return answer.choices[0].message.content or ""


def _stream(client: OpenAI, model: str, text: str) -> str:
    stream = client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], stream=True)
    said, reasons = "", []
    for chunk in stream:
        for choice in chunk.choices:
            said += choice.delta.content or ""
            reasons += [choice.finish_reason] if choice.finish_reason else []
    assert reasons == ["stop"]
    return said


def test_a_new_user_gets_from_registration_to_the_same_answer_in_both_modes(house: House) -> None:
    account = house.new_account(automation=True)
    client = house.openai(account.key)
    models = [model.id for model in client.models.list()]
    assert house.llm in models
    text = f"say {secrets.token_hex(4)}"
    spoken = _say(client, house.llm, text)
    assert text in spoken
    assert _stream(client, house.llm, text) == spoken


def test_a_streamed_answer_ends_with_its_usage_when_that_was_asked_for(house: House, account: Account) -> None:
    stream = house.openai(account.key).chat.completions.create(
        model=house.llm,
        messages=[{"role": "user", "content": "count me"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    with_usage = [chunk for chunk in chunks if chunk.usage is not None]
    assert with_usage == [chunks[-1]]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens > 0


@pytest.mark.parametrize("streamed", [False, True])
def test_a_tool_is_called_in_both_modes(house: House, account: Account, streamed: bool) -> None:
    client = house.openai(account.key)
    weather = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
    request: dict[str, Any] = {
        "model": house.llm,
        "messages": [{"role": "user", "content": "weather in Paris?"}],
        "tools": [weather],
    }
    name, arguments = "", ""
    if streamed:
        for chunk in client.chat.completions.create(stream=True, **request):
            for choice in chunk.choices:
                for call in choice.delta.tool_calls or ():
                    name += call.function.name or ""
                    arguments += call.function.arguments or ""
    else:
        answer = client.chat.completions.create(**request)
        assert answer.choices[0].finish_reason == "tool_calls"
        for call in answer.choices[0].message.tool_calls or ():
            name, arguments = call.function.name, call.function.arguments
    assert name == "get_weather"
    assert "city" in json.loads(arguments)


def test_a_stream_that_breaks_off_is_an_exception(house: House, account: Account) -> None:
    """C34: the SDK takes a stream that just ends for a whole one."""
    text = f"say {secrets.token_hex(4)}"
    with Provider(house.stack.router_url) as provider:
        provider.fail("truncate", text, at=3)
    with pytest.raises(APIError) as broken:
        _stream(house.openai(account.key), house.llm, text)
    assert broken.value.code == "stream_truncated"


def test_texts_become_vectors_as_the_sdk_asks_for_them_and_as_plain_numbers(house: House) -> None:
    """Left to itself the SDK asks for base64 and unpacks it; a chat before and after has the key change sessions."""
    account = house.new_account(automation=True)
    client = house.openai(account.key)
    _say(client, house.llm, "hello")
    texts = ["a sea of ships", "a sea of boats", "tax law"]
    packed = client.embeddings.create(model=house.embedder, input=texts)
    plain = client.embeddings.create(model=house.embedder, input=texts, encoding_format="float")
    assert [item.index for item in packed.data] == [0, 1, 2]
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
    assert packed.object == "list"
    assert packed.usage.total_tokens > 0
    short = client.embeddings.create(model=house.embedder, input=[1, 2, 3], dimensions=5)
    assert len(short.data[0].embedding) == 5
    _say(client, house.llm, "hello again")
    listed = house.http.get("session/list", headers=account.by_key).json()
    assert len(listed["sessions"] if isinstance(listed, dict) else listed) == 2


def test_a_model_of_the_other_type_is_refused_and_no_session_opened_for_it(house: House) -> None:
    """F27"""
    account = house.new_account(automation=True)
    client = house.openai(account.key)
    with pytest.raises(BadRequestError) as refused:
        client.embeddings.create(model=house.llm, input="hello")
    assert refused.value.code == "model_type_mismatch"
    with pytest.raises(BadRequestError) as refused:
        _say(client, house.embedder, "hello")
    assert refused.value.code == "model_type_mismatch"
    assert house.http.get("session", headers=account.by_key).json() is None


def test_an_unknown_model_is_not_found_and_never_replaced(house: House, account: Account) -> None:
    with pytest.raises(NotFoundError) as refused:
        _say(house.openai(account.key), "no-such-model", "hello")
    assert refused.value.code == "model_not_found"


def test_a_wrong_key_is_an_authentication_error(house: House, account: Account) -> None:
    wrong = account.key[:-1] + ("a" if account.key[-1] != "a" else "b")
    with pytest.raises(AuthenticationError) as refused:
        _say(house.openai(wrong), house.llm, "hello")
    assert refused.value.code == "invalid_api_key"
    with pytest.raises(AuthenticationError):
        _say(house.openai("nonsense"), house.llm, "hello")


def test_a_revoked_key_is_refused_at_once(house: House) -> None:
    """C5."""
    account = house.new_account(automation=True)
    client = house.openai(account.key)
    _say(client, house.llm, "hello")
    row = house.http.delete(f"auth/keys/{account.key_id}", headers=account.by_token)
    assert row.json()["is_active"] is False
    # a gateway may use an answer of auth for 0.8 s
    house.eventually(
        lambda: house.http.get("session", headers=account.by_key).status_code == 401, seconds=1.0, what="refusal"
    )
    with pytest.raises(AuthenticationError):
        _say(client, house.llm, "hello")


def test_without_automation_a_chat_names_the_two_ways_to_a_session(house: House) -> None:
    """F30."""
    account = house.new_account(automation=False)
    answer = house.chat(account, "hello")
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "no_active_session"
    assert "modelsession" in answer.json()["error"]["message"]
    assert "automation/settings" in answer.json()["error"]["message"]
    opened = house.http.post("session/modelsession", params={"model_id": house.llm_id}, headers=account.by_key)
    assert opened.status_code == 200, opened.text
    assert house.chat(account, "hello").status_code == 200
    closed = house.http.post("session/closesession", headers=account.by_key)
    assert closed.json()["session_id"] == opened.json()["session_id"]
    assert house.chain_session(opened.json()["session_id"])["ClosedAt"] > 0
