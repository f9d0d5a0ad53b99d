"""How many series a process can show at the worst. A run of tests shows few of them; what can be is what has to be bounded."""

from collections.abc import Iterable

import pytest
from fastapi.routing import APIRoute
from morpheus_common.bus.names import User
from morpheus_common.metrics import COMBINATIONS, MOST_SERIES, REGISTRY
from morpheus_gateway import metrics as of_gateway
from morpheus_gateway.openapi import document
from morpheus_gateway.routes import ROUTERS
from morpheus_site.generated.metric_table import collectors
from prometheus_client import Histogram
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

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
