"""The README of the simulator: its recipes do what they say, and its table of routes is whole."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from proxy_router_sim.app import ROUTES
from proxy_router_sim.behaviour import Answers, Behaviour
from proxy_router_sim.faults import CALL_ACTIONS, CHAT_ACTIONS, OTHER_KINDS, TRANSACTION_ACTIONS, Stage
from proxy_router_sim.forms import Errors

from tests.contract.target import simulator

README = (Path(__file__).resolve().parents[3] / "libs/proxy_router_sim/README.md").read_text()
ELLIPSIS = "…"


def section(title: str) -> str:
    """What stands under a heading of the second level."""
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def recipes() -> list[tuple[str, str]]:
    """Each block of commands with the output that stands after it; the first, which only prepares, has none."""
    return re.findall(r"```sh\n(.*?)```\n(?:\n```text\n(.*?)```)?", section("Recipes"), flags=re.DOTALL)


def matches(shown: str, printed: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in shown.split(ELLIPSIS))
    return re.fullmatch(pattern, printed) is not None


def test_an_ellipsis_stands_for_anything_within_a_line() -> None:
    assert matches('{"tx":"0x…"}\n', '{"tx":"0x12"}\n')
    assert not matches("a…b\n", "a\nb\n")


@pytest.mark.skipif(shutil.which("curl") is None, reason="the recipes are lines of curl, and there is none here")
def test_every_recipe_prints_what_stands_below_it(tmp_path: Path) -> None:
    assert len(recipes()) >= 8
    with simulator() as target:
        script = "".join(f"{commands}\necho '== end'\n" for commands, _ in recipes())
        script = script.replace("http://127.0.0.1:8082", target.url).replace(
            "PASSWORD=secret", f"PASSWORD={target.password}"
        )
        script = script.replace("python3", sys.executable)
        run = subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
    printed = run.stdout.split("== end\n")[:-1]
    assert len(printed) == len(recipes()), run.stderr
    wrong = [(shown, got) for (_, shown), got in zip(recipes(), printed, strict=True) if not matches(shown, got)]
    assert wrong == []


def test_the_table_of_routes_is_whole_and_right() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (`[A-Z].*`) \| (?:none|`(\w+)`) \|$", section("Routes"), flags=re.MULTILINE)
    listed = {
        (kind, route, permission) for kind, routes, permission in rows for route in re.findall(r"`([^`]+)`", routes)
    }
    assert listed == {(r.kind, f"{r.method} {r.path}", r.permission or "") for r in ROUTES if r.kind != "sim"}


def test_every_control_is_described() -> None:
    rows = re.findall(r"^\| ([A-Z, ]+) \| `(/sim/\S+)` \|", README, flags=re.MULTILINE)
    described = {f"{method} {path}" for methods, path in rows for method in methods.split(", ")}
    assert described == {f"{r.method} {r.path}" for r in ROUTES if r.kind == "sim"}


def test_every_behaviour_and_version_is_described() -> None:
    fields = {name for name in Behaviour().view() if name != "waiting"}
    shown = set(re.findall(r"`(\w+)`", section("Providers that misbehave")))
    assert fields | set(Answers) <= shown
    assert set(Errors) <= set(re.findall(r"^\| `(\w+)` \|", section("Versions of errors"), flags=re.MULTILINE))


def test_every_fault_is_described() -> None:
    shown = set(re.findall(r"`(\w+)`", section("Faults") + section("Chain faults")))
    assert shown >= CALL_ACTIONS | CHAT_ACTIONS | TRANSACTION_ACTIONS | OTHER_KINDS | set(Stage)


def test_links_within_lead_somewhere() -> None:
    anchors = {
        re.sub(r"[^\w -]", "", line).lower().replace(" ", "-")
        for line in re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= anchors
