"""What this process shows to Prometheus, for tests that see an instrument move."""

from collections.abc import Mapping
from typing import Any

from morpheus_common.metrics import REGISTRY


def shown(name: str, **labels: str) -> float:
    """Return what a series says now; 0 if it is not there."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


class Moves:
    """How far series move from when this is made."""

    def __init__(self) -> None:
        self._before = _all()

    def of(self, name: str, **labels: Any) -> float:
        """Return how far one has moved since."""
        return shown(name, **labels) - self._before.get(_series(name, labels), 0.0)


def _series(name: str, labels: Mapping[str, str]) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


def _all() -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        _series(sample.name, sample.labels): sample.value for family in REGISTRY.collect() for sample in family.samples
    }
