"""uvicorn as the gateway runs it, with an end in two steps: first not ready, then deaf."""

import asyncio
import math
import socket
import time
from functools import partial
from typing import Any

import uvicorn
from fastapi import FastAPI

from morpheus_gateway.connections import Connections, Patience
from morpheus_gateway.health import Health
from morpheus_gateway.http_protocol import HttpProtocol
from morpheus_gateway.settings import GatewaySettings

KEEP_ALIVE_SECONDS = 75
"""Longer than the idle limit of usual load balancers (60 s), so that they never send into a closing connection."""
BACKLOG = 1_024
"""Connections that the kernel keeps while this process is busy; it cuts the number to its own (`net.core.somaxconn`)."""
_LOOK_SECONDS = 0.1


def configured(app: FastAPI, settings: GatewaySettings) -> uvicorn.Config:
    """Return how uvicorn is to run `app`."""
    protocol: Any = partial(HttpProtocol, connections=Connections.of(settings), patience=Patience.of(settings))
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        backlog=BACKLOG,
        loop="uvloop",
        http=protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        # whose X-Forwarded-* is believed is decided by `client_address` and `HttpsOnly`
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=math.ceil(settings.drain_seconds),
    )


class Server(uvicorn.Server):
    """Serves until it is told to go, then `notice` seconds more in which `/ready` fails and answers say `Connection: close`:
    balancers send clients elsewhere before connections are refused. Running answers go on meanwhile and afterwards.
    """

    def __init__(self, config: uvicorn.Config, health: Health, *, notice: float) -> None:
        super().__init__(config)
        self._health = health
        self._notice = notice

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain. A second SIGINT ends it at once."""
        self._health.draining = True
        until = time.monotonic() + self._notice
        while time.monotonic() < until and not self.force_exit:  # noqa: ASYNC110 - a signal's handler sets no event
            await asyncio.sleep(_LOOK_SECONDS)
        await super().shutdown(sockets)
