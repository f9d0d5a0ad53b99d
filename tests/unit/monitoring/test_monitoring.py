"""Alerts, their cases and runbooks, and the dashboards: each of the others is there, and what they watch is measured."""

import importlib
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from morpheus_common.bus.names import User
from morpheus_common.errors import CATALOGUE
from morpheus_common.metrics import GARBAGE, PROCESS, REGISTRY
from morpheus_common.standing import Standing
from morpheus_sessions.chain_watch import ChainWatch
from morpheus_sessions.figures import Figures
from morpheus_sessions.fleet import Fleet
from morpheus_sessions.gauges import Gauges, Own
from morpheus_sessions.router_calls import CALLS
from prometheus_client import Metric

from deploy.monitoring.dashboards import DASHBOARDS as WRITTEN
from deploy.monitoring.dashboards import as_json
from tests.monitoring.rules import DASHBOARDS, FOLDER, alerts, cases, labels_in, metrics_in, rules

RUNBOOKS = (Path(__file__).resolve().parents[3] / "docs" / "runbooks.md").read_text()
MEASURING = (
    "morpheus_common.bus.metrics",
    "morpheus_common.store.metrics",
    "morpheus_gateway.metrics",
    "morpheus_auth.metrics",
    "morpheus_sessions.metrics",
    "morpheus_automation.metrics",
)
GIVEN_BY_PROMETHEUS = {"job", "instance", "le"}
ADDRESS = "{{ $externalLabels.gateway }}/docs/runbooks#"
SHOWN_UNITS = {"s", "cps", "percentunit", "short", "bytes", "suffix: cores", "suffix: MOR", "suffix: ETH"}


async def no_figures() -> Figures:
    return Figures()


async def no_limit() -> int:
    return 1


@cache
def measured() -> Mapping[str, set[str]]:
    """The labels of every series that a process of ours can show, by its name."""
    for module in MEASURING:
        importlib.import_module(module)
    found: dict[str, set[str]] = {}
    for collector, registered in REGISTRY._collector_to_names.items():
        for name in registered:
            found.setdefault(name, set()).update(getattr(collector, "_labelnames", ()))
    for family in shown_when_asked():
        names = {family.name} | {sample.name for sample in family.samples}
        labels = set(getattr(family, "_labelnames", ()))
        for name in names:
            found.setdefault(name, set()).update(labels)
    return found


def shown_when_asked() -> Iterator[Metric]:
    """The families that are made when they are asked for: they are registered under no name, or without labels."""
    own = Own(
        fleet=Fleet([]),
        chains=ChainWatch([], seconds=15),
        purses={},
        prompts_waiting=lambda: 0,
        prompts_running=lambda: 0,
        sessions_owned=lambda: 0,
    )
    gauges = Gauges(own, no_figures, no_limit, seconds=15)
    gauges._last = Figures(), 1, 0.0
    yield from gauges.collect()
    yield from PROCESS.collect()
    yield from GARBAGE.collect()
    for collector in list(REGISTRY._collector_to_names):
        describe = getattr(collector, "describe", None)
        if describe is not None:
            yield from describe()


def expressions() -> Iterator[tuple[str, str]]:
    for rule in rules():
        yield rule.get("alert") or rule["record"], rule["expr"]
    for path in sorted(DASHBOARDS.glob("*.json")):
        yield from ((f"{path.stem}: {panel['title']}", query) for panel, query in queries(path))


def queries(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    for panel in json.loads(path.read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield panel, target["expr"]


def runbook_of(alert: str) -> str:
    found = re.search(rf"^### {alert}\n(.*?)(?=^##|\Z)", RUNBOOKS, flags=re.MULTILINE | re.DOTALL)
    assert found is not None, f"docs/runbooks.md has no heading {alert}"
    return found[1]


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    assert sorted(re.findall(r"^### (.*)$", RUNBOOKS, flags=re.MULTILINE)) == sorted(alerts())


@pytest.mark.parametrize("alert", alerts())
def test_an_alert_says_how_urgent_it_is_what_is_wrong_and_where_to_read_on(alert: str) -> None:
    rule = alerts()[alert]
    assert rule["labels"].keys() == {"severity"}
    severity = rule["labels"]["severity"]
    assert severity in {"critical", "warning", "info"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == ADDRESS + alert.lower()
    assert runbook_of(alert).strip().startswith(f"*{severity.capitalize()}")
    assert "**Look**" in runbook_of(alert) or "**Do**" in runbook_of(alert)


@pytest.mark.parametrize("alert", alerts())
def test_an_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not(alert: str) -> None:
    """C20 and C48: the store of limits, dead letters."""
    expected = [
        bool(check["exp_samples"])
        for case in cases()
        if case["name"] == alert
        for check in case["promql_expr_test"]
        if f'alertname="{alert}"' in check["expr"]
    ]
    assert set(expected) == {True, False}


@pytest.mark.parametrize("alert", alerts())
def test_an_alert_tells_of_no_label_that_it_does_not_have(alert: str) -> None:
    told = set(re.findall(r"\$labels\.(\w+)", " ".join(alerts()[alert]["annotations"].values())))
    for case in cases():
        for check in case["promql_expr_test"]:
            for sample in check["exp_samples"]:
                if case["name"] == alert:
                    assert told <= set(re.findall(r'(\w+)="', sample["labels"]))


def test_every_invariant_has_a_case_and_a_line_in_its_runbook() -> None:
    told = {f"I{number}" for number in range(1, 11)}
    tried = {
        found
        for case in cases()
        if case["name"] == "MorpheusInvariantViolated"
        for check in case["promql_expr_test"]
        for sample in check["exp_samples"]
        for found in re.findall(r'invariant="(I\d+)"', sample["labels"])
    }
    assert tried == told
    assert set(re.findall(r"^\| (I\d+) \|", runbook_of("MorpheusInvariantViolated"), flags=re.MULTILINE)) == told


def test_the_codes_that_count_as_failures_of_ours_are_those_of_5xx() -> None:
    [counted] = {
        re.search(r'code=~"([^"]+)"', rule["expr"])[1]  # type: ignore[index]  # it is in the rule, or the test fails
        for rule in rules()
        if rule.get("record", "").startswith("morpheus:server_errors:")
    }
    ours = {code for code, kind in CATALOGUE.items() if kind.status >= 500}
    assert {code for code in CATALOGUE if re.fullmatch(counted, code)} == ours


def test_an_error_and_a_call_of_a_router_are_watched_by_names_that_there_are() -> None:
    """A wrong name would be watched for ever, and never seen."""
    watched = " ".join(rule["expr"] for rule in rules())
    errors = set(re.findall(r'morpheus_errors_total\{code="(\w+)"', watched))
    calls = set(re.findall(r'morpheus_router_seconds\w*\{call="(\w+)"', watched))
    assert errors
    assert errors <= CATALOGUE.keys()
    assert calls
    assert calls <= set(CALLS)


@pytest.mark.parametrize(("where", "expression"), list(expressions()), ids=lambda value: value[:60])
def test_what_is_watched_is_measured_with_the_labels_it_is_selected_by(where: str, expression: str) -> None:
    known = measured()
    assert metrics_in(expression) - known.keys() == set(), where
    wrong = {
        (metric, label)
        for metric, label in labels_in(expression)
        if metric in known and label not in known[metric] | GIVEN_BY_PROMETHEUS
    }
    assert wrong == set(), where


def test_an_expression_that_watches_what_nobody_measures_is_found() -> None:
    assert metrics_in('max(morpheus_nothing{a="b"}) + rate(http_server_requests_total[5m])') == {
        "morpheus_nothing",
        "http_server_requests_total",
    }
    assert "morpheus_nothing" not in measured()
    assert labels_in('x_total{a="b", c=~"d"}') == {("x_total", "a"), ("x_total", "c")}


def test_jobs_are_named_as_the_scraping_names_them() -> None:
    named = set(re.findall(r"job_name: (\S+)", (FOLDER / "prometheus.yml").read_text()))
    assert named == {f"morpheus-{service}" for service in (User.GATEWAY, User.AUTH, User.SESSIONS, User.AUTOMATION)}


def test_parts_that_rules_know_are_parts_that_processes_miss() -> None:
    standing = Standing()
    for part in ("database", "bus", "time"):
        standing.need(part, lambda: True)
    selected = {part for rule in rules() for part in re.findall(r'part!?="(\w+)"', rule["expr"])}
    assert selected <= standing.parts.keys()


@pytest.mark.parametrize("name", WRITTEN)
def test_a_dashboard_is_as_its_source_says(name: str) -> None:
    assert (DASHBOARDS / f"{name}.json").read_text() == as_json(WRITTEN[name]), "run `make monitoring`"


def test_no_dashboard_is_there_without_a_source() -> None:
    assert {path.stem for path in DASHBOARDS.glob("*.json")} == WRITTEN.keys()


@pytest.mark.parametrize("name", WRITTEN)
def test_a_dashboard_names_no_data_source_and_each_panel_has_a_unit(name: str) -> None:
    shown = json.loads((DASHBOARDS / f"{name}.json").read_text())
    graphs = [panel for panel in shown["panels"] if panel["type"] != "row"]
    assert graphs
    for panel in graphs:
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert {source["uid"] for source in sources} == {"${datasource}"}
        assert panel["fieldConfig"]["defaults"]["unit"] in SHOWN_UNITS
        assert panel["targets"]
    assert [item["name"] for item in shown["templating"]["list"]] == ["datasource"]
    assert len({panel["id"] for panel in shown["panels"]}) == len(shown["panels"])
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in shown["panels"]]
    assert len(set(places)) == len(places)
