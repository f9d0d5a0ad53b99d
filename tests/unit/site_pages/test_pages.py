"""All pages that are written from the code: whole, plain, and their links lead somewhere."""

import posixpath
import re
from functools import cache
from itertools import pairwise

import pytest
from morpheus_common.bus.events import event_headers
from morpheus_common.clock import utc_now
from morpheus_common.contracts import REGISTRY
from morpheus_common.errors import CATALOGUE
from morpheus_devstack.cli import app
from morpheus_site.generated import pages
from morpheus_site.generated.events import _ENTITIES, _HEADERS
from morpheus_site.generated.metric_table import collectors, shown_by
from morpheus_site.generated.schemas import Schemas
from morpheus_site.generated.setting_table import SERVICES
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

PAGES = pages()
BY_HAND = {"events.md"}
"""Pages that others write and these lead to."""


@cache
def anchors(page: str) -> set[str]:
    """Return what a heading is linked by, as code hosts and MyST make it."""
    headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES)
def test_links_lead_to_pages_and_headings_that_are_there(path: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", PAGES[path], flags=re.DOTALL)):
        if re.match(r"[a-z]+:|/", target):
            continue
        name, _, anchor = target.partition("#")
        page = posixpath.normpath(posixpath.join(posixpath.dirname(path), name)) if name else path
        assert page in PAGES or page in BY_HAND, f"{path} leads to {target}"
        assert not anchor or anchor in anchors(PAGES[page]), f"{path} leads to {target}"


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_plain_markdown_under_one_title(path: str) -> None:
    outside = re.sub(r"^(`{3,})\w+\n.*?^\1$", "", PAGES[path], flags=re.MULTILINE | re.DOTALL)
    levels = [len(mark) for mark in re.findall(r"^(#+) ", outside, re.MULTILINE)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below - above <= 1 for above, below in pairwise(levels))
    assert not re.search(r"^(```|:::)|\{[a-z-]+\}`|<[a-z]", re.sub(r"`[^`\n]+`", "", outside), re.MULTILINE)


# errors


@pytest.mark.parametrize("code", CATALOGUE)
def test_every_code_has_a_place_that_says_what_to_do(code: str) -> None:
    kind = CATALOGUE[code]
    [_, section] = re.split(rf"^### `{code}`$", PAGES["errors.md"], flags=re.MULTILINE)
    section = re.split(r"^##", section, flags=re.MULTILINE)[0]
    assert kind.advice in section
    assert kind.advice != kind.message
    assert f"Status {kind.status}," in section
    assert f"retry: {'yes' if kind.retry else 'no'}" in section
    assert ("seen by operators only" in section) is kind.operators_only
    assert len(kind.message) <= 200


# settings


def test_every_setting_of_every_service_is_in_the_table() -> None:
    rows = re.findall(r"^\| `([A-Z0-9_]+)` \| ([a-z, ]+) \|", PAGES["settings.md"], re.MULTILINE)
    told = {(name, service) for name, services in rows for service in _services(services)}
    assert told == {(field.upper(), service) for service, kind in SERVICES.items() for field in kind.model_fields}
    assert len(rows) == len(set(rows))


def _services(told: str) -> list[str]:
    return list(SERVICES) if told == "all" else told.split(", ")


def row(name: str) -> str:
    [found] = [line for line in PAGES["settings.md"].splitlines() if line.startswith(f"| `{name}` |")]
    return found


def test_secrets_are_marked_and_what_development_uses_is_not_shown() -> None:
    for name in ("NATS_SEED", "MONGO_URL", "AUTH_PEPPERS", "AUTH_KEYRING", "AUTH_VAULT_TOKEN", "PROXY_ROUTERS"):
        assert "**Secret.**" in row(name)
    assert "one for development only" in row("AUTH_PEPPERS")
    assert "**Secret.**" not in row("CHAIN_ID")


def test_numbers_have_their_units_and_counts_have_none() -> None:
    units = {"BODY_LIMIT": "bytes", "OPEN_WAIT": "seconds", "MONGO_TIMEOUT_MS": "milliseconds", "LEAST_GAS": "wei"}
    units |= {"PRICE_LIMIT": "wei a second", "USAGE_DAYS": "days", "ARGON2_MEMORY_KIB": "KiB", "PORT": "", "HOST": ""}
    units |= {"DURATION_LIMIT": "seconds", "MAX_RETRY_SECONDS": "seconds", "MAX_ACTIVE_KEYS": "", "OPENS_PER_DAY": ""}
    assert {name: row(name).split(" | ")[-1].removesuffix("|").strip() for name in units} == units


# commands


def options(command: object, name: str) -> list[tuple[str, str]]:
    if isinstance(command, TyperGroup):
        return [pair for word, one in command.commands.items() for pair in options(one, f"{name} {word}")]
    assert isinstance(command, TyperCommand)
    return [(name, option) for parameter in command.params for option in parameter.opts if option.startswith("--")]


def test_every_command_is_there_with_every_option() -> None:
    sections = dict(
        re.findall(r"^#{2,3} (morpheus [^\n]+)\n(.*?)(?=^##|\Z)", PAGES["commands.md"], re.MULTILINE | re.DOTALL)
    )
    found = options(get_command(app), "morpheus")
    assert ("morpheus sessions adopt", "--key") in found
    assert [(name, option) for name, option in found if f"`{option}`" not in sections[name]] == []


# events


@pytest.mark.parametrize("subject", REGISTRY.events)
def test_every_event_has_fields_and_an_example_that_is_one(subject: str) -> None:
    event = REGISTRY.events[subject]
    [_, section] = re.split(rf"^## `{re.escape(subject)}`$", PAGES["events-reference.md"], flags=re.MULTILINE)
    [example, *_] = re.findall(r"```json\n(.*?)\n```", section, re.DOTALL)
    event.payload.model_validate_json(example)
    assert event.description.partition("`")[0] in section
    assert (event.domain, event.entity) in _ENTITIES
    schema = event.payload.model_json_schema(mode="serialization")
    assert all(f"| `{field.name}` |" in section for field in Schemas(schema.get("$defs", {})).fields(schema))


def test_the_headers_that_are_told_of_are_those_of_events() -> None:
    given = event_headers(
        "evt.a.b.c.v1", event_id="e", entity_id="x", version=1, time=utc_now(), request_id="r", traceparent="t"
    )
    assert _HEADERS.keys() == given.keys() - {"ce-specversion", "content-type"}


# metrics


def test_everything_that_measures_has_a_row_with_its_meaning() -> None:
    """C49: a collector that says nothing beforehand would be missing."""
    for collector in collectors():
        told = list(shown_by(collector))
        assert told, f"{type(collector).__module__} describes nothing"
        for shown in told:
            [row] = [line for line in PAGES["metrics.md"].splitlines() if line.startswith(f"| `{shown.name}` |")]
            assert shown.meaning
            assert all(f"`{label}`" in row for label in shown.labels)
