"""A balancer as small as can be: passes each new connection to a gateway that says it is ready."""

import asyncio
import contextlib
import itertools
from collections.abc import Sequence

import httpx2
from morpheus_devstack.ports import LOOPBACK

LOOK_SECONDS = 0.1
ASK_SECONDS = 3.0
_CHUNK = 65_536


class Balancer:
    """Listens on a port of its own. `refused`: connections that came while nobody was ready."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ready: dict[int, bool] = dict.fromkeys(ports, False)
        self._turns = itertools.cycle(ports)
        self._server: asyncio.Server | None = None
        self._looking: list[asyncio.Task[None]] = []
        self._somebody = asyncio.Event()
        self.refused = 0

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self) -> None:
        """Listen once a gateway is ready."""
        self._server = await asyncio.start_server(self._carry, LOOPBACK, 0)
        self._looking = [asyncio.create_task(self._look(port)) for port in self._ready]
        await self._somebody.wait()

    async def stop(self) -> None:
        for task in self._looking:
            task.cancel()
        await asyncio.gather(*self._looking, return_exceptions=True)
        if self._server is not None:
            self._server.close()

    async def _look(self, port: int) -> None:
        # a connection for each look: one that is kept would outlive the gateway's readiness
        async with httpx2.AsyncClient(timeout=ASK_SECONDS, headers={"Connection": "close"}) as http:
            while True:
                try:
                    answer = await http.get(f"http://{LOOPBACK}:{port}/ready")
                    self._ready[port] = answer.status_code == 200
                    if self._ready[port]:
                        self._somebody.set()
                except httpx2.TimeoutException:
                    # a machine that is busy; one answer that is late says nothing
                    continue
                except httpx2.HTTPError:
                    self._ready[port] = False
                await asyncio.sleep(LOOK_SECONDS)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in self._ready:
            port = next(self._turns)
            if not self._ready[port]:
                continue
            try:
                from_gateway, to_gateway = await asyncio.open_connection(LOOPBACK, port)
            except OSError:
                continue
            await asyncio.gather(_pump(reader, to_gateway), _pump(from_gateway, writer))
            return
        self.refused += 1
        writer.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
    writer.close()
