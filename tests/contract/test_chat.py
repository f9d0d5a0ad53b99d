"""Prompts: frames of a stream, whole answers, errors, and their order (Contract 2.10 and 4)."""

import concurrent.futures
import itertools
import json
import time
from typing import Any

import pytest

from tests.contract.target import UNKNOWN_ID, Router

QUESTION = "Name three colours."


def frames(content: bytes) -> list[str]:
    """What stands after `data: ` in each frame; fails for anything else in the stream."""
    *parts, rest = content.decode().split("\n\n")
    assert rest == "", f"the stream ends with {rest!r}"
    assert all(part.startswith("data: ") and "\n" not in part for part in parts)
    return [part.removeprefix("data: ") for part in parts]


def is_sorted(value: Any) -> bool:
    """Whether all keys stand in alphabetical order, at any depth."""
    if isinstance(value, dict):
        return list(value) == sorted(value) and all(is_sorted(item) for item in value.values())
    return all(is_sorted(item) for item in value) if isinstance(value, list) else True


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
def test_a_session_id_that_cannot_be_read_is_400(router: Router, path: str) -> None:
    """Contract 4, exact error texts."""
    response = router.post(path, {"messages": [], "input": "x"}, headers={"session_id": "0x12"})
    assert (response.status_code, response.json()) == (400, {"error": "invalid hash length"})


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
def test_a_session_that_nobody_knows_is_500(router: Router, path: str) -> None:
    """Contract 4, exact error texts."""
    body = {"messages": [{"role": "user", "content": "x"}], "input": "x"}
    response = router.post(path, body, headers={"session_id": UNKNOWN_ID})
    assert (response.status_code, response.json()) == (500, {"error": "session not found"})


def test_an_early_error_of_a_stream_is_json(router: Router) -> None:
    """Contract 4: under the type of the stream, which was set before the provider was asked, or under its own."""
    response = router.chat(UNKNOWN_ID, stream=True)
    assert (response.status_code, json.loads(response.content)) == (500, {"error": "session not found"})
    assert response.headers["Content-Type"].partition(";")[0] in {"text/event-stream", "application/json"}


def test_a_prompt_without_session_and_local_model_is_500(router: Router) -> None:
    """Contract 4, exact error texts."""
    response = router.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]})
    assert (response.status_code, response.json()) == (500, {"error": "api adapter not found: "})


@pytest.mark.spends
def test_a_stream_is_data_frames_with_sorted_keys_and_an_end_mark(router: Router, chat_session: str) -> None:
    """Contract 4, stream frames: no event, id or comment lines, nothing after the end mark."""
    response = router.chat(chat_session, QUESTION, stream=True)
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"] == "text/event-stream"
    *data, end = frames(response.content)
    assert end == "[DONE]"
    chunks = [json.loads(line) for line in data]
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    assert all(is_sorted(chunk) for chunk in chunks)
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])


@pytest.mark.spends
def test_the_chunk_that_finishes_has_the_usage_of_both_nodes(router: Router, chat_session: str) -> None:
    """Contract 4: `usage_from_provider` and `usage_from_consumer` there, and nowhere before."""
    data = [json.loads(line) for line in frames(router.chat(chat_session, QUESTION, stream=True).content)[:-1]]
    finished = [chunk for chunk in data if any(choice.get("finish_reason") for choice in chunk["choices"])]
    assert len(finished) == 1
    for usage in (finished[0]["usage_from_provider"], finished[0]["usage_from_consumer"]):
        assert list(usage) == ["completion_tokens", "prompt_tokens", "total_tokens"]
        assert usage["completion_tokens"] + usage["prompt_tokens"] == usage["total_tokens"]
        assert usage["completion_tokens"] > 0
    plain = [chunk for chunk in data if not chunk.get("usage") and chunk is not finished[0]]
    assert not any("usage_from_provider" in chunk or "usage_from_consumer" in chunk for chunk in plain)


@pytest.mark.spends
def test_a_whole_answer_is_one_object_with_sorted_keys(router: Router, chat_session: str) -> None:
    """Contract 4, non-stream: chunked, both usages, no line break at its end. `model` of the request is ignored."""
    response = router.chat(chat_session, QUESTION, model="ignored")
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"].startswith("application/json")
    completion = response.json()
    assert completion["object"] == "chat.completion"
    assert completion["choices"][0]["message"]["content"]
    assert completion["choices"][0]["finish_reason"] in {"stop", "length"}
    assert is_sorted(completion)
    assert {"usage_from_provider", "usage_from_consumer"} <= set(completion)
    assert not response.content.endswith(b"\n")


@pytest.mark.spends
def test_prompts_of_a_session_run_one_after_the_other(router: Router, chat_session: str) -> None:
    """Contract 4, concurrency: one in flight; the next begins when it has ended."""

    def ask(number: int) -> tuple[float, float]:
        body = {"messages": [{"role": "user", "content": f"{QUESTION} ({number})"}], "stream": True}
        with router.http.stream(
            "POST", "/v1/chat/completions", json=body, headers={"session_id": chat_session}
        ) as answer:
            seen = [time.monotonic() for _ in answer.iter_raw()]
        return seen[0], seen[-1]

    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        spans = sorted(threads.map(ask, range(3)))
    # Their middles, because a thread may be late to note what it has read.
    assert all(later[0] > (earlier[0] + earlier[1]) / 2 for earlier, later in itertools.pairwise(spans))


@pytest.mark.spends
def test_hanging_up_on_a_stream_frees_its_session(router: Router, chat_session: str) -> None:
    """Contract 2.6b: at the next chunk or two."""
    body = {"messages": [{"role": "user", "content": "Count from 1 to 500."}], "stream": True}
    with router.http.stream("POST", "/v1/chat/completions", json=body, headers={"session_id": chat_session}) as answer:
        next(answer.iter_raw())
    assert router.chat(chat_session, QUESTION).status_code == 200


@pytest.mark.spends
def test_a_session_closed_early_may_still_answer(router: Router) -> None:
    """Contract 4, exact error texts: neither node looks at ClosedAt, but no promise says so; an error is a 500."""
    opened = router.open()
    assert router.post(f"/blockchain/sessions/{opened}/close").status_code == 200
    response = router.chat(opened, QUESTION)
    assert response.status_code in {200, 500}
    assert router.target.simulated <= (response.status_code == 200)


@pytest.mark.simulator
def test_the_provider_says_that_a_session_has_ended(controls: Router) -> None:
    """Contract 4, exact error texts."""
    opened = controls.open()
    controls.control("/sim/advance", {"seconds": 3600})
    response = controls.chat(opened)
    assert (response.status_code, response.json()) == (
        500,
        {"error": "provider request failed: provider error: session expired"},
    )


@pytest.mark.simulator
def test_a_provider_that_is_away_is_a_failed_connection(controls: Router) -> None:
    """Contract 4, exact error texts."""
    opened = controls.open()
    controls.control("/sim/providers", {"address": controls.session(opened)["Provider"], "online": False})
    response = controls.chat(opened)
    assert response.status_code == 500
    assert response.json()["error"].startswith(
        "provider request failed: failed to connect to provider: dial tcp 10.77."
    )


@pytest.mark.simulator
def test_a_lost_storage_makes_a_session_useless(controls: Router) -> None:
    """Contract 4 and 6: until a handshake has told the provider's address again."""
    opened = controls.open()
    controls.control("/sim/wipe")
    response = controls.chat(opened)
    assert (response.status_code, response.json()) == (500, {"error": "provider not found"})
    controls.open()
    assert controls.chat(opened).status_code == 200


@pytest.mark.simulator
def test_a_model_that_refuses_is_400_whatever_it_said(controls: Router) -> None:
    """Contract 4, errors before the first chunk; newer routers pass the status on and name it."""
    opened = controls.open()
    error = {"error": {"message": "slow down"}}
    for newer, status, extra in ((False, 400, {}), (True, 429, {"statusCode": 429})):
        fault = {"status": 429, "body": error, "pass_status": newer}
        controls.control("/sim/faults", {"kind": "chat", "action": "model_error", "params": fault})
        response = controls.chat(opened, stream=True)
        assert (response.status_code, response.json()) == (status, {"providerModelError": error, **extra})


@pytest.mark.simulator
def test_an_error_in_a_running_stream_is_appended_bare(controls: Router) -> None:
    """Contract 4, errors after the first chunk: no `data: `, no line break, no end mark, and the body ends well."""
    opened = controls.open()
    controls.control("/sim/faults", {"kind": "chat", "action": "raw_error", "params": {"at": 2, "text": "gone"}})
    response = controls.chat(opened, stream=True)
    assert response.status_code == 200
    *data, rest = response.text.split("\n\n")
    assert len(data) == 2
    assert rest == '{"error":"gone"}'


@pytest.mark.simulator
def test_a_provider_that_dies_looks_like_the_end_of_an_answer(controls: Router) -> None:
    """Contract 6: only the missing finish reason and end mark tell."""
    opened = controls.open()
    controls.control("/sim/faults", {"kind": "chat", "action": "truncate", "params": {"at": 2}})
    data = [json.loads(line) for line in frames(controls.chat(opened, stream=True).content)]
    assert len(data) == 2
    assert not any(choice["finish_reason"] for chunk in data for choice in chunk["choices"])
