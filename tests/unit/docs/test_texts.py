"""README, CONTRIBUTING, CHANGELOG and the decisions: what they name is there."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from morpheus_auth.settings import AuthSettings
from morpheus_automation.settings import AutomationServiceSettings
from morpheus_common.bus.names import User
from morpheus_common.errors import CATALOGUE
from morpheus_devstack.cli import app
from morpheus_gateway.app import create_app
from morpheus_gateway.settings import GatewaySettings
from morpheus_sessions.settings import SessionsSettings
from morpheus_site.generated import pages
from pydantic import SecretStr
from typer.main import get_command

ROOT = Path(__file__).resolve().parents[3]
DECISIONS = ROOT / "docs" / "decisions"
RECORDS = sorted(DECISIONS.glob("[0-9]*.md"))
TEXTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "examples").glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
DOCS = ROOT / "docs"
SITE = sorted(DOCS.glob("*.md"))
"""The pages of the documentation's site that are written by hand; decisions are there, too."""
GENERATED = set(pages()) or {
    "api/index.md",
    "errors.md",
    "settings.md",
    "metrics.md",
    "commands.md",
    "events-reference.md",
}
"""Pages that are written from the code when the site is built, and stand in no folder."""
PLACEHOLDER = "https://gateway.example"
"""The address of the reader's own gateway, which a served page puts in its place."""
OF_OTHERS = {
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TIMEOUT",
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_SERVICE_NAME",
    "BASE_URL",
    "API_KEY",
    "MODEL",
    "EMAIL",
    "PASSWORD",
    "OPENAI_BASE_URL",
    "OPENAI_API_KEY",
    "OPENAI_API_BASE_URL",
    "PROXY_STORE_CHAT_CONTEXT",
    "PROXY_FORWARD_CHAT_CONTEXT",
    "PROXY_ROUTER_USER",
    "PROXY_ROUTER_PASSWORD",
    "NATS_SUBSCRIBER_SEED",
    "EVENTS",
    "GATEWAY_ADDRESS",
    "GATEWAY_PORT",
}
"""Names in upper case that are no settings of a service: variables of clients, of the router, of the stack, of Compose."""
PARTS = ["Status", "Context", "Decision", "Consequences"]
OUR_PREFIXES = ("morpheus-", "proxy-router-sim")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def relative_links(text: str) -> list[str]:
    """Return the targets of links and pictures that are not addresses; code is left out."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", prose)
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def without_code(text: str) -> str:
    """Return the prose of a page: fenced blocks left out, what stands in backticks kept."""
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def anchors(text: str) -> set[str]:
    """Return what links can lead to within a page, as code hosts and the site make it of headings."""
    headings = re.findall(r"^#+ (.*)$", without_code(text), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def endpoints_named(text: str) -> set[tuple[str, str]]:
    """Return every path under /api/v1 that a page names, with the method before it (none: the empty string)."""
    named = re.findall(r"(?:\b(GET|PUT|POST|PATCH|DELETE) )?(/api/v1/[a-z0-9/{}_-]*[a-z0-9}])", text)
    return {(method.lower(), path) for method, path in named}


def make_targets_named(text: str) -> set[str]:
    """Return what is said after `make` in code: fenced blocks and backticks."""
    code = [*re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL), *re.findall(r"`([^`\n]+)`", text)]
    calls = [match for piece in code for match in re.findall(r"(?:^|\n)make(?: [A-Z]+=\S+)* ([a-z]\S*)", piece)]
    return set(calls)


def morpheus_calls(text: str) -> list[tuple[str, list[str]]]:
    """Return every `morpheus <command>` in backticks, with the options after it."""
    calls = re.findall(r"`(?:\.venv/bin/)?morpheus ([a-z]+(?:-[a-z]+)*)([^`]*)`", text)
    return [(command, re.findall(r"--[a-z-]+", rest)) for command, rest in calls]


def test_the_rules_see_what_they_look_for() -> None:
    assert relative_links("[a](b.md) ![c](d/e.svg) [f](https://g.org)\n```\n[h](i)\n```") == ["b.md", "d/e.svg"]
    assert make_targets_named("`make run` then\n```sh\nmake PYTHON=x test\n```\nmake sure") == {"run", "test"}
    assert anchors("# A b\n## What's `new`, then?\n```\n# c\n```") == {"a-b", "whats-new-then"}
    assert endpoints_named("`POST /api/v1/auth/keys/{id}` or /api/v1/models.") == {
        ("post", "/api/v1/auth/keys/{id}"),
        ("", "/api/v1/models"),
    }
    assert morpheus_calls("`morpheus up --json` and `.venv/bin/morpheus apply`") == [("up", ["--json"]), ("apply", [])]


@pytest.mark.parametrize("text", TEXTS, ids=name_of)
def test_relative_links_lead_somewhere(text: Path) -> None:
    targets = [target.partition("#")[0] for target in relative_links(text.read_text())]
    generated = GENERATED if text.parent == DOCS else set()
    assert [
        target for target in targets if target and target not in generated and not (text.parent / target).exists()
    ] == []


@pytest.mark.parametrize("text", TEXTS, ids=name_of)
def test_links_to_headings_lead_to_one(text: Path) -> None:
    links = [target.partition("#") for target in relative_links(text.read_text())]
    pages_meant = [(text.parent / path if path else text, anchor) for path, _, anchor in links if anchor]
    dead = [
        anchor
        for page, anchor in pages_meant
        if page.suffix == ".md" and page.exists() and anchor not in anchors(page.read_text())
    ]
    assert dead == []


@pytest.mark.parametrize("text", SITE, ids=name_of)
def test_a_page_of_the_site_leads_to_nothing_that_the_site_has_not(text: Path) -> None:
    assert [target for target in relative_links(text.read_text()) if target.startswith("..")] == []


@pytest.fixture(scope="session")
def endpoints() -> dict[str, set[str]]:
    """Methods by path, what varies in a path written as {}; as OpenAPI has them."""
    paths = create_app(GatewaySettings(nats_seed=SecretStr("none"))).openapi()["paths"]
    return {re.sub(r"{\w+}", "{}", path): set(methods) for path, methods in paths.items()}


@pytest.mark.parametrize("text", [*SITE, ROOT / "README.md", *sorted((ROOT / "examples").glob("*.md"))], ids=name_of)
def test_endpoints_that_are_named_exist_and_answer_that_method(text: Path, endpoints: dict[str, set[str]]) -> None:
    named = {(method, re.sub(r"{\w+}", "{}", path)) for method, path in endpoints_named(text.read_text())}
    # a page may name what several endpoints have in common: `/api/v1/session`
    begun = {f"{'/'.join(path.split('/')[:depth])}" for path in endpoints for depth in range(3, path.count("/") + 1)}

    def exists(method: str, path: str) -> bool:
        if not method:
            return path in endpoints or path in begun
        return method in endpoints.get(path, set())

    assert sorted(one for one in named if not exists(*one)) == []


@pytest.mark.parametrize("text", SITE, ids=name_of)
def test_error_codes_that_are_named_with_their_status_have_it(text: Path) -> None:
    named = re.findall(r"\b([45]\d\d) `([a-z_]+)`", without_code(text.read_text()))
    of_others = {"context_length_exceeded"}
    wrong = [
        (status, code)
        for status, code in named
        if code not in of_others and (code not in CATALOGUE or CATALOGUE[code].status != int(status))
    ]
    assert wrong == []


def settings_of_services() -> Iterator[str]:
    for model in (GatewaySettings, AuthSettings, SessionsSettings, AutomationServiceSettings):
        yield from (name.upper() for name in model.model_fields)


@pytest.mark.parametrize("text", [*SITE, ROOT / "README.md"], ids=name_of)
def test_settings_that_are_named_exist(text: Path) -> None:
    named = set(re.findall(r"`([A-Z][A-Z0-9]+(?:_[A-Z0-9]+)+)(?:=[^`]*)?`", without_code(text.read_text())))
    # what an operator has to set in manifests is held to them by tests/deploy/kubernetes
    named = {name for name in named if not name.startswith("REPLACE_")}
    assert sorted(named - set(settings_of_services()) - OF_OTHERS) == []


@pytest.mark.parametrize("text", SITE, ids=name_of)
def test_the_readers_gateway_is_named_in_one_way(text: Path) -> None:
    addresses = set(re.findall(r"https?://[a-z0-9.-]*(?:gateway|127\.0\.0\.1|localhost)[a-z0-9.-]*", text.read_text()))
    assert addresses <= {PLACEHOLDER, "http://127.0.0.1"}
    if text.stem in {"index", "getting-started", "clients", "streaming-and-errors", "sessions-and-stake", "faq"}:
        assert addresses <= {PLACEHOLDER}


def test_the_rights_on_the_bus_are_printed_by_what_operations_shows(tmp_path: Path) -> None:
    [shown] = re.findall(
        r"morpheus nats-config (--keys .*?)\n```", (DOCS / "operations.md").read_text(), flags=re.DOTALL
    )
    (tmp_path / "keys.json").write_text(json.dumps(dict.fromkeys(User, f"U{'A' * 55}")))
    command = [sys.executable, "-m", "morpheus_devstack", "nats-config", *shlex.split(shown.replace("\\\n", " "))]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert printed.count(f'nkey: "U{"A" * 55}"') == len(User)
    assert '"/var/lib/nats"' in printed
    assert "/etc/nats/tls.crt" in printed


@pytest.mark.parametrize("text", TEXTS, ids=name_of)
def test_make_targets_that_are_named_exist(text: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert make_targets_named(text.read_text()) <= targets


def options_of(command: Any) -> set[str]:
    """Return the options of a command, and of those below it."""
    own = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    return own.union(*(options_of(below) for below in getattr(command, "commands", {}).values()))


@pytest.mark.parametrize("text", TEXTS, ids=name_of)
def test_morpheus_commands_and_options_that_are_named_exist(text: Path) -> None:
    known = {name: options_of(command) for name, command in getattr(get_command(app), "commands", {}).items()}
    calls = morpheus_calls(text.read_text())
    missing = [
        (command, option) for command, options in calls for option in options if option not in known.get(command, set())
    ]
    assert [command for command, _ in calls if command not in known] == []
    assert missing == []


def test_readme_names_every_option_that_a_user_needs() -> None:
    readme = (ROOT / "README.md").read_text()
    named = {option for command, options in morpheus_calls(readme) if command == "up" for option in options}
    assert {"--json", "--port", "--data", "--fresh", "--router", "--llm"} <= named


def test_files_that_contributing_names_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    paths = set(re.findall(r"\b(?:tests|libs|services|requirements)/[\w./]+[\w]", text))
    paths |= {f"libs/common/{path}" for path in re.findall(r"(?<![\w/])morpheus_common/[\w./]+\.py", text)}
    assert paths
    assert sorted(path for path in paths if not (ROOT / path).exists()) == []


@pytest.mark.parametrize("record", RECORDS, ids=name_of)
def test_a_decision_has_a_number_a_title_and_its_four_parts(record: Path) -> None:
    number = record.name[:4]
    lines = record.read_text().splitlines()
    assert re.fullmatch(rf"# {number}\. \S.*", lines[0])
    assert [line.removeprefix("## ") for line in lines if line.startswith("## ")] == PARTS


def test_decisions_are_numbered_without_gaps_and_all_listed() -> None:
    assert [record.name[:4] for record in RECORDS] == [f"{number:04}" for number in range(1, len(RECORDS) + 1)]
    listed = re.findall(r"^\| (\d{4}) \| \[[^]]+\]\(([^)]+)\)", (DECISIONS / "README.md").read_text(), re.MULTILINE)
    assert listed == [(record.name[:4], record.name) for record in RECORDS]


def requirement_name(requirement: str) -> str:
    match = re.match(r"@?[A-Za-z0-9._/-]+", requirement)
    assert match is not None
    return match.group().lower().replace("_", "-")


def third_party() -> set[str]:
    """Return every package from outside that a file of this repository asks for, build backends included."""
    names = set()
    for file in [ROOT / "pyproject.toml", *ROOT.glob("libs/*/pyproject.toml"), *ROOT.glob("services/*/pyproject.toml")]:
        description = tomllib.loads(file.read_text())
        requirements = [
            *description.get("project", {}).get("dependencies", []),
            *description.get("build-system", {}).get("requires", []),
            *(
                item
                for extra in description.get("project", {}).get("optional-dependencies", {}).values()
                for item in extra
            ),
            *(item for group in description.get("dependency-groups", {}).values() for item in group),
        ]
        names |= {requirement_name(requirement) for requirement in requirements}
    lines = [line for file in ROOT.glob("requirements/*.in") for line in file.read_text().splitlines()]
    names |= {requirement_name(line) for line in lines if line and not line.startswith("#")}
    for folder in ("tests/clients/node", "tests/browser/node", "tools/contracts", "tools/compose"):
        names |= set(json.loads((ROOT / folder / "package.json").read_text())["devDependencies"])
    return {name for name in names if not name.startswith(OUR_PREFIXES)}


def test_every_dependency_has_a_reason_and_no_reason_outlives_its_dependency() -> None:
    table = (DECISIONS / "0011-dependencies.md").read_text()
    first_cells = re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE)
    explained = {requirement_name(name) for cell in first_cells for name in re.findall(r"`([^`]+)`", cell)}
    assert explained == third_party()
