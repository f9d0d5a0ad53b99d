"""docs/openapi.json: it is what the code makes, and whoever reads it finds all there is to an operation."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from morpheus_gateway import openapi

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
