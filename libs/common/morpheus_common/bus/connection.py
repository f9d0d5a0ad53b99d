"""The connection to the bus, the same for every service."""

import asyncio
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import ParseResult

import nats.aio.client
from faststream.nats import NatsBroker
from faststream.nats.security import NatsNKey
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.transport import TcpTransport
from nats.errors import Error as NatsError

from morpheus_common.bus.metrics import BUS_CONNECTED, BUS_ERRORS, BUS_RECONNECTS
from morpheus_common.bus.names import INBOX, User
from morpheus_common.logs import get_logger
from morpheus_common.settings import CommonSettings

log = get_logger(__name__)

PING_INTERVAL_SECONDS = 2
"""nats-py notices a frozen server only after two unanswered pings (measured), so they are close together."""
RECONNECT_WAIT_SECONDS = 0.5
CLOSE_SECONDS = 1.0
"""How long a server has to take what is left for it and to say goodbye; a sound one needs milliseconds."""


@dataclass
class ArrivedMsg(Msg):
    """A message that knows when it reached this process (monotonic seconds), however long it then waits in a queue."""

    arrived_at: float = field(default_factory=time.monotonic)


Client.msg_class = ArrivedMsg


class PromptTransport(TcpTransport):
    """The transport of nats-py, except that it is not held up by a server that has stopped answering.

    nats-py waits until the old connection is closed before it says that it is lost and tries the next server, and sets no
    limit. Of a frozen server that took 36 s over TLS, and had no end with bytes left that it did not take (measured).
    """

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:
        self.abort()  # nats-py leaves the socket of an attempt that failed to the garbage collector
        await super().connect(uri, buffer_size, connect_timeout)

    def write(self, payload: bytes) -> None:
        self._require_open()
        super().write(payload)  # type: ignore[no-untyped-call]  # nats-py does not say

    def writelines(self, payload: list[bytes]) -> None:
        self._require_open()
        super().writelines(payload)  # type: ignore[no-untyped-call]  # nats-py does not say

    def _require_open(self) -> None:
        # uvloop raises RuntimeError, which nats-py does not take for a broken connection: it stopped reconnecting for good
        if self._io_writer is not None and self._io_writer.is_closing():
            raise ConnectionResetError("the bus connection is closed")

    async def wait_closed(self) -> None:
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                # a cancelled wait would cancel the stream's only future, and everybody who waits after that
                await asyncio.shield(super().wait_closed())  # type: ignore[no-untyped-call]  # nats-py does not say
        except TimeoutError:
            self.abort()

    def abort(self) -> None:
        """Close at once; what was not sent is lost."""
        if self._io_writer is not None:
            self._io_writer.transport.abort()


# `Client` makes its own transport, by this name
nats.aio.client.TcpTransport = PromptTransport  # type: ignore[attr-defined]  # imported there, and not exported


async def _log_error(error: Exception) -> None:
    BUS_ERRORS.inc()
    log.warning("bus error", error=str(error) or type(error).__name__)


class AnswerLostError(NatsError):
    """The connection broke while an answer was waited for."""


def give_up_answers(connection: Client) -> None:
    """End the wait for every answer under way: the server forgets with the connection that there were questions, and refuses
    their answers (measured). nats-py would let whoever asked wait until his time is up, a login 15 s.
    """
    for answer in list(connection._resp_map.values()):
        if not answer.done():
            answer.set_exception(AnswerLostError())


def keep_reconnecting(connection: Client) -> None:
    """Begin again if nats-py's task that reconnects ends without a connection; to be called in that task.

    It goes on after errors of connections only. Any other, such as the ValueError of an unreadable greeting, ended it
    (measured) and left a process that lives and never is ready again.
    """
    reconnecting = asyncio.current_task()
    if reconnecting is None or reconnecting is not connection._reconnection_task:
        return  # closed, not lost

    def ended(task: asyncio.Task[None]) -> None:
        if task.cancelling() or connection.is_connected or connection.is_closed:
            return
        error = task.exception()
        BUS_ERRORS.inc()
        log.error("reconnecting to the bus failed; beginning again", problem=type(error).__name__)
        connection._status = Client.RECONNECTING
        connection._reconnection_task = asyncio.create_task(connection._attempt_reconnect())

    reconnecting.add_done_callback(ended)


async def _log_reconnect() -> None:
    BUS_RECONNECTS.inc()
    log.info("bus connection is back")


def encryption(url: str, ca_file: Path | None) -> ssl.SSLContext | None:
    """Return how the servers of `url` are recognised, None if their connections are not encrypted.

    Raises:
        OSError: `ca_file` cannot be read.
    """
    if not any(server.strip().startswith("tls://") for server in url.split(",")):
        return None
    return ssl.create_default_context(cafile=ca_file)


def make_broker(settings: CommonSettings, user: User, *, middlewares: Sequence[Any] = ()) -> NatsBroker:
    """Return the broker of a service, not yet connected.

    It never stops trying to reconnect: the defaults of FastStream give up for good after two minutes.
    """

    async def disconnected() -> None:
        log.warning("bus connection lost")
        keep_reconnecting(broker.connection)
        give_up_answers(broker.connection)

    broker = NatsBroker(
        settings.nats_url.split(","),
        security=NatsNKey.from_seed(
            settings.nats_seed.get_secret_value(), ssl_context=encryption(settings.nats_url, settings.nats_ca_file)
        ),
        name=f"{user}/{settings.worker_id}",
        inbox_prefix=INBOX[user],
        ping_interval=PING_INTERVAL_SECONDS,
        max_outstanding_pings=2,
        max_reconnect_attempts=-1,
        reconnect_time_wait=RECONNECT_WAIT_SECONDS,  # type: ignore[arg-type]  # nats-py takes a float, the stub says int
        connect_timeout=2,
        graceful_timeout=settings.drain_seconds,
        error_cb=_log_error,
        disconnected_cb=disconnected,
        reconnected_cb=_log_reconnect,
        middlewares=middlewares,
        logger=None,
    )
    BUS_CONNECTED.set_function(lambda: float(broker._connection is not None and broker._connection.is_connected))
    return broker


def raw_connection(broker: NatsBroker) -> Client:
    """Return the nats-py client under a connected broker, for what FastStream has no form for."""
    return broker.connection


def fits(connection: Client, payload: bytes, headers: Mapping[str, str]) -> bool:
    """Tell whether the server takes a message. nats-py counts the payload only; the server counts the headers too, and
    drops the connection of a client that sends more than it takes.
    """
    # NATS/1.0, a line each, an empty line
    lines = sum(len(name.encode()) + len(value.encode()) + 4 for name, value in headers.items())
    return len(payload) + lines + 12 <= connection.max_payload


def abort(connection: Client) -> None:
    """Let go of a connection that could not be closed in order; what was not sent is lost."""
    if isinstance(connection._transport, PromptTransport):
        connection._transport.abort()


async def round_trip(connection: Client) -> None:
    """Return when the server has dealt with everything sent so far.

    nats-py writes the ping of `flush` ahead of commands that still wait in its buffer. They have left it by the time
    the first pong is here, so that the second one counts.
    """
    await connection.flush()
    await connection.flush()
