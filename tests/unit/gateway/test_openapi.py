"""docs/openapi.json: it is what the code makes, and whoever reads it finds all there is to an operation."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from morpheus_common.errors import CATALOGUE
from morpheus_gateway import middleware, openapi
from morpheus_gateway.principal import ACCESS_TOKEN, API_KEY

Json = dict[str, Any]

ROOT = Path(__file__).parents[3]
MADE = openapi.document()


def operations() -> Iterator[tuple[str, Json]]:
    for path, methods in MADE["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_the_committed_document_is_what_the_code_makes() -> None:
    committed = (ROOT / openapi.DOCUMENT).read_text(encoding="utf-8")
    assert committed == openapi.as_text(MADE), "run `make contracts` and commit docs/openapi.json"


def test_the_command_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert openapi.main([str(tmp_path / "made.json")]) == 0
    assert (tmp_path / "made.json").read_text(encoding="utf-8") == openapi.as_text(MADE)
    assert f"{len(list(operations()))} operations" in capsys.readouterr().err


def test_every_operation_has_a_name_of_its_own_a_tag_and_says_what_it_does() -> None:
    names = [operation["operationId"] for _, operation in operations()]
    assert len(names) == len(set(names))
    assert "create_chat_completion" in names
    told = {tag["name"] for tag in MADE["tags"] if tag["description"]}
    for name, operation in operations():
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", operation["operationId"]), name
        assert operation["summary"], name
        assert operation["description"], name
        assert len(operation["tags"]) == 1, name
        assert set(operation["tags"]) <= told, name
    assert told == {tag for _, operation in operations() for tag in operation["tags"]}


def test_every_parameter_and_every_body_has_an_example() -> None:
    for name, operation in operations():
        for parameter in operation.get("parameters", []):
            assert parameter["example"] is not None, f"{name}: {parameter['name']}"
        for content in operation.get("requestBody", {}).get("content", {}).values():
            assert content["examples"], name
            assert all(shown["value"] for shown in content["examples"].values()), name


def responses() -> Iterator[tuple[str, Json, str, Json]]:
    for name, operation in operations():
        for status, response in operation["responses"].items():
            told = (
                MADE["components"]["responses"][response["$ref"].rpartition("/")[2]] if "$ref" in response else response
            )
            yield name, operation, status, told


def codes_of(response: Json) -> list[str]:
    return list(response["content"]["application/json"].get("examples", {}))


def test_every_code_of_the_catalogue_is_told_of_where_it_can_be_given() -> None:
    """C54. A code that no operation gives is one of operators, or of requests that reach none."""
    told = {code for _, _, status, response in responses() if status >= "400" for code in codes_of(response)}
    of_operators = {"foreign_session", "session_known", "session_unrecorded"}
    assert told == CATALOGUE.keys() - of_operators - set(openapi.OF_NO_OPERATION)
    assert told == MADE["components"]["examples"].keys()


def test_an_error_is_told_of_at_its_status_and_its_schema_knows_its_code() -> None:
    # most are shared
    failures = {id(response): (name, status, response) for name, _, status, response in responses() if status >= "400"}
    for name, status, response in failures.values():
        if not codes_of(response):
            continue
        codes = codes_of(response)
        assert {CATALOGUE[code].status for code in codes} == {int(status)}, name
        schema = response["content"]["application/json"]["schema"] | {"components": MADE["components"]}
        form = jsonschema_rs.Draft202012Validator(schema)
        for code in codes:
            shown = MADE["components"]["examples"][code]["value"]
            assert form.is_valid(shown), f"{name}: {code}"
        assert not form.is_valid({"error": {"code": codes[0]}}), name


def test_an_answer_tells_in_its_headers_what_a_client_needs_then() -> None:
    for name, operation, status, response in responses():
        headers = response.get("headers", {}).keys()
        if status == "default":
            continue
        assert "X-Request-Id" in headers, name
        assert ("WWW-Authenticate" in headers) == (status == "401"), name
        assert "Retry-After" in headers or status not in {"429", "503"}, name
        of_openai = operation["tags"][0] in {"chat", "embeddings", "models"}
        assert ("x-should-retry" in headers) == (of_openai and status >= "400"), name


def test_a_route_that_limits_by_address_is_told_of_as_one_that_counts() -> None:
    counted = {
        f"{method.upper()} {path}"
        for path, methods in MADE["paths"].items()
        for method, operation in methods.items()
        if any(
            "x-ratelimit-limit-requests" in response.get("headers", {})
            for status, response in operation["responses"].items()
            if status < "300"
        )
    }
    assert {f"POST {path}" for path in middleware._LIMITED_ROUTES} <= counted


def test_references_lead_somewhere_and_nothing_is_left_that_none_leads_to() -> None:
    text = openapi.as_text(MADE)
    used = set(re.findall(r'"#/components/(\w+/[\w.-]+)"', text))
    there = {f"{section}/{name}" for section, parts in MADE["components"].items() for name in parts}
    assert used == there - {f"securitySchemes/{kind}" for kind in (ACCESS_TOKEN, API_KEY)}
    assert "x-codes" not in text
