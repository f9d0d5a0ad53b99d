"""The catalogue as clients see it."""

import json

import pytest
from morpheus_common.errors import CATALOGUE, ApiError
from morpheus_gateway.errors import AnswerFailed, error_response, is_openai_route

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize("code", sorted(CATALOGUE))
def test_every_code_has_its_status_body_and_headers(code: str) -> None:
    response = error_response(ApiError(code), CHAT)
    kind = CATALOGUE[code]
    assert response.status_code == kind.status
    assert json.loads(bytes(response.body)) == {
        "error": {"message": kind.message, "type": kind.type, "param": None, "code": code}
    }
    assert ("retry-after" in response.headers) == (kind.status in {429, 503})
    assert ("www-authenticate" in response.headers) == (kind.status == 401)
    assert response.headers["x-should-retry"] == str(kind.retry).lower()


@pytest.mark.parametrize(("said", "shown"), [(None, "1"), (0, "1"), (5, "5"), (120, "60")])
def test_nobody_is_told_to_wait_for_minutes(said: int | None, shown: str) -> None:
    assert error_response(ApiError("session_busy", retry_after=said), CHAT).headers["retry-after"] == shown


def test_help_for_machines_is_in_details() -> None:
    error = ApiError("session_pending", details={"operation_id": "op-1"})
    assert json.loads(bytes(error_response(error, "/api/v1/session").body))["error"]["details"] == {
        "operation_id": "op-1"
    }


def test_a_providers_own_code_is_shown_with_our_status() -> None:
    error = AnswerFailed("provider_rejected", "Too long.", param="messages", shown_code="context_length_exceeded")
    response = error_response(error, CHAT)
    assert response.status_code == 400
    assert json.loads(bytes(response.body))["error"]["code"] == "context_length_exceeded"


def test_a_prompt_that_may_be_running_is_not_to_be_sent_again() -> None:
    response = error_response(AnswerFailed("service_unavailable", should_retry=False), CHAT)
    assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/chat/completions", True),
        ("/api/v1/chat/completions", True),
        ("/v1/embeddings", True),
        ("/api/v1/models", True),
        ("/v1/models/meta/llama", True),
        ("/v1/responses", True),
        ("/v1/images/generations", True),
        ("/api/v1/auth/login", False),
        ("/health", False),
        ("/v2/models", False),
    ],
)
def test_what_openais_clients_call(path: str, expected: bool) -> None:
    assert is_openai_route(path) is expected
