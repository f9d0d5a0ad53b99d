"""Servers of the bus that fail in ways which nats-py alone does not get over. On uvloop, as services run: its errors differ."""

import asyncio
import signal
import socket
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvloop
from faststream.nats import NatsBroker
from morpheus_common.bus import connection as bus_connection
from morpheus_common.bus.connection import make_broker
from morpheus_common.bus.names import User
from morpheus_common.bus.permissions import Tls, render_server_config
from morpheus_common.bus.rpc import RpcClient
from morpheus_common.contracts.auth import CHECK_KEY, CheckKey
from morpheus_common.errors import ApiError
from morpheus_common.service import stop_broker
from morpheus_common.settings import CommonSettings
from morpheus_devstack.ports import LOOPBACK, accepts_connections, free_ports
from morpheus_devstack.processes import Command
from morpheus_devstack.secrets import new_seed, public_key
from morpheus_devstack.servers import READY_SECONDS, find_nats_server
from morpheus_devstack.waiting import poll
from pydantic import SecretStr
from structlog.testing import capture_logs

from tests.certificates import certificate
from tests.faults.wires import Wire
from tests.servers import running
from tests.service.common.waiting import until

PATIENCE_SECONDS = 20.0
"""Less than the 36 s that nats-py needs for a frozen server over TLS; much more than is needed on a busy machine."""
QUEUED, QUEUED_BYTES = 12, 900_000
"""More than the buffers of two sockets take."""


@dataclass
class Bus:
    """Servers that know the same user and nothing of each other."""

    scheme: str
    ca_file: Path | None
    seed: str = field(default_factory=new_seed)
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    @contextmanager
    def server(self, folder: Path) -> Iterator[int]:
        """Run one more server; yield its port."""
        port = free_ports(1)[0]
        folder.mkdir()
        tls = None
        if self.ca_file is not None:
            tls = Tls(cert=str(self.ca_file), key=str(self.ca_file.with_suffix(".key")), ca=str(self.ca_file))
        config = folder / "nats-server.conf"
        accounts = {"A": {User.GATEWAY: public_key(self.seed)}}
        listen = f"{LOOPBACK}:{port}"
        config.write_text(render_server_config(listen=listen, store_dir=str(folder), accounts=accounts, tls=tls))
        command = Command("nats-server", (find_nats_server(), "--config", str(config)), folder / "nats-server.log")
        with running(command) as process:
            self.processes[port] = process
            assert asyncio.run(poll(lambda: accepts_connections(port), seconds=READY_SECONDS))
            try:
                yield port
            finally:
                process.send_signal(signal.SIGCONT)

    def broker(self, *ports: int) -> NatsBroker:
        urls = ",".join(f"{self.scheme}://{LOOPBACK}:{port}" for port in ports or self.processes)
        settings = CommonSettings(nats_url=urls, nats_seed=SecretStr(self.seed), nats_ca_file=self.ca_file)
        return make_broker(settings, User.GATEWAY)

    def freeze(self, broker: NatsBroker) -> None:
        """Stop the server that the broker is connected to, as it stands."""
        url = broker.connection.connected_url
        assert url is not None
        assert url.port is not None
        self.processes[url.port].send_signal(signal.SIGSTOP)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen server is noticed within a second, not six; what follows takes its own time."""
    monkeypatch.setattr(bus_connection, "PING_INTERVAL_SECONDS", 0.25)
    monkeypatch.setattr(bus_connection, "RECONNECT_WAIT_SECONDS", 0.02)


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Bus]:
    bus = Bus("nats", None)
    with bus.server(tmp_path / "plain-0"):
        yield bus


@pytest.fixture
def encrypted(tmp_path: Path) -> Iterator[Bus]:
    bus = Bus("tls", certificate(tmp_path)[0])
    with bus.server(tmp_path / "tls-0"), bus.server(tmp_path / "tls-1"):
        yield bus


@asynccontextmanager
async def connected(broker: NatsBroker) -> AsyncIterator[None]:
    await broker.connect()
    try:
        yield
    finally:
        await stop_broker(broker, seconds=1)


def queue_too_much(broker: NatsBroker) -> list[asyncio.Task[None]]:
    """Publish more than a frozen server's connection takes. Who publishes waits; the tasks are to be awaited at the end."""
    publish = broker.connection.publish
    return [asyncio.create_task(publish(CHECK_KEY.subject, bytes(QUEUED_BYTES))) for _ in range(QUEUED)]


def test_a_frozen_server_keeps_nobody_from_the_next_one(tmp_path: Path, plain: Bus, encrypted: Bus) -> None:
    """C45: whether the connection was encrypted, or full of what the server did not take; who waits is told as soon."""

    async def goes_on(bus: Bus, *, full: bool) -> None:
        broker = bus.broker()
        async with connected(broker):
            connection = broker.connection
            asking = asyncio.create_task(
                RpcClient(connection).call(CHECK_KEY, CheckKey(sha256="0" * 64), timeout=3 * PATIENCE_SECONDS)
            )
            bus.freeze(broker)
            publishing = queue_too_much(broker) if full else []
            async with asyncio.timeout(PATIENCE_SECONDS):
                with pytest.raises(ApiError) as told:
                    await asking
                assert told.value.code == "service_timeout"

                async def is_back() -> bool:
                    return connection.stats["reconnects"] == 1 and connection.is_connected

                await until(is_back, within=PATIENCE_SECONDS)
                await asyncio.gather(*publishing)
                await connection.flush()

    async def both() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(goes_on(plain, full=True))
            tasks.create_task(goes_on(encrypted, full=False))

    with plain.server(tmp_path / "plain-1"):
        uvloop.run(both())


def test_a_service_stops_although_its_only_server_is_frozen(plain: Bus) -> None:
    async def stop() -> float:
        broker = plain.broker()
        await broker.connect()
        plain.freeze(broker)
        publishing = queue_too_much(broker)
        await asyncio.sleep(0)  # they begin

        async def is_stuck() -> bool:
            return not broker.connection.pending_data_size

        await until(is_stuck)
        publishing += queue_too_much(broker)
        began = time.monotonic()
        await asyncio.wait_for(stop_broker(broker, seconds=0.2), PATIENCE_SECONDS)
        taken = time.monotonic() - began
        for task in publishing:
            task.cancel()
        return taken

    assert uvloop.run(stop()) < PATIENCE_SECONDS


class BadStart(Wire):
    """A wire whose next connections get what a failing server sends, and are closed."""

    def __init__(self, server_port: int) -> None:
        super().__init__(server_port)
        self.to_spoil = 0
        self.greeting = b""
        self.resets = False

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.to_spoil:
            await super()._carry(reader, writer)
            return
        self.to_spoil -= 1
        writer.write(self.greeting)
        await writer.drain()
        if self.resets:
            # the reset is to come after the greeting was read and before it is answered, whichever turn that is
            for _ in range(self.to_spoil % 10):
                await asyncio.sleep(0)
        else:
            await reader.read()
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


@pytest.mark.parametrize(
    ("greeting", "times", "resets", "restarts"),
    [(b'INFO {"headers": true, "max_payload": 1048576}\r\n', 40, True, 0), (b"INFO\r\n", 3, False, 3)],
    ids=["reset after its greeting", "unreadable greeting"],
)
def test_reconnecting_goes_on_whatever_a_server_answers(
    plain: Bus, greeting: bytes, times: int, resets: bool, restarts: int
) -> None:
    """C45: one such answer ended it for good, in a process that stayed live and never was ready again."""

    async def come_back() -> None:
        wire = BadStart(next(iter(plain.processes)))
        await wire.start()
        broker = plain.broker(wire.port)
        async with connected(broker):
            wire.greeting, wire.to_spoil, wire.resets = greeting, times, resets
            wire.cut()
            wire.mend()

            async def is_back() -> bool:
                return broker.connection.stats["reconnects"] > 0 and broker.connection.is_connected

            await until(is_back, within=PATIENCE_SECONDS)
            assert wire.to_spoil == 0
            await broker.connection.flush()
        await wire.stop()

    with capture_logs() as logs:
        uvloop.run(come_back())
    assert len([line for line in logs if "beginning again" in line["event"]]) == restarts
