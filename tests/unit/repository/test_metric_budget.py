"""How many series a process can show at the worst. A run of tests shows few of them; what can be is what has to be bounded."""

from collections.abc import Iterable

import pytest
from fastapi.routing import APIRoute
from morpheus_common.bus.names import User
from morpheus_common.errors import CATALOGUE
from morpheus_common.metrics import COMBINATIONS, MOST_SERIES, REGISTRY
from morpheus_gateway import metrics as of_gateway
from morpheus_gateway.openapi import document
from morpheus_gateway.routes import ROUTERS
from morpheus_site.generated.metric_table import collectors
from prometheus_client import Histogram
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

ROUTERS_OF_A_FLEET = 4
"""Proxy-routers that one worker has; each is a value of the label `router`."""
BY_NAME = {
    "gen_ai_client_operation_duration_seconds": 2 * 3 * ROUTERS_OF_A_FLEET,
    "gen_ai_client_token_usage": 2,
    "morpheus_prompts": 2 * (len(CATALOGUE) + 2),
    "morpheus_prompt_wait_seconds": 3,
    "morpheus_frames_refused": 4,
    "morpheus_sessions_taken_over": 2,
    "morpheus_router_seconds": 20 * ROUTERS_OF_A_FLEET,
    "morpheus_router_errors": 5 * ROUTERS_OF_A_FLEET,
    "morpheus_sessions.gauges": 60 * ROUTERS_OF_A_FLEET,
}
"""Combinations of label values of what does not say them itself, by name, or by module for a collector of its own."""
UNTOLD = ("prometheus_client.",)
"""Collectors of the library: a process and its Python have the same series whatever happens."""


def combinations(collector: Collector, user: User) -> int:
    said = COMBINATIONS.get(collector)
    if said is not None:
        return said if isinstance(said, int) else said(user)
    if isinstance(collector, MetricWrapperBase):
        return BY_NAME[collector._name] if collector._labelnames else 1
    module = type(collector).__module__
    if module.startswith(UNTOLD):
        return sum(len(family.samples) for family in collector.collect())
    return BY_NAME[module]


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
