"""The page of all metrics, from the instruments that measure them."""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Final

from morpheus_common.metrics import REGISTRY
from prometheus_client.registry import Collector

from morpheus_site.generated.setting_table import SERVICES
from morpheus_site.generated.text import code, page, table

_ENTRANCES: Final = (
    "morpheus_auth.worker",
    "morpheus_automation.worker",
    "morpheus_gateway.app",
    "morpheus_sessions.worker",
    "morpheus_common.trace_export",
)
"""What imports all that a service consists of; the last only where traces are exported."""
_STORED: Final = ("auth", "sessions", "automation")
_OF_PACKAGES: Final[Mapping[str, Sequence[str]]] = {
    "morpheus_common.store": _STORED,
    "morpheus_common": tuple(SERVICES),
    **{f"morpheus_{service}": (service,) for service in SERVICES},
}
"""Which services have what is declared in a package; the first that fits."""
_UNITS: Final = {r"_seconds(_total)?$": "seconds", r"_bytes$": "bytes", r"_wei$": "wei"}
_SUFFIX: Final = {"counter": "_total", "info": "_info"}

_INTRODUCTION = """\
Each process shows these at `/metrics` of its [private port](settings.md), in the form that Prometheus reads. A histogram is \
three: `_bucket` with the label `le`, `_sum` and `_count`. What counts since the process began has the type counter; use \
`rate()`.

Names are OpenTelemetry's where it has one. A label has few values, known beforehand: never a user, a key, a session, a model \
or a provider. A process shows fewer than 2,000 series. What is read from the database, *of all workers*, is the same at each \
of them: aggregate it with `max`."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A metric as it is looked for."""

    name: str
    type: str
    labels: tuple[str, ...]
    meaning: str

    @property
    def unit(self) -> str:
        """What one of it is; nothing for what is counted."""
        return next((unit for pattern, unit in _UNITS.items() if re.search(pattern, self.name)), "")


def collectors() -> dict[Collector, Sequence[str]]:
    """Return everything that measures, and in which services it does.

    Raises `LookupError` for what stands at the top of no module of ours: nobody would know whose it is.
    """
    for entrance in _ENTRANCES:
        import_module(entrance)
    found = {}
    for collector in REGISTRY._collector_to_names:
        package = next((package for package in _OF_PACKAGES if _is_held_by(package, collector)), None)
        if package is None:
            raise LookupError(f"no module of a service has {REGISTRY._collector_to_names[collector]}")
        found[collector] = _OF_PACKAGES[package]
    return found


def _is_held_by(package: str, collector: Collector) -> bool:
    return any(held is collector for module in _modules(package) for held in vars(module).values())


def _modules(package: str) -> Iterator[ModuleType]:
    return (module for name, module in list(sys.modules.items()) if f"{name}.".startswith(f"{package}."))


def shown_by(collector: Collector) -> Iterator[Shown]:
    """Yield what a collector shows."""
    describe = getattr(collector, "describe", collector.collect)
    for family in describe():
        labels = getattr(collector, "_labelnames", None) or getattr(family, "_labelnames", None)
        if labels is None:
            labels = sorted({name for sample in family.samples for name in sample.labels} - {"le"})
        yield Shown(family.name + _SUFFIX.get(family.type, ""), family.type, tuple(labels), family.documentation)


def metric_page() -> str:
    """Return the page: one table for what all services have, one for each service."""
    of_services: dict[Sequence[str], list[Shown]] = {services: [] for services in _OF_PACKAGES.values()}
    for collector, services in collectors().items():
        of_services[services] += shown_by(collector)
    order = [tuple(SERVICES), _STORED, *((service,) for service in SERVICES)]
    parts = []
    for services in order:
        rows = sorted(of_services[services], key=lambda shown: shown.name)
        if rows:
            parts += [f"## {_title(services)}", _table(rows)]
    return page("# Metrics", _INTRODUCTION, *parts)


def _title(services: Sequence[str]) -> str:
    if len(services) == len(SERVICES):
        return "All services"
    if len(services) == 1:
        return services[0].capitalize()
    return f"Services with a database: {', '.join(services)}"


def _table(rows: Sequence[Shown]) -> str:
    return table(
        ("Metric", "Type", "Labels", "Unit", "Meaning"),
        [
            (code(row.name), row.type, ", ".join(code(name) for name in row.labels), row.unit, row.meaning)
            for row in rows
        ],
    )
