"""Examples to copy: the same each time, sound in their language, and each with a place among those that are run."""

import json
import shlex
import subprocess

import pytest
from morpheus_gateway.openapi import document
from morpheus_site.generated.endpoints import endpoints
from morpheus_site.generated.snippets import Snippet, snippets

from tests.clients.snippet_story import without_a_place
from tests.unit.site_pages import documents

SNIPPETS = [snippet for endpoint in endpoints(document()) for snippet in endpoint.snippets()]
ODD = documents.document()["paths"]["/api/v1/things/{thing_id}"]["post"]
PRICE = ODD["requestBody"]["content"]["application/json"]["examples"]["first"]["value"]["price"]


def odd(language: str) -> str:
    [text] = [one.text for one in snippets("POST", "/api/v1/things/{thing_id}", ODD) if one.language == language]
    return text


def test_every_example_is_among_those_that_are_run() -> None:
    assert without_a_place(SNIPPETS) == []


def test_an_example_without_a_place_is_named() -> None:
    """The guard itself can fail."""
    new = Snippet("new_operation", "only", "curl", "")
    assert without_a_place([*SNIPPETS, new]) == [
        "new_operation.only: give it a place in tests/clients/snippet_story.py"
    ]
    gone = [snippet for snippet in SNIPPETS if snippet.operation != "get_session"]
    assert without_a_place(gone) == ["get_session.only: there is no such example"]


@pytest.mark.parametrize("password", ["hunter2", "$HOME", "`id`", "it's"])
def test_a_shell_puts_in_variables_and_nothing_else(password: str) -> None:
    environment = {"BASE_URL": "http://gateway/api/v1", "KEY_ID": "k1", "ACCESS_TOKEN": "t", "PASSWORD": password}
    # what curl would be given: its arguments, and what it would read
    stub = 'curl() { for one in "$@"; do printf "%s\\0" "$one"; done; cat; }\n'
    ran = subprocess.run(["sh", "-c", stub + odd("curl")], env=environment, capture_output=True, text=True, check=True)
    *arguments, body = ran.stdout.split("\0")
    assert arguments == [
        *("-sS", "--fail-with-body", "http://gateway/api/v1/things/k1?mode=a%7Cb"),
        *("-H", "Authorization: Bearer t", "-H", "Content-Type: application/json", "-d", "@-"),
    ]
    assert json.loads(body) == {"password": password, "price": PRICE}


def test_a_body_without_variables_is_one_word_of_the_shell() -> None:
    operation = {
        **ODD,
        "requestBody": {"content": {"application/json": {"examples": {"a": {"value": {"b": "it's $5"}}}}}},
    }
    [text] = [one.text for one in snippets("POST", "/api/v1/x", operation) if one.language == "curl"]
    assert json.loads(shlex.split(text.replace("\\\n", ""))[-1]) == {"b": "it's $5"}


@pytest.mark.parametrize("snippet", [one for one in SNIPPETS if one.language == "Python"], ids=lambda one: one.key)
def test_python_can_be_compiled(snippet: Snippet) -> None:
    compile(snippet.text, snippet.key, "exec")


def test_values_are_written_as_each_language_has_them() -> None:
    assert f'json={{"password": os.environ["PASSWORD"], "price": {json.dumps(PRICE)}}}' in odd("Python")
    assert "password: process.env.PASSWORD" in odd("JavaScript")
    assert "${process.env.BASE_URL}/things/${process.env.KEY_ID}?mode=a%7Cb" in odd("JavaScript")


def test_no_example_holds_a_credential_of_anybody() -> None:
    """Whoever copies one gives his own, from the environment."""
    for snippet in SNIPPETS:
        assert "correct horse" not in snippet.text, snippet.key
        assert "sk-" not in snippet.text, snippet.key
