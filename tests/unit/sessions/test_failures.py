"""What a caller is told of a failure at the router or beyond, and what it never sees."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from morpheus_sessions.failures import (
    MESSAGE_LIMIT,
    PromptFailure,
    handshake_reason,
    nothing_was_sent,
    prompt_failure,
    safe_text,
)


def model_error(status: int, error: Any, **more: Any) -> PromptFailure:
    return prompt_failure(status, json.dumps({"providerModelError": {"error": error}, **more}).encode())


def router_error(text: str, status: int = 500) -> PromptFailure:
    return prompt_failure(status, json.dumps({"error": text}).encode())


# the table of the HTTP API


@pytest.mark.parametrize(
    "text",
    [
        "provider request failed: provider error: session expired",
        "session not found",
        "provider not found",
        "provider request failed: provider error: session cannot be loaded leveldb: not found",
    ],
)
def test_a_session_that_is_gone_is_lost_and_may_be_opened_again(text: str) -> None:
    failure = router_error(text)

    assert failure.error.code == "session_lost"
    assert failure.error.kind.status == 502
    assert failure.session_gone


@pytest.mark.parametrize(
    "text",
    [
        "provider request failed: failed to connect to provider: dial tcp 1.2.3.4:3333: connect: connection refused",
        "provider request failed: failed to connect to provider: dial tcp 1.2.3.4:3333: i/o timeout",
        "provider request failed: received invalid signature from provider",
        "p-node tee attestation failed: quote",
        "provider request failed: provider error: LLM TEE verification failed: quote",
        "provider request failed: provider error: invalid signature",
    ],
)
def test_a_provider_that_cannot_be_reached_or_believed_is_no_reason_not_to_ask_another(text: str) -> None:
    """F10"""
    failure = router_error(text)

    assert failure.error.code == "provider_error"
    assert failure.unreachable
    assert not failure.session_gone


@pytest.mark.parametrize(
    "text",
    [
        "provider request failed: provider closed connection without sending any data",
        "provider request failed: failed to decrypt ai response chunk: cipher: message authentication failed",
        "something nobody has seen before",
        "",
    ],
)
def test_other_failures_of_a_provider_are_its_error_and_not_the_sessions_end(text: str) -> None:
    failure = router_error(text)

    assert not failure.unreachable

    assert failure.error.code == "provider_error"
    assert failure.error.kind.status == 502
    assert not failure.session_gone
    assert not failure.not_sent


@pytest.mark.parametrize(
    "text",
    [
        "provider request failed: read timed out after 3 retries: read tcp 10.0.0.1:1->2.2.2.2:3: i/o timeout",
        "provider request failed: invalid response: read tcp 10.0.0.1:1->2.2.2.2:3: i/o timeout",
        'provider request failed: provider error: failed to send request: Post "http://m": context deadline exceeded',
    ],
)
def test_a_provider_that_was_silent_for_too_long_timed_out(text: str) -> None:
    failure = router_error(text)

    assert failure.error.code == "provider_timeout"
    assert not failure.error.kind.retry


@pytest.mark.parametrize("pass_status", [False, True])
@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_models_refusal_is_the_callers_to_mend(status: int, pass_status: bool) -> None:
    told = {"message": "max_tokens is too large", "param": "max_tokens", "code": "invalid_value", "type": "x"}

    failure = model_error(status, told, statusCode=status) if pass_status else model_error(400, told)

    assert (failure.error.code, failure.error.kind.status) == ("provider_rejected", 400)
    assert (failure.error.message, failure.error.param) == ("max_tokens is too large", "max_tokens")
    assert failure.upstream_code == "invalid_value"


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_the_providers_own_trouble_with_its_model_is_never_the_callers(status: int) -> None:
    for failure in (
        model_error(status, {"message": "Incorrect API key provided: sk-abcdefghijkl"}),
        model_error(400, {"message": "no"}, statusCode=status),
        model_error(400, {"message": "no", "code": status}),
        model_error(400, {"message": "no", "code": str(status)}),
    ):
        assert (failure.error.code, failure.error.kind.status) == ("provider_error", 502)
        assert "sk-" not in failure.error.message


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 529])
def test_a_model_that_is_overloaded_may_be_asked_again_later(status: int) -> None:
    for failure in (
        model_error(status, {"message": "slow down"}),
        model_error(400, {"message": "slow down"}, statusCode=status),
        model_error(400, {"message": "slow down", "code": status}),
    ):
        assert (failure.error.code, failure.error.kind.status) == ("provider_overloaded", 503)
        assert failure.error.retry_after is not None


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ({"code": "rate_limit_exceeded", "type": "requests"}, "provider_overloaded"),
        ({"code": None, "type": "server_error"}, "provider_overloaded"),
        ({"type": "overloaded_error"}, "provider_overloaded"),
        ({"code": "invalid_api_key", "type": "invalid_request_error"}, "provider_error"),
        ({"code": "insufficient_quota", "type": "insufficient_quota"}, "provider_error"),
        ({"code": "model_not_found"}, "provider_error"),
    ],
)
def test_a_status_that_an_older_router_hides_is_known_by_the_kind_of_the_error(kind: dict[str, Any], code: str) -> None:
    """F11."""
    assert model_error(400, {"message": "no", **kind}).error.code == code
    # who tells a status is believed
    assert model_error(400, {"message": "no", **kind}, statusCode=400).error.code == "provider_rejected"
    assert model_error(422, {"message": "no", **kind}).error.code == "provider_rejected"


@pytest.mark.parametrize("code", ["²", "٤٠٤", "9" * 5_000, "42.9", "-429", "4290"])
def test_a_code_that_is_no_status_is_taken_for_none(code: str) -> None:
    """C42"""
    assert model_error(400, {"message": "no", "code": code}).error.code == "provider_rejected"


@pytest.mark.parametrize("error", [None, "text", 5, [], {}, {"message": 5}, {"message": None, "code": {}}])
def test_a_refusal_of_a_form_nobody_knows_is_told_in_our_own_words(error: Any) -> None:
    failure = model_error(400, error)

    assert failure.error.code == "provider_rejected"
    assert failure.error.message == failure.error.kind.message
    assert failure.upstream_code is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "message", "code", "param", "statusCode", "providerModelError"]) | st.text(),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(status=st.integers(400, 599), body=json_values.map(json.dumps).map(str.encode) | st.binary())
def test_any_body_is_understood_as_some_failure_of_the_catalogue(status: int, body: bytes) -> None:
    failure = prompt_failure(status, body)

    assert failure.error.kind.status in {400, 502, 503, 504}
    assert len(failure.error.message) <= MESSAGE_LIMIT


# what is masked


@pytest.mark.parametrize(
    "secret",
    [
        "http://10.1.2.3:8080/v1/chat?key=abc",
        "HTTPS://llm.internal/v1",
        "wss://llm.example.org/socket",
        "postgres://user:hunter2@db/llm",
        "10.1.2.3",
        "10.1.2.3:3333",
        "[2001:db8::8a2e:370:7334]:443",
        "2001:db8::8a2e:370:7334",
        "node-7.provider.example.com:3333",
        "llm.provider.com",
        "vllm.default.svc.cluster.local",
        "backend.internal",
        "localhost:11434",
        "sk-proj-AbCdEfGh12345678",
        "sk-0a1b2c.ABCDEFGHIJKLMNOPQRSTUVWX",
        "Bearer abcdef123456",
        "Basic dXNlcjpwYXNzd29yZA==",
        "0x65db7e0b6d3cc8a3b4f1f7e2f592a1b2c3d4e5f6",
        "0x" + "ab" * 32,
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJlLWhlcmU",
        "provider@example.com",
    ],
)
@pytest.mark.parametrize("sentence", ["{}", "cannot reach {}: refused", "({})", 'Post "{}": EOF'])
def test_addresses_hosts_and_keys_never_reach_a_caller(secret: str, sentence: str) -> None:
    core = secret.strip("[]").split("?")[0].removesuffix(":443")

    assert core not in safe_text(sentence.format(secret))
    failure = model_error(400, {"message": sentence.format(secret), "param": sentence.format(secret)})
    assert core not in failure.error.message
    assert core not in (failure.error.param or "")


@pytest.mark.parametrize(
    "text",
    [
        "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens.",
        "Invalid value for 'messages.0.content': expected a string, got null.",
        "messages[2].tool_calls is required; see e.g. the schema, version 3.3.",
        "temperature must be between 0.0 and 2.0",
        "llama-3.3-70b does not support response_format.json_schema",
    ],
)
def test_words_that_help_the_caller_stay(text: str) -> None:
    assert safe_text(text) == text


def test_long_words_are_cut() -> None:
    assert len(safe_text("word " * 10_000)) == MESSAGE_LIMIT


def test_a_key_at_the_cut_is_not_shown_in_part() -> None:
    for at in range(MESSAGE_LIMIT - 40, MESSAGE_LIMIT + 1):
        assert "SECRET" not in safe_text("x" * (at - 1) + " sk-SECRETSECRETSECRETSECRET tail")


@pytest.mark.parametrize(
    "text", ["a." * 120_000, "a-" * 120_000, "1." * 120_000, "a:" * 120_000, "0x" * 120_000, "a@" * 120_000]
)
def test_no_text_of_a_provider_keeps_a_worker_busy(text: str) -> None:
    started = time.process_time()

    safe_text(text)

    assert time.process_time() - started < 0.2


# opening


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (401, "Unauthorized"),
        (403, "method not allowed"),
        (500, "low agent user allowance: 1"),
        (401, "invalid username or password"),
    ],
)
def test_only_refusals_from_before_the_first_transaction_prove_that_nothing_was_sent(status: int, text: str) -> None:
    assert nothing_was_sent(status, text)


@pytest.mark.parametrize(
    "text",
    [
        "failed to send transaction: open session failed: failed to build transaction: EVM error: SessionDuplicateApproval() []",
        "failed to send transaction: open session failed: failed to build transaction: execution reverted: ERC20: transfer amount exceeds balance",
        "failed to send transaction: open session failed: failed to build transaction: EVM error: SessionBidNotFound() []",
        "failed to send transaction: open session failed: failed to build transaction: EVM error: SessionTooShort() []",
        "failed to send transaction: open session failed: transaction not mined after all escalation attempts: last tx 0xab",
        "failed to send transaction: approve failed: nonce too low",
        "failed to send transaction: parse session receipt failed: Transaction failed with status 0",
        "failed to get session: session not found",
        "failed to store session: disk full",
        "context deadline exceeded",
        "failed to send transaction: failed to wait for transaction to be mined: 405: method not allowed",
        "failed to get session: invalid username or password",
        "failed to store session: low agent user allowance",
        "",
    ],
)
def test_no_error_that_can_hide_an_opened_session_counts_as_not_sent(text: str) -> None:
    assert not nothing_was_sent(500, text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("failed to initiate session: response error: error: no capacity, result: {1748000000000 0x00}", "no_capacity"),
        ("TEE attestation failed: quote", "attestation_failed"),
        ("error: failed to connect to provider: dial tcp 1.2.3.4:3333: i/o timeout", "timed_out"),
        ("error: failed to connect to provider: dial tcp 1.2.3.4:3333: connect: connection refused", "unreachable"),
        ("provider request failed: code: 400, msg: <nil>, error: failed to decode response: EOF", "unreachable"),
        ("anything else", "rejected"),
    ],
)
def test_why_a_provider_took_no_session_is_one_word(text: str, reason: str) -> None:
    assert handshake_reason(text) == reason
