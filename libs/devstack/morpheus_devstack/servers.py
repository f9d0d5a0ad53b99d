"""The real servers under the stack, mongod and nats-server: found, configured, started, known to be ready.

The tests start the same servers through this module.
"""

import importlib.util
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from morpheus_common.bus.names import User
from morpheus_common.bus.permissions import Cluster, render_server_config
from pymongo import AsyncMongoClient
from pymongo.errors import PyMongoError

from morpheus_devstack.errors import StackError
from morpheus_devstack.mongo_setup import ROOT, MongoClient, initiate, make_root, make_users
from morpheus_devstack.ports import LOOPBACK, accepts_connections
from morpheus_devstack.processes import Command
from morpheus_devstack.secrets import write_private
from morpheus_devstack.waiting import poll

REPLICA_SET = "rs0"
"""Transactions need a replica set; one member is enough for them."""
CACHE_GIGABYTES = 0.25
"""The smallest WiredTiger takes. Its default, half the memory, is meant for a machine of its own."""
TRANSACTION_SECONDS = 10
"""mongod does not notice the death of a client: what a killed process had locked in a transaction stays locked until the
transaction is as old as this. Ours take milliseconds; mongod's default of 60 would hold the next worker up for a minute.
"""
READY_SECONDS = 30.0
"""mongod is ready after 1.3 s (measured); a slow disk may take a while longer."""


def find_mongod() -> str:
    """Return the mongod to run: the one that was installed with this package, else the one on PATH.

    Raises:
        StackError: there is none.
    """
    if (spec := importlib.util.find_spec("fiftyone")) is not None and spec.submodule_search_locations:
        for folder in spec.submodule_search_locations:
            program = Path(folder) / "db" / "bin" / "mongod"
            if program.is_file():
                return str(program)
    if on_path := shutil.which("mongod"):
        return on_path
    raise StackError("mongod was not found: run `make install`, or install MongoDB 6 or later so that it is on PATH.")


def find_nats_server() -> str:
    """Return the nats-server to run: the one that was installed with this package, else the one on PATH.

    Raises:
        StackError: there is none.
    """
    installed = Path(sys.executable).with_name("nats-server")
    if installed.is_file():
        return str(installed)
    if on_path := shutil.which("nats-server"):
        return on_path
    raise StackError(
        "nats-server was not found: run `make install`, or install it (2.12 or later) so that it is on PATH."
    )


@dataclass(frozen=True)
class NatsServer:
    """A nats-server with JetStream on loopback. `folder` holds its configuration and its streams. With a `cluster` it keeps
    them together with the servers that are named there, among which it is called `name`.
    """

    folder: Path
    port: int
    log: Path
    name: str = "nats-server"
    cluster: Cluster | None = None

    @property
    def url(self) -> str:
        """Address without credentials."""
        return f"nats://{LOOPBACK}:{self.port}"

    def configure(
        self, accounts: Mapping[str, Mapping[User, str]], *, observer: tuple[str, str] | None = None
    ) -> Command:
        """Write the configuration, with the permissions of production, and return how the server is started.

        `accounts` maps account names to the public NKeys of their users; `observer` is a user name and password.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "nats-server.conf"
        text = render_server_config(
            listen=f"{LOOPBACK}:{self.port}",
            store_dir=str(self.folder),  # the server adds /jetstream
            accounts=accounts,
            observer=observer,
            server_name=self.name if self.cluster is not None else None,
            cluster=self.cluster,
        )
        write_private(config, text)
        return Command(self.name, (find_nats_server(), "--config", str(config)), self.log)

    async def until_ready(self) -> bool:
        """Wait until the server takes connections; False when it does not within `READY_SECONDS`.

        The port is probed first: nats-py waits 2 s after a failed first connection.
        """
        return await poll(lambda: accepts_connections(self.port), seconds=READY_SECONDS)


@dataclass(frozen=True)
class MongoServer:
    """A mongod on loopback, a replica set of one. With a `root_password` it asks everybody who he is."""

    folder: Path
    port: int
    log: Path
    root_password: str | None = None

    @property
    def address(self) -> str:
        """Host and port."""
        return f"{LOOPBACK}:{self.port}"

    def url(self, user: str | None = None, password: str | None = None) -> str:
        """Return a connection string, with the credentials of a user if one is given. Names and passwords here are
        URL-safe.
        """
        credentials = f"{user}:{password}@" if user else ""
        login = "&authSource=admin" if user else ""
        return f"mongodb://{credentials}{self.address}/?directConnection=true{login}"

    def configure(self, *, member_key: str | None = None) -> Command:
        """Prepare the folders and return how the server is started. `member_key` turns authentication on."""
        data = self.folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        argv = [find_mongod(), "--dbpath", str(data), "--port", str(self.port), "--bind_ip", LOOPBACK]
        argv += ["--replSet", REPLICA_SET, "--wiredTigerCacheSizeGB", str(CACHE_GIGABYTES), "--quiet"]
        argv += ["--nounixsocket", "--setParameter", "diagnosticDataCollectionEnabled=false"]
        argv += ["--setParameter", f"transactionLifetimeLimitSeconds={TRANSACTION_SECONDS}"]
        if member_key is not None:
            key_file = self.folder / "member.key"
            write_private(key_file, member_key)
            argv += ["--keyFile", str(key_file)]
        return Command("mongod", argv, self.log)

    def client(self, user: str | None = None, password: str | None = None) -> MongoClient:
        """Return a client for setting the server up; short limits, since the server is next door."""
        return AsyncMongoClient(
            self.url(user, password),
            serverSelectionTimeoutMS=1_000,
            tz_aware=True,
            w="majority",
            readConcernLevel="local",
        )

    async def until_ready(self) -> bool:
        """Wait until the server takes writes, making it a replica set when it is not one yet; False when it does not
        within `READY_SECONDS`.
        """
        if not await poll(lambda: accepts_connections(self.port), seconds=READY_SECONDS):
            return False
        root = None if self.root_password is None else ROOT
        async with self.client() as anyone, self.client(root, self.root_password) as known:
            if not (await anyone.admin.command("hello")).get("setName") and not await initiate(
                anyone, REPLICA_SET, [self.address]
            ):
                await self._join(known)
            if not await poll(lambda: self._is_primary(anyone), seconds=READY_SECONDS):
                return False
            if self.root_password is not None:
                await make_root(anyone, self.root_password)
        return True

    async def _join(self, known: MongoClient) -> None:
        """Tell a set that was made on another port where it is now; a member that cannot find itself takes no writes."""
        config = (await known.admin.command("replSetGetConfig"))["config"]
        if config["members"][0]["host"] != self.address:
            config["members"][0]["host"] = self.address
            config["version"] += 1
            await known.admin.command("replSetReconfig", config, force=True)

    async def _is_primary(self, anyone: MongoClient) -> bool:
        try:
            return bool((await anyone.admin.command("hello"))["isWritablePrimary"])
        except PyMongoError:
            return False

    async def make_users(self, passwords: Mapping[str, str]) -> None:
        """Make or renew the users in `passwords` (by name)."""
        async with self.client(ROOT, self.root_password) as client:
            await make_users(client, passwords)
