"""Scrapes processes as Prometheus does, and hands what came on to promtool."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from tests.monitoring.rules import Series

TIMEOUT_SECONDS: Final = 2.0
_ABSENT: Final = "_"
_STALE: Final = "stale"

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Target:
    """A process and its private port."""

    job: str
    instance: str
    port: int


class Scraper:
    """Keeps every sample of the metrics in `wanted`, scrape by scrape, with the labels that Prometheus adds, and `up`."""

    def __init__(self, targets: Iterable[Target], wanted: Iterable[str]) -> None:
        self._targets = list(targets)
        self._wanted = tuple(sorted(wanted))
        self._values: dict[tuple[str, Labels], dict[int, float]] = {}
        self.scrapes = 0
        self.seen: set[str] = set()
        """The names of all metrics that were shown, wanted or not."""

    async def scrape(self, http: httpx2.AsyncClient) -> None:
        """Scrape every target once."""
        await asyncio.gather(*(self._scrape(http, target) for target in self._targets))
        self.scrapes += 1

    async def _scrape(self, http: httpx2.AsyncClient, target: Target) -> None:
        own = {"job": target.job, "instance": target.instance}
        try:
            answer = await http.get(f"http://127.0.0.1:{target.port}/metrics", timeout=TIMEOUT_SECONDS)
            answer.raise_for_status()
        except httpx2.HTTPError:
            self._keep("up", own, 0)
            return
        self._keep("up", own, 1)
        lines = answer.text.splitlines(keepends=True)
        self.seen.update(line.partition("{")[0].partition(" ")[0] for line in lines if not line.startswith("#"))
        text = "".join(line for line in lines if line.startswith(self._wanted))
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self._keep(sample.name, sample.labels | own, sample.value)

    def _keep(self, name: str, labels: Mapping[str, str], value: float) -> None:
        self._values.setdefault((name, tuple(sorted(labels.items()))), {})[self.scrapes] = value

    def now(self, name: str) -> list[tuple[dict[str, str], float]]:
        """Return what all series of a metric said at the last scrape, with their labels."""
        last = self.scrapes - 1
        return [
            (dict(labels), values[last])
            for (metric, labels), values in self._values.items()
            if metric == name and last in values
        ]

    def series(self) -> list[Series]:
        """Return all that was kept."""
        return [Series(_written(name, labels), self._told(values)) for (name, labels), values in self._values.items()]

    def _told(self, values: Mapping[int, float]) -> str:
        told = []
        for scrape in range(self.scrapes):
            if scrape in values:
                told.append(repr(values[scrape]))
            else:
                # Prometheus marks what was there at the last scrape and is not at this one
                told.append(_STALE if scrape - 1 in values else _ABSENT)
        return " ".join(told)


def _written(name: str, labels: Labels) -> str:
    inner = ", ".join(f'{label}="{value}"' for label, value in labels)
    return f"{name}{{{inner}}}"
