"""What a gateway measures: requests by route, prompts, what it refuses, and the copies that it serves from."""

import time
from collections.abc import Iterable
from functools import cache
from typing import Final

from morpheus_common.contracts.chat import Endpoint
from morpheus_common.errors import CATALOGUE
from morpheus_common.metrics import LONG_SECONDS, REGISTRY, at_most
from prometheus_client import Counter, Gauge, Histogram, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.types import Scope

from morpheus_gateway.catalogue import ModelCatalogue
from morpheus_gateway.limit_store import SharedStore

NO_ROUTE: Final = "none"
OTHER_METHOD: Final = "_OTHER"
"""OpenTelemetry's word for a method that is not known. Here also for one that is not known where it was tried."""
CLIENT_LEFT: Final = 499
"""As nginx has it: the client left before it was told anything."""

HTTP_SECONDS: Final = (0.01, 0.05, 0.25, 1.0, 10.0)
OVERHEAD_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
MOST_ROUTES: Final = 60
"""Routes with their methods, aliases counted once, and one for what has no route."""
MOST_ANSWERS: Final = 500
"""Routes with the statuses that OpenAPI tells of, as they are shown. A test holds both numbers against the application."""

_SHOWN: Final = {
    status: str(status) for status in (200, 201, 202, 204, 304, 308, 401, 404, 429, CLIENT_LEFT, 500, 502, 503, 504)
}
"""Statuses that stand for themselves. The rest is `4xx`, what a client did wrong: `morpheus_errors_total` has it exactly."""
_OPERATIONS: Final = {Endpoint.CHAT: "chat", Endpoint.EMBEDDINGS: "embeddings"}
_MODES: Final = 3
"""Embeddings are never a stream."""
OUTCOMES: Final = ("ok", "error", "left")

_REQUEST_SECONDS = at_most(
    Histogram(
        "http_server_request_duration_seconds",
        "How long a request took until its answer was sent whole; HEAD counts as GET",
        ["http_request_method", "http_route"],
        buckets=HTTP_SECONDS,
        registry=REGISTRY,
    ),
    MOST_ROUTES,
)
_REQUESTS = at_most(
    Counter(
        "http_server_requests_total",
        "Requests, by how they were answered; 499 if the client left before it was told anything",
        ["http_request_method", "http_route", "http_response_status_code"],
        registry=REGISTRY,
    ),
    MOST_ANSWERS,
)
ACTIVE_REQUESTS = Gauge("http_server_active_requests", "Requests that are being answered", registry=REGISTRY)
_ERRORS = at_most(
    Counter("morpheus_errors_total", "Errors, by the code that was answered", ["code"], registry=REGISTRY),
    len(CATALOGUE),
)

_PROMPT_SECONDS = at_most(
    Histogram(
        "gen_ai_server_request_duration_seconds",
        "How long a prompt took from its request to the end of its answer, without the time in which its body came; "
        "prompts refused before a worker was asked are not among them",
        ["gen_ai_operation_name", "mode", "outcome"],
        buckets=LONG_SECONDS,
        registry=REGISTRY,
    ),
    _MODES * len(OUTCOMES),
)
_FIRST_TOKEN = at_most(
    Histogram(
        "gen_ai_server_time_to_first_token_seconds",
        "How long a stream took to its first bytes of the provider's",
        ["gen_ai_operation_name"],
        buckets=LONG_SECONDS,
        registry=REGISTRY,
    ),
    len(_OPERATIONS),
)
_OVERHEAD = at_most(
    Histogram(
        "morpheus_overhead_seconds",
        "How long a prompt took to the first bytes of its answer without what was not ours: its body's coming, the "
        "provider, the opening of a session, the wait for an earlier prompt of the same key",
        ["mode"],
        buckets=OVERHEAD_SECONDS,
        registry=REGISTRY,
    ),
    2,
)
STREAMS = Gauge("morpheus_streams", "Streams in flight", registry=REGISTRY)
CONNECTIONS = Gauge("morpheus_connections", "Connections of clients that are open", registry=REGISTRY)
LIMITS: Final = ("chats", "public_gets", "registrations", "failed_logins", "refreshes", "refused_credentials", "pings")
_LIMIT_REFUSALS = at_most(
    Counter("morpheus_limit_refusals_total", "Requests over a limit, by which", ["limit"], registry=REGISTRY),
    len(LIMITS),
)

for _limit in LIMITS:
    # there before the first, so that its increase is seen
    _LIMIT_REFUSALS.labels(_limit)


@cache
def _request_seconds(method: str, route: str) -> Histogram:
    return _REQUEST_SECONDS.labels(method, route)


@cache
def _requests(method: str, route: str, status: str) -> Counter:
    return _REQUESTS.labels(method, route, status)


def shown_route(path: str) -> str:
    """Return what a route's template is shown as: OpenAI's own path is an alias of ours."""
    return f"/api{path}" if path.startswith("/v1/") else path


def shown_status(status: int) -> str:
    """Return what a status is shown as."""
    return _SHOWN.get(status) or f"{status // 100}xx"


def request_ended(scope: Scope, status: int, seconds: float) -> None:
    """Count a request. `status` 0: it was not answered."""
    route = scope.get("route")
    method = "GET" if scope["method"] == "HEAD" else scope["method"]
    if route is None or method not in route.methods:
        # the path of a stranger's choice is no label, and neither is his method
        method, path = OTHER_METHOD, NO_ROUTE
    else:
        path = shown_route(route.path_format)
    _request_seconds(method, path).observe(seconds)
    _requests(method, path, shown_status(status or CLIENT_LEFT)).inc()


def error_answered(code: str) -> None:
    """Count an error that a client is told of."""
    _ERRORS.labels(code).inc()


def limit_refused(limit: str) -> None:
    """Count a request that is over a limit."""
    _LIMIT_REFUSALS.labels(limit).inc()


@cache
def _prompt_seconds(endpoint: Endpoint, mode: str, outcome: str) -> Histogram:
    return _PROMPT_SECONDS.labels(_OPERATIONS[endpoint], mode, outcome)


@cache
def _first_token(endpoint: Endpoint) -> Histogram:
    return _FIRST_TOKEN.labels(_OPERATIONS[endpoint])


@cache
def _overhead(mode: str) -> Histogram:
    return _OVERHEAD.labels(mode)


class PromptTimes:
    """Measures one prompt, of which the request began at `began` (monotonic seconds; later by what its body took)."""

    def __init__(self, endpoint: Endpoint, *, stream: bool, began: float) -> None:
        self._endpoint = endpoint
        self._stream = stream
        self._mode = "stream" if stream else "json"
        self._began = began
        self.outcome = "error"
        """One of `OUTCOMES`: what is not said to be otherwise went wrong."""
        if stream:
            STREAMS.inc()

    def answering(self, elsewhere: float | None) -> None:
        """The first bytes go out. `elsewhere`: seconds that passed outside, None if the worker does not say."""
        passed = time.monotonic() - self._began
        if self._stream:
            _first_token(self._endpoint).observe(passed)
        if elsewhere is not None:
            _overhead(self._mode).observe(max(0.0, passed - elsewhere))

    def ended(self) -> None:
        """The answer is over, however."""
        _prompt_seconds(self._endpoint, self._mode, self.outcome).observe(time.monotonic() - self._began)
        if self._stream:
            STREAMS.dec()


class _CopiesCollector(Collector):
    """Shows what only is there once the gateway has it, as it is when it is asked for."""

    def __init__(self) -> None:
        self.catalogue: ModelCatalogue | None = None
        self.store: SharedStore | None = None

    def describe(self) -> Iterable[Metric]:
        """Return what there is to be measured, without a sample."""
        yield GaugeMetricFamily(
            "morpheus_catalogue_age_seconds", "Time since the router confirmed what is served", labels=[]
        )
        yield GaugeMetricFamily("morpheus_models", "Models in the catalogue", labels=[])
        yield GaugeMetricFamily(
            "morpheus_limit_store_up",
            "1 while the shared store of limits answers, 0 while this gateway counts for itself; absent without LIMITS_URL",
            labels=[],
        )

    def collect(self) -> Iterable[Metric]:
        """Return what there is to be shown."""
        age, models, store_up = self.describe()
        if self.catalogue is not None and self.catalogue.loaded:
            age.add_sample(age.name, {}, self.catalogue.age)
            models.add_sample(models.name, {}, len(self.catalogue.models))
            yield from (age, models)
        if self.store is not None:
            store_up.add_sample(store_up.name, {}, float(self.store.answers))
            yield store_up


_COPIES: Final = at_most(_CopiesCollector(), 3)
REGISTRY.register(_COPIES)


def show_copies(catalogue: ModelCatalogue, store: SharedStore | None) -> None:
    """Show the age of the catalogue, and whether the store of limits answers, from now on."""
    _COPIES.catalogue, _COPIES.store = catalogue, store
