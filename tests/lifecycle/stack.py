"""A stack whose parts come and go one by one, each a real process; a service may be that of another version."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
from morpheus_common.bus.names import ACCOUNT, User
from morpheus_devstack.apply import ApplySettings, apply
from morpheus_devstack.env import OBSERVER, Places, Router
from morpheus_devstack.ports import LOOPBACK, free_ports
from morpheus_devstack.processes import Command
from morpheus_devstack.secrets import StackSecrets
from morpheus_devstack.servers import MongoServer, NatsServer
from morpheus_devstack.stack import ROUTER_USER, SIMULATOR
from morpheus_devstack.waiting import poll
from pydantic import SecretStr

from tests.faults.stack import Part

UP_SECONDS = 60.0
GRACE_SECONDS = 30.0
QUICK = {
    # prompts of the tests, not of people; and passwords that cost nothing
    "OPENS_PER_MINUTE": "10000",
    "OPENS_PER_DAY": "10000",
    "ARGON2_PASSES": "1",
    "ARGON2_MEMORY_KIB": "32",
    "ARGON2_LANES": "1",
    "DRAIN_SECONDS": "5",
}


class PartStack:
    """Nothing of it runs at first. A service is started under a name of its own, which is its `WORKER_ID`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "logs").mkdir(parents=True)
        gateway_port, router_port, nats_port, mongo_port = free_ports(4)
        secrets = StackSecrets.load(folder)
        self.places = Places(
            gateway_port=gateway_port,
            nats=NatsServer(folder / "nats", nats_port, self.log("nats-server")),
            mongo=MongoServer(folder / "mongo", mongo_port, self.log("mongod"), secrets.mongo_passwords["root"]),
            router=Router(f"http://{LOOPBACK}:{router_port}", ROUTER_USER, secrets.router_password),
            secrets=secrets,
        )
        self.parts: dict[str, Part] = {}
        self.private_ports: dict[str, int] = {}
        self.ports: dict[str, int] = {}
        self.http = httpx2.AsyncClient(timeout=5)

    def log(self, name: str) -> Path:
        """Where a part logs to."""
        return self.folder / "logs" / f"{name}.log"

    # starting

    async def start_mongo(self) -> None:
        places = self.places
        await self._add(places.mongo.configure(member_key=places.secrets.mongo_key))
        await self._require(await places.mongo.until_ready(), "mongod")
        await places.mongo.make_users(places.secrets.mongo_passwords)

    async def start_nats(self) -> None:
        places = self.places
        observer = (OBSERVER, places.secrets.observer_password)
        await self._add(places.nats.configure({ACCOUNT: places.secrets.nats_public_keys}, observer=observer))
        await self._require(await places.nats.until_ready(), "nats-server")

    async def start_router(self) -> None:
        router = self.places.router
        argv = [sys.executable, "-m", "proxy_router_sim", "--port", router.url.rpartition(":")[2]]
        argv += ["--user", ROUTER_USER, "--block-time", "0.1", "--state", str(self.folder / "simulator.json")]
        env = {**os.environ, "PROXY_ROUTER_PASSWORD": router.password}
        await self._add(Command(SIMULATOR, argv, self.log(SIMULATOR), env))

    async def apply(self) -> list[str]:
        """Do what `morpheus apply` does."""
        places = self.places
        settings = ApplySettings(
            nats_url=places.nats.url,
            nats_seed=SecretStr(places.secrets.nats_seeds[User.OPS]),
            mongo_url=SecretStr(places.mongo_url(User.OPS)),
        )
        return await apply(settings)

    async def start_service(self, service: User, name: str, **settings: str) -> None:
        """Start a process of a service. `settings` are environment variables over what it has anyway."""
        (self.private_ports[name],) = free_ports(1)
        env = {**self.places.of_service(service), **QUICK, "WORKER_ID": name}
        env["METRICS_PORT"] = str(self.private_ports[name])
        if service is User.GATEWAY:
            (self.ports[name],) = free_ports(1)
            env["PORT"] = str(self.ports[name])
        argv = (sys.executable, "-m", f"morpheus_{service}")
        await self._add(Command(name, argv, self.log(name), env | settings, GRACE_SECONDS))

    async def _add(self, command: Command) -> None:
        part = self.parts[command.name] = Part(command)
        await part.start()

    async def _require(self, ready: bool, what: str) -> None:
        if not ready:
            raise RuntimeError(f"{what} did not come up; its log is {self.log(what)}")

    # ending

    async def end(self, *names: str) -> None:
        """End parts in order, at once; each has to end by itself."""
        codes = await asyncio.gather(*(self.parts.pop(name).end(GRACE_SECONDS) for name in names))
        failed = {name: code for name, code in zip(names, codes, strict=True) if code}
        if failed:
            raise RuntimeError(f"ended badly: {failed}; logs are in {self.folder / 'logs'}")

    async def stop(self) -> None:
        await self.http.aclose()
        for part in reversed(self.parts.values()):
            await part.end(GRACE_SECONDS)

    # looking

    async def private(self, name: str, path: str) -> tuple[int, Mapping[str, Any]]:
        """Ask a process on its private port; status 0 while it does not listen."""
        try:
            answer = await self.http.get(f"http://{LOOPBACK}:{self.private_ports[name]}{path}")
        except httpx2.TransportError:
            return 0, {}
        return answer.status_code, answer.json()

    async def until_serving(self, gateway: str) -> None:
        """Wait until a gateway takes traffic and has heard from every service."""
        url = f"http://{LOOPBACK}:{self.ports[gateway]}"

        async def serves() -> bool:
            try:
                ready = await self.http.get(url + "/ready")
                health = await self.http.get(url + "/health")
            except httpx2.TransportError:
                return False
            components = health.json()["components"].values()
            return ready.status_code == 200 and all(item["status"] == "healthy" for item in components)

        await self._require(await poll(serves, seconds=UP_SECONDS, every=0.1), gateway)

    def base_url(self, gateway: str) -> str:
        """What an OpenAI client is given."""
        return f"http://{LOOPBACK}:{self.ports[gateway]}/api/v1"


@asynccontextmanager
async def part_stack(folder: Path) -> AsyncIterator[PartStack]:
    """Have a stack of which nothing runs yet; what runs at the end is ended."""
    stack = PartStack(folder)
    try:
        yield stack
    finally:
        await stack.stop()
