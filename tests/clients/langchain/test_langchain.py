"""LangChain's ChatOpenAI against a running stack. Run by `tests/clients/test_langchain.py`, in `.venv-clients`."""

import asyncio
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr

from tests.clients.journeys import picture
from tests.clients.provider import Provider


class Trip(BaseModel):
    """A trip."""

    city: str
    days: int


def _weather(city: str) -> str:
    """Tell the weather in a city."""
    return f"rain in {city}"


get_weather = tool("get_weather", _weather)


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(os.environ["ROUTER_URL"]) as provider:
        yield provider
        provider.relent()


@pytest.fixture
def mark() -> str:
    return f"mark {secrets.token_hex(6)}"


def _model(**options: Any) -> ChatOpenAI:
    return ChatOpenAI(
        base_url=os.environ["BASE_URL"],
        **{"model": os.environ["MODEL"], "api_key": SecretStr(os.environ["API_KEY"]), **options},
    )


@pytest.fixture
def model() -> ChatOpenAI:
    return _model()


def _gathered(chunks: Iterator[AIMessageChunk]) -> AIMessageChunk:
    whole: AIMessageChunk | None = None
    for chunk in chunks:
        whole = chunk if whole is None else whole + chunk
    assert whole is not None
    return whole


def test_an_answer_has_its_text_its_reason_to_end_and_its_usage(model: ChatOpenAI, mark: str) -> None:
    answer = model.invoke(mark)
    assert mark in answer.text
    assert answer.response_metadata["finish_reason"] == "stop"
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["total_tokens"] > answer.usage_metadata["output_tokens"] > 0


def test_a_stream_gathers_to_the_same_answer_with_the_same_usage(model: ChatOpenAI, mark: str) -> None:
    """C36."""
    whole = model.invoke(mark)
    streamed = _gathered(model.stream(mark, stream_usage=True))
    assert streamed.text == whole.text
    assert streamed.response_metadata["finish_reason"] == "stop"
    assert streamed.usage_metadata == whole.usage_metadata


@pytest.mark.parametrize("streamed", [False, True])
def test_a_bound_tool_is_called_and_its_result_answered(
    model: ChatOpenAI, provider: Provider, mark: str, *, streamed: bool
) -> None:
    """F23: LangChain sends the empty content of the call back as it is."""
    bound = model.bind_tools([get_weather])
    called = _gathered(bound.stream(mark)) if streamed else bound.invoke(mark)
    [call] = called.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": mark})
    result = get_weather.invoke(call)
    assert isinstance(result, ToolMessage)
    turns = [HumanMessage(mark), called, result]
    answer = _gathered(bound.stream(turns)) if streamed else bound.invoke(turns)
    assert f"rain in {mark}" in answer.text
    asked = provider.bodies(f"rain in {mark}")[-1]["messages"]
    assert [turn["role"] for turn in asked] == ["user", "assistant", "tool"]
    assert asked[1]["tool_calls"][0]["id"] == asked[2]["tool_call_id"]


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_structured_output_is_an_object(model: ChatOpenAI, provider: Provider, mark: str, method: Any) -> None:
    if method == "json_mode":
        assert model.with_structured_output(None, method=method).invoke(mark) == {"answer": mark}
    else:
        assert model.with_structured_output(Trip, method=method).invoke(mark) == Trip(city=mark, days=1)
    wanted = provider.bodies(mark)[-1].get("response_format", {}).get("type")
    assert wanted == {"json_schema": "json_schema", "json_mode": "json_object"}.get(method)


def test_a_batch_stands_in_line_and_each_gets_its_own_answer(model: ChatOpenAI, mark: str) -> None:
    """F1."""
    texts = [f"{mark} {number} only" for number in range(5)]
    answers = model.batch(texts)
    assert [text in answer.text for text, answer in zip(texts, answers, strict=True)] == [True] * 5


def test_parameters_of_the_model_reach_the_provider(provider: Provider, mark: str) -> None:
    """F24."""
    options = {"seed": 7, "temperature": 0.5, "n": 2, "logprobs": True, "top_logprobs": 2, "stop": ["never said"]}
    model = _model(**options, extra_body={"top_k": 40})
    result = model.generate([[HumanMessage(mark)]])
    assert len(result.generations[0]) == 2
    first = result.generations[0][0]
    assert first.generation_info is not None
    assert "".join(token["token"] for token in first.generation_info["logprobs"]["content"]) == first.text
    [asked] = provider.bodies(mark)
    assert {**asked, **options, "top_k": 40} == asked


def test_a_picture_reaches_the_provider_whole(model: ChatOpenAI, provider: Provider, mark: str) -> None:
    """F25."""
    parts: list[str | dict[str, Any]] = [
        {"type": "text", "text": mark},
        {"type": "image_url", "image_url": {"url": picture(4)}},
    ]
    assert mark in model.invoke([HumanMessage(parts)]).text
    assert provider.bodies(mark)[-1]["messages"][0]["content"] == parts


@pytest.mark.parametrize("action", ["truncate", "raw_error"])
def test_a_stream_that_fails_in_the_middle_is_an_exception(
    model: ChatOpenAI, provider: Provider, mark: str, action: str
) -> None:
    """C34, F21."""
    provider.fail(action, mark, at=3)
    with pytest.raises(openai.APIError) as failed:
        _gathered(model.stream(mark))
    assert failed.value.code == {"truncate": "stream_truncated", "raw_error": "provider_error"}[action]
    assert len(provider.prompts(mark)) == 1


def test_a_provider_that_is_full_is_asked_again_when_it_said(provider: Provider, mark: str) -> None:
    """C19."""
    provider.fail("model_error", mark)
    started = time.monotonic()
    assert mark in _model().invoke(mark).text
    assert time.monotonic() - started >= 5
    assert len(provider.prompts(mark)) == 2


def test_what_may_have_run_is_not_sent_again(model: ChatOpenAI, provider: Provider, mark: str) -> None:
    provider.fail("raw_error", mark, count=None)
    with pytest.raises(openai.InternalServerError) as failed:
        model.invoke(mark)
    assert failed.value.code == "provider_error"
    assert len(provider.prompts(mark)) == 1


def test_refusals_are_exceptions_of_their_kind() -> None:
    with pytest.raises(openai.AuthenticationError):
        _model(api_key=SecretStr("sk-nonsense")).invoke("hello")
    with pytest.raises(openai.NotFoundError):
        _model(model="no-such-model").invoke("hello")
    with pytest.raises(openai.BadRequestError):
        _model().invoke([])


async def test_a_cancelled_task_cancels_its_stream(model: ChatOpenAI, provider: Provider, mark: str) -> None:
    """C33."""
    provider.fail("pace", mark, seconds=0.25)
    begun = asyncio.Event()

    async def read() -> None:
        async for _ in model.astream(mark):
            begun.set()

    reading = asyncio.create_task(read())
    await begun.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await asyncio.to_thread(provider.until_free, mark, seconds=1.0)
    assert isinstance(await model.ainvoke("next"), AIMessage)


def test_the_example_prints_a_stream_and_the_answer_made_with_a_tool() -> None:
    script = Path(__file__).resolve().parents[3] / "examples" / "langchain_chat.py"
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    streamed, with_tool = ran.stdout.splitlines()
    assert streamed.startswith("You asked: Name a river.")
    assert "18 °C and rain in" in with_tool
    wrong = {**os.environ, "API_KEY": "sk-nonsense"}
    ran = subprocess.run(
        [sys.executable, str(script)], env=wrong, capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (1, "", 1)
