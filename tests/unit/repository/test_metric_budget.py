"""How many series a process can show at the worst. A run of tests shows few of them; what can be is what has to be bounded."""

from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]  # it has no annotations
from fastapi.routing import APIRoute
from morpheus_common.bus.names import User
from morpheus_common.metrics import COMBINATIONS, MOST_SERIES, REGISTRY
from morpheus_gateway import metrics as of_gateway
from morpheus_gateway.openapi import document
from morpheus_gateway.routes import ROUTERS
from morpheus_sessions import gauges
from morpheus_sessions.metrics import MOST_ROUTERS
from morpheus_site.generated.metric_table import collectors
from prometheus_client import Histogram
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
MANY_ROUTERS = 30
"""So many fit under the limit of a scrape."""
OF_THE_LIBRARY = "prometheus_client."
"""Collectors of the library: a process and its Python have the same series whatever happens."""


def combinations(collector: Collector, user: User) -> int:
    said = COMBINATIONS.get(collector)
    if said is not None:
        return said if isinstance(said, int) else said(user)
    if isinstance(collector, MetricWrapperBase):
        assert not collector._labelnames, f"say with `at_most` how many combinations {collector._name} can have"
        return 1
    module = type(collector).__module__
    if module.startswith(OF_THE_LIBRARY):
        return sum(len(family.samples) for family in collector.collect())
    msg = f"say with `at_most` how many series the collector of {module} can show"
    raise AssertionError(msg)


def series(collector: Collector, user: User) -> int:
    """Return how many series a collector can show: of each combination one, a histogram its buckets, sum and count."""
    width = len(collector._kwargs["buckets"]) + 3 if isinstance(collector, Histogram) else 1
    return width * combinations(collector, user)


def of_a_router(collector: Collector) -> int:
    """Return how many series a collector can show more for each router beyond those of the budget."""
    if collector is gauges._SHOWN:
        return gauges._OF_A_ROUTER
    if "router" in getattr(collector, "_labelnames", ()):
        return series(collector, User.SESSIONS) // MOST_ROUTERS
    return 0


@pytest.mark.parametrize("user", [User.GATEWAY, User.AUTH, User.SESSIONS, User.AUTOMATION])
def test_no_process_can_show_more_series_than_the_budget(user: User) -> None:
    """C49."""
    most = {
        " ".join(REGISTRY._collector_to_names[collector][:1]) or type(collector).__name__: series(collector, user)
        for collector, services in collectors().items()
        if user.value in services
    }
    largest = sorted(most.items(), key=lambda item: -item[1])[:8]
    assert sum(most.values()) < MOST_SERIES, f"{sum(most.values())}, most of them of {largest}"


def test_a_scrape_has_one_limit_and_a_worker_of_many_routers_stays_below_it() -> None:
    """C49. The limit is there for mistakes: beyond it Prometheus takes nothing at all of a process."""
    prometheus = yaml.safe_load((DEPLOY / "monitoring" / "prometheus.yml").read_text())
    monitor = yaml.safe_load((DEPLOY / "k8s" / "components" / "monitoring" / "pod-monitor.yaml").read_text())
    [limit] = {job["sample_limit"] for job in prometheus["scrape_configs"]} | {monitor["spec"]["sampleLimit"]}
    of_sessions = [collector for collector, services in collectors().items() if User.SESSIONS.value in services]
    most = sum(
        series(collector, User.SESSIONS) + (MANY_ROUTERS - MOST_ROUTERS) * of_a_router(collector)
        for collector in of_sessions
    )
    assert MOST_SERIES < most < limit


def served() -> set[tuple[str, str]]:
    """Every method and route that a request can be counted under."""
    return {
        (method, of_gateway.shown_route(route.path_format))
        for router in ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }


def answers(method: str, path: str) -> Iterable[str]:
    """Every status that such a request can be counted with, as OpenAPI tells of them; a client may leave before any."""
    operation = document()["paths"].get(path, {}).get(method.lower())
    told = {"200", "304", "308", "404", "500"} if operation is None else set(operation["responses"]) - {"default"}
    # and what it does not tell of, if there were such an answer
    return {of_gateway.shown_status(int(status)) for status in told} | {"499", "4xx", "5xx"}


def test_requests_are_counted_under_no_more_routes_and_statuses_than_is_said() -> None:
    """C49."""
    routes = served()
    assert len(routes) + 1 <= of_gateway.MOST_ROUTES
    unrouted = len(of_gateway._SHOWN) + 3
    assert sum(len(list(answers(*route))) for route in routes) + unrouted <= of_gateway.MOST_ANSWERS
