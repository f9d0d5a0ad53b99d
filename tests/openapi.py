"""Holds answers of the gateway against what its OpenAPI document says of them: status, code, headers, body."""

import json
import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any

import httpx2
import jsonschema_rs
from morpheus_gateway.errors import is_openai_route
from morpheus_gateway.openapi import OF_NO_OPERATION, document

Json = dict[str, Any]

OF_HTTP = frozenset(
    [
        "allow",
        "content-encoding",
        "content-security-policy",
        "cross-origin-resource-policy",
        "strict-transport-security",
        "upgrade",
        "cache-control",
        "connection",
        "content-length",
        "content-type",
        "date",
        "referrer-policy",
        "transfer-encoding",
        "vary",
        "x-accel-buffering",
        "x-content-type-options",
    ]
)
"""Headers that no operation has to tell of. Those of CORS begin with `access-control-`."""
EVENT_STREAM = "text/event-stream"


def check_answer(response: httpx2.Response, *, body: bool = True) -> None:
    """Raise `AssertionError` with all that an answer has and OpenAPI does not tell of. `body`: it was read."""
    problems = list(_problems(response, body=body))
    if problems:
        request = response.request
        raise AssertionError(f"{request.method} {request.url.path} ({response.status_code}): {'; '.join(problems)}")


class CheckedClient(httpx2.AsyncClient):
    """A client that holds every answer against OpenAPI."""

    async def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
        """Send a request, and check its answer; of one that the caller reads piece by piece all but the body."""
        response = await super().send(request, stream=stream, **options)
        check_answer(response, body=not stream)
        return response


class CheckedSyncClient(httpx2.Client):
    """The same for callers that do not await."""

    def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
        """Send a request, and check its answer; of one that the caller reads piece by piece all but the body."""
        response = super().send(request, stream=stream, **options)
        check_answer(response, body=not stream)
        return response


def _problems(response: httpx2.Response, *, body: bool) -> Iterator[str]:
    method = "GET" if response.request.method == "HEAD" else response.request.method
    if method == "OPTIONS" or response.request.url.path.endswith("/openapi.json"):
        return
    body = body and response.request.method != "HEAD"
    kind = response.headers.get("content-type", "").partition(";")[0]
    operation = _operation(method, response.request.url.path)
    code = _code(response) if body else None
    if operation is None or code in OF_NO_OPERATION:
        # a body that is too large, or an address over its limit, is refused before anybody looks where it goes
        if body and code not in {*OF_NO_OPERATION, "request_too_large", "rate_limit_exceeded"}:
            yield f"the code {code} is of no operation"
        return
    where = ("paths", *operation, "responses", str(response.status_code))
    told = _at(*where)
    if told is None:
        yield "the status is not documented"
        return
    for name in response.headers:
        if name not in OF_HTTP and not name.startswith("access-control-"):
            known = {key.lower(): value for key, value in told.get("headers", {}).items()}
            if name not in known:
                yield f"the header {name} is not documented"
            else:
                yield from _header_problems(name, known[name], response.headers[name])
    if not body:
        return
    if not kind:
        if "content" in told:
            yield "there is no body"
    elif kind not in told.get("content", {}):
        yield f"the media type {kind} is not documented"
    elif kind == EVENT_STREAM:
        yield from _stream_problems(where, response.text)
    else:
        yield from _body_problems(where, kind, response.json())


def _code(response: httpx2.Response) -> str | None:
    """Return the code of an answer that is an error."""
    is_json = response.headers.get("content-type") == "application/json"
    told = response.json() if is_json and response.status_code >= 400 else {}
    code: str | None = told.get("error", {}).get("code")
    return code


def _operation(method: str, path: str) -> tuple[str, str] | None:
    """Return the operation that a request reaches, as a path and a method of the document."""
    path = path.removesuffix("/") or "/"
    if is_openai_route(path):
        path = "/api" + path.removeprefix("/api")
    for template, pattern in _patterns():
        if pattern.fullmatch(path):
            return (template, method.lower()) if method.lower() in document()["paths"][template] else None
    return None


@cache
def _patterns() -> list[tuple[str, re.Pattern[str]]]:
    """Return each path with what it matches; those without parameters first."""
    paths = sorted(document()["paths"], key=lambda path: path.count("{"))
    # a name of a model may have slashes
    return [
        (path, re.compile(re.sub(r"{model_id}", ".+", re.sub(r"{(?!model_id)\w+}", "[^/]+", path)))) for path in paths
    ]


def _at(*where: str) -> Any:
    """Return what stands in the document, through references; None if there is no such place."""
    found: Any = document()
    for name in where:
        found = found.get(name)
        if found is None:
            return None
        if "$ref" in found:
            found = _at(*found["$ref"].removeprefix("#/").split("/"))
    return found


@cache
def _validator(*where: str) -> jsonschema_rs.Draft202012Validator:
    schema = {**_at(*where), "components": document()["components"]}
    return jsonschema_rs.Draft202012Validator(schema, validate_formats=True)


def _body_problems(where: tuple[str, ...], kind: str, content: Any) -> Iterator[str]:
    for error in _validator(*where, "content", kind, "schema").iter_errors(content):
        # never the value: answers hold keys and tokens
        yield f"the body does not fit at /{'/'.join(map(str, error.instance_path))}: {error.schema_path}"


def _stream_problems(where: tuple[str, ...], text: str) -> Iterator[str]:
    events = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
    if not events or events[-1] != "[DONE]":
        yield "the stream does not end with [DONE]"
    for event, next_event in pairwise(events):
        try:
            yield from _body_problems(where, EVENT_STREAM, json.loads(event))
        except ValueError:
            if '"error"' not in next_event:
                yield "an event is no JSON, and nothing says that it broke off"


def _header_problems(name: str, told: Json, value: str) -> Iterator[str]:
    if "$ref" in told:
        told = _at(*told["$ref"].removeprefix("#/").split("/"))
    schema = told["schema"]
    found = int(value) if schema["type"] == "integer" and value.isdecimal() else value
    if not jsonschema_rs.Draft202012Validator(schema, validate_formats=True).is_valid(found):
        yield f"the header {name} does not fit"
