"""What every service measures of the bus: questions asked, questions answered, and the connection itself."""

from functools import cache
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from morpheus_common.bus.names import User
from morpheus_common.contracts.base import REGISTRY as CONTRACTS
from morpheus_common.metrics import REGISTRY, at_most

OK: Final = "ok"
REFUSED: Final = "refused"
FAILURES: Final = frozenset({"internal_error", "overloaded", "service_timeout", "service_unavailable"})
"""Codes that stand for themselves. All others are `refused`: the service did its work, and what it said is the caller's affair.

Every code beside every question would be 2,900 series in auth alone; the gateway counts each code as it was answered.
"""
_CODES: Final = 2 + len(FAILURES)
SERVER_SECONDS: Final = (0.0025, 0.01, 0.05, 0.25, 1.0, 5.0)
CLIENT_SECONDS: Final = (0.01, 0.05, 0.25, 1.0)
"""Few buckets, because there are many questions: a gateway asks 42. What takes longer than a second mostly is no answer at all,
and is counted by its code.
"""
_UNKNOWN: Final = "unknown"


def asked_by(user: User) -> int:
    """Return how many different questions a service may ask."""
    return sum(user in rpc.callers for rpc in CONTRACTS.rpcs.values())


def answered_by(user: User) -> int:
    """Return how many different questions a service answers."""
    return sum(user is rpc.service for rpc in CONTRACTS.rpcs.values())


_CLIENT_SECONDS = at_most(
    Histogram(
        "morpheus_rpc_client_seconds",
        "How long an answer of another service took, or the word that there is none",
        ["rpc"],
        buckets=CLIENT_SECONDS,
        registry=REGISTRY,
    ),
    asked_by,
)
_CLIENT = at_most(
    Counter(
        "morpheus_rpc_client_total",
        "Questions to other services, by what came of them",
        ["rpc", "code"],
        registry=REGISTRY,
    ),
    lambda user: asked_by(user) * _CODES,
)
_SERVER_SECONDS = at_most(
    Histogram(
        "morpheus_rpc_server_seconds",
        "How long a question was here until it was answered, its wait for its turn included",
        ["rpc"],
        buckets=SERVER_SECONDS,
        registry=REGISTRY,
    ),
    answered_by,
)
_SERVER = at_most(
    Counter("morpheus_rpc_server_total", "Questions answered, by what was said", ["rpc", "code"], registry=REGISTRY),
    lambda user: answered_by(user) * _CODES,
)

BUS_CONNECTED = Gauge("morpheus_bus_connected", "1 while the connection to the bus stands", registry=REGISTRY)
BUS_RECONNECTS = Counter(
    "morpheus_bus_reconnects_total", "How often the connection to the bus came back", registry=REGISTRY
)
BUS_ERRORS = Counter(
    "morpheus_bus_errors_total", "What the client of the bus reported: refusals, lost servers", registry=REGISTRY
)


@cache
def _name_of(subject: str) -> str:
    rpc = CONTRACTS.rpcs.get(subject)
    return _UNKNOWN if rpc is None else f"{rpc.service}.{rpc.verb}"


@cache
def _seconds(instrument: Histogram, subject: str) -> Histogram:
    # the look-up by label takes as long as all else that is done here
    return instrument.labels(_name_of(subject))


@cache
def _count(instrument: Counter, subject: str, code: str) -> Counter:
    return instrument.labels(_name_of(subject), code if code == OK or code in FAILURES else REFUSED)


def asked(subject: str, code: str, seconds: float) -> None:
    """Count a question that was asked of another service. `code` is `ok` or that of the error."""
    _seconds(_CLIENT_SECONDS, subject).observe(seconds)
    _count(_CLIENT, subject, code).inc()


def answered(subject: str, code: str, seconds: float) -> None:
    """Count a question that was answered. `code` is `ok` or that of the error."""
    _seconds(_SERVER_SECONDS, subject).observe(seconds)
    _count(_SERVER, subject, code).inc()
