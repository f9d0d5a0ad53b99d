"""Answers that the gateway gave to the examples: `answers.json`, written when they are run with `--update-golden`."""

import json
from functools import cache
from pathlib import Path
from typing import Any

ANSWERS_FILE = Path(__file__).with_name("answers.json")


@cache
def _recorded() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(ANSWERS_FILE.read_text(encoding="utf-8"))
    return found


def is_recorded(operation: str, status: int) -> bool:
    """Tell whether an answer of an operation with this status is there."""
    return str(status) in _recorded().get(operation, {})


def recorded(operation: str, status: int) -> Any:
    """Return the body of that answer."""
    return _recorded()[operation][str(status)]
