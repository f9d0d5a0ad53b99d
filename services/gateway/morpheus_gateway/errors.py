"""Failures as the client sees them: OpenAI's error body, and the headers that tell SDKs what to do."""

import re
from collections.abc import Mapping
from typing import Any, Self

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from morpheus_common.contracts.sessions import Failure
from morpheus_common.errors import CATALOGUE, ApiError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from morpheus_gateway.body import is_json
from morpheus_gateway.limits import RateLimited
from morpheus_gateway.metrics import error_answered, limit_refused

MAX_RETRY_AFTER_SECONDS = 60
"""OpenAI's SDKs obey whatever they are told: `Retry-After: 120` made them wait minutes in silence (measured)."""

REPLAYED_HEADER = "Idempotent-Replayed"

_OPENAI_ROUTE = re.compile(r"(?:/api)?/v1/(?:chat/completions|embeddings|models(?:/.+)?)")
_OWN_ROUTE = re.compile(r"(?:/api)?/v1/models/ratedbids")
"""Under OpenAI's paths and none of OpenAI's: what does not fit there is 422, as on all of our own routes."""
_ABSENT = {
    "responses": "POST /api/v1/chat/completions",
    "completions": "POST /api/v1/chat/completions",
    "images": "POST /api/v1/chat/completions",
    "audio": "POST /api/v1/chat/completions",
    "moderations": "POST /api/v1/chat/completions",
    "assistants": "POST /api/v1/chat/completions",
    "threads": "POST /api/v1/chat/completions",
    "conversations": "POST /api/v1/chat/completions",
    "batches": "POST /api/v1/chat/completions",
    "realtime": "POST /api/v1/chat/completions",
    "videos": "POST /api/v1/chat/completions",
    "evals": "POST /api/v1/chat/completions",
    "files": "POST /api/v1/chat/completions",
    "uploads": "POST /api/v1/chat/completions",
    "vector_stores": "POST /api/v1/chat/completions",
    "containers": "POST /api/v1/chat/completions",
    "fine_tuning": "GET /api/v1/models",
}
"""First segment of the routes of OpenAI's API that are not offered here, and what to use instead."""
_ABSENT_ROUTE = re.compile(rf"(?:/api)?/v1/({'|'.join(_ABSENT)})(?:/.*)?")


class AnswerFailed(ApiError):
    """A prompt that failed on its way.

    `shown_code` stands in the body in place of the catalogue's code (a provider's own). `should_retry` overrules the
    catalogue: False where the prompt may have been taken up, because a retry would run it twice.
    """

    def __init__(
        self,
        code: str,
        message: str | None = None,
        *,
        param: str | None = None,
        retry_after: int | None = None,
        details: Mapping[str, Any] | None = None,
        shown_code: str | None = None,
        should_retry: bool | None = None,
    ) -> None:
        super().__init__(code, message, param=param, retry_after=retry_after, details=details)
        self.shown_code = shown_code
        self.should_retry = self.kind.retry if should_retry is None else should_retry


class BodyRefused(HTTPException):
    """A body that was not read to its end. FastAPI lets this kind of error through from where it reads a body."""

    def __init__(self, code: str) -> None:
        super().__init__(CATALOGUE[code].status)
        self.code = code


class OperationFailed(ApiError):
    """What became of an operation, or that it still goes on. `replayed`: an earlier request began it."""

    def __init__(self, failure: Failure, *, replayed: bool) -> None:
        super().__init__(
            failure.code,
            failure.message,
            param=failure.param,
            retry_after=failure.retry_after,
            details=failure.details,
        )
        self.replayed = replayed

    @classmethod
    def in_progress(cls, operation_id: str) -> Self:
        """Return what a repeat is told while the operation that an earlier request began still goes on."""
        code = "idempotency_in_progress"
        details = {"operation_id": operation_id}
        told = Failure(code=code, message=CATALOGUE[code].message, retry_after=5, details=details)
        return cls(told, replayed=True)


class ErrorShown(BaseModel):
    """`code` is stable. `param`: which part of the request it is about. `details`: what else helps."""

    message: str
    type: str
    param: str | None
    code: str
    details: dict[str, Any] | None = None


class ErrorBody(BaseModel):
    """The one body every failure has, as OpenAPI tells of it."""

    error: ErrorShown


def is_openai_route(path: str) -> bool:
    """Tell whether OpenAI's SDKs call `path`, so that its errors must be the way they expect them."""
    return _OPENAI_ROUTE.fullmatch(path) is not None or _ABSENT_ROUTE.fullmatch(path) is not None


def operation_path(operation_id: str) -> str:
    """Return where an operation can be asked about."""
    return f"/api/v1/session/operations/{operation_id}"


def error_body(error: ApiError) -> dict[str, Any]:
    """Return the one body every failure has."""
    shown = error.shown_code if isinstance(error, AnswerFailed) else None
    fields: dict[str, Any] = {
        "message": error.message,
        "type": error.kind.type,
        "param": error.param,
        "code": shown or error.code,
    }
    if error.details:
        fields["details"] = error.details
    return {"error": fields}


def error_response(error: ApiError, path: str) -> Response:
    """Return the answer to a request to `path` that failed, which counts as answered."""
    error_answered(error.code)
    status = error.kind.status
    headers = {}
    if status in {429, 503} or error.retry_after is not None:
        headers["Retry-After"] = str(max(1, min(error.retry_after or 1, MAX_RETRY_AFTER_SECONDS)))
    if isinstance(error, RateLimited):
        limit_refused(error.limit)
        headers |= error.standing.headers()
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, OperationFailed) and error.replayed:
        headers[REPLAYED_HEADER] = "true"
    if error.details and "operation_id" in error.details:
        headers["Location"] = operation_path(error.details["operation_id"])
    if is_openai_route(path):
        retry = error.should_retry if isinstance(error, AnswerFailed) else error.kind.retry
        headers["x-should-retry"] = "true" if retry else "false"
    return Response(orjson.dumps(error_body(error)), status, headers, media_type="application/json")


def _absent_route(path: str) -> ApiError | None:
    absent = _ABSENT_ROUTE.fullmatch(path)
    if absent is None:
        return None
    return ApiError("endpoint_not_supported", f"This endpoint is not offered here. Use {_ABSENT[absent[1]]} instead.")


def _from_http(error: HTTPException, path: str) -> ApiError:
    if isinstance(error, BodyRefused):
        return ApiError(error.code)
    if error.status_code == 404:
        return _absent_route(path) or ApiError("not_found")
    if error.status_code == 405:
        return ApiError("method_not_allowed")
    if error.status_code < 500:
        return ApiError("invalid_json")
    return ApiError("internal_error")


def _from_validation(error: RequestValidationError, request: Request) -> ApiError:
    problems = error.errors()
    if any(problem["type"] == "json_invalid" for problem in problems):
        return ApiError("invalid_json")
    if isinstance(error.body, bytes) and error.body and not is_json(request.headers.get("content-type")):
        return ApiError("unsupported_media_type")
    # a location starts with where it is (body, query, path); messages name the rule, never what was sent
    fields = [".".join(str(part) for part in problem["loc"][1:]) or "body" for problem in problems]
    reasons = "; ".join(f"{field}: {problem['msg']}" for field, problem in zip(fields, problems, strict=True))
    path = request.url.path
    code = "invalid_value" if is_openai_route(path) and not _OWN_ROUTE.fullmatch(path) else "validation_error"
    return ApiError(code, f"{reasons}.", param=fields[0], details={"fields": fields})


def _allowed_methods(scope: Scope) -> str:
    methods: set[str] = set()
    for route in scope["app"].state.routes:
        match, _ = route.matches({**scope, "method": "*"})
        if match is not Match.NONE:
            methods |= route.methods
    if "GET" in methods:
        methods.add("HEAD")
    return ", ".join(sorted(methods))


def install_error_handlers(app: FastAPI) -> None:
    """Make every failure inside `app` answer in OpenAI's form."""

    @app.exception_handler(ApiError)
    async def _api_error(request: Request, error: ApiError) -> Response:
        return error_response(error, request.url.path)

    @app.exception_handler(RequestValidationError)
    async def _validation_error(request: Request, error: RequestValidationError) -> Response:
        return error_response(_from_validation(error, request), request.url.path)

    @app.exception_handler(HTTPException)
    async def _http_error(request: Request, error: HTTPException) -> Response:
        path = request.url.path
        absent = _absent_route(path) if error.status_code == 405 else None
        response = error_response(absent or _from_http(error, path), path)
        if error.status_code == 405 and absent is None:
            response.headers["Allow"] = _allowed_methods(request.scope)
        return response
