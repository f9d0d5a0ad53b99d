"""What every service measures of itself. Each service's own `metrics.py` declares the rest, all in one registry.

Names follow Prometheus (units of the base, `_total`), and OpenTelemetry's where it has one: dots become underscores, the unit comes
last. A label has few values, known beforehand: never the id of a user, key, session, model or provider. A router is named, because
its name is configured. Amounts of MOR are in wei, as floats: exact to 53 bits, which is enough to watch and not to reckon with.
"""

from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from prometheus_client import CollectorRegistry, Counter, Info, Metric, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from morpheus_common import __version__
from morpheus_common.bus.names import User
from morpheus_common.standing import Standing

REGISTRY: Final = CollectorRegistry()
"""All that this process shows; the library's own default registry is not shown."""

# a second series of each counter and histogram, which says when it was made; the start of the process says that already
disable_created_metrics()  # type: ignore[no-untyped-call]  # the library types what it exports, but for this

PROCESS = ProcessCollector(registry=REGISTRY)
PLATFORM = PlatformCollector(registry=REGISTRY)
GARBAGE = GCCollector(registry=REGISTRY)

MOST_SERIES: Final = 2_000
"""So many series a process may show at the worst: Prometheus keeps each in memory, for each process that ever ran."""

C = TypeVar("C", bound=Collector)
Combinations = int | Callable[[User], int]

COMBINATIONS: Final[dict[Collector, Combinations]] = {}
"""How many combinations of label values an instrument can have, for those with labels."""


def at_most(instrument: C, combinations: Combinations) -> C:
    """Say how many combinations of label values an instrument can have, in a process of a service if that matters.

    A test adds up what each process could show, and holds it against `MOST_SERIES`.
    """
    COMBINATIONS[instrument] = combinations
    return instrument


SHORT_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Buckets of what takes milliseconds when all is well: questions on the bus, operations of the database."""
LONG_SECONDS: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Buckets of what waits for a provider or for the chain."""

BUILD = Info("morpheus_build", "Version of this process", registry=REGISTRY)
BUILD.info({"version": __version__})

LOG_LEVELS: Final = ("debug", "info", "warning", "error", "critical", "other")
LOG_RECORDS = at_most(
    Counter("morpheus_log_records_total", "Lines written to the log", ["level"], registry=REGISTRY), len(LOG_LEVELS)
)
LOG_RECORDS_BY_LEVEL: Final = {level: LOG_RECORDS.labels(level) for level in LOG_LEVELS}


class _StandingCollector(Collector):
    """Shows a standing as it is when it is asked for."""

    def __init__(self) -> None:
        self.standing: Standing | None = None

    def describe(self) -> Iterable[Metric]:
        """Return what there is to be measured, without a sample."""
        yield GaugeMetricFamily("morpheus_ready", "1 while this part that the process needs works", labels=["part"])
        yield GaugeMetricFamily(
            "morpheus_event_loop_lag_seconds", "How much later than asked for the event loop turned last", labels=[]
        )

    def collect(self) -> Iterable[Metric]:
        """Return a sample for each part that the process needs, and the lag of its loop."""
        if self.standing is None:
            return
        ready, lag = self.describe()
        for part, works in self.standing.parts.items():
            ready.add_sample("morpheus_ready", {"part": part}, float(works))
        lag.add_sample("morpheus_event_loop_lag_seconds", {}, self.standing.lag)
        yield from (ready, lag)


_MOST_PARTS: Final = 16
_STANDING: Final = at_most(_StandingCollector(), _MOST_PARTS)
REGISTRY.register(_STANDING)


def show(standing: Standing) -> None:
    """Show how this process stands, from now on."""
    _STANDING.standing = standing
