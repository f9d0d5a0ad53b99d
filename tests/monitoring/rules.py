"""The rules as files, and what promtool says of them. `PROMTOOL` names another program than the `promtool` on PATH."""

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml  # type: ignore[import-untyped]  # it has no annotations

FOLDER: Final = Path(__file__).resolve().parents[2] / "deploy" / "monitoring"
RULES: Final = FOLDER / "alerts.yaml"
CASES: Final = FOLDER / "alerts_test.yaml"
DASHBOARDS: Final = FOLDER / "dashboards"
PROMTOOL: Final = os.environ.get("PROMTOOL", "promtool")
PROMTOOL_SECONDS: Final = 60
SCRAPE_SECONDS: Final = 15
"""As prometheus.yml has it."""
METRIC: Final = re.compile(r"\b(?:morpheus|http_server|gen_ai|process|python_gc)_[a-z0-9_]+\b")
_SELECTED: Final = re.compile(r"([a-z_][a-z0-9_:]*)\{([^}]*)\}")
_GOT: Final = re.compile(r'\{alertname="(\w+)"\}')


@cache
def groups() -> list[dict[str, Any]]:
    """Return the groups of rules."""
    read: dict[str, list[dict[str, Any]]] = yaml.safe_load(RULES.read_text())
    return read["groups"]


def rules() -> list[dict[str, Any]]:
    """Return all rules, those that record included."""
    return [rule for group in groups() for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    """Return the alerts by their names."""
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


@cache
def cases() -> list[dict[str, Any]]:
    """Return the cases of the alerts."""
    read: dict[str, list[dict[str, Any]]] = yaml.safe_load(CASES.read_text())
    return read["tests"]


def metrics_in(expression: str) -> set[str]:
    """Return the names of metrics in an expression; what rules record is none."""
    names_of_labels = r"\{[^}]*\}|\b(?:by|on|without|group_left)\s*\([^)]*\)"
    return set(METRIC.findall(re.sub(names_of_labels, "", expression)))


def labels_in(expression: str) -> set[tuple[str, str]]:
    """Return each metric with each label that an expression selects by."""
    return {
        (metric, label)
        for metric, selected in _SELECTED.findall(expression)
        for label in re.findall(r"([a-z_]+)\s*[=!]~?\s*\"", selected)
    }


def promtool(*arguments: str | Path, folder: Path = FOLDER) -> subprocess.CompletedProcess[str]:
    """Run promtool in a folder."""
    command = [PROMTOOL, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=PROMTOOL_SECONDS)


def passes(changed: Iterable[Mapping[str, Any]], chosen: Iterable[Mapping[str, Any]]) -> bool:
    """Tell whether cases pass with other rules than ours."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        # JSON is YAML
        (folder / "rules.yaml").write_text(json.dumps({"groups": [{"name": "changed", "rules": list(changed)}]}))
        test = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": list(chosen)}
        (folder / "test.yaml").write_text(json.dumps(test))
        done = promtool("test", "rules", "test.yaml", folder=folder)
    if "error" in done.stderr.lower() and "FAILED" not in done.stdout + done.stderr:
        raise RuntimeError(done.stderr)
    return done.returncode == 0


@dataclass(frozen=True, slots=True)
class Series:
    """A series as promtool takes it: `{…}` and all, and its values at every scrape."""

    name: str
    values: str


def firing(series: Sequence[Series], scrapes: int) -> set[str]:
    """Return the names of the alerts that fire at the last of so many scrapes, by our rules as they are."""
    test = {
        "rule_files": [str(RULES)],
        "evaluation_interval": f"{SCRAPE_SECONDS}s",
        "tests": [
            {
                "interval": f"{SCRAPE_SECONDS}s",
                "input_series": [{"series": item.name, "values": item.values} for item in series],
                "promql_expr_test": [
                    {
                        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                        "eval_time": f"{(scrapes - 1) * SCRAPE_SECONDS}s",
                        # what is said to be wrong with this expectation are the alerts
                        "exp_samples": [],
                    }
                ],
            }
        ],
    }
    with tempfile.TemporaryDirectory() as made:
        (Path(made) / "test.yaml").write_text(json.dumps(test))
        done = promtool("test", "rules", "test.yaml", folder=Path(made))
    said = done.stdout + done.stderr
    if done.returncode == 0:
        return set()
    found = set(_GOT.findall(said))
    if not found:
        raise RuntimeError(f"promtool could not judge what was scraped: {said[:2_000]}")
    return found
