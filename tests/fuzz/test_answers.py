"""The checker of answers sees every way in which an answer can be wrong."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from morpheus_common.ids import uuid7

from tests.fuzz.answers import MOST_SECONDS, Answer, wrongs

SECRET = "a-password-of-the-router"


def answer(status: int = 200, /, *, path: str = "/api/v1/session", body: Any = None, **headers: Any) -> Answer:
    """An answer as it should be, but for what is told; None leaves a header out."""
    told: dict[str, str | None] = {
        "x-request-id": uuid7(),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-store",
        "content-type": "application/json",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    return Answer("GET", path, status, {k: [v] for k, v in told.items() if v is not None}, json.dumps(body).encode())


def error(code: str = "not_found", kind: str = "invalid_request_error", **more: Any) -> Mapping[str, Any]:
    return {"error": {"message": "What to do.", "type": kind, "param": None, "code": code, **more}}


LIMIT = {
    "x_ratelimit_limit_requests": "6",
    "x_ratelimit_remaining_requests": "5",
    "x_ratelimit_reset_requests": "1m0.5s",
}
WHOLE = (
    answer(),
    answer(404, body=error()),
    answer(401, body=error("invalid_api_key"), www_authenticate="Bearer"),
    answer(503, body=error("service_unavailable", "server_error"), retry_after="1"),
    answer(404, path="/v1/models/x", body=error("model_not_found"), x_should_retry="false"),
    answer(path="/api/v1/models", cache_control="public, max-age=5"),
    answer(**LIMIT),
)
WRONG = {
    "X-Request-Id": answer(x_request_id="1"),
    "nosniff": answer(x_content_type_options=None),
    "Referrer-Policy": answer(referrer_policy=None),
    "Cache-Control": answer(cache_control="public"),
    "it took": replace(answer(), seconds=MOST_SECONDS + 1),
    "of the headers of a limit only": answer(x_ratelimit_limit_requests="6"),
    "with '7' remaining": answer(**{**LIMIT, "x_ratelimit_remaining_requests": "7"}),
    "x-ratelimit-reset-requests": answer(**{**LIMIT, "x_ratelimit_reset_requests": "60"}),
    "tells nothing of its limit": replace(answer(path="/api/v1/auth/login"), method="POST"),
    "told of a limit": answer(401, body=error("invalid_api_key"), www_authenticate="Bearer", **LIMIT),
    "secret": answer(body={"note": SECRET}),
    "insides": answer(404, body=error(message="Traceback (most recent call last)")),
    "an error is text/html": answer(404, body=error(), content_type="text/html"),
    "without our body": answer(404, body={"detail": "Not Found"}),
    "with the fields": answer(404, body=error(more=1)),
    "not in the catalogue": answer(404, body=error("none_such")),
    "came with 400": answer(400, body=error()),
    "500 internal_error": answer(500, body=error("internal_error", "server_error")),
    "without a message": answer(404, body=error(message="")),
    "quotes what was sent": answer(404, body=error(message="No planted-marker here.")),
    "WWW-Authenticate": answer(401, body=error("invalid_api_key")),
    "Allow": answer(405, body=error("method_not_allowed")),
    "without Retry-After": answer(503, body=error("service_unavailable", "server_error")),
    "Retry-After is '120'": answer(503, body=error("service_unavailable", "server_error"), retry_after="120"),
    "x-should-retry is None": answer(404, path="/v1/models/x", body=error("model_not_found")),
    "says that waiting cures": answer(404, path="/v1/models/x", body=error("model_not_found"), x_should_retry="true"),
    "does not end with [DONE]": replace(answer(content_type="text/event-stream"), body=b'data: {"choices": []}\n\n'),
    "no chunk and no error": replace(answer(content_type="text/event-stream"), body=b"data: {}\n\ndata: [DONE]\n\n"),
}


@pytest.mark.parametrize("good", WHOLE)
def test_nothing_is_wrong_with_an_answer_as_it_should_be(good: Answer) -> None:
    assert wrongs(good, secrets=[SECRET], submitted=["planted-marker"]) == []


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_with_an_answer_is_seen(what: str) -> None:
    found = wrongs(WRONG[what], secrets=[SECRET], submitted=["planted-marker"])
    assert [text for text in found if what in text] == found
    assert len(found) == 1


def test_a_code_of_ours_quotes_nothing() -> None:
    refused = answer(404, path="/v1/models/x", body=error("model_not_found"), x_should_retry="false")
    assert wrongs(refused, submitted=["not_found"]) == []


def test_a_secret_that_is_found_is_not_shown() -> None:
    assert SECRET not in str(wrongs(WRONG["secret"], secrets=[SECRET]))
