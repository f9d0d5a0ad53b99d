"""What a chat request may be, and that its values reach the provider unchanged."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from morpheus_common.errors import ApiError
from morpheus_gateway.body import PromptBody, accepts_stream, read_chat_body, read_embeddings_body

MESSAGES = '"messages":[{"role":"user","content":"hi"}]'
SESSION = "0x" + "Ab" * 32


def refusal(body: bytes | str) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read_chat_body(body.encode() if isinstance(body, str) else body, "")
    return caught.value


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"   ",
        b"[]",
        b"null",
        b'"text"',
        b"{",
        b'{"messages"',
        b'{"messages":',
        b"{'messages': []}",
        b'{"messages": [1],}',
        b'{"messages": [1]} x',
        b'{"messages": [1] "model": "x"}',
        b"\xef\xbb\xbf" + f"{{{MESSAGES}}}".encode(),
        f"{{{MESSAGES}}}".encode("utf-16"),
        b'{"messages": ["\xff"]}',
        b'{"messages": ["\x01"]}',
        f'{{{MESSAGES}, "temperature": NaN}}'.encode(),
        f'{{{MESSAGES}, "x": {{"y": [-Infinity]}}}}'.encode(),
        f'{{{MESSAGES}, "seed": {"9" * 5_000}}}'.encode(),
        f'{{{MESSAGES}, "model": "a", "model": "a"}}'.encode(),
        f'{{{MESSAGES}, "model": "a", "mod\\u0065l": "b"}}'.encode(),
        f'{{{MESSAGES}, "x": 1, "x": 1}}'.encode(),
        f'{{{MESSAGES}, "Model": "a"}}'.encode(),
        f'{{{MESSAGES}, "STREAM": true}}'.encode(),
        f'{{{MESSAGES}, "\\u017ftream": true}}'.encode(),
        f'{{{MESSAGES}, "Session_ID": "a"}}'.encode(),
        f'{{{MESSAGES}, "x": {"[" * 64}{"]" * 64}}}'.encode(),
        f'{{{MESSAGES}, "x": {"[" * 100_000}{"]" * 100_000}}}'.encode(),
    ],
)
def test_what_two_parsers_could_read_differently_is_no_json_for_us(body: bytes) -> None:
    assert refusal(body).code == "invalid_json"


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ("{}", "missing_required_parameter", "messages"),
        ('{"messages": null}', "missing_required_parameter", "messages"),
        ('{"messages": []}', "invalid_value", "messages"),
        ('{"messages": "hi"}', "invalid_value", "messages"),
        ('{"messages": ["hi"]}', "invalid_value", "messages"),
        ('{"messages": [{"content": "hi"}, null]}', "invalid_value", "messages"),
        (f'{{{MESSAGES}, "model": 7}}', "invalid_value", "model"),
        (f'{{{MESSAGES}, "model": ""}}', "invalid_value", "model"),
        (f'{{{MESSAGES}, "model": "{"€" * 257}"}}', "invalid_value", "model"),
        (f'{{{MESSAGES}, "stream": "true"}}', "invalid_value", "stream"),
        (f'{{{MESSAGES}, "stream": 1}}', "invalid_value", "stream"),
        (f'{{{MESSAGES}, "session_id": "0x12"}}', "invalid_value", "session_id"),
        (f'{{{MESSAGES}, "session_id": 7}}', "invalid_value", "session_id"),
    ],
)
def test_what_is_missing_or_wrong_is_named(body: str, code: str, param: str) -> None:
    error = refusal(body)
    assert (error.code, error.param, error.kind.status) == (code, param, 400)


@pytest.mark.parametrize(
    "many",
    [
        "[" + "[]," * 200_000 + "1]",
        "[" + '{"a":1},' * 100_000 + "1]",
        "[" + '"",' * 300_000 + "1]",
        "[" + "1," * 100_001 + "1]",
        "[" + r'"\\\"",{},' * 60_000 + "1]",
    ],
)
def test_a_body_of_a_hundred_thousand_values_is_refused_before_it_is_read(many: str) -> None:
    error = refusal(f'{{{MESSAGES}, "x": {many}}}')
    assert error.code == "invalid_json"
    assert "values" in error.message


def test_a_text_may_be_as_full_of_brackets_as_it_likes() -> None:
    code = 'if (x) { return [1, "\\\\", ["{"]]; } // \\' * 200_000
    body = json.dumps({"messages": [{"role": "user", "content": code}]}).encode()
    assert read_chat_body(body, "").payload is body


def test_a_string_that_never_ends_is_refused_at_once() -> None:
    for endless in ('"' + r"\"," * 1_000_000, '"' * 4_000_000, "{," * 1_000_000 + '"' + "," * 1_000_000):
        started = time.monotonic()
        assert refusal(endless).code == "invalid_json"
        assert time.monotonic() - started < 5, "seconds, where a look at each quote's end takes hours"


def test_depth_up_to_the_limit_is_fine() -> None:
    nested = f'{{{MESSAGES}, "x": {"[" * 63}{"]" * 63}}}'.encode()
    assert read_chat_body(nested, "").payload is nested


def test_what_needs_no_change_is_passed_on_byte_for_byte() -> None:
    body = f' {{ {MESSAGES} ,"unknown" : {{"Stream":[1.0,1e400,0.10,12345678901234567890123]}}, "s\\u00e9":"\\ud83d" }}\n'.encode()
    assert read_chat_body(body, "").payload is body
    streamed = f'{{"stream": true, {MESSAGES}}}'.encode()
    assert read_chat_body(streamed, "application/json").payload is streamed


def test_the_session_is_taken_out_and_everything_else_stays() -> None:
    body = f'{{"a": 1.0, "session_id": "{SESSION}", {MESSAGES}, "n": 1e400, "stream": false}}'
    read = read_chat_body(body.encode(), "")
    assert read.session_id == SESSION.lower()
    assert read.payload == f'{{"a": 1.0,{MESSAGES},"n": 1e400,"stream":false}}'.encode()


def test_a_session_of_null_is_none() -> None:
    read = read_chat_body(f'{{"session_id": null, {MESSAGES}}}'.encode(), "")
    assert read.session_id is None
    assert read.payload == f"{{{MESSAGES}}}".encode()


@pytest.mark.parametrize(
    ("stream", "accept", "expected"),
    [
        ("true", "application/json", True),
        ("false", "text/event-stream", False),
        ("null", "", False),
        ("null", "text/event-stream", True),
        (None, "", False),
        (None, "*/*", False),
        (None, "text/*", False),
        (None, "text/event-stream", True),
        (None, "text/event-stream, */*", True),
        (None, "TEXT/Event-Stream; charset=utf-8", True),
        (None, "application/json, text/event-stream", False),
        (None, "application/json;q=0.5, text/event-stream", True),
        (None, "application/json, text/event-stream;q=0.9", False),
        (None, "application/json;q=0, text/event-stream;q=0.1", True),
        (None, "text/event-stream;q=0", False),
        (None, "text/event-stream;q=high", False),
    ],
)
def test_who_decides_the_mode(stream: str | None, accept: str, expected: bool) -> None:
    field = "" if stream is None else f', "stream": {stream}'
    read = read_chat_body(f"{{{MESSAGES}{field}}}".encode(), accept)
    assert read.stream is expected
    sent = json.loads(read.payload)
    assert sent.get("stream", False) is expected
    if stream is None and not expected:
        assert "stream" not in sent


@pytest.mark.parametrize(
    ("n", "choices"),
    [("", 1), (', "n": 2', 2), (', "n": null', 1), (', "n": 0', 1), (', "n": "2"', 1), (', "n": 9999', 128)],
)
def test_how_many_answers_are_asked_for_is_known(n: str, choices: int) -> None:
    assert read_chat_body(f"{{{MESSAGES}{n}}}".encode(), "").choices == choices


def test_usage_is_asked_for_by_true_only() -> None:
    for options, expected in (('{"include_usage": true}', True), ('{"include_usage": null}', False), ("null", False)):
        body = f'{{{MESSAGES}, "stream_options": {options}}}'.encode()
        assert read_chat_body(body, "").include_usage is expected


@pytest.mark.parametrize(
    ("options", "param"),
    [("true", "stream_options"), ("[]", "stream_options"), ('{"include_usage": 1}', "stream_options.include_usage")],
)
def test_options_of_another_form_than_openais_are_refused(options: str, param: str) -> None:
    with pytest.raises(ApiError) as refused:
        read_chat_body(f'{{{MESSAGES}, "stream_options": {options}}}'.encode(), "")
    assert (refused.value.code, refused.value.param) == ("invalid_value", param)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=20,
)


@given(
    st.dictionaries(st.text().filter(lambda key: key.casefold() not in {"model", "stream", "tools"}), JSON),
    st.booleans(),
)
def test_all_values_survive_whatever_is_changed_beside_them(fields: dict[str, object], escape: bool) -> None:
    for name in ("messages", "session_id", "stream_options"):
        fields.pop(name, None)
    sent = {**fields, "messages": [{"content": "x"}], "session_id": SESSION}
    payload = read_chat_body(json.dumps(sent, ensure_ascii=escape).encode("utf-8"), "text/event-stream").payload
    assert json.loads(payload) == {**fields, "messages": [{"content": "x"}], "stream": True}


def test_an_accept_header_of_rubbish_is_no_stream() -> None:
    assert not accepts_stream(";;;,,q=1,text/event-stream/;=")


# embeddings


def embeddings(body: str) -> PromptBody:
    return read_embeddings_body(body.encode(), "text/event-stream")


@pytest.mark.parametrize("asked", ['"text"', '["a", "b"]', "[0, 1, 2]", "[[1], [2, 3]]", '" "'])
def test_every_form_of_openais_input_is_taken_and_passed_on_byte_for_byte(asked: str) -> None:
    body = f'{{"model": "m", "input": {asked}, "encoding_format": "base64", "dimensions": 16, "x": 1.0}}'
    read = embeddings(body)
    assert (read.model, read.session_id, read.stream, read.include_usage) == ("m", None, False, False)
    assert read.payload == body.encode()


@pytest.mark.parametrize(
    "asked",
    [
        '""',
        "[]",
        "[[]]",
        '[""]',
        '["a", ""]',
        '["a", 1]',
        '[1, "a"]',
        "[1, 1.5]",
        "[true]",
        "[-1]",
        "[[1], []]",
        "[[1], 2]",
        "[[[1]]]",
        "7",
        "true",
        "{}",
        "[null]",
    ],
)
def test_an_input_that_holds_nothing_or_what_is_no_text_and_no_token_is_refused(asked: str) -> None:
    with pytest.raises(ApiError) as caught:
        embeddings(f'{{"input": {asked}}}')
    assert (caught.value.code, caught.value.param) == ("invalid_value", "input")


@pytest.mark.parametrize("body", ["{}", '{"input": null}', '{"messages": [1]}'])
def test_embeddings_of_nothing_say_what_is_missing(body: str) -> None:
    with pytest.raises(ApiError) as caught:
        embeddings(body)
    assert (caught.value.code, caught.value.param) == ("missing_required_parameter", "input")


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ('"stream": true', "invalid_value"),
        ('"stream": 1', "invalid_value"),
        ('"model": 7', "invalid_value"),
        ('"session_id": "0x1"', "invalid_value"),
        ('"Input": "other"', "invalid_json"),
        ('"input": "other"', "invalid_json"),
        ('"x": NaN', "invalid_json"),
        (f'"x": {"[" * 64}{"]" * 64}', "invalid_json"),
    ],
)
def test_embeddings_are_read_as_strictly_as_chats(more: str, code: str) -> None:
    with pytest.raises(ApiError) as caught:
        embeddings(f'{{"input": "a", {more}}}')
    assert caught.value.code == code


def test_the_session_of_embeddings_is_taken_out_and_false_stays() -> None:
    read = embeddings(f'{{"input": "a", "session_id": "{SESSION}", "stream": false}}')
    assert read.session_id == SESSION.lower()
    assert json.loads(read.payload) == {"input": "a", "stream": False}


def test_as_many_tokens_as_openai_takes_are_taken_and_a_million_are_not() -> None:
    """C16."""
    many = json.dumps({"input": [[7] * 1_000] * 300})
    assert len(embeddings(many).payload) == len(many)
    with pytest.raises(ApiError) as caught:
        embeddings(json.dumps({"input": [7] * 1_000_000}))
    assert caught.value.code == "invalid_json"
