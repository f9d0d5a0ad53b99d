"""What others lived through is on a list; each test that keeps us from it names its number in its docstring."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[2]
NUMBERED = re.compile(r"\b[BCF][0-9]+\b")
SESSIONS = {f"F{number}" for number in range(1, 19)} | {f"C{number}" for number in range(28, 32)}
"""Sessions, stakes and concurrency."""
ACCOUNTS = {f"C{number}" for number in (*range(1, 16), 38, 39, 50, 54)}
"""Keys, tokens, authorization, secrets at rest, the audit log and what errors tell."""

USAGE = {"B20", "B21", "B22", "F28", "C24", "C25", "C26"}
"""What is recorded of what was used."""
RELAY = (
    {f"F{number}" for number in (*range(19, 31), 32, 33)}
    | {f"B{number}" for number in (*range(1, 8), 16, 18, 24, 25)}
    | {f"C{number}" for number in range(33, 38)}
)
"""Prompts on their way and answers on theirs."""
EDGE = {f"C{number}" for number in (*range(16, 22), 27, 42, 53)} | {"F37", "F38", "F54", "F55", "F56"}
"""Slow, greedy and hostile clients; what everybody may read."""


def named(source: str) -> set[str]:
    """Return the numbers in the docstrings of a file's tests."""
    return {
        number
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
        for number in NUMBERED.findall(ast.get_docstring(node) or "")
    }


def test_only_a_tests_docstring_counts() -> None:
    assert named('"""F1"""\ndef test_a():\n    """F2, B3: why."""\n    "F4"\ndef b():\n    """F5"""') == {"F2", "B3"}


@pytest.mark.parametrize(
    "wanted", [SESSIONS, ACCOUNTS, USAGE, RELAY, EDGE], ids=["sessions", "accounts", "usage", "relay", "edge"]
)
def test_everything_on_the_list_has_a_test_here(wanted: set[str]) -> None:
    found = set().union(*(named(path.read_text()) for path in TESTS.rglob("test_*.py")))
    assert sorted(wanted - found) == []
