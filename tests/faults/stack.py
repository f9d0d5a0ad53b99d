"""The stack a sweep strikes: every part a real process that can be killed, paused, cut off and started again, alone.

Two session workers, so that one can take over from the other. Times are short, so that a case takes seconds.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx2
import nats
from morpheus_common.bus.names import ACCOUNT, INBOX, User
from morpheus_common.bus.rpc import RpcClient
from morpheus_devstack.apply import ApplySettings, apply
from morpheus_devstack.env import OBSERVER, Places, Router
from morpheus_devstack.ports import LOOPBACK, free_ports
from morpheus_devstack.processes import Command, spawn
from morpheus_devstack.secrets import StackSecrets
from morpheus_devstack.servers import MongoServer, NatsServer
from morpheus_devstack.waiting import poll
from nats.aio.client import Client
from nats.errors import Error as NatsError
from pydantic import SecretStr
from pymongo import AsyncMongoClient

from tests.faults.chain import Chain
from tests.faults.clusters import MEMBERS, MongoSet, NatsCluster
from tests.faults.controller import Controller
from tests.faults.wires import BusWire, MongoWire
from tests.openapi import CheckedClient

START_SECONDS = 60.0
END_SECONDS = 5.0
ROUTER_USER = "admin"
BLOCK_SECONDS = 0.03
LEASE_SECONDS = 2.0
CHAIN_TIMEOUT = 1.5
ABANDON_AFTER = 2.5
RELAY_SILENCE = 3.0
TRANSACTION_SECONDS = 4
"""What a killed process had locked in a transaction stays locked for so long: mongod does not notice its death."""
START_MOR = 1_000_000
GATEWAY = "gateway-1"
GATEWAYS = (GATEWAY, "gateway-2")
WORKERS = ("sessions-1", "sessions-2")
AUTHS = ("auth-1",)
AUTOMATIONS = ("automation-1",)
SIMULATOR = "simulator"

SHORT_TIMES = {
    "LEASE_SECONDS": LEASE_SECONDS,
    "RECONCILE_SECONDS": 0.5,
    "ABANDON_AFTER": ABANDON_AFTER,
    "CHAIN_TIMEOUT": CHAIN_TIMEOUT,
    "HANDSHAKE_TIMEOUT": 1.5,
    "ROUTER_READ_TIMEOUT": 2.0,
    "ABSENCE_SPACING": 0.3,
    "RETRY_SECONDS": 0.4,
    "MAX_RETRY_SECONDS": 1.0,
    "STUCK_SECONDS": 1.5,
    "KEY_CHECK_SECONDS": 2.0,
    "QUARANTINE": 2.0,
    "OWN_CLOSE_AFTER": 2.0,
    "MONGO_TIMEOUT_MS": 2_000,
    "OPEN_WAIT": 15.0,
    "CLOSE_WAIT": 10.0,
    "JSON_OPEN_WAIT": 15.0,
    "RELAY_SILENCE": RELAY_SILENCE,
    "DRAIN_SECONDS": 2.0,
    "OPENS_PER_MINUTE": 100_000,
    "OPENS_PER_DAY": 100_000,
    # an open raises the allowance by itself: two transactions to strike at
    "ALLOWANCE_STAKES": 0,
    # amounts: shares would follow the wallet, which some cases empty
    "STAKE_LIMIT_PER_USER": 10**30,
    "STAKE_LIMIT_IN_ALL": 10**30,
    "ARGON2_PASSES": 1,
    "ARGON2_MEMORY_KIB": 32,
    "ARGON2_LANES": 1,
}
"""Settings of the services, by their environment variables; the rest is as in production."""


class Part:
    """One process of the stack."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self._process: asyncio.subprocess.Process | None = None
        self.starts = 0
        self.is_paused = False

    @property
    def name(self) -> str:
        return self.command.name

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it, unless it runs."""
        if not self.runs:
            self._process = await spawn(self.command)
            self.starts += 1

    async def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None and self.runs:
            self._process.kill()
            await self._process.wait()

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)
        self.is_paused = True

    def resume(self) -> None:
        self.is_paused = False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)

    async def end(self, seconds: float = END_SECONDS) -> int | None:
        """Ask it to go, and see to it that it does; return its exit code."""
        if self._process is None or not self.runs:
            return None
        self.resume()
        self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), seconds)
        except TimeoutError:
            await self.kill()
        return self._process.returncode


@dataclass(frozen=True, slots=True)
class Plan:
    """How a stack differs from the one that is swept. `settings`: over the short times. `struck`: steps are told to the
    controller, and bus and database are reached through wires that can be cut. `clustered`: three members of MongoDB, and
    three servers of NATS; not with `struck`, since a wire leads to one server.
    """

    gateways: Sequence[str] = (GATEWAY,)
    workers: Sequence[str] = WORKERS
    auths: Sequence[str] = AUTHS
    automations: Sequence[str] = AUTOMATIONS
    settings: Mapping[str, object] = field(default_factory=dict)
    answer_seconds: float = 0.05
    struck: bool = True
    clustered: bool = False


SWEPT: Final = Plan()
"""The stack that `make faults` sweeps."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Who holds a lease. `token` grows with each new holder."""

    worker: str
    token: int


class FaultStack:
    """All parts of one stack, and the places where faults strike them."""

    def __init__(self, folder: Path, *, seed: int, plan: Plan) -> None:
        self.folder = folder
        self.plan = plan
        (folder / "logs").mkdir(parents=True)
        self.controller = Controller(folder / "probe")
        self.parts: dict[str, Part] = {}
        self.bus_wires: dict[str, BusWire] = {}
        self.mongo_wires: dict[str, MongoWire] = {}
        simulator_port, nats_port, mongo_port, *gateway_ports = free_ports(3 + len(plan.gateways))
        self.gateway_ports = dict(zip(plan.gateways, gateway_ports, strict=True))
        secrets = StackSecrets.load(folder)
        logs, root_password = folder / "logs", secrets.mongo_passwords["root"]
        mongo = MongoServer(folder / "mongo", mongo_port, logs / "mongod.log", root_password)
        bus = NatsServer(folder / "nats", nats_port, logs / "nats-server.log")
        if plan.clustered:
            mongo = MongoSet.make(folder / "mongo", logs, root_password)
            bus = NatsCluster.make(folder / "nats", logs, secrets.observer_password)
        self.places = Places(
            gateway_port=self.gateway_ports[GATEWAY],
            nats=bus,
            mongo=mongo,
            router=Router(f"http://{LOOPBACK}:{simulator_port}", ROUTER_USER, secrets.router_password),
            secrets=secrets,
        )
        self.seed = seed
        self.chain = Chain(self.places.router.url, ROUTER_USER, secrets.router_password)
        self.http = CheckedClient(base_url=self.places.base_url + "/", timeout=20.0)
        self._mongo: AsyncMongoClient[dict[str, Any]] | None = None
        self._bus: Client | None = None

    @property
    def automation(self) -> RpcClient:
        """Asks as automation does, past all wires."""
        assert self._bus is not None
        return RpcClient(self._bus)

    @property
    def mongo(self) -> AsyncMongoClient[dict[str, Any]]:
        """Reads every database, past all wires."""
        assert self._mongo is not None
        return self._mongo

    async def start(self) -> None:
        """Start everything; return when a session could be opened. Raises `RuntimeError` when it does not come up."""
        places, secrets = self.places, self.places.secrets
        await self.controller.start()
        for command in (*self._mongods(), *self._nats_servers(), self._simulator()):
            await self._add(command)
        await self._require(places.mongo.until_ready(), "mongod")
        await self._require(places.nats.until_ready(), "nats-server")
        await places.mongo.make_users(secrets.mongo_passwords)
        self._mongo = places.mongo.client("root", secrets.mongo_passwords["root"])
        await self._mongo.admin.command("setParameter", 1, transactionLifetimeLimitSeconds=TRANSACTION_SECONDS)
        await self._require(poll(self._bus_is_joined, seconds=START_SECONDS, every=0.2), "the bus's cluster")
        await apply(
            ApplySettings(
                nats_url=places.nats.url,
                nats_seed=SecretStr(secrets.nats_seeds[User.OPS]),
                mongo_url=SecretStr(places.mongo_url(User.OPS)),
                replicas=MEMBERS if self.plan.clustered else 1,
            )
        )
        await self._require(self.chain.until_up(seconds=START_SECONDS), SIMULATOR)
        for service, name in (
            *((User.AUTH, auth) for auth in self.plan.auths),
            *((User.AUTOMATION, automation) for automation in self.plan.automations),
            *((User.SESSIONS, worker) for worker in self.plan.workers),
            *((User.GATEWAY, gateway) for gateway in self.plan.gateways),
        ):
            await self._add(await self._service(service, name))
        for gateway in self.plan.gateways:
            await self._require(self.until_ready(gateway, seconds=START_SECONDS), gateway)
        user = User.AUTOMATION
        self._bus = await nats.connect(
            places.nats.url.split(","), nkeys_seed_str=secrets.nats_seeds[user], inbox_prefix=INBOX[user]
        )

    async def stop(self) -> None:
        if self._bus is not None:
            await self._bus.close()
        for part in reversed(self.parts.values()):
            await part.end()
        await self.controller.stop()
        for wire in (*self.bus_wires.values(), *self.mongo_wires.values()):
            await wire.stop()
        await self.chain.aclose()
        await self.http.aclose()
        if self._mongo is not None:
            await self._mongo.close()

    async def _add(self, command: Command) -> None:
        part = Part(command)
        self.parts[command.name] = part
        await part.start()

    async def _require(self, ready: Any, what: str) -> None:
        if not await ready:
            raise RuntimeError(f"{what} did not come up; its log is in {self.folder / 'logs'}")

    def _mongods(self) -> list[Command]:
        mongo, member_key = self.places.mongo, self.places.secrets.mongo_key
        if isinstance(mongo, MongoSet):
            return mongo.commands(member_key=member_key)
        return [mongo.configure(member_key=member_key)]

    def _nats_servers(self) -> list[Command]:
        bus, secrets = self.places.nats, self.places.secrets
        keys, observer = {ACCOUNT: secrets.nats_public_keys}, (OBSERVER, secrets.observer_password)
        if isinstance(bus, NatsCluster):
            return bus.commands(keys, observer)
        return [bus.configure(keys, observer=observer)]

    async def _bus_is_joined(self) -> bool:
        """Whether streams can be made: a cluster takes seconds to choose who leads it."""
        try:
            bus = await nats.connect(
                self.places.nats.url.split(","),
                nkeys_seed_str=self.places.secrets.nats_seeds[User.OPS],
                inbox_prefix=INBOX[User.OPS],
                allow_reconnect=False,
            )
        except (NatsError, OSError):
            return False
        try:
            await bus.jetstream(timeout=1.0).account_info()
        except NatsError:
            return False
        finally:
            await bus.close()
        return True

    def _simulator(self) -> Command:
        port = self.places.router.url.rpartition(":")[2]
        argv = [sys.executable, "-m", "proxy_router_sim", "--port", port, "--user", ROUTER_USER]
        argv += [
            "--block-time",
            str(BLOCK_SECONDS),
            "--answer-time",
            str(self.plan.answer_seconds),
            "--seed",
            str(self.seed),
        ]
        argv += ["--mor", str(START_MOR), "--state", str(self.folder / "simulator.json")]
        env = {**os.environ, "PROXY_ROUTER_PASSWORD": self.places.router.password}
        return Command(SIMULATOR, argv, self.folder / "logs" / "simulator.log", env)

    async def _service(self, service: User, name: str) -> Command:
        settings = {"LOG_LEVEL": "INFO", **SHORT_TIMES, **self.plan.settings}
        env = self.places.of_service(service) | {key: str(value) for key, value in settings.items()}
        env["WORKER_ID"] = name
        if service is User.GATEWAY:
            env["PORT"] = str(self.gateway_ports[name])
        if self.plan.struck:
            env |= await self._wires(name, env)
        argv = (sys.executable, "-m", f"morpheus_{service}")
        return Command(name, argv, self.folder / "logs" / f"{name}.log", env)

    async def _wires(self, name: str, env: Mapping[str, str]) -> dict[str, str]:
        """What tells a process to report its steps, and to reach its servers through wires."""
        bus = self.bus_wires[name] = BusWire(self.places.nats.port)
        await bus.start()
        between = {"STEP_PROBE": str(self.controller.path), "NATS_URL": f"nats://{LOOPBACK}:{bus.port}"}
        if "MONGO_URL" in env:
            mongo = self.mongo_wires[name] = MongoWire(self.places.mongo.port)
            await mongo.start()
            between["MONGO_URL"] = env["MONGO_URL"].replace(self.places.mongo.address, f"{LOOPBACK}:{mongo.port}")
        return between

    # looking

    async def until_ready(self, gateway: str = GATEWAY, *, seconds: float) -> bool:
        """Wait until a gateway takes traffic and has heard from every service."""
        url = f"http://{LOOPBACK}:{self.gateway_ports[gateway]}"

        async def is_ready() -> bool:
            try:
                ready = await self.http.get(url + "/ready", timeout=2)
                health = await self.http.get(url + "/health", timeout=2)
            except httpx2.HTTPError:
                return False
            components: Mapping[str, Any] = health.json().get("components", {})
            return ready.status_code == 200 and all(item["status"] == "healthy" for item in components.values())

        return await poll(is_ready, seconds=seconds, every=0.05)

    async def wallet_lease(self) -> Lease | None:
        """Who carries out the wallet's operations; None if nobody's lease runs."""
        document = await self.mongo["sessions"]["leases"].find_one(
            {"_id": {"$regex": "^wallet:"}, "$expr": {"$gt": ["$until", "$$NOW"]}}
        )
        if document is None or document["worker"] is None:
            return None
        return Lease(document["worker"], document["token"])

    def part_of(self, pid: int) -> Part | None:
        """The part that runs as a process."""
        return next((part for part in self.parts.values() if part.runs and part.pid == pid), None)

    async def revive(self) -> None:
        """Start what is dead, go on with what is paused, mend what is cut."""
        for part in self.parts.values():
            if part.runs:
                part.resume()
            else:
                await part.start()
        for wire in self.bus_wires.values():
            wire.mend()
            wire.lose_messages(0)
        for mongo_wire in self.mongo_wires.values():
            mongo_wire.lose_answers(0)


@asynccontextmanager
async def fault_stack(folder: Path, *, seed: int, plan: Plan = SWEPT) -> AsyncIterator[FaultStack]:
    """Run a stack while the block runs."""
    stack = FaultStack(folder, seed=seed, plan=plan)
    try:
        await stack.start()
        yield stack
    finally:
        await stack.stop()
