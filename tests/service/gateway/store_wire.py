"""A wire to the store of limits, which can be cut, fall silent, be slow, and speak nonsense or TLS."""

import asyncio
import ssl

from morpheus_devstack.ports import LOOPBACK

from tests.faults.wires import Wire


class StoreWire(Wire):
    """`says`: what clients get in place of the server's answers; nothing at all if it is empty. `tries`: connections and
    questions so far. `slow`: seconds by which answers come later.
    """

    def __init__(self, server_port: int, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(server_port)
        self._tls = tls
        self.says: bytes | None = None
        self.tries = 0
        self.slow = 0.0
        self._carrying: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._listening = await asyncio.start_server(self._carry, LOOPBACK, 0, ssl=self._tls)

    async def stop(self) -> None:
        """Cut it, and wait until all of it is gone: nothing runs in a test's loop after the test."""
        await super().stop()
        while self._carrying:
            await asyncio.wait(self._carrying)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._carrying.add(task)
        self.tries += 1
        try:
            await super()._carry(reader, writer)
            await asyncio.sleep(0)
        finally:
            self._carrying.discard(task)

    async def _back(
        self, reader: asyncio.StreamReader, client: asyncio.StreamWriter, _server: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(65_536):
            self.tries += 1
            await asyncio.sleep(self.slow)
            client.write(data if self.says is None else self.says)
            await client.drain()
