"""A page for each endpoint, and none for anything else."""

from pathlib import Path

import jsonschema_rs
import pytest
from morpheus_gateway.openapi import document
from morpheus_site.generated.answers import is_recorded, recorded
from morpheus_site.generated.endpoints import ENDS, SPENDS, VARIABLES, Endpoint, endpoint_pages, endpoints
from morpheus_site.generated.snippets import LANGUAGES, requests_of, variables_of

from tests.e2e.operations import ROWS, Access
from tests.unit.site_pages import documents

GOLDEN = Path(__file__).parents[2] / "golden" / "site" / "make-odd-thing.md.txt"
"""No `.md`: formatters would mend the code in it."""
ENDPOINTS = {endpoint.id: endpoint for endpoint in endpoints(document())}
PAGES = endpoint_pages(document())


def each() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("endpoint", ENDPOINTS.values(), ids=list(ENDPOINTS))


def test_a_page_has_all_there_is_to_an_endpoint(request: pytest.FixtureRequest) -> None:
    """Python orders its sets anew in every process: a page that depended on that would soon be another here."""
    made = endpoint_pages(documents.document())["api/auth/make-odd-thing.md"]
    if request.config.getoption("--update-golden"):
        GOLDEN.write_text(made, encoding="utf-8")
    assert made == GOLDEN.read_text(encoding="utf-8")


def test_an_endpoint_that_takes_and_gives_nothing_has_a_page_without_empty_parts() -> None:
    made = endpoint_pages(documents.document())["api/auth/look.md"]
    assert [line for line in made.splitlines() if line.startswith("##")] == [
        "## Examples",
        "### curl",
        "### Python",
        "### JavaScript",
        "## Answer",
    ]


def test_every_operation_has_a_page_and_is_listed_twice() -> None:
    own = {f"api/{endpoint.tag}/{name.replace('_', '-')}.md" for name, endpoint in ENDPOINTS.items()}
    tags = {f"api/{tag['name']}/index.md" for tag in document()["tags"]}
    assert PAGES.keys() == own | tags | {"api/index.md"}
    for endpoint in ENDPOINTS.values():
        name = endpoint.file.rpartition("/")[2]
        assert f"]({endpoint.tag}/{name})" in PAGES["api/index.md"], endpoint.id
        assert f"]({name})" in PAGES[f"api/{endpoint.tag}/index.md"], endpoint.id


def test_what_is_not_documented_has_no_page() -> None:
    assert not [page for page in PAGES.values() if "\n`GET /v1/models`" in page or "/openapi.json`" in page]


@each()
def test_a_page_says_which_credential_is_wanted_as_the_gateway_wants_it(endpoint: Endpoint) -> None:
    row = ROWS[f"{endpoint.method} {endpoint.path}"]
    words = {
        Access.PUBLIC: "**Credential:** none",
        Access.TOKEN: "**Credential:** an access token.",
        Access.RECENT: "**Credential:** an access token of a login of the last hour.",
        Access.KEY: "**Credential:** an API key",
        Access.EITHER: "**Credential:** an API key or an access token",
    }
    [credential] = [line for line in PAGES[endpoint.file].splitlines() if line.startswith("**Credential:**")]
    assert credential.startswith(words[row.access])
    assert ("the scope" in credential) is (row.scope is not None)
    if row.scope is not None:
        assert f"the scope `{row.scope}`" in credential


@each()
def test_a_page_has_examples_in_every_language_and_tells_of_their_variables(endpoint: Endpoint) -> None:
    page = PAGES[endpoint.file]
    found = list(requests_of(endpoint.method, endpoint.path, endpoint.operation))
    assert {snippet.language for snippet in endpoint.snippets()} == set(LANGUAGES)
    assert len(endpoint.snippets()) == len(found) * len(LANGUAGES)
    for snippet in endpoint.snippets():
        assert f"```{snippet.fence}\n{snippet.text}\n```" in page
    for _, request in found:
        for language in LANGUAGES:
            assert all(f"| `{name}` |" in page and VARIABLES[name] for name in variables_of(request, language))


@each()
def test_what_ends_or_spends_something_says_so(endpoint: Endpoint) -> None:
    told = endpoint.id in SPENDS.keys() | ENDS.keys()
    assert told or endpoint.method != "DELETE"
    assert told or endpoint.method != "POST" or endpoint.tag not in {"session", "chat", "embeddings"}
    assert told is ("> **Careful:**" in PAGES[endpoint.file])


def test_what_is_told_to_be_dangerous_is_there() -> None:
    assert SPENDS.keys() | ENDS.keys() <= ENDPOINTS.keys()


@each()
def test_the_answer_that_is_shown_is_a_real_one_and_as_described(endpoint: Endpoint) -> None:
    """It is written when the examples are run with --update-golden."""
    good = {status: answer for status, answer in endpoint.responses.items() if status < 400}
    in_json = {status: answer["content"]["application/json"] for status, answer in good.items() if "content" in answer}
    assert not in_json or any(is_recorded(endpoint.id, status) for status in in_json)
    for status, content in in_json.items():
        if is_recorded(endpoint.id, status):
            whole = {"components": document()["components"], **content["schema"]}
            assert [error.message for error in jsonschema_rs.iter_errors(whole, recorded(endpoint.id, status))] == []
