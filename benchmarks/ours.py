"""Our own stack, as `morpheus up` starts it, with a simulated router behind the light upstream; its keys and sessions."""

import asyncio
import json
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from morpheus_auth.settings import AuthSettings
from morpheus_common.settings import CommonSettings
from morpheus_devstack.folder import StackFolder
from morpheus_devstack.secrets import StackSecrets
from morpheus_gateway.settings import GatewaySettings
from morpheus_sessions.settings import SessionsSettings

from benchmarks.programs import first_line, running
from benchmarks.targets import Target

PATH = "/api/v1/chat/completions"
PASSWORD = secrets.token_urlsafe(16)
"""Of the simulated router."""
BLOCK_SECONDS = 0.02
"""Sessions are opened for hundreds of keys before anything is measured; the bar on opening has blocks of its own."""
OPENS_AT_ONCE = 48
HIGH = 1_000_000
"""What each limit on a rate is set to. It is on and counts every request, and is never reached."""
MUCH_WEI = str(10**32)


def raised_limits() -> dict[str, str]:
    """Return settings with which no limit is reached, and every limit is on."""
    kinds: tuple[type[CommonSettings], ...] = (GatewaySettings, AuthSettings, SessionsSettings)
    rates = [
        name for kind in kinds for name in kind.model_fields if name.endswith(("_per_minute", "_per_hour", "_per_day"))
    ]
    raised = {name.upper(): str(HIGH) for name in [*rates, "max_active_keys"]}
    return raised | {"STAKE_LIMIT_PER_USER": MUCH_WEI, "STAKE_LIMIT_IN_ALL": MUCH_WEI}


@contextmanager
def simulator(folder: Path, *arguments: str) -> Iterator[str]:
    """Run a simulated proxy-router; yield its address."""
    argv = [sys.executable, "-m", "proxy_router_sim", "--port", "0", "--answer-time", "0", *arguments]
    with running("simulator", argv, folder, env={"PROXY_ROUTER_PASSWORD": PASSWORD}, is_read=True) as (process, log):
        yield str(json.loads(first_line("simulator", process, log))["url"])


@contextmanager
def upstream(folder: Path) -> Iterator[str]:
    """Run a simulator and the light upstream before it; yield the upstream's address."""
    with simulator(folder, "--block-time", str(BLOCK_SECONDS), "--mor", str(10**10)) as behind:
        argv = [sys.executable, "-m", "benchmarks.upstream", "--simulator", behind]
        with running("upstream", argv, folder, is_read=True) as (process, log):
            yield str(json.loads(first_line("upstream", process, log))["url"])


@dataclass
class Ours:
    """Our stack while it runs. `callers`: the headers of keys that have a session each."""

    morpheus: Path
    folder: StackFolder
    base_url: str
    nats_url: str
    started_in: float
    """Seconds until the first answer was shown."""
    callers: list[dict[str, str]] = field(default_factory=list)
    _account: dict[str, str] = field(default_factory=dict)
    _model: dict[str, Any] = field(default_factory=dict)

    @property
    def gateway_url(self) -> str:
        """The gateway's address, without a path."""
        return self.base_url.removesuffix("/api/v1")

    def pids(self) -> dict[str, int]:
        """Return all processes of ours by name: gateway, auth, sessions, automation, nats-server, mongod."""
        return self.folder.pids()

    def target(self, callers: int) -> Target:
        """Return the gateway as so many keys ask it."""
        if callers > len(self.callers):
            raise ValueError(f"{callers} keys were asked for and {len(self.callers)} have a session")
        model = str(self._model["id"])
        return Target("ours", self.gateway_url, PATH, model, tuple(self.callers[:callers]), self.pids())

    async def open_sessions(self, wanted: int) -> float:
        """Make keys with a session each until there are `wanted`; return the seconds that opening took."""
        limits = httpx2.Limits(max_connections=OPENS_AT_ONCE)
        async with httpx2.AsyncClient(
            base_url=self.base_url + "/", timeout=120, limits=limits, trust_env=False
        ) as http:
            if not self._account:
                await self._join(http)
            gate = asyncio.Semaphore(OPENS_AT_ONCE)

            async def make_key() -> dict[str, str]:
                async with gate:
                    made = _checked(await http.post("auth/keys", json={"name": "bench"}, headers=self._account))
                return {"Authorization": f"Bearer {made['key']}"}

            async def open_one(by_key: dict[str, str]) -> None:
                async with gate:
                    wish = {"model_id": self._model["blockchainID"]}
                    _checked(await http.post("session/modelsession", params=wish, headers=by_key))

            keys = await asyncio.gather(*(make_key() for _ in range(wanted - len(self.callers))))
            began = time.monotonic()
            await asyncio.gather(*(open_one(by_key) for by_key in keys))
            seconds = time.monotonic() - began
            self.callers += keys
        return seconds

    async def _join(self, http: httpx2.AsyncClient) -> None:
        login = {"email": f"{secrets.token_hex(6)}@example.com", "password": secrets.token_urlsafe(16)}
        _checked(await http.post("auth/register", json=login))
        token = _checked(await http.post("auth/login", json=login))["access_token"]
        self._account = {"Authorization": f"Bearer {token}"}
        models = _checked(await http.get("models"))["data"]
        self._model = next(model for model in models if model["modelType"] == "LLM")

    def mongo_url(self) -> str:
        """The database, as its administrator sees it."""
        port = self.folder.env()["MONGO_PORT"]
        password = StackSecrets.load(self.folder.path).mongo_passwords["root"]
        return f"mongodb://root:{password}@127.0.0.1:{port}/?directConnection=true&authSource=admin"

    def routers(self) -> list[str]:
        """The addresses of the simulated routers that the stack itself runs, as their command lines say."""
        pids = [pid for name, pid in self.pids().items() if name.startswith("simulator")]
        lines = [Path(f"/proc/{pid}/cmdline").read_text().split("\0") for pid in pids]
        return [f"http://127.0.0.1:{line[line.index('--port') + 1]}" for line in lines]

    def restart(self, name: str) -> None:
        """End a process of the stack and start it again."""
        argv = [str(self.morpheus), "restart", name, "--data", str(self.folder.path)]
        subprocess.run(argv, check=True, capture_output=True, timeout=60)


def _checked(answer: httpx2.Response) -> Any:
    if answer.status_code not in {200, 201}:
        raise RuntimeError(f"{answer.request.url.path} answered {answer.status_code}: {answer.text[:300]}")
    return answer.json()


@contextmanager
def stack(
    folder: Path,
    morpheus: Path,
    *arguments: str,
    env: dict[str, str] | None = None,
    instead: Sequence[str] = (),
) -> Iterator[Ours]:
    """Run `morpheus up` on free ports, its data in `folder`; `instead` is a command to take for `morpheus`."""
    data = folder / "stack"
    argv = [*(instead or [str(morpheus)]), "up", "--json", "--fresh", "--port", "0", "--data", str(data), *arguments]
    began = time.monotonic()
    with running("stack", argv, folder, env={**raised_limits(), **(env or {})}, is_read=True) as (process, log):
        said = json.loads(first_line("stack", process, log))
        yield Ours(morpheus, StackFolder(data), said["base_url"], said["nats_url"], time.monotonic() - began)
    # an empty database has 300 MB; logs stay
    shutil.rmtree(data / "mongo", ignore_errors=True)


@contextmanager
def behind_upstream(folder: Path, morpheus: Path, router: str) -> Iterator[Ours]:
    """Run our stack with the router at `router`."""
    env = {"PROXY_ROUTER_USER": "admin", "PROXY_ROUTER_PASSWORD": PASSWORD}
    with stack(folder, morpheus, "--router", router, env=env) as ours:
        yield ours


@contextmanager
def slow_chain(folder: Path, morpheus: Path, routers: int, block: float) -> Iterator[Ours]:
    """Run our stack with so many simulated routers, blocks of `block` seconds each."""
    launcher = [str(morpheus.with_name("python")), "-P", str(Path(__file__).with_name("slow_chain.py"))]
    env = {"BLOCK_SECONDS": str(block)}
    with stack(folder, morpheus, "--routers", str(routers), env=env, instead=launcher) as ours:
        yield ours
