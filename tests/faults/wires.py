"""Wires: a process reaches nats-server and mongod through these, so that a fault can cut or deafen it alone."""

import asyncio
import contextlib
import struct
from collections.abc import Callable
from typing import Any

import bson
from morpheus_devstack.ports import LOOPBACK

_HEADER = struct.Struct("<iiii")
OP_MSG = 2013
_FLAGS_BYTES = 4
_BODY_SECTION = b"\x00"
_CHUNK = 65_536

JOURNAL = frozenset({"sessions", "operations", "key_guards", "outbox"})
"""Collections of the sessions service whose writes are the journal's, or mark its events as published."""
_WRITES = frozenset({"insert", "update", "findAndModify", "delete"})


class Wire:
    """Passes bytes on between a client and a server on loopback, until it is cut."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listening: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.is_cut = False

    @property
    def port(self) -> int:
        """Where clients connect."""
        assert self._listening is not None
        return int(self._listening.sockets[0].getsockname()[1])

    async def start(self) -> None:
        self._listening = await asyncio.start_server(self._carry, LOOPBACK, 0)

    async def stop(self) -> None:
        self.cut()
        if self._listening is not None:
            self._listening.close()

    def cut(self) -> None:
        """Break every connection; new ones are refused until `mend`."""
        self.is_cut = True
        for writer in list(self._writers):
            if writer.transport is not None:
                writer.transport.abort()

    def mend(self) -> None:
        self.is_cut = False

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_cut:
            writer.transport.abort()
            return
        try:
            to_server, server = await asyncio.open_connection(LOOPBACK, self._server_port)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, server}
        self._writers |= both
        forth = asyncio.create_task(self._forth(reader, server))
        back = asyncio.create_task(self._back(to_server, writer, server))
        try:
            await asyncio.wait([forth, back], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._writers -= both
            for task in (forth, back):
                task.cancel()
            await asyncio.gather(forth, back, return_exceptions=True)
            for end in both:
                end.transport.abort()

    async def _forth(self, reader: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        await _pump(reader, server)

    async def _back(
        self, reader: asyncio.StreamReader, client: asyncio.StreamWriter, _server: asyncio.StreamWriter
    ) -> None:
        await _pump(reader, client)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()


class BusWire(Wire):
    """A wire to nats-server that can lose messages on their way there."""

    def __init__(self, server_port: int) -> None:
        super().__init__(server_port)
        self._to_lose = 0
        self._subject = b""
        self.lost: list[str] = []
        """Subjects of the messages that were lost."""

    def lose_messages(self, count: int, subject: str = "") -> None:
        """Do not pass on the next `count` messages on subjects that begin with `subject`."""
        self._to_lose = count
        self._subject = subject.encode()

    async def _forth(self, reader: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while line := await reader.readline():
                words = line.split()
                if words and words[0] in {b"PUB", b"HPUB"}:
                    line += await reader.readexactly(int(words[-1]) + len(b"\r\n"))
                    if self._to_lose and words[1].startswith(self._subject):
                        self._to_lose -= 1
                        self.lost.append(words[1].decode())
                        continue
                server.write(line)
                await server.drain()


def is_journal_write(command: dict[str, Any]) -> bool:
    """Tell whether a command makes a change of the journal durable: a commit, or a write outside a transaction."""
    name = next(iter(command))
    if name == "commitTransaction":
        return True
    return name in _WRITES and command[name] in JOURNAL and "autocommit" not in command


class MongoWire(Wire):
    """A wire to mongod that can lose answers: the server does what it was asked, and nobody hears of it."""

    def __init__(self, server_port: int) -> None:
        super().__init__(server_port)
        self._to_lose = 0
        self._matches: Callable[[dict[str, Any]], bool] = is_journal_write
        self.lost: list[str] = []
        """Names of the commands whose answers were lost."""
        self._deaf: dict[asyncio.StreamWriter, set[int]] = {}

    def lose_answers(self, count: int, matches: Callable[[dict[str, Any]], bool] = is_journal_write) -> None:
        """Break the connection instead of passing on the answers to the next `count` commands that match."""
        self._to_lose = count
        self._matches = matches

    async def _forth(self, reader: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        losing = self._deaf.setdefault(server, set())
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                while True:
                    header, body = await _message(reader)
                    _, request_id, _, kind = _HEADER.unpack(header)
                    if self._to_lose and kind == OP_MSG and (command := _command(body)) and self._matches(command):
                        self._to_lose -= 1
                        self.lost.append(next(iter(command)))
                        losing.add(request_id)
                    server.write(header + body)
                    await server.drain()
        finally:
            del self._deaf[server]

    async def _back(
        self, reader: asyncio.StreamReader, client: asyncio.StreamWriter, server: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                header, body = await _message(reader)
                if _HEADER.unpack(header)[2] in self._deaf.get(server, ()):
                    return
                client.write(header + body)
                await client.drain()


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    header = await reader.readexactly(_HEADER.size)
    return header, await reader.readexactly(_HEADER.unpack(header)[0] - _HEADER.size)


def _command(body: bytes) -> dict[str, Any] | None:
    """Return the command in an OP_MSG, None if its first section is not the body (drivers put it first)."""
    if body[_FLAGS_BYTES : _FLAGS_BYTES + 1] != _BODY_SECTION:
        return None
    length = int.from_bytes(body[_FLAGS_BYTES + 1 : _FLAGS_BYTES + 5], "little")
    start = _FLAGS_BYTES + 1
    return bson.decode(body[start : start + length])
