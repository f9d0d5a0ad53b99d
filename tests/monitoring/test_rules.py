"""What promtool says of rules, cases and dashboards (`make lint-monitoring`)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.monitoring.rules import DASHBOARDS, Series, alerts, cases, firing, passes, promtool, rules

NEVER = "vector(1) == 0"
FOR_EVER = "5d"


def recording() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "record" in rule]


def passes_with(alert: str, **changed: Any) -> bool:
    """Whether the cases of an alert pass while it is changed."""
    rule = {name: value for name, value in (alerts()[alert] | changed).items() if value is not None}
    return passes([*recording(), rule], [case for case in cases() if case["name"] == alert])


def mistakes() -> Iterator[dict[str, Any]]:
    yield {"expr": NEVER}
    yield {"expr": "vector(1)"}
    yield {"for": FOR_EVER}
    yield {"labels": {"severity": "none"}}


@pytest.mark.parametrize("alert", alerts())
def test_a_case_finds_an_alert_that_never_fires_always_fires_waits_for_ever_or_is_of_another_severity(
    alert: str,
) -> None:
    assert passes_with(alert)
    assert [mistake for mistake in mistakes() if passes_with(alert, **mistake)] == []


@pytest.mark.parametrize("dashboard", sorted(DASHBOARDS.glob("*.json")), ids=lambda path: path.stem)
def test_every_query_of_a_dashboard_is_one(dashboard: Path, tmp_path: Path) -> None:
    panels = json.loads(dashboard.read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    asked = [query.replace("$__rate_interval", "1m") for query in queries]
    as_rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(asked)]
    (tmp_path / "queries.yaml").write_text(json.dumps({"groups": [{"name": "queries", "rules": as_rules}]}))
    done = promtool("check", "rules", "queries.yaml", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{len(queries)} rules found" in done.stdout + done.stderr


def test_what_fires_is_told_by_name() -> None:
    up = [Series(f'up{{job="morpheus-{job}", instance="1"}}', "1+0x40") for job in ("gateway", "auth", "automation")]
    assert firing([*up, Series('up{job="morpheus-sessions", instance="1"}', "1+0x40")], 40) == set()
    down = firing([*up, Series('up{job="morpheus-sessions", instance="1"}', "0+0x40")], 40)
    assert down == {"MorpheusServiceDown", "MorpheusTargetDown"}
