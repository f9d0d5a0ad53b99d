"""The document on security: each promise has a row, and each test that a row names covers it."""

import re
from pathlib import Path

import pytest

from tests.unit.docs.test_pitfalls import named

ROOT = Path(__file__).resolve().parents[3]
DOCUMENT = ROOT / "docs" / "security.md"
ROWS = re.findall(r"^\| (C\d+) \| (.+) \| (.+) \|$", DOCUMENT.read_text(), flags=re.MULTILINE)


def test_each_of_the_promises_has_one_row() -> None:
    assert [number for number, _, _ in ROWS] == [f"C{number}" for number in range(1, 55)]


@pytest.mark.parametrize(("number", "promise", "tests"), ROWS, ids=[row[0] for row in ROWS])
def test_a_row_names_tests_that_cover_it_or_says_why_there_are_none(number: str, promise: str, tests: str) -> None:
    files = re.findall(r"`(tests/[^`]+)`", tests)
    assert files or promise.startswith(("No such feature", "Open: ")), "neither a test nor a reason"
    assert [file for file in files if number not in named((ROOT / file).read_text())] == []
