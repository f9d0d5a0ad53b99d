"""What works and what does not, from pings in the background: a call to `/health` starts no check."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from morpheus_common.bus.names import User
from morpheus_common.bus.rpc import RpcClient
from morpheus_common.contracts.base import Empty
from morpheus_common.contracts.health import PING
from morpheus_common.errors import ApiError
from morpheus_common.standing import Standing
from nats.aio.client import Client

import morpheus_gateway

PAUSE_SECONDS = 0.5
PING_TIMEOUT_SECONDS = 1.0
"""Together under 2 s: what is shown is never older."""
ASKED_AGAIN = 2
"""So many more workers of a service are asked when one lacks something: questions find the others, too."""
_NEEDED = ("bus", "database", User.AUTH, User.SESSIONS)
"""Without these nobody can be recognised or served. Without automation, warm and manual sessions still answer."""
_DATABASE = "database"
_ROUTER = "proxy_router"


@dataclass(frozen=True, slots=True)
class Component:
    """State of one part. `latency_ms` is None where nobody was asked or nobody answered. `in_part`: it works, and some of it
    does not.
    """

    healthy: bool = False
    latency_ms: float | None = None
    in_part: bool = False

    def shown(self) -> dict[str, Any]:
        """Return it as `/health` shows it."""
        status = "unhealthy" if not self.healthy else "degraded" if self.in_part else "healthy"
        return {"status": status, "latency_ms": self.latency_ms}


@dataclass(frozen=True, slots=True)
class _Pong:
    """`bus_answered`: the server did its part, with an answer or with the word that nobody listens."""

    state: Component = field(default_factory=Component)
    lacks: frozenset[str] = frozenset()
    degraded: frozenset[str] = frozenset()
    bus_answered: bool = True


class Health:
    """The last known state of everything the gateway depends on."""

    def __init__(self, standing: Standing) -> None:
        self.draining = False
        """Whether the process was told to go: no traffic should come any more."""
        self._looked_at = datetime.now(UTC)
        self._components: dict[str, Component] = {name: Component() for name in (_DATABASE, "bus", *PING, _ROUTER)}
        for name in self._components:
            # without the others some answers are missing, and with no gateway at all every answer is
            if name in _NEEDED:
                standing.need(name, partial(self._is_healthy, name))
        standing.need("time", lambda: not self.draining)

    def _is_healthy(self, name: str) -> bool:
        return self._components[name].healthy

    @property
    def can_serve(self) -> bool:
        """Tell whether traffic makes sense."""
        return all(self._components[name].healthy for name in _NEEDED)

    @property
    def status(self) -> str:
        """`ok`, `degraded` or `unavailable`."""
        if not self.can_serve:
            return "unavailable"
        every = self._components.values()
        return "ok" if all(component.healthy and not component.in_part for component in every) else "degraded"

    def shown(self) -> dict[str, Any]:
        """Return the body of `/health`. Its timestamp is when the asking began: what died later is not in it yet."""
        components = {name: component.shown() for name, component in self._components.items()}
        return {
            "status": self.status,
            "version": morpheus_gateway.__version__,
            "timestamp": self._looked_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "database": components[_DATABASE]["status"],
            "components": components,
        }

    async def watch(self, connection: Client, rpc: RpcClient) -> None:
        """Ask everyone for ever (a background job)."""
        while True:
            await self.look(connection, rpc)
            await asyncio.sleep(PAUSE_SECONDS)

    async def look(self, connection: Client, rpc: RpcClient) -> None:
        """Ask everyone once."""
        began = datetime.now(UTC)
        pongs = await asyncio.gather(*(_ping(rpc, service) for service in PING))
        services = dict(zip(PING, pongs, strict=True))
        sessions = services[User.SESSIONS]
        without = {service for service, pong in services.items() if _DATABASE in pong.lacks}
        self._looked_at = began
        self._components = {
            # a service that does not answer is named itself; it says nothing of the database
            _DATABASE: Component(
                any(pong.state.healthy for pong in pongs) and without.isdisjoint(_NEEDED),
                in_part=bool(without) or any(pong.state.in_part for pong in pongs),
            ),
            "bus": _bus(connection, pongs),
            **{service: pong.state for service, pong in services.items()},
            _ROUTER: Component(
                sessions.state.healthy and _ROUTER not in sessions.lacks, in_part=_ROUTER in sessions.degraded
            ),
        }


def _bus(connection: Client, pongs: Sequence[_Pong]) -> Component:
    """The bus answers if it carried one answer, or said that nobody listens.

    No ping of our own: one that is given up leaves nats-py a future it cannot settle, and the late answer ends its reading.
    """
    heard = [pong.state.latency_ms for pong in pongs if pong.bus_answered]
    if not connection.is_connected or not heard:
        return Component()
    return Component(True, min((latency for latency in heard if latency is not None), default=None))


async def _ping(rpc: RpcClient, service: User) -> _Pong:
    """Ask a worker of a service, and others if it lacks something; return the answer of that which lacks least."""
    first = await _ping_one(rpc, service)
    pongs = [first]
    while pongs[-1].lacks and len(pongs) <= ASKED_AGAIN:
        pongs.append(await _ping_one(rpc, service))
    best = min((pong for pong in pongs if pong.state.healthy), key=lambda pong: len(pong.lacks), default=first)
    return replace(best, state=replace(best.state, in_part=best.lacks != first.lacks))


async def _ping_one(rpc: RpcClient, service: User) -> _Pong:
    started = time.monotonic()
    try:
        answer = await rpc.call(PING[service], Empty(), timeout=PING_TIMEOUT_SECONDS)
    except ApiError as error:
        return _Pong(bus_answered=error.code != "service_timeout")
    lacks = frozenset(name for name, works in answer.components.items() if not works)
    return _Pong(Component(True, _since(started)), lacks, frozenset(answer.degraded))


def _since(started: float) -> float:
    return round((time.monotonic() - started) * 1000, 1)
