"""How many connections there may be."""

import resource
from typing import Any

import pytest
from morpheus_gateway.connections import OTHER_FILES, Connections
from morpheus_gateway.settings import GatewaySettings
from pydantic import SecretStr
from structlog.testing import capture_logs


class _System:
    """Limits of open files, as the operating system keeps them."""

    def __init__(self, soft: int, hard: int) -> None:
        self.limits = (soft, hard)

    def getrlimit(self, _: int) -> tuple[int, int]:
        return self.limits

    def setrlimit(self, _: int, limits: tuple[int, int]) -> None:
        self.limits = limits


def _taken(connections: Connections) -> int:
    count = 0
    while connections.enter(f"192.0.2.{count % 256}") is None:
        count += 1
    return count


@pytest.mark.parametrize(
    ("soft", "hard", "taken", "soft_then"),
    [(5_000, 5_000, 1_000, 5_000), (300, 5_000, 1_000, 1_000 + OTHER_FILES), (300, 600, 600 - OTHER_FILES, 600)],
)
def test_connections_leave_descriptors_for_everything_else(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, taken: int, soft_then: int
) -> None:
    """A flood of connections must not keep the gateway from its bus."""
    system = _System(soft, hard)
    monkeypatch.setattr(resource, "getrlimit", system.getrlimit)
    monkeypatch.setattr(resource, "setrlimit", system.setrlimit)
    made: Any = GatewaySettings(nats_seed=SecretStr("seed"), connection_limit=1_000, connections_per_address=1_000)
    assert _taken(Connections.of(made)) == taken
    assert system.limits == (soft_then, hard)


def test_a_flood_of_refused_connections_is_a_line_in_the_log_now_and_then() -> None:
    now = 0.0
    connections = Connections(limit=0, per_address=1, trusted=(), clock=lambda: now)
    with capture_logs() as logs:
        for _ in range(1_000):
            assert connections.enter("192.0.2.1") == "overloaded"
        now = 10.0
        connections.enter("192.0.2.1")
    assert [entry["count"] for entry in logs] == [1, 1_000]
