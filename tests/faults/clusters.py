"""Three servers of a kind instead of one: a replica set of MongoDB, a cluster of NATS that keeps each stream on all three.

Whoever connects is told all addresses, as in production; so both stand where a stack has a single server.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import nats
from morpheus_common.bus.names import INBOX, Stream, User
from morpheus_common.bus.permissions import Cluster
from morpheus_devstack.mongo_setup import make_root
from morpheus_devstack.ports import LOOPBACK, accepts_connections, free_ports
from morpheus_devstack.processes import Command
from morpheus_devstack.servers import READY_SECONDS, REPLICA_SET, MongoServer, NatsServer
from morpheus_devstack.waiting import poll
from nats.errors import Error as NatsError
from pymongo import AsyncMongoClient
from pymongo.errors import PyMongoError

MEMBERS = 3
JOIN_SECONDS = 30.0
ASK_SECONDS = 2.0
Document = dict[str, Any]


@dataclass(frozen=True)
class MongoSet(MongoServer):
    """A replica set; the fields are its first member's."""

    others: tuple[MongoServer, ...] = ()

    @classmethod
    def make(cls, folder: Path, logs: Path, root_password: str) -> Self:
        """Choose ports and folders."""
        first, *others = (
            MongoServer(folder / f"member-{number}", port, logs / f"mongod-{number}.log", root_password)
            for number, port in enumerate(free_ports(MEMBERS), 1)
        )
        return cls(first.folder, first.port, first.log, root_password, tuple(others))

    @property
    def members(self) -> dict[str, MongoServer]:
        """By the names of their processes."""
        first = MongoServer(self.folder, self.port, self.log, self.root_password)
        return {f"mongod-{number}": member for number, member in enumerate((first, *self.others), 1)}

    def url(self, user: str | None = None, password: str | None = None) -> str:
        """Return a connection string that names all members."""
        addresses = ",".join(member.address for member in self.members.values())
        whole = super().url(user, password)
        return whole.replace(self.address, addresses).replace("directConnection=true", f"replicaSet={REPLICA_SET}")

    def commands(self, *, member_key: str) -> list[Command]:
        """Return how each member is started."""
        return [replace(member.configure(member_key=member_key), name=name) for name, member in self.members.items()]

    async def until_ready(self) -> bool:
        """Make a set of the members; False when none of them takes writes in time."""
        for member in self.members.values():
            if not await poll(partial(accepts_connections, member.port), seconds=READY_SECONDS):
                return False
        hosts = [{"_id": number, "host": member.address} for number, member in enumerate(self.members.values())]
        async with _alone(self) as anyone:
            await anyone.admin.command("replSetInitiate", {"_id": REPLICA_SET, "members": hosts})
        if not await poll(self._has_primary, seconds=READY_SECONDS):
            return False
        primary = await self.primary()
        assert primary is not None
        async with _alone(self.members[primary]) as anyone:
            await make_root(anyone, self.root_password or "")
        return True

    async def _has_primary(self) -> bool:
        return await self.primary() is not None

    async def primary(self) -> str | None:
        """Return the name of the member that takes writes; None while none does."""
        for name, member in self.members.items():
            async with _alone(member) as anyone:
                try:
                    told = await anyone.admin.command("hello")
                except PyMongoError:
                    continue
            if told["isWritablePrimary"]:
                return name
        return None

    async def step_down(self, name: str) -> None:
        """Have the primary leave its place to another, as for an upgrade."""
        member = self.members[name]
        url = member.url("root", self.root_password)
        async with AsyncMongoClient[Document](url, serverSelectionTimeoutMS=5_000) as root:
            await root.admin.command("replSetStepDown", 30, secondaryCatchUpPeriodSecs=10)

    async def are_joined(self) -> bool:
        """Tell whether one member takes writes, and the others follow it."""
        async with self.client("root", self.root_password) as root:
            try:
                told = await root.admin.command("replSetGetStatus")
            except PyMongoError:
                return False
        states = sorted(member["stateStr"] for member in told["members"])
        return states == ["PRIMARY", *["SECONDARY"] * (MEMBERS - 1)]


def _alone(member: MongoServer) -> AsyncMongoClient[Document]:
    """A client of one member, whatever it is."""
    milliseconds = int(ASK_SECONDS * 1000)
    return AsyncMongoClient(
        MongoServer.url(member), serverSelectionTimeoutMS=milliseconds, socketTimeoutMS=milliseconds, w="majority"
    )


@dataclass(frozen=True)
class NatsCluster(NatsServer):
    """Servers that keep streams together; the fields are the first one's."""

    others: tuple[NatsServer, ...] = ()

    @classmethod
    def make(cls, folder: Path, logs: Path, password: str) -> Self:
        """Choose ports and folders. `password`: what the servers know each other by."""
        ports = free_ports(MEMBERS * 2)
        client_ports, route_ports = ports[:MEMBERS], ports[MEMBERS:]
        routes = tuple(f"nats-route://{LOOPBACK}:{port}" for port in route_ports)
        first, *others = (
            NatsServer(
                folder / f"server-{number}",
                client_port,
                logs / f"nats-server-{number}.log",
                f"nats-server-{number}",
                Cluster("faults", f"{LOOPBACK}:{route_port}", routes, "route", password),
            )
            for number, (client_port, route_port) in enumerate(zip(client_ports, route_ports, strict=True), 1)
        )
        return cls(first.folder, first.port, first.log, first.name, first.cluster, tuple(others))

    @property
    def members(self) -> dict[str, NatsServer]:
        """By the names of their processes."""
        first = NatsServer(self.folder, self.port, self.log, self.name, self.cluster)
        return {member.name: member for member in (first, *self.others)}

    @property
    def url(self) -> str:
        """All addresses, separated by commas."""
        return ",".join(member.url for member in (NatsServer(self.folder, self.port, self.log), *self.others))

    def commands(self, keys: Mapping[str, Mapping[User, str]], observer: tuple[str, str]) -> list[Command]:
        """Return how each server is started."""
        return [member.configure(keys, observer=observer) for member in self.members.values()]

    async def until_ready(self) -> bool:
        """Wait until all take connections."""
        for member in self.members.values():
            if not await member.until_ready():
                return False
        return True


async def stream_standing(url: str, seed: str) -> tuple[str | None, bool]:
    """Ask, as `ops`, about the stream of events; return its leader, and whether all its copies are up to date.

    Returns (None, False) while nobody can say.
    """
    try:
        connection = await nats.connect(
            url.split(","),
            nkeys_seed_str=seed,
            inbox_prefix=INBOX[User.OPS],
            allow_reconnect=False,
            connect_timeout=int(ASK_SECONDS),
            error_cb=_say_nothing,
        )
    except (NatsError, OSError):
        return None, False
    try:
        info = await connection.jetstream(timeout=ASK_SECONDS).stream_info(Stream.EVENTS)
    except NatsError:
        return None, False
    finally:
        await connection.close()
    replicas = (info.cluster and info.cluster.replicas) or []
    wanted = (info.config.num_replicas or 1) - 1
    leader = info.cluster.leader if info.cluster is not None and wanted else "nats-server"
    return leader, len(replicas) == wanted and all(peer.current and not peer.offline for peer in replicas)


async def _say_nothing(_error: Exception) -> None:
    """What is asked again and again may fail."""
