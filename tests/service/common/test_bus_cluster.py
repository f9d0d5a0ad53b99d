"""The bus as production has it: three servers that `morpheus nats-config` configured, every connection encrypted."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from morpheus_common.bus.connection import make_broker, raw_connection
from morpheus_common.bus.names import Stream, User
from morpheus_common.bus.topology import apply_topology
from morpheus_common.settings import CommonSettings
from morpheus_devstack.nats_config_command import nats_config
from morpheus_devstack.ports import LOOPBACK, free_ports
from morpheus_devstack.processes import Command
from morpheus_devstack.secrets import new_seed, public_key
from morpheus_devstack.servers import find_nats_server
from morpheus_devstack.waiting import poll
from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError
from pydantic import SecretStr
from structlog.testing import capture_logs

from tests.certificates import certificate
from tests.servers import running

SERVERS = 3


@dataclass(frozen=True)
class Cluster:
    ports: tuple[int, ...]
    authority: Path
    seeds: dict[User, str]

    def settings(self, *, ca_file: Path | None, scheme: str = "tls") -> CommonSettings:
        urls = ",".join(f"{scheme}://{LOOPBACK}:{port}" for port in self.ports)
        return CommonSettings(nats_url=urls, nats_seed=SecretStr(self.seeds[User.OPS]), nats_ca_file=ca_file)


@pytest.fixture
async def cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> AsyncIterator[Cluster]:
    seeds = {user: new_seed() for user in User}
    keys, password = tmp_path / "keys.json", tmp_path / "password"
    keys.write_text(json.dumps({user: public_key(seed) for user, seed in seeds.items()}))
    password.write_text("what-they-know-each-other-by\n")
    authority, private = certificate(tmp_path)
    ports = free_ports(2 * SERVERS)
    clients, routes = ports[:SERVERS], ports[SERVERS:]
    with ExitStack() as servers:
        for number in range(SERVERS):
            capsys.readouterr()
            nats_config(
                keys=keys,
                listen=f"{LOOPBACK}:{clients[number]}",
                store_dir=str(tmp_path / f"store-{number}"),
                server_name=f"n{number}",
                tls_cert=str(authority),
                tls_key=str(private),
                tls_ca=str(authority),
                cluster="c",
                cluster_listen=f"{LOOPBACK}:{routes[number]}",
                route=[f"{LOOPBACK}:{port}" for port in routes],
                cluster_password_file=password,
            )
            config = tmp_path / f"{number}.conf"
            config.write_text(capsys.readouterr().out)
            argv = (find_nats_server(), "--config", str(config))
            servers.enter_context(running(Command(f"nats-{number}", argv, tmp_path / f"{number}.log")))
        yield Cluster(tuple(clients), authority, seeds)


async def test_streams_are_kept_by_three_servers_over_encrypted_connections(cluster: Cluster) -> None:
    broker = make_broker(cluster.settings(ca_file=cluster.authority), User.OPS)

    async def connected() -> bool:
        try:
            await broker.connect()
        except (NatsError, OSError):
            return False
        return True

    assert await poll(connected, seconds=20)
    try:
        connection = raw_connection(broker)
        jetstream = connection.jetstream(timeout=2)

        async def applied() -> bool:
            try:
                await apply_topology(jetstream, replicas=SERVERS)
            except (JetStreamError, NatsError, TimeoutError):
                return False  # no leader yet
            return True

        assert await poll(applied, seconds=30)
        info = await jetstream.stream_info(Stream.EVENTS)
        assert info.config.num_replicas == SERVERS
        assert info.cluster is not None
        assert len(info.cluster.replicas or []) == SERVERS - 1
        assert connection.connected_url is not None
    finally:
        await broker.stop()


@pytest.mark.parametrize("scheme", ["tls", "nats"])
async def test_a_server_whose_authority_is_not_known_is_not_spoken_to(cluster: Cluster, scheme: str) -> None:
    broker = make_broker(cluster.settings(ca_file=None, scheme=scheme), User.OPS)
    with capture_logs() as logs:
        connecting = asyncio.create_task(broker.connect())

        async def is_refused() -> bool:
            return any("certificate verify failed" in line.get("error", "") for line in logs)

        assert await poll(is_refused, seconds=20)
        assert not connecting.done()
        connecting.cancel()
        await asyncio.wait({connecting})
