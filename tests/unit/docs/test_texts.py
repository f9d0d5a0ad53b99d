"""README, CONTRIBUTING, CHANGELOG and the decisions: what they name is there."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from morpheus_devstack.cli import app
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
PARTS = ["Status", "Context", "Decision", "Consequences"]
OUR_PREFIXES = ("morpheus-", "proxy-router-sim")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def relative_links(text: str) -> list[str]:
    """Return the targets of links and pictures that are not addresses; code is left out."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", prose)
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


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
    assert morpheus_calls("`morpheus up --json` and `.venv/bin/morpheus apply`") == [("up", ["--json"]), ("apply", [])]


@pytest.mark.parametrize("text", TEXTS, ids=name_of)
def test_relative_links_lead_somewhere(text: Path) -> None:
    targets = [target.partition("#")[0] for target in relative_links(text.read_text())]
    assert [target for target in targets if target and not (text.parent / target).exists()] == []


@pytest.mark.parametrize("text", TEXTS, ids=name_of)
def test_make_targets_that_are_named_exist(text: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert make_targets_named(text.read_text()) <= targets


@pytest.mark.parametrize("text", TEXTS, ids=name_of)
def test_morpheus_commands_and_options_that_are_named_exist(text: Path) -> None:
    group = get_command(app)
    commands = getattr(group, "commands", {})
    known = {
        name: {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for name, command in commands.items()
    }
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
            *(item for group in description.get("dependency-groups", {}).values() for item in group),
        ]
        names |= {requirement_name(requirement) for requirement in requirements}
    lines = [line for file in ROOT.glob("requirements/*.in") for line in file.read_text().splitlines()]
    names |= {requirement_name(line) for line in lines if line and not line.startswith("#")}
    names |= set(json.loads((ROOT / "tests/clients/node/package.json").read_text())["devDependencies"])
    return {name for name in names if not name.startswith(OUR_PREFIXES)}


def test_every_dependency_has_a_reason_and_no_reason_outlives_its_dependency() -> None:
    table = (DECISIONS / "0011-dependencies.md").read_text()
    first_cells = re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE)
    explained = {requirement_name(name) for cell in first_cells for name in re.findall(r"`([^`]+)`", cell)}
    assert explained == third_party()
