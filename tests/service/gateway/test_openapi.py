"""What OpenAPI says of credentials, headers and methods is what the gateway does; so are its examples."""

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from morpheus_gateway.openapi import document
from morpheus_gateway.principal import ACCESS_TOKEN, API_KEY

from tests.openapi import check_answer
from tests.service.gateway.conftest import House

Json = dict[str, Any]


def operations() -> Iterator[tuple[str, str, Json]]:
    for path, methods in document()["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def kinds_of(operation: Json) -> set[str]:
    return {kind for scheme in operation["security"] for kind in scheme}


async def asked(house: House, method: str, path: str, operation: Json, headers: dict[str, str]) -> httpx2.Response:
    """Send the request that the document's examples make."""
    parameters = operation.get("parameters", [])
    for parameter in parameters:
        path = path.replace(f"{{{parameter['name']}}}", str(parameter["example"]))
    query = {item["name"]: item["example"] for item in parameters if item["in"] == "query" and item["required"]}
    body = None
    for content in operation.get("requestBody", {}).get("content", {}).values():
        body = next(iter(content["examples"].values()))["value"]
    return await house.http.request(method, path, params=query, json=body, headers=headers)


def code_of(response: httpx2.Response) -> str | None:
    is_error = response.status_code >= 400 and "error" in response.json()
    return response.json()["error"]["code"] if is_error else None


async def test_what_is_public_answers_without_a_credential_and_nothing_else_does(house: House) -> None:
    """The table of credentials."""
    for method, path, operation in operations():
        response = await asked(house, method, path, operation, {})
        wants_one = (response.status_code, code_of(response)) == (401, "missing_credentials")
        assert wants_one == bool(operation["security"]), operation["operationId"]


@pytest.mark.parametrize("kind", [ACCESS_TOKEN, API_KEY])
async def test_a_credential_of_another_kind_than_the_one_that_is_told_of_is_refused(house: House, kind: str) -> None:
    headers = house.by_token if kind == ACCESS_TOKEN else house.by_key
    for method, path, operation in operations():
        kinds = kinds_of(operation)
        # one that takes this kind alone is asked so by the tests of what it does
        if kinds - {kind}:
            response = await asked(house, method, path, operation, headers)
            assert (code_of(response) == "wrong_credential_kind") == (kind not in kinds), operation["operationId"]


async def test_an_answer_that_is_not_documented_is_found(house: House) -> None:
    response = await house.http.get("/api/v1/models")
    headers = dict(response.headers)
    wrong: dict[str, dict[str, Any]] = {
        "the status is not documented": {"status_code": 418},
        "the header x-new is not documented": {"headers": headers | {"x-new": "1"}},
        "the header x-catalog-age does not fit": {"headers": headers | {"x-catalog-age": "old"}},
        "the media type text/html is not documented": {"headers": headers | {"content-type": "text/html"}},
        "the body does not fit at /data: ": {"json": {"object": "list", "data": 1}},
        "the body does not fit at /error/code: ": {
            "status_code": 503,
            "json": {"error": {"message": "no", "type": "server_error", "param": None, "code": "session_lost"}},
        },
    }
    for problem, changed in wrong.items():
        made: dict[str, Any] = {"status_code": 200, "headers": headers, "content": response.content} | changed
        if "json" in changed:
            made |= {"content": None, "headers": {"x-request-id": headers["x-request-id"]}}
        with pytest.raises(AssertionError, match=problem):
            check_answer(httpx2.Response(request=response.request, **made))
