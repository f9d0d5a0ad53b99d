"""What a client gets of a provider's stream, and when an answer counts as complete."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from morpheus_sessions.failures import PromptFailure
from morpheus_sessions.sse import StreamRules, finish_json

USAGE = {"completion_tokens": 2, "prompt_tokens": 3, "total_tokens": 5}
COUNTED: dict[str, Any] = {"usage_from_provider": USAGE, "usage_from_consumer": USAGE}
DONE = b"data: [DONE]\n\n"


def chunk(text: str = "", *, finish: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    choice = {"delta": {"content": text} if text else {}, "finish_reason": finish, "index": index}
    return {"choices": [choice], "created": 1, "id": "c1", "model": "m", "object": "chat.completion.chunk", **more}


def event(value: Any) -> bytes:
    return b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n"


def stream(*parts: Any, done: bool = True) -> bytes:
    return b"".join(event(part) for part in parts) + (DONE if done else b"")


def relayed(provided: bytes, *, include_usage: bool = False, piece: int = 0) -> bytes:
    rules = StreamRules(include_usage=include_usage)
    step = piece or max(1, len(provided))
    out = b"".join(rules.feed(provided[at : at + step]) for at in range(0, len(provided), step))
    return out + rules.finish()


def refusal(provided: bytes) -> str:
    with pytest.raises(PromptFailure) as caught:
        relayed(provided)
    return caught.value.error.code


def objects(answer: bytes) -> list[Any]:
    return [json.loads(part[6:]) for part in answer.split(b"\n\n") if part and part != b"data: [DONE]"]


# what passes


def test_a_good_stream_passes_byte_for_byte() -> None:
    provided = (
        b'data: {"choices":[{"delta":{"content":"\\u00e9 \xc3\xa9"},"index":0,"finish_reason":null}],"vendor": 1.0}\n\n'
    )
    provided += event(chunk(finish="stop")) + DONE

    assert relayed(provided) == provided


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
vendor_keys = st.dictionaries(st.text(min_size=1).map(lambda key: "x_" + key), json_values, max_size=4)


@given(
    extras=st.lists(st.tuples(vendor_keys, st.booleans()), max_size=4),
    include_usage=st.booleans(),
    piece=st.integers(1, 40),
)
def test_only_the_routers_counts_are_taken_out_and_nothing_else_changes(
    extras: list[tuple[dict[str, Any], bool]], include_usage: bool, piece: int
) -> None:
    told = [(chunk("a", **extra), counted) for extra, counted in extras]
    sent = [event({**plain, **(COUNTED if counted else {})}) for plain, counted in told]

    answer = relayed(b"".join(sent) + stream(chunk(finish="stop")), include_usage=include_usage, piece=piece)

    parts = [part + b"\n\n" for part in answer.split(b"\n\n")]
    for (plain, counted), given_bytes, passed in zip(told, sent, parts, strict=False):
        if counted:
            assert objects(passed) == [plain]
            assert list(objects(passed)[0]) == list(plain)
        else:
            assert passed == given_bytes
    assert not any(key in passed for passed in objects(answer) for key in COUNTED)
    assert answer.endswith(DONE)
    assert answer.count(DONE) == 1


def test_a_stream_split_into_single_bytes_says_the_same() -> None:
    provided = stream(chunk("a"), chunk("b", **COUNTED), chunk(finish="stop", **COUNTED)).replace(b"\n", b"\r\n")

    assert relayed(provided, piece=1) == relayed(provided)


@pytest.mark.parametrize(
    "note", [b"provider failed, failover enabled", b"new session opened: 0xab", b"7", b'"text"', b"[1]"]
)
def test_lines_of_the_router_that_are_no_objects_are_dropped(note: bytes) -> None:
    assert relayed(stream(chunk("a"), note, chunk(finish="stop"))) == stream(chunk("a"), chunk(finish="stop"))


def test_nothing_passes_after_done() -> None:
    provided = stream(chunk(finish="stop")) + stream(chunk("more"))

    assert relayed(provided) == stream(chunk(finish="stop"))


@given(choices=json_values, finish=json_values, index=json_values)
def test_whatever_a_provider_sends_ends_in_an_answer_or_in_a_failure_that_clients_understand(
    choices: Any, finish: Any, index: Any
) -> None:
    strange = [{"choices": choices}, {"choices": [{"finish_reason": finish, "index": index}]}]
    try:
        answer = relayed(stream(*strange))
    except PromptFailure as failure:
        assert failure.error.code == "stream_truncated"  # noqa: PT017 - either outcome is right
    else:
        assert answer.endswith(DONE)


# what is complete


def test_a_finish_reason_completes_an_answer_without_done() -> None:
    assert relayed(stream(chunk("a"), chunk(finish="stop"), done=False)).endswith(DONE)


def test_a_stream_that_just_ends_is_truncated() -> None:
    assert refusal(stream(chunk("a"), done=False)) == "stream_truncated"


def test_done_without_any_finish_reason_is_truncated() -> None:
    assert refusal(stream(chunk("a"))) == "stream_truncated"


def test_an_empty_stream_is_truncated() -> None:
    assert refusal(b"") == "stream_truncated"


def test_one_of_two_choices_unfinished_is_truncated() -> None:
    assert refusal(stream(chunk("a"), chunk("b", index=1), chunk(finish="stop"), done=False)) == "stream_truncated"


def test_both_of_two_choices_finished_is_complete() -> None:
    provided = stream(chunk("b", index=1), chunk(finish="stop"), chunk(finish="length", index=1), done=False)

    assert relayed(provided) == provided + DONE


def test_done_after_at_least_one_finished_choice_is_complete() -> None:
    assert relayed(stream(chunk("b", index=1), chunk(finish="stop"))).endswith(DONE)


def test_a_finish_reason_is_never_made_up() -> None:
    answer = relayed(stream(chunk("b", index=1), chunk(finish="stop")))

    assert [o["choices"][0]["finish_reason"] for o in objects(answer)] == [None, "stop"]


def test_a_last_event_without_a_blank_line_counts() -> None:
    provided = stream(chunk("a"), chunk(finish="stop"), done=False).removesuffix(b"\n\n")

    assert relayed(provided) == stream(chunk("a"), chunk(finish="stop"))


# what has failed


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b'{"error":"provider request failed: provider error: session expired"}', "session_lost"),
        (b'{"error":"provider request failed: read timed out after 3 retries: i/o timeout"}', "provider_timeout"),
        (b'{"error":"provider request failed: invalid response: connection reset by peer"}', "provider_error"),
        (
            b'{"providerModelError":{"error":{"message":"too long","code":"context_length_exceeded"}}}',
            "provider_rejected",
        ),
        (b'{"providerModelError":{"error":{"message":"slow down"}},"statusCode":429}', "provider_overloaded"),
    ],
)
@pytest.mark.parametrize("framed", [False, True])
def test_an_error_in_the_running_stream_fails_it(raw: bytes, code: str, framed: bool) -> None:
    started = stream(chunk("a"), done=False)

    assert refusal(started + (event(raw) if framed else raw)) == code


def test_an_error_appended_after_a_finish_reason_still_fails_the_answer() -> None:
    provided = stream(chunk(finish="stop"), done=False) + b'{"error":"provider request failed: invalid response"}'

    assert refusal(provided) == "provider_error"


def test_a_pretty_printed_error_fails_the_stream_too() -> None:
    assert refusal(stream(chunk("a"), done=False) + b'{\n  "error": "session not found"\n}') in {
        "session_lost",
        "provider_error",
        "stream_truncated",
    }


@pytest.mark.parametrize(
    "spoilt", [b'{"choices":[{"delta":{"content":"b', b'{"choices":[{"delta":{"content":"\xe2\x82"}}]}']
)
def test_a_chunk_that_cannot_be_read_fails_the_answer_that_would_lack_its_words(spoilt: bytes) -> None:
    """B1, F21: the rest ends with `stop` as if nothing were missing."""
    assert refusal(stream(chunk("a"), spoilt, chunk("c"), chunk(finish="stop"))) == "provider_error"


# usage


def usages(answer: bytes) -> list[Any]:
    return [o for o in objects(answer) if o.get("choices") == []]


@pytest.mark.parametrize(
    "provided",
    [
        stream(chunk("a"), chunk(finish="stop", **COUNTED)),
        stream(chunk("a"), chunk(finish="stop"), {"choices": [], "id": "c1", "usage": USAGE, **COUNTED}),
        stream({"choices": [], "usage": USAGE}, chunk(finish="stop", **COUNTED)),
        stream(chunk(finish="stop", usage=USAGE), {"choices": [], "usage": USAGE}, {"choices": [], "usage": USAGE}),
    ],
    ids=["counted by the router", "sent by the model", "sent first", "sent three times"],
)
def test_usage_that_was_asked_for_comes_exactly_once_and_last(provided: bytes) -> None:
    answer = relayed(provided, include_usage=True)

    (last,) = usages(answer)
    assert last["usage"] == USAGE
    assert objects(answer)[-1] == last
    assert usages(relayed(provided, include_usage=False)) == []


def test_the_models_own_usage_beats_what_the_router_counted() -> None:
    own = {"completion_tokens": 9, "prompt_tokens": 9, "total_tokens": 18}

    answer = relayed(stream(chunk(finish="stop", **COUNTED), {"choices": [], "usage": own}), include_usage=True)

    assert usages(answer)[0]["usage"] == own


def test_usage_that_nobody_counted_is_not_made_up() -> None:
    assert usages(relayed(stream(chunk(finish="stop")), include_usage=True)) == []


def test_the_usage_chunk_has_the_names_of_its_stream() -> None:
    (last,) = usages(relayed(stream(chunk(finish="stop", **COUNTED)), include_usage=True))

    assert {key: last[key] for key in ("id", "object", "created", "model")} == {
        "id": "c1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
    }


# JSON mode


def finished(answer: Any) -> Any:
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return json.loads(finish_json(body, model="m", answer_id="chatcmpl-1", created=7))


def test_a_bare_answer_gets_what_openai_clients_need() -> None:
    assert finished({"choices": [{"message": {"content": "x"}}], **COUNTED}) == {
        "choices": [{"message": {"content": "x"}}],
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 7,
        "model": "m",
        "usage": USAGE,
    }


def test_what_the_provider_said_is_kept() -> None:
    said = {
        "id": "p",
        "object": "o",
        "created": 1,
        "model": "theirs",
        "choices": [],
        "usage": {"total_tokens": 1},
        "x": [1],
    }

    assert finished({**said, **COUNTED}) == said


def test_embeddings_keep_their_form() -> None:
    said = {"object": "list", "data": [{"embedding": [0.1], "index": 0}], "model": "e", "usage": {"total_tokens": 1}}

    assert finished(said) == said


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b"null", b'"x"', b'{"choices":', b"\xff"])
def test_a_body_that_is_no_answer_is_the_providers_error(body: bytes) -> None:
    with pytest.raises(PromptFailure) as caught:
        finished(body)
    assert caught.value.error.code == "provider_error"


def test_an_error_object_with_status_200_is_an_error() -> None:
    with pytest.raises(PromptFailure) as caught:
        finished({"error": "provider request failed: provider error: session expired"})
    assert caught.value.session_gone
