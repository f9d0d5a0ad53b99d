"""What every service measures of itself. Each service's own `metrics.py` declares the rest, all in one registry.

Names follow Prometheus (units of the base, `_total`), and OpenTelemetry's where it has one: dots become underscores, the unit comes
last. A label has few values, known beforehand: never the id of a user, key, session, model or provider. A router is named, because
its name is configured. Amounts of MOR are in wei, as floats: exact to 53 bits, which is enough to watch and not to reckon with.
"""

from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Info, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from morpheus_common import __version__
from morpheus_common.standing import Standing

REGISTRY: Final = CollectorRegistry()
"""All that this process shows; the library's own default registry is not shown."""

ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

SHORT_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Buckets of what takes milliseconds when all is well: questions on the bus, operations of the database."""
LONG_SECONDS: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Buckets of what waits for a provider or for the chain."""

BUILD = Info("morpheus_build", "Version of this process", registry=REGISTRY)
BUILD.info({"version": __version__})


class _StandingCollector(Collector):
    """Shows a standing as it is when it is asked for."""

    def __init__(self) -> None:
        self.standing: Standing | None = None

    def collect(self) -> Iterable[Metric]:
        """Return a sample for each part that the process needs, and the lag of its loop."""
        if self.standing is None:
            return
        ready = GaugeMetricFamily("morpheus_ready", "1 while this part that the process needs works", labels=["part"])
        for part, works in self.standing.parts.items():
            ready.add_metric([part], float(works))
        yield ready
        yield GaugeMetricFamily(
            "morpheus_event_loop_lag_seconds",
            "How much later than asked for the event loop turned last",
            value=self.standing.lag,
        )


_STANDING: Final = _StandingCollector()
REGISTRY.register(_STANDING)


def show(standing: Standing) -> None:
    """Show how this process stands, from now on."""
    _STANDING.standing = standing
