"""What strikes the processes and servers of a stack while it is in use, and when what was struck is back."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import Final

from morpheus_common.bus.names import User
from morpheus_devstack.ports import accepts_connections
from morpheus_devstack.waiting import poll
from pymongo.errors import PyMongoError

from tests.faults.clusters import MongoSet, NatsCluster, stream_standing
from tests.faults.server_load import ServerLoad, everybody_is_served
from tests.faults.stack import AUTHS, AUTOMATIONS, END_SECONDS, GATEWAYS, WORKERS, FaultStack

PAUSE_SECONDS: Final = 10.0
NOTICED_SECONDS: Final = 3.0
"""So long what was killed stays dead, unless somebody was refused before."""
BACK_SECONDS: Final = 60.0
SERVED_SECONDS: Final = 90.0
READY: Final = b'"event": "ready"'
FULL_BYTES: Final = 1_024
"""Less than any stream of events has on its disk."""
SKEW_SECONDS: Final = 300
WAITING: Final = 10
"""Events that cannot be published while the disk is full, before it is given room again."""


class Servers(StrEnum):
    """On which stack a case is run: with one mongod and one nats-server, with three of each, or on either."""

    ONE = "one"
    THREE = "three"
    ANY = "any"


class NotBack(Exception):
    """What was struck did not come back; the text says what."""


@dataclass(frozen=True, slots=True)
class Scene:
    """The stack, and who is at work on it."""

    stack: FaultStack
    load: ServerLoad

    async def killed(self, *names: str) -> float:
        """End processes as a power cut does, all at once, and start them again; return when they are back."""
        gateways = [self.stack.gateway_ports[name] for name in names if name in GATEWAYS]
        self.load.ledger.stricken = frozenset(gateways)
        since = time.monotonic()
        for name in names:
            await self.stack.parts[name].kill()
        await poll(lambda: self._somebody_is_refused(since), seconds=NOTICED_SECONDS, every=0.1)
        return await self.started(*names)

    async def started(self, *names: str) -> float:
        """Start processes, and wait until they are ready for work."""
        before = {name: self._said_ready(name) for name in names}
        for name in names:
            await self.stack.parts[name].start()
        for name in names:
            if not await poll(partial(self._is_back, name, before[name]), seconds=BACK_SECONDS, every=0.05):
                raise NotBack(f"{name} did not come back")
        return time.monotonic()

    async def paused(self, *names: str) -> float:
        """Have processes stand still, as if the network held back all that goes to and from them; return when they go on."""
        for name in names:
            self.stack.parts[name].pause()
        try:
            await asyncio.sleep(PAUSE_SECONDS)
        finally:
            for name in names:
                self.stack.parts[name].resume()
        return time.monotonic()

    async def _somebody_is_refused(self, since: float) -> bool:
        outcomes = self.load.ledger.outcomes
        return any(not outcome.good and outcome.ended >= since for outcome in reversed(outcomes))

    def _said_ready(self, name: str) -> int:
        log = self.stack.parts[name].command.log
        return log.read_bytes().count(READY)

    async def _is_back(self, name: str, said_before: int) -> bool:
        if name.startswith("mongod"):
            return await self.database_takes_writes()
        if name.startswith("nats-server"):
            return await accepts_connections(self.bus_ports[name]) and (await self.standing())[0] is not None
        if name in GATEWAYS:
            return await self.stack.until_ready(name, seconds=BACK_SECONDS)
        return self._said_ready(name) > said_before

    async def database_takes_writes(self) -> bool:
        """Whether there is a primary."""
        try:
            return bool((await self.stack.mongo.admin.command("hello"))["isWritablePrimary"])
        except PyMongoError:
            return False

    async def standing(self) -> tuple[str | None, bool]:
        """The leader of the stream of events, and whether all copies are up to date."""
        places = self.stack.places
        return await stream_standing(places.nats.url, places.secrets.nats_seeds[User.OPS])

    @property
    def bus_ports(self) -> dict[str, int]:
        bus = self.stack.places.nats
        if isinstance(bus, NatsCluster):
            return {name: member.port for name, member in bus.members.items()}
        return {"nats-server": bus.port}

    @property
    def mongods(self) -> list[str]:
        return [name for name in self.stack.parts if name.startswith("mongod")]

    async def primary(self) -> str:
        """The member that takes writes."""
        mongo = self.stack.places.mongo
        if not isinstance(mongo, MongoSet):
            raise TypeError("one server is no replica set")
        name: str | None = None

        async def is_known() -> bool:
            nonlocal name
            name = await mongo.primary()
            return name is not None

        if not await poll(is_known, seconds=BACK_SECONDS, every=0.2) or name is None:
            raise NotBack("no member of MongoDB takes writes")
        return name

    async def leader(self) -> str:
        """The server that leads the stream of events."""
        name: str | None = None

        async def is_known() -> bool:
            nonlocal name
            name, _ = await self.standing()
            return name is not None

        if not await poll(is_known, seconds=BACK_SECONDS, every=0.2) or name is None:
            raise NotBack("nobody leads the stream of events")
        return name

    async def until_joined(self) -> None:
        """Wait until all members and copies are together again: what strikes next must not meet half a cluster."""
        mongo = self.stack.places.mongo

        async def are_together() -> bool:
            of_mongo = await mongo.are_joined() if isinstance(mongo, MongoSet) else await self.database_takes_writes()
            return of_mongo and (await self.standing())[1]

        if not await poll(are_together, seconds=BACK_SECONDS, every=0.5):
            raise NotBack("the members did not come together again")


Strike = Callable[[Scene], Awaitable[float]]
"""Strikes, and returns when what was struck was back (monotonic seconds)."""


@dataclass(frozen=True, slots=True)
class ServerCase:
    """`short`: part of the short selection."""

    id: str
    title: str
    strike: Strike
    servers: Servers = Servers.ANY
    short: bool = False


def _kill(*names: str) -> Strike:
    return lambda scene: scene.killed(*names)


def _pause(*names: str) -> Strike:
    return lambda scene: scene.paused(*names)


async def _step_down(scene: Scene) -> float:
    mongo = scene.stack.places.mongo
    if not isinstance(mongo, MongoSet):
        raise TypeError("one server cannot step down")
    before = await scene.primary()
    await mongo.step_down(before)

    async def has_changed() -> bool:
        return await mongo.primary() not in {None, before}

    if not await poll(has_changed, seconds=BACK_SECONDS, every=0.05):
        raise NotBack("no other member took the place of the primary")
    return time.monotonic()


async def _kill_primary(scene: Scene) -> float:
    """Dead until another member is primary: whoever waits for the dead one waits for ever."""
    before = await scene.primary()
    await scene.stack.parts[before].kill()
    await scene.primary()
    back = time.monotonic()
    if not await everybody_is_served(scene.load, back, times=1, seconds=SERVED_SECONDS):
        raise NotBack("not everybody is served with two members of three")
    await scene.started(before)
    return back


async def _pause_primary(scene: Scene) -> float:
    return await scene.paused(await scene.primary())


async def _kill_leader(scene: Scene) -> float:
    """Dead until the others serve everybody, and publish what happens."""
    before = await scene.leader()
    await scene.stack.parts[before].kill()
    await scene.leader()
    back = time.monotonic()
    if not await everybody_is_served(scene.load, back, times=1, seconds=SERVED_SECONDS):
        raise NotBack("not everybody is served with two servers of three")
    await scene.started(before)
    return back


async def _pause_leader(scene: Scene) -> float:
    return await scene.paused(await scene.leader())


async def _all_nats(scene: Scene) -> float:
    return await scene.killed(*scene.bus_ports)


async def _all_mongods(scene: Scene) -> float:
    return await scene.killed(*scene.mongods)


async def _everything(scene: Scene) -> float:
    return await scene.killed(*scene.bus_ports, *scene.mongods, *AUTHS, *AUTOMATIONS, *WORKERS, *GATEWAYS)


async def _pause_nats(scene: Scene) -> float:
    return await scene.paused(*scene.bus_ports)


async def _pause_mongods(scene: Scene) -> float:
    return await scene.paused(*scene.mongods)


async def _roll(scene: Scene, names: Iterable[str]) -> float:
    """Have servers go in order and come back, one after the other, as an upgrade does."""
    for name in names:
        await scene.stack.parts[name].end(END_SECONDS * 8)
        await scene.started(name)
        await scene.until_joined()
    return time.monotonic()


async def _roll_nats(scene: Scene) -> float:
    return await _roll(scene, list(scene.bus_ports))


async def _roll_mongods(scene: Scene) -> float:
    return await _roll(scene, scene.mongods)


async def _fill(scene: Scene) -> float:
    """Leave JetStream no room: everything but events goes on, and events wait until there is room again."""
    stack = scene.stack
    config = stack.places.nats.folder / "nats-server.conf"
    before = config.read_text()
    full = before.replace("jetstream: {", f"jetstream: {{ max_file_store: {FULL_BYTES},", 1)
    if full == before:
        raise NotBack("the configuration of nats-server has no place for the limit")
    try:
        config.write_text(full)
        await stack.parts["nats-server"].end()
        full_at = await scene.started("nats-server")
        if not await everybody_is_served(scene.load, full_at, times=2, seconds=SERVED_SECONDS):
            raise NotBack("not everybody is served while JetStream is full")
        if not await poll(lambda: _are_waiting(stack), seconds=SERVED_SECONDS, every=0.5):
            raise NotBack("the disk was not full: events were published")
    finally:
        config.write_text(before)
        await stack.parts["nats-server"].end()
    return await scene.started("nats-server")


def _clocks(skews: Mapping[str, int]) -> Strike:
    """Have services restart with clocks that are wrong by so many seconds, and then with the right ones."""

    async def strike(scene: Scene) -> float:
        ledger, parts = scene.load.ledger, scene.stack.parts
        right = {name: parts[name].command for name in skews}
        ledger.stricken = frozenset(scene.stack.gateway_ports[name] for name in skews if name in GATEWAYS)
        # a gateway that takes a new token for one from the future says so
        ledger.also_told = frozenset({"401 invalid_token", "401 token_expired"})
        try:
            for name, command in right.items():
                await parts[name].end()
                wrong = (sys.executable, "-m", "tests.faults.skewed", str(skews[name]), command.argv[-1])
                parts[name].command = replace(command, argv=wrong)
            wrong_at = await scene.started(*skews)
            if not await everybody_is_served(scene.load, wrong_at, times=3, seconds=SERVED_SECONDS):
                raise NotBack("not everybody is served by services whose clocks differ")
        finally:
            for name, command in right.items():
                await parts[name].end()
                parts[name].command = command
        back = await scene.started(*skews)
        ledger.also_told = frozenset()
        return back

    return strike


async def _are_waiting(stack: FaultStack) -> bool:
    stores = [store.value for store in (User.AUTH, User.SESSIONS, User.AUTOMATION)]
    waiting = [await stack.mongo[store]["outbox"].count_documents({"published_at": None}) for store in stores]
    return sum(waiting) >= WAITING


_OF_GATEWAYS: Final = {GATEWAYS[0]: SKEW_SECONDS, GATEWAYS[1]: -SKEW_SECONDS}
_OF_WORKERS: Final = {
    WORKERS[0]: SKEW_SECONDS,
    WORKERS[1]: -SKEW_SECONDS,
    AUTHS[0]: -SKEW_SECONDS,
    AUTOMATIONS[0]: SKEW_SECONDS,
}

SERVER_CASES: Final = (
    ServerCase("gateway.kill", "a gateway is killed and started again", _kill(GATEWAYS[0])),
    ServerCase("auth.kill", "auth, of which there is one, is killed and started again", _kill(*AUTHS), short=True),
    ServerCase("sessions.kill", "one of two session workers", _kill(WORKERS[0])),
    ServerCase("sessions.kill-all", "both session workers at once", _kill(*WORKERS)),
    ServerCase("automation.kill", "automation, of which there is one", _kill(*AUTOMATIONS)),
    ServerCase("nats.kill", "the only nats-server", _kill("nats-server"), servers=Servers.ONE),
    ServerCase("mongod.kill", "the only mongod", _kill("mongod"), servers=Servers.ONE),
    ServerCase("nats.pause", "the only nats-server stands still for 10 s", _pause("nats-server"), servers=Servers.ONE),
    ServerCase("mongod.pause", "the only mongod stands still for 10 s", _pause("mongod"), servers=Servers.ONE),
    ServerCase("nats.full", "JetStream has no room left, then has again", _fill, servers=Servers.ONE),
    ServerCase("clocks.gateways", "the gateways' clocks are 5 min early and late", _clocks(_OF_GATEWAYS)),
    ServerCase("clocks.workers", "those of the session workers, auth and automation", _clocks(_OF_WORKERS)),
    ServerCase("set.stepdown", "the primary of three steps down", _step_down, servers=Servers.THREE, short=True),
    ServerCase("set.kill-primary", "the primary of three is killed", _kill_primary, servers=Servers.THREE),
    ServerCase(
        "set.pause-primary", "the primary of three stands still for 10 s", _pause_primary, servers=Servers.THREE
    ),
    ServerCase("set.pause", "all members of MongoDB stand still for 10 s", _pause_mongods, servers=Servers.THREE),
    ServerCase("set.power", "all members of MongoDB are killed at once", _all_mongods, servers=Servers.THREE),
    ServerCase("set.roll", "each member of MongoDB is restarted in order", _roll_mongods, servers=Servers.THREE),
    ServerCase(
        "cluster.kill-leader", "who leads the events is killed", _kill_leader, servers=Servers.THREE, short=True
    ),
    ServerCase(
        "cluster.pause-leader", "who leads the events stands still for 10 s", _pause_leader, servers=Servers.THREE
    ),
    ServerCase(
        "cluster.pause", "all servers of NATS stand still for 10 s", _pause_nats, servers=Servers.THREE, short=True
    ),
    ServerCase("cluster.power", "all servers of NATS are killed at once", _all_nats, servers=Servers.THREE),
    ServerCase("cluster.roll", "each server of NATS is restarted in order", _roll_nats, servers=Servers.THREE),
    ServerCase("power", "everything but the router is killed at once", _everything, servers=Servers.THREE),
)
CASE_BY_ID: Final = {case.id: case for case in SERVER_CASES}


def selected(select: str, ids: Sequence[str]) -> list[ServerCase]:
    """The cases that were asked for. Raises `ValueError` for one that does not exist."""
    if unknown := set(ids) - CASE_BY_ID.keys():
        raise ValueError(f"no case is called {', '.join(sorted(unknown))}; there are {', '.join(CASE_BY_ID)}")
    if ids:
        return [CASE_BY_ID[identifier] for identifier in ids]
    return [case for case in SERVER_CASES if case.short or select == "full"]


def on_stacks(cases: Sequence[ServerCase]) -> dict[Servers, list[ServerCase]]:
    """The cases by the stack they are run on; those that any stack serves do not have another one started."""
    either = Servers.ONE if any(case.servers is Servers.ONE for case in cases) else Servers.THREE
    if all(case.servers is Servers.ANY for case in cases):
        either = Servers.ONE
    chosen: dict[Servers, list[ServerCase]] = {Servers.ONE: [], Servers.THREE: []}
    for case in cases:
        chosen[either if case.servers is Servers.ANY else case.servers].append(case)
    return {servers: mine for servers, mine in chosen.items() if mine}
