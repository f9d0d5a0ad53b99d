"""OpenAI's Python SDK with its defaults, against a running stack. `make test` has the simplest forms (tests/e2e)."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from tests.clients.journeys import NEVER_ANSWERED, WEATHER, picture
from tests.clients.provider import Provider
from tests.e2e.house import Account, House


class Trip(BaseModel):
    city: str
    days: int


class Wire:
    """The SDK with its own settings, and what it sent and was answered."""

    def __init__(self, base_url: str, key: str, **options: Any) -> None:
        self.sent: list[bytes] = []
        self.at: list[float] = []
        self.answers: list[httpx2.Response] = []
        hooks: dict[str, list[Any]] = {"request": [self._note], "response": [self.answers.append]}
        http = httpx2.Client(event_hooks=hooks, timeout=60)
        self.client = OpenAI(base_url=base_url, api_key=key, http_client=http, **options)

    def _note(self, request: httpx2.Request) -> None:
        self.sent.append(request.read())
        self.at.append(time.monotonic())

    @property
    def statuses(self) -> list[int]:
        return [answer.status_code for answer in self.answers]

    @property
    def pauses(self) -> list[float]:
        """Seconds between its attempts."""
        return [later - earlier for earlier, later in zip(self.at, self.at[1:], strict=False)]


Dial = Callable[..., Wire]


@pytest.fixture
def dial(house: House) -> Iterator[Dial]:
    """Makes SDKs for other keys, or with other options."""
    made = []

    def dial(key: str, **options: Any) -> Wire:
        made.append(Wire(house.stack.base_url, key, **options))
        return made[-1]

    yield dial
    for wire in made:
        wire.client.close()


@pytest.fixture
def wire(dial: Dial, account: Account) -> Wire:
    return dial(account.key)


def _asked(house: House, text: Any, **more: Any) -> dict[str, Any]:
    return {"model": house.llm, "messages": [{"role": "user", "content": text}], **more}


def _stream(client: OpenAI, **request: Any) -> str:
    chunks = client.chat.completions.create(stream=True, **request)
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


# what is asked reaches the provider, and its answer the client


def test_models_are_listed_and_found_by_name_and_by_chain_id(house: House, wire: Wire) -> None:
    models = {model.id: model for model in wire.client.models.list()}
    assert wire.client.models.retrieve(house.llm).id == house.llm
    assert wire.client.models.retrieve(house.llm_id).id == house.llm
    assert models[house.llm].object == "model"


def test_parameters_known_and_unknown_reach_the_provider_byte_for_byte(
    house: House, wire: Wire, provider: Provider, mark: str
) -> None:
    """F24."""
    request = _asked(
        house,
        mark,
        n=2,
        logprobs=True,
        top_logprobs=2,
        seed=7,
        stop=["never said"],
        temperature=0.5,
        user="somebody",
        extra_body={"provider_only": {"deep": [1.0, 1e300, "ü"]}, "top_k": 40},
    )
    answer = wire.client.chat.completions.create(**request)
    [prompt] = provider.prompts(mark)
    assert prompt["body"].encode() == wire.sent[-1]
    assert json.loads(prompt["body"])["provider_only"] == {"deep": [1.0, 1e300, "ü"]}
    assert not [name for name in prompt["headers"] if name.startswith("x-stainless") or name == "openai-organization"]
    assert [choice.index for choice in answer.choices] == [0, 1]
    for choice in answer.choices:
        assert choice.logprobs is not None
        tokens = choice.logprobs.content or []
        assert "".join(token.token for token in tokens) == choice.message.content
        assert {len(token.top_logprobs) for token in tokens} == {2}


def test_a_streamed_request_is_passed_on_unchanged_too_and_says_the_same(
    house: House, wire: Wire, provider: Provider, mark: str
) -> None:
    """F24, C36."""
    request = _asked(house, mark, n=2, logprobs=True, seed=7, stop="never said", stream_options={"include_usage": True})
    whole = wire.client.chat.completions.create(**{**request, "stream_options": openai.omit})
    said, tokens, usage = ["", ""], ["", ""], []
    finished: dict[int, str | None] = {}
    for chunk in wire.client.chat.completions.create(stream=True, **request):
        usage += [chunk.usage] if chunk.usage else []
        for choice in chunk.choices:
            said[choice.index] += choice.delta.content or ""
            finished[choice.index] = choice.finish_reason or finished.get(choice.index)
            if choice.logprobs is not None:
                tokens[choice.index] += "".join(token.token for token in choice.logprobs.content or ())
    assert said == tokens == [choice.message.content for choice in whole.choices]
    assert finished == {0: "stop", 1: "stop"}
    assert [one.total_tokens for one in usage] == [whole.usage.total_tokens if whole.usage else None]
    assert provider.prompts(mark)[-1]["body"].encode() == wire.sent[-1]


def test_a_stop_sequence_ends_an_answer_in_both_modes(house: House, wire: Wire, mark: str) -> None:
    request = _asked(house, f"{mark} HALT and more", stop=["HALT"])
    answer = wire.client.chat.completions.create(**request)
    assert answer.choices[0].message.content == _stream(wire.client, **request)
    assert "HALT" not in (answer.choices[0].message.content or "HALT")


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("content", ["", None])
def test_a_tool_is_called_and_its_result_answered(
    house: House, wire: Wire, provider: Provider, mark: str, *, streamed: bool, content: str | None
) -> None:
    """F23."""
    completions = wire.client.chat.completions
    request = _asked(house, mark, tools=[WEATHER], tool_choice="auto")
    call = {"id": "", "name": "", "arguments": ""}
    if streamed:
        for chunk in completions.create(stream=True, **request):
            for choice in chunk.choices:
                for part in choice.delta.tool_calls or ():
                    call["id"] += part.id or ""
                    call["name"] += (part.function and part.function.name) or ""
                    call["arguments"] += (part.function and part.function.arguments) or ""
    else:
        first = completions.create(**request)
        assert first.choices[0].finish_reason == "tool_calls"
        [made] = first.choices[0].message.tool_calls or []
        assert made.type == "function"
        call = {"id": made.id, "name": made.function.name, "arguments": made.function.arguments}
    assert (call["name"], json.loads(call["arguments"])) == ("get_weather", {"city": mark})
    function = {"name": call["name"], "arguments": call["arguments"]}
    turns = [
        *request["messages"],
        {
            "role": "assistant",
            "content": content,
            "tool_calls": [{"id": call["id"], "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": call["id"], "content": "rain and 12 degrees"},
    ]
    if streamed:
        said = _stream(wire.client, **{**request, "messages": turns})
    else:
        said = completions.create(**{**request, "messages": turns}).choices[0].message.content or ""
    assert "rain and 12 degrees" in said
    assert provider.bodies("rain and 12 degrees")[-1]["messages"] == turns


def test_a_schema_makes_objects_of_answers_in_both_modes(
    house: House, wire: Wire, provider: Provider, mark: str
) -> None:
    completions = wire.client.chat.completions
    answer = completions.parse(response_format=Trip, **_asked(house, mark))
    assert answer.choices[0].message.parsed == Trip(city=mark, days=1)
    assert provider.bodies(mark)[-1]["response_format"]["json_schema"]["strict"] is True
    with completions.stream(response_format=Trip, **_asked(house, mark)) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == Trip(city=mark, days=1)


@pytest.mark.parametrize("streamed", [False, True])
def test_pictures_of_megabytes_reach_the_provider_whole(
    house: House, wire: Wire, provider: Provider, mark: str, *, streamed: bool
) -> None:
    """F25."""
    parts = [
        {"type": "text", "text": mark},
        {"type": "image_url", "image_url": {"url": picture(5), "detail": "high"}},
        {"type": "image_url", "image_url": {"url": picture(4)}},
    ]
    if streamed:
        said = _stream(wire.client, **_asked(house, parts))
    else:
        said = wire.client.chat.completions.create(**_asked(house, parts)).choices[0].message.content or ""
    assert mark in said
    [prompt] = provider.prompts(mark)
    assert prompt["body"].encode() == wire.sent[-1]


async def test_prompts_side_by_side_get_their_own_answers(house: House, account: Account, mark: str) -> None:
    """F1."""
    async with AsyncOpenAI(base_url=house.stack.base_url, api_key=account.key) as client:

        async def ask(text: str) -> str:
            answer = await client.chat.completions.create(**_asked(house, text))
            return answer.choices[0].message.content or ""

        texts = [f"{mark} {number} only" for number in range(4)]
        answers = await asyncio.gather(*map(ask, texts))
    assert [text in answer for text, answer in zip(texts, answers, strict=True)] == [True] * 4


# a slow or absent answer


def test_comments_that_keep_a_silent_stream_alive_are_no_part_of_it(
    house: House, wire: Wire, provider: Provider, mark: str
) -> None:
    provider.fail("stall", mark, at=0, seconds=2.0)
    with wire.client.chat.completions.with_streaming_response.create(stream=True, **_asked(house, mark)) as raw:
        raw_stream = raw.read().decode()
    assert raw_stream.count(": keep-alive\n\n") >= 2
    provider.fail("stall", mark, at=3, seconds=2.0)
    assert mark in _stream(wire.client, **_asked(house, mark))


def test_a_stream_that_is_left_is_cancelled_and_the_next_prompt_runs_at_once(
    house: House, wire: Wire, provider: Provider, mark: str
) -> None:
    """C33, B16."""
    provider.fail("pace", mark, seconds=0.25)
    stream = wire.client.chat.completions.create(stream=True, **_asked(house, mark))
    next(stream)
    provider.until_running(mark)
    stream.close()
    provider.until_free(mark, seconds=1.0)
    assert _stream(wire.client, **_asked(house, "next")).startswith("You asked: next.")
    assert len(provider.prompts(mark)) == 1


async def test_a_cancelled_task_cancels_its_stream(
    house: House, account: Account, provider: Provider, mark: str
) -> None:
    """C33."""
    provider.fail("pace", mark, seconds=0.25)
    async with AsyncOpenAI(base_url=house.stack.base_url, api_key=account.key) as client:
        begun = asyncio.Event()

        async def read() -> None:
            async for _ in await client.chat.completions.create(stream=True, **_asked(house, mark)):
                begun.set()

        reading = asyncio.create_task(read())
        await begun.wait()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await asyncio.to_thread(provider.until_free, mark, seconds=1.0)
        answer = await client.chat.completions.create(**_asked(house, "next"))
    assert answer.choices[0].finish_reason == "stop"


def test_the_clients_own_time_limit_leaves_the_session_usable(
    house: House, wire: Wire, provider: Provider, mark: str
) -> None:
    provider.fail("stall", mark, at=2)
    impatient = wire.client.with_options(timeout=1.0, max_retries=0)
    with pytest.raises(openai.APITimeoutError):
        impatient.chat.completions.create(**_asked(house, mark))
    provider.relent()
    answer = wire.client.chat.completions.create(**_asked(house, "next"))
    assert answer.choices[0].finish_reason == "stop"


# errors


@pytest.mark.parametrize(
    ("action", "params", "code"),
    [
        ("truncate", {}, "stream_truncated"),
        ("raw_error", {}, "provider_error"),
        ("raw_error", {"text": NEVER_ANSWERED}, "provider_timeout"),
        ("model_error", {}, "provider_overloaded"),
        ("cut", {}, "stream_truncated"),
    ],
)
def test_a_stream_that_fails_in_the_middle_is_an_exception_and_not_asked_for_again(
    house: House, wire: Wire, provider: Provider, mark: str, action: str, params: dict[str, Any], code: str
) -> None:
    """F19, F21, B1, B2, B4, C34."""
    provider.fail(action, mark, at=3, **params)
    with pytest.raises(openai.APIError) as failed:
        _stream(wire.client, **_asked(house, mark))
    assert failed.value.code == code
    assert failed.value.type == "server_error"
    assert wire.statuses == [200]
    assert len(provider.prompts(mark)) == 1


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("action", "params", "status", "code"),
    [
        ("raw_error", {}, 502, "provider_error"),
        ("model_error", {"status": 401, "pass_status": True}, 502, "provider_error"),
        ("raw_error", {"text": NEVER_ANSWERED}, 504, "provider_timeout"),
    ],
)
def test_what_may_have_run_is_not_sent_again(
    house: House,
    wire: Wire,
    provider: Provider,
    mark: str,
    *,
    streamed: bool,
    action: str,
    params: dict[str, Any],
    status: int,
    code: str,
) -> None:
    """F11: nor is a provider's 401 taken for one of ours."""
    provider.fail(action, mark, count=None, **params)
    with pytest.raises(openai.InternalServerError) as failed:
        wire.client.chat.completions.create(stream=streamed, **_asked(house, mark))
    assert (failed.value.status_code, failed.value.code) == (status, code)
    assert wire.statuses == [status]
    assert wire.answers[0].headers["x-should-retry"] == "false"
    assert len(provider.prompts(mark)) == 1


def test_an_overloaded_provider_is_asked_again_after_the_time_it_was_told_and_then_given_up(
    house: House, account: Account, dial: Dial, provider: Provider, mark: str
) -> None:
    """C19."""
    provider.fail("model_error", mark, count=None)
    wire = dial(account.key, max_retries=1)
    with pytest.raises(openai.InternalServerError) as failed:
        wire.client.chat.completions.create(**_asked(house, mark))
    assert (failed.value.status_code, failed.value.code) == (503, "provider_overloaded")
    told = float(wire.answers[0].headers["retry-after"])
    assert wire.statuses == [503, 503]
    assert [told <= pause < told + 3 for pause in wire.pauses] == [True]
    assert len(provider.prompts(mark)) == 2


def test_a_stream_that_has_not_begun_is_asked_for_again(
    house: House, wire: Wire, provider: Provider, mark: str
) -> None:
    """B5."""
    provider.fail("model_error", mark)
    assert mark in _stream(wire.client, **_asked(house, mark))
    assert wire.statuses == [503, 200]
    assert wire.pauses[0] >= float(wire.answers[0].headers["retry-after"])


@contextmanager
def _full_line(house: House, account: Account, provider: Provider, mark: str) -> Iterator[None]:
    """A prompt that stands still and as many behind it as may wait (QUEUE_PER_KEY), until faults are removed."""
    provider.fail("stall", mark)
    with ThreadPoolExecutor(5) as pool:
        running = pool.submit(house.chat, account, mark, stream=True)
        provider.until_running(mark)
        waiting = [pool.submit(house.chat, account, "waits") for _ in range(4)]
        # the worker has no line to show: who stands behind all of them is refused
        hasty = house.openai(account.key).with_options(timeout=0.5)

        def is_full() -> bool:
            try:
                hasty.chat.completions.create(**_asked(house, "too many"))
            except openai.APITimeoutError:
                return False
            except openai.RateLimitError:
                return True
            return False

        house.eventually(is_full, seconds=20, what="full line")
        hasty.close()
        try:
            yield
        finally:
            provider.relent()
            assert running.result().status_code == 200
            assert [one.result().status_code for one in waiting] == [200] * 4


def test_a_full_line_is_a_rate_limit_that_the_sdk_waits_out(
    house: House, dial: Dial, provider: Provider, mark: str
) -> None:
    """C19."""
    account = house.new_account(automation=True)
    assert house.chat(account, "hello").status_code == 200
    with _full_line(house, account, provider, mark):
        wire = dial(account.key)
        with pytest.raises(openai.RateLimitError) as refused:
            wire.client.with_options(max_retries=0).chat.completions.create(**_asked(house, "at once"))
        assert (refused.value.code, refused.value.type) == ("session_busy", "requests")
        assert refused.value.response.headers["x-should-retry"] == "true"
        with ThreadPoolExecutor(1) as pool:
            patient = pool.submit(_stream, wire.client, **_asked(house, "later"))
            house.eventually(lambda: len(wire.answers) == 2, seconds=10, what="second refusal")
            provider.relent()
            assert "later" in patient.result()
    assert wire.statuses == [429, 429, 200]
    assert wire.pauses[-1] >= float(wire.answers[1].headers["retry-after"]) >= 1


def test_a_rate_limit_says_how_long_to_wait(account: Account, dial: Dial) -> None:
    """B25, C19."""
    wire = dial(account.key, max_retries=0)
    wire.client.post("/session/pingsession", cast_to=object)
    with pytest.raises(openai.RateLimitError) as refused:
        wire.client.post("/session/pingsession", cast_to=object)
    assert (refused.value.code, refused.value.type) == ("rate_limit_exceeded", "requests")
    assert 1 <= int(refused.value.response.headers["retry-after"]) <= 60


def test_refusals_are_the_exceptions_that_the_sdk_has_for_them(house: House, account: Account, dial: Dial) -> None:
    restricted = house.http.post("auth/keys", json={"name": "no chat", "scopes": ["usage"]}, headers=account.by_token)
    unfunded = house.new_account(automation=False)
    hello = _asked(house, "hello")
    refusals: list[tuple[str, dict[str, Any], type[openai.APIStatusError], str]] = [
        ("sk-nonsense", hello, openai.AuthenticationError, "invalid_api_key"),
        (restricted.json()["key"], hello, openai.PermissionDeniedError, "insufficient_scope"),
        (account.key, {**hello, "model": "no-such-model"}, openai.NotFoundError, "model_not_found"),
        (account.key, {**hello, "messages": []}, openai.BadRequestError, "invalid_value"),
        (unfunded.key, hello, openai.BadRequestError, "no_active_session"),
        (account.key, _asked(house, "x" * 17_000_000), openai.APIStatusError, "request_too_large"),
    ]
    for key, request, kind, code in refusals:
        wire = dial(key)
        with pytest.raises(kind) as refused:
            wire.client.chat.completions.create(**request)
        assert refused.value.code == code
        assert refused.value.request_id
        assert wire.answers[0].headers["x-should-retry"] == "false"
        assert len(wire.answers) == 1


def test_what_the_provider_refuses_is_a_bad_request_in_its_own_words(
    house: House, wire: Wire, provider: Provider, mark: str
) -> None:
    told = {"error": {"message": "too many tokens", "type": "invalid_request_error", "code": "context_length_exceeded"}}
    provider.fail("model_error", mark, body=told, status=400)
    with pytest.raises(openai.BadRequestError, match="too many tokens") as refused:
        wire.client.chat.completions.create(**_asked(house, mark))
    assert refused.value.code == "context_length_exceeded"
    assert len(provider.prompts(mark)) == 1


def test_routes_of_openai_that_are_not_here_say_so(house: House, wire: Wire) -> None:
    with pytest.raises(openai.NotFoundError, match="chat/completions") as refused:
        wire.client.responses.create(model=house.llm, input="hello")
    assert refused.value.code == "endpoint_not_supported"
    assert len(wire.answers) == 1
