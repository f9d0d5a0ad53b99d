"""The stack: what is started in which order, and ended in which."""

import asyncio
import hashlib
import importlib
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import httpx2
from morpheus_common.bus.names import ACCOUNT, User
from pydantic import SecretStr

from morpheus_devstack.env import DRAIN_SECONDS, OBSERVER, SERVICES, Places, Router
from morpheus_devstack.errors import StackError
from morpheus_devstack.folder import StackFolder
from morpheus_devstack.mongo_setup import STORES
from morpheus_devstack.ports import LOOPBACK, accepts_connections, free_ports, remembered_or_free, require_free
from morpheus_devstack.processes import Command, Say, Supervised
from morpheus_devstack.secrets import StackSecrets
from morpheus_devstack.servers import MongoServer, NatsServer
from morpheus_devstack.waiting import poll

READY_SECONDS = 60.0
"""The whole stack is ready after a few seconds; a cold disk and a busy machine get their time."""
ROUTER_USER = "admin"
BLOCK_SECONDS = 0.5
"""The simulated chain's time between blocks. Base has 2 s; at home nobody wants to wait four for the first answer."""
SIMULATOR = "simulator"
MOST_ROUTERS = 16
DRAIN_ORDER = (
    ("gateway",),
    ("auth", "sessions", "automation"),
    (SIMULATOR, *(f"{SIMULATOR}-{number}" for number in range(2, MOST_ROUTERS + 1))),
    ("nats-server", "mongod"),
)
"""Who asks goes before who is asked."""


@dataclass(frozen=True)
class Options:
    """How a stack is wanted. A port of 0 takes free ports for everything. `routers`: how many are simulated, with a wallet
    each, on ports from `simulator_port` on.
    """

    folder: StackFolder
    port: int = 8000
    simulator_port: int = 8082
    fresh: bool = False
    router_url: str | None = None
    llm_url: str | None = None
    supervise: bool = True
    routers: int = 1


class Stack:
    """All processes of a stack, and where they are."""

    def __init__(self, options: Options, places: Places, say: Say) -> None:
        self.options = options
        self.places = places
        self.gave_up: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._say = say
        self._folder = options.folder
        self._processes: dict[str, Supervised] = {}

    async def start(self) -> None:
        """Start everything and wait until a request can be served.

        Raises:
            StackError: a process died or did not become ready in time.
        """
        secrets, places = self.places.secrets, self.places
        self._folder.write_env(places.of_stack())
        mongod = places.mongo.configure(member_key=secrets.mongo_key)
        nats_server = places.nats.configure(
            {ACCOUNT: secrets.nats_public_keys}, observer=(OBSERVER, secrets.observer_password)
        )
        for command in (mongod, nats_server, *self._simulator()):
            await self._start(command)
        # it takes as long to import as mongod takes to start
        apply_module = asyncio.create_task(asyncio.to_thread(importlib.import_module, "morpheus_devstack.apply"))
        await self._until("mongod", places.mongo.until_ready)
        await self._until("nats-server", places.nats.until_ready)
        await places.mongo.make_users(secrets.mongo_passwords)
        await apply_module
        await self.apply()
        self._say("streams and indexes are as they should be")
        for command, router in zip(self._simulator(), self._routers, strict=False):
            await self._until(command.name, partial(_listens, router))
        for service in User:
            if service in SERVICES:
                await self._start(self._service(service))
        self._say("starting auth, sessions, automation and gateway")
        await self._until("gateway", self._gateway_is_ready)
        for process in self._processes.values():
            process.watch(self.gave_up)

    async def apply(self) -> None:
        """Make streams, durable consumers, collections and indexes."""
        from morpheus_devstack.apply import ApplySettings, apply

        places = self.places
        settings = ApplySettings(
            nats_url=places.nats.url,
            nats_seed=SecretStr(places.secrets.nats_seeds[User.OPS]),
            mongo_url=SecretStr(places.mongo_url(User.OPS)),
            replicas=1,
        )
        await apply(settings)

    def start_dead_ones(self) -> None:
        """Start every process that is down, at once."""
        for process in self._processes.values():
            process.start_now()

    def kill(self) -> None:
        """End everything at once."""
        for process in self._processes.values():
            process.kill()

    async def stop(self) -> None:
        """End everything in order: who asks before who is asked, each within its grace."""
        for names in DRAIN_ORDER:
            await asyncio.gather(*(self._processes[name].stop() for name in names if name in self._processes))

    async def _start(self, command: Command) -> None:
        process = Supervised(command, say=self._say, on_change=self._write_pids, restarts=self.options.supervise)
        self._processes[command.name] = process
        await process.start()

    def _write_pids(self) -> None:
        pids = {name: process.pid for name, process in self._processes.items()}
        self._folder.write_pids({name: pid for name, pid in pids.items() if pid is not None})

    async def _until(self, name: str, is_ready: Callable[[], Awaitable[bool]]) -> None:
        """Wait until a part is ready, and for the death of any part, whichever comes first."""
        started = time.monotonic()
        ready = asyncio.ensure_future(is_ready())
        deaths = [asyncio.create_task(process.until_death()) for process in self._processes.values()]
        try:
            done, _ = await asyncio.wait([ready, *deaths], return_when=asyncio.FIRST_COMPLETED)
            for death in deaths:
                if death in done:
                    raise StackError(death.result())
            if not ready.result():
                raise StackError(f"{name} was not ready in time; its log is {self._processes[name].command.log}.")
            self._say(f"{name} is ready ({time.monotonic() - started:.1f} s)")
        finally:
            for task in (ready, *deaths):
                task.cancel()
            await asyncio.gather(ready, *deaths, return_exceptions=True)

    def _simulator(self) -> list[Command]:
        if self.options.router_url is not None:
            return []
        return [self._simulate(number, router) for number, router in enumerate(self._routers, 1)]

    @property
    def _routers(self) -> tuple[Router, ...]:
        return (self.places.router, *self.places.more_routers)

    def _simulate(self, number: int, router: Router) -> Command:
        name = SIMULATOR if number == 1 else f"{SIMULATOR}-{number}"
        argv = [sys.executable, "-m", "proxy_router_sim", "--port", str(_port(router)), "--user", ROUTER_USER]
        argv += ["--block-time", str(BLOCK_SECONDS), "--state", str(self._folder.path / f"{name}.json")]
        # one marketplace, a wallet each
        argv += ["--wallet-seed", str(number)]
        if self.options.llm_url is not None:
            argv += ["--llm", self.options.llm_url]
        env = {**os.environ, "PROXY_ROUTER_PASSWORD": router.password}
        return Command(name, argv, self._folder.log(name), env)

    def _service(self, service: User) -> Command:
        argv = (sys.executable, "-m", f"morpheus_{service}")
        grace = DRAIN_SECONDS + 5.0
        return Command(service, argv, self._folder.log(service), self.places.of_service(service), grace)

    async def _gateway_is_ready(self) -> bool:
        """Wait until the gateway takes traffic and has heard from every service.

        It is ready without automation, which warm sessions do not need; the demonstration does.
        """
        async with httpx2.AsyncClient(base_url=self.places.gateway_url, timeout=2) as http:

            async def answers() -> bool:
                try:
                    if (await http.get("/ready")).status_code != httpx2.codes.OK:
                        return False
                    components = (await http.get("/health")).json()["components"]
                except httpx2.HTTPError:
                    return False
                return all(components[service]["status"] == "healthy" for service in STORES)

            return await poll(answers, seconds=READY_SECONDS, every=0.05)


def _port(router: Router) -> int:
    return int(router.url.rpartition(":")[2])


async def _listens(router: Router) -> bool:
    return await poll(lambda: accepts_connections(_port(router)), seconds=READY_SECONDS)


def _places(options: Options) -> Places:
    """Decide where everything goes. Raises `StackError` when a port that was asked for is taken."""
    folder = options.folder
    secrets = StackSecrets.load(folder.path)
    before = folder.env()
    nats_port = remembered_or_free(int(before.get("NATS_PORT", 0)))
    mongo_port = remembered_or_free(int(before.get("MONGO_PORT", 0)))
    if options.port == 0:
        gateway_port, *simulator_ports = free_ports(1 + options.routers)
    else:
        gateway_port = options.port
        simulator_ports = [options.simulator_port + number for number in range(options.routers)]
        require_free(gateway_port, whose="gateway", way_out="--port chooses another one, 0 any free one")
    if options.router_url is not None:
        routers = [_real_router(options.router_url)]
    else:
        if options.port != 0:
            way_out = "--simulator-port chooses another one, --port 0 any free one for everything"
            for port in simulator_ports:
                require_free(port, whose="simulated router", way_out=way_out)
        routers = [
            Router(f"http://{LOOPBACK}:{port}", ROUTER_USER, secrets.router_password, _router_name(number))
            for number, port in enumerate(simulator_ports, 1)
        ]
    return Places(
        gateway_port=gateway_port,
        nats=NatsServer(folder.path / "nats", nats_port, folder.log("nats-server")),
        mongo=MongoServer(folder.path / "mongo", mongo_port, folder.log("mongod"), secrets.mongo_passwords["root"]),
        router=routers[0],
        secrets=secrets,
        metrics_ports=dict(zip(SERVICES, free_ports(len(SERVICES)), strict=True)),
        more_routers=tuple(routers[1:]),
    )


def _router_name(number: int) -> str:
    return "router" if number == 1 else f"router-{number}"


def _real_router(url: str) -> Router:
    # a name stands for a wallet for ever, and behind another address is another wallet
    name = f"router-{hashlib.sha256(url.rstrip('/').encode()).hexdigest()[:8]}"
    try:
        return Router(url.rstrip("/"), os.environ["PROXY_ROUTER_USER"], os.environ["PROXY_ROUTER_PASSWORD"], name)
    except KeyError as error:
        raise StackError(
            "A real proxy-router asks for credentials: set PROXY_ROUTER_USER and PROXY_ROUTER_PASSWORD."
        ) from error


async def run(options: Options, say: Say, when_ready: Callable[[Stack], Awaitable[None]]) -> None:
    """Start a stack, call `when_ready`, and run until SIGINT, SIGTERM or SIGHUP; then end it in order. A second signal ends
    it at once.

    Raises:
        StackError: it could not be started, `when_ready` raised it, or a process died again and again.
    """
    started = time.monotonic()
    with options.folder.held(fresh=options.fresh):
        stack = Stack(options, _places(options), say)

        async def live() -> None:
            await stack.start()
            say(f"Ready after {time.monotonic() - started:.1f} s; logs are in {options.folder.path / 'logs'}.")
            await when_ready(stack)
            raise StackError(await stack.gave_up)

        living = asyncio.create_task(live())
        with _signals(lambda: stack.kill() if living.done() else living.cancel(), stack.start_dead_ones):
            try:
                await living
            except asyncio.CancelledError:
                say("Ending: what is under way is finished first; a second Ctrl-C does not wait for it.")
            finally:
                await stack.stop()


@contextmanager
def _signals(leave: Callable[[], object], start_dead_ones: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    handlers = {signal.SIGINT: leave, signal.SIGTERM: leave, signal.SIGHUP: leave, signal.SIGUSR1: start_dead_ones}
    for signum, handler in handlers.items():
        loop.add_signal_handler(signum, handler)
    try:
        yield
    finally:
        for signum in handlers:
            loop.remove_signal_handler(signum)
