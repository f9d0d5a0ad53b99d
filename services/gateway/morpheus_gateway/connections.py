"""Who may keep a connection open, how long a client may take, and how many there are."""

import resource
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from morpheus_common.logs import get_logger

from morpheus_gateway.client_address import Network, address_of_peer, is_trusted
from morpheus_gateway.metrics import CONNECTIONS
from morpheus_gateway.settings import GatewaySettings

log = get_logger(__name__)

OTHER_FILES = 256
"""Descriptors that are not clients' connections: the bus, the store of limits, listening sockets, modules."""
_TOLD_EVERY_SECONDS = 10.0
"""So often refused connections are logged, with their number: a line for each would be a second attack."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a client may take, in seconds; `rate` in bytes a second."""

    header: float
    body: float
    rate: int
    unread: float

    @classmethod
    def of(cls, settings: GatewaySettings) -> Self:
        """Return what the settings say."""
        return cls(settings.header_timeout, settings.body_grace, settings.body_rate, settings.slow_client)


class Connections:
    """The connections of this process, by the address of the peer.

    A trusted proxy holds those of many clients and is limited by the number of all only.
    """

    def __init__(
        self,
        *,
        limit: int,
        per_address: int,
        trusted: tuple[Network, ...],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = limit
        self._per_address = per_address
        self._trusted = trusted
        self._clock = clock
        self._open: Counter[str] = Counter()
        self._count = 0
        self._refused = 0
        self._told_at = -_TOLD_EVERY_SECONDS

    @classmethod
    def of(cls, settings: GatewaySettings) -> Self:
        """Return what the settings say, as far as the system gives descriptors for it."""
        return cls(
            limit=_descriptors_for(settings.connection_limit),
            per_address=settings.connections_per_address,
            trusted=settings.trusted_proxies,
        )

    def enter(self, peer: str) -> str | None:
        """Count a connection. Returns the code of its refusal; then it is not counted."""
        refusal = None
        address = address_of_peer(peer)
        if self._count >= self._limit:
            refusal = "overloaded"
        elif self._open[address] >= self._per_address and not is_trusted(peer, self._trusted):
            refusal = "too_many_connections"
        if refusal is not None:
            self._note(refusal)
            return refusal
        self._count += 1
        self._open[address] += 1
        CONNECTIONS.inc()
        return None

    def leave(self, peer: str) -> None:
        """Forget a connection that was counted."""
        address = address_of_peer(peer)
        self._count -= 1
        CONNECTIONS.dec()
        self._open[address] -= 1
        if not self._open[address]:
            del self._open[address]

    def _note(self, code: str) -> None:
        self._refused += 1
        if self._clock() - self._told_at >= _TOLD_EVERY_SECONDS:
            log.warning("connections refused", code=code, count=self._refused, open=self._count)
            self._refused = 0
            self._told_at = self._clock()


def _descriptors_for(connections: int) -> int:
    """Return how many connections there are descriptors for, after asking for as many as `connections` need.

    Without the bound a flood of connections takes the last descriptor, and the bus cannot be reached again.
    """
    wanted = connections + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return connections
    given = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (given, hard))
    if given == wanted:
        return connections
    log.warning("fewer connections than CONNECTION_LIMIT: raise the limit of open files", open_files=given)
    return max(1, given - OTHER_FILES)
