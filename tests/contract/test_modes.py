"""The suite itself: against somebody's router it only reads, unless it is allowed to spend."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.target import ReadingOnlyError, Router, simulator

pytestmark = pytest.mark.simulator
ROOT = Path(__file__).resolve().parents[2]


def run_against(url: str, password: str, part: str = "", **environment: str) -> str:
    """The report of a run of this suite against a router that it did not start."""
    given = {"ROUTER_URL": url, "ROUTER_USER": "admin", "ROUTER_PASSWORD": password, **environment}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ROUTER_")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__).parent / part)]
    done = subprocess.run(
        command, cwd=ROOT, env={**kept, **given}, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_against_somebodys_router_the_suite_changes_nothing() -> None:
    with simulator() as other:
        report = run_against(other.url, other.password)
        looking = Router(other, may_change=False)
        state = looking.control("/sim/state", method="GET")
        looking.close()
    assert "ROUTER_MAY_SPEND=1 allows that" in report
    assert "it needs the controls of the simulator" in report
    assert " failed" not in report
    assert (state["opens_total"], state["allowance"], state["pending_transactions"]) == (0, "0", 0)
    assert state["counters"] == {}


def test_with_leave_to_spend_the_suite_opens_and_closes() -> None:
    with simulator() as other:
        report = run_against(other.url, other.password, "test_sessions.py", ROUTER_MAY_SPEND="1")
        looking = Router(other, may_change=False)
        state = looking.control("/sim/state", method="GET")
        looking.close()
    assert "ROUTER_MAY_SPEND" not in report
    assert state["opens_total"] >= 4
    assert state["counters"]["closed"] >= 2


def test_a_test_that_is_not_marked_cannot_change_anything() -> None:
    with simulator() as other:
        looking = Router(other, may_change=False)
        with pytest.raises(ReadingOnlyError):
            looking.post("/blockchain/approve", spender="0x" + "ab" * 20, amount="1")
        looking.close()
