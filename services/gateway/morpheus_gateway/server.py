"""uvicorn with an end in two steps: first not ready, then deaf."""

import asyncio
import socket
import time

import uvicorn

from morpheus_gateway.health import Health

_LOOK_SECONDS = 0.1


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
