"""Servers and clients below HTTP: protocols of uvicorn's on a socket, with an application that notes what it sees."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from morpheus_common.errors import ApiError
from morpheus_gateway.connections import Connections, Patience
from morpheus_gateway.errors import BodyRefused
from morpheus_gateway.http_protocol import HttpProtocol
from morpheus_gateway.middleware import BodyLimit, ErrorNet
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

LOOPBACK = "127.0.0.1"
IMPATIENT = Patience(header=0.3, body=0.3, rate=1_000_000, unread=0.3)
PATIENT = Patience(header=20.0, body=20.0, rate=1, unread=20.0)


@dataclass(frozen=True)
class Seen:
    """A request as the application sees it."""

    method: str
    path: str
    body: bytes
    headers: list[tuple[bytes, bytes]] = field(repr=False, compare=False)


@dataclass
class Wire:
    """A listening server. `seen`: the requests that were read whole, in order."""

    port: int
    seen: list[Seen]
    state: ServerState

    async def tell(self, data: bytes, *, seconds: float = 10.0) -> bytes:
        """Send bytes, and return all that comes until the server closes the connection."""
        return await exchange(self.port, data, seconds=seconds)


def h11(config: uvicorn.Config, state: ServerState) -> asyncio.Protocol:
    """Another reader of HTTP/1.1, written by others in another language."""
    return H11Protocol(config, state, {})


def ours(
    *, patience: Patience = PATIENT, limit: int = 1_000, per_address: int = 1_000, trusted: Any = ()
) -> Callable[[uvicorn.Config, ServerState], asyncio.Protocol]:
    connections = Connections(limit=limit, per_address=per_address, trusted=trusted)
    return lambda config, state: HttpProtocol(config, state, {}, connections=connections, patience=patience)


@asynccontextmanager
async def wire(
    protocol: Callable[[uvicorn.Config, ServerState], asyncio.Protocol], app: ASGIApp | None = None
) -> AsyncIterator[Wire]:
    seen: list[Seen] = []

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await Request(scope, receive).body()
        except BodyRefused as error:
            raise ApiError(error.code) from None
        seen.append(Seen(scope["method"], scope["path"], body, scope["headers"]))
        await PlainTextResponse("ok")(scope, receive, send)

    config = uvicorn.Config(
        ErrorNet(BodyLimit(app or note, limit=1_000_000, memory=1_000_000)),
        lifespan="off",
        log_config=None,
        ws="none",
        access_log=False,
        timeout_keep_alive=75,
    )
    config.load()
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(lambda: protocol(config, state), LOOPBACK, 0)
    try:
        yield Wire(server.sockets[0].getsockname()[1], seen, state)
    finally:
        server.close()
        for connection in list(state.connections):
            connection.transport.abort()
        for task in list(state.tasks):
            task.cancel()
        await asyncio.gather(*state.tasks, return_exceptions=True)


async def exchange(port: int, data: bytes, *, seconds: float = 10.0) -> bytes:
    """Send bytes to a port, and return all that comes until the server closes the connection."""
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    answer = b""
    try:
        async with asyncio.timeout(seconds):
            writer.write(data)
            while piece := await reader.read(65_536):
                answer += piece
    except ConnectionResetError:
        # the server closed while more was coming
        pass
    finally:
        writer.close()
    return answer


def statuses(answers: bytes) -> list[int]:
    """Return the status of each answer in what a server sent; bodies have to hold no status line."""
    return [int(piece[:3]) for piece in answers.split(b"HTTP/1.1 ")[1:]]
