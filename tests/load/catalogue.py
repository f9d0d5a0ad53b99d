"""A market of 10,000 models and 100,000 bids through a real worker, bus and database: `make catalogue`.

Says what reading it takes, how large its messages are, and for how long the event loop of a worker and of a gateway has no time for
anything else meanwhile. That is judged by the CPU that one turn of the loop takes: others on the machine take none of it.
"""

import argparse
import asyncio
import itertools
import json
import resource
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
from aiohttp import web
from morpheus_common.bus.names import User
from morpheus_common.bus.permissions import MAX_PAYLOAD_BYTES
from morpheus_common.bus.rpc import RpcClient
from morpheus_common.contracts.rated_bids import GET_RATED_BIDS, GetRatedBids
from morpheus_common.contracts.sessions import CATALOGUE, Catalogue, CatalogueQuestion
from morpheus_common.errors import ApiError
from morpheus_common.service import calm_garbage_collector
from morpheus_common.store.mongo import apply_indexes, database_of
from morpheus_devstack.waiting import poll
from morpheus_gateway.catalogue import ModelCatalogue
from morpheus_sessions.documents import DOCUMENTS
from morpheus_sessions.settings import SessionsSettings
from morpheus_sessions.worker import Parts, serve
from proxy_router_sim.app import create_app
from proxy_router_sim.auth import User as RouterUser
from proxy_router_sim.ethereum import address, hash_id
from proxy_router_sim.marketplace import SEEDED_AT, WEI, Bid, Marketplace, Model, Provider
from proxy_router_sim.simulator import Settings, build
from pymongo import AsyncMongoClient

from tests import servers
from tests.servers import NatsAccount

LONGEST_TURN = 0.050
TYPOS = 200
PASSWORD = "correct"


class LargeMarket(Marketplace):
    """A market whose bids are found by provider and by model, as a chain finds them."""

    def __init__(self, models: int, bids: int, providers: int) -> None:
        sellers = [
            Provider(address("provider", n), f"10.0.{n // 250}.{n % 250}:3333", WEI // 5, SEEDED_AT + n, 0.5, 0.5)
            for n in range(providers)
        ]
        goods = [
            Model(
                hash_id("model", n), f"model-{n:05d}-instruct", ("LLM",), address("owner", n), WEI // 10, SEEDED_AT + n
            )
            for n in range(models)
        ]
        offers = [
            Bid(
                hash_id("bid", n),
                sellers[(n // models + n) % providers].address,
                goods[n % models].id,
                10**13 + n,
                0,
                SEEDED_AT + n,
            )
            for n in range(bids)
        ]
        super().__init__(sellers, goods, offers)
        self._of: dict[str, list[Bid]] = {}
        for offer in offers:
            self._of.setdefault(offer.provider, []).append(offer)
            self._of.setdefault(offer.model_id, []).append(offer)

    def model_bids(self, model_id: str, *, active_only: bool) -> list[Bid]:  # noqa: ARG002 - all are active
        return self._of.get(model_id, [])

    def provider_bids(self, provider: str, *, active_only: bool) -> list[Bid]:  # noqa: ARG002 - all are active
        return self._of.get(provider, [])


async def sell(models: int, bids: int, providers: int) -> None:
    """Be the router, until killed. Says where on stdout; counts its calls."""
    simulator = build(Settings(users=[RouterUser.make("admin", PASSWORD, ["*"])], block_seconds=2.0))
    simulator.node.marketplace = LargeMarket(models, bids, providers)
    calls = 0

    @web.middleware
    async def counting(request: web.Request, handler: Any) -> web.StreamResponse:
        nonlocal calls
        if request.path == "/calls":
            return web.json_response(calls)
        calls += request.path.startswith("/blockchain/providers") or request.path == "/blockchain/models"
        answer: web.StreamResponse = await handler(request)
        return answer

    app = create_app(simulator)
    app.middlewares.insert(0, counting)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    sys.stdout.write(f"http://127.0.0.1:{runner.addresses[0][1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


@contextmanager
def infrastructure(folder: Path) -> Iterator[tuple[list[NatsAccount], str]]:
    """Run a bus and a database."""
    (folder / "nats").mkdir()
    (folder / "mongo").mkdir()
    with servers.nats_accounts(folder / "nats") as accounts, servers.mongo(folder / "mongo") as mongo:
        yield accounts, mongo.url()


@contextmanager
def market(options: argparse.Namespace) -> Iterator[str]:
    """Run the router as a process of its own."""
    sizes = [f"--{name}={getattr(options, name)}" for name in ("models", "bids", "providers")]
    command = [sys.executable, "-m", "tests.load.catalogue", "--sell", *sizes]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


@dataclass
class Pulse:
    """The longest that the loop had no time: `cpu` in one turn, and `wall` between two."""

    cpu: float = 0.0
    wall: float = 0.0

    async def beat(self) -> None:
        while True:
            cpu, wall = time.thread_time(), time.monotonic()
            await asyncio.sleep(0.001)
            self.cpu = max(self.cpu, time.thread_time() - cpu)
            self.wall = max(self.wall, time.monotonic() - wall - 0.001)


@asynccontextmanager
async def pulse() -> AsyncIterator[Pulse]:
    felt = Pulse()
    beating = asyncio.create_task(felt.beat())
    try:
        yield felt
    finally:
        beating.cancel()


def memory() -> float:
    """The largest memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Report:
    """What was measured, and whether it is good enough."""

    def __init__(self) -> None:
        self.missed: list[str] = []

    def say(self, what: str, value: str, *, good: bool = True) -> None:
        sys.stdout.write(f"{'  ' if good else '✗ '}{what:58} {value}\n")
        sys.stdout.flush()
        if not good:
            self.missed.append(what)

    def felt(self, what: str, pulse: Pulse) -> None:
        value = f"{pulse.cpu * 1000:.0f} ms of CPU (between two turns {pulse.wall * 1000:.0f} ms)"
        self.say(f"{what}: longest turn of its loop", value, good=pulse.cpu < LONGEST_TURN)


class Weighing(RpcClient):
    """Weighs the answers that come."""

    largest = 0
    asked = 0

    async def call(self, rpc: Any, question: Any, *, timeout: float | None = None) -> Any:
        answer = await super().call(rpc, question, timeout=timeout)
        self.asked += 1
        self.largest = max(self.largest, len(json.dumps(answer.model_dump(mode="json"))))
        return answer


async def measure(options: argparse.Namespace, url: str, account: NatsAccount, mongo_url: str) -> Report:
    report = Report()
    async with AsyncExitStack() as stack:
        client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(mongo_url, tz_aware=True)
        stack.push_async_callback(client.close)
        await apply_indexes(database_of(client, "sessions"), DOCUMENTS)
        await servers.apply_streams(account)
        http = await stack.enter_async_context(aiohttp.ClientSession(url))
        connection = await account.connect(User.GATEWAY)
        stack.push_async_callback(connection.close)
        calm_garbage_collector()
        empty = memory()
        parts = await stack.enter_async_context(serve(_settings(url, account, mongo_url)))
        assert await poll(lambda: _has_read(parts), seconds=300)
        report.say("worker: memory for the market", f"{memory() - empty:.0f} MiB at most")
        await _reading(report, options, parts, http)
        await _fetching(report, options, connection)
        await _rating(report, options, RpcClient(connection))
    return report


async def _reading(report: Report, options: argparse.Namespace, parts: Parts, http: aiohttp.ClientSession) -> None:
    before = await (await http.get("/calls")).json()
    async with pulse() as felt:
        began, cpu = time.monotonic(), time.process_time()
        await parts.catalogue.refresh()
        took, cpu = time.monotonic() - began, time.process_time() - cpu
    calls = await (await http.get("/calls")).json() - before
    # pages of models and providers, and of each provider's bids; each list may end with a page that is empty
    pages = options.models // 100 + options.providers // 100 + 2
    pages += options.providers * (options.bids // options.providers // 255 + 1)
    report.say("worker: one reading", f"{took:.1f} s, {cpu:.1f} s of CPU")
    report.say("worker: calls of the router for it", f"{calls}", good=calls <= pages)
    report.felt("worker", felt)


async def _fetching(report: Report, options: argparse.Namespace, connection: Any) -> None:
    rpc = Weighing(connection)
    catalogue = ModelCatalogue(rpc)
    empty = memory()
    async with pulse() as felt:
        began = time.monotonic()
        await catalogue.renew()
        took = time.monotonic() - began
    models = catalogue.models
    report.say("gateway: one fetching", f"{took:.1f} s, {rpc.asked} questions", good=len(models) == options.models)
    report.say("gateway: memory for it", f"{memory() - empty:.0f} MiB at most, with the worker's part in it")
    report.say("largest message", f"{rpc.largest:,} bytes", good=rpc.largest < MAX_PAYLOAD_BYTES // 2)
    report.say("GET /models", f"{len(models.offered.body):,} bytes")
    report.felt("worker and gateway", felt)
    again = await rpc.call(CATALOGUE, CatalogueQuestion(have_version=catalogue._version))
    report.say("what is not new", f"{_size(again)} bytes", good=again.models is None)
    began = time.process_time()
    for number in range(TYPOS):
        with suppress(ApiError):
            models.find(f"modle-{number * 37:05d}-instrukt")
    typo = (time.process_time() - began) / TYPOS
    report.say("gateway: CPU for a name that nobody has", f"{typo * 1000:.2f} ms", good=typo < 0.005)
    began = time.process_time()
    for number in itertools.islice(itertools.cycle(range(options.models)), 10_000):
        models.find(f"Model-{number:05d}-Instruct")
    report.say("gateway: CPU for a name that is known", f"{(time.process_time() - began) / 10_000 * 1e6:.1f} µs")


async def _rating(report: Report, options: argparse.Namespace, rpc: RpcClient) -> None:
    began = time.monotonic()
    answer = await rpc.call(GET_RATED_BIDS, GetRatedBids(model_id=hash_id("model", 0)))
    expected = -(-options.bids // options.models)
    report.say(
        "rated bids of a model",
        f"{len(answer.bids)} in {(time.monotonic() - began) * 1000:.0f} ms",
        good=len(answer.bids) == expected,
    )


def _size(answer: Catalogue) -> int:
    return len(answer.model_dump_json())


async def _has_read(parts: Parts) -> bool:
    try:
        return bool(parts.catalogue.copy.models)
    except ApiError:
        return False


def _settings(url: str, account: NatsAccount, mongo_url: str) -> SessionsSettings:
    router = {"name": "r1", "url": url, "user": "admin", "password": PASSWORD}
    return SessionsSettings.model_validate(
        {
            "worker_id": "w1",
            "nats_url": account.url,
            "nats_seed": account.seeds[User.SESSIONS],
            "mongo_url": mongo_url,
            "proxy_routers": json.dumps([router]),
            # only the readings that are measured
            "catalogue_seconds": 86_400.0,
            "drain_seconds": 1.0,
        }
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=10_000)
    parser.add_argument("--bids", type=int, default=100_000)
    parser.add_argument("--providers", type=int, default=200)
    parser.add_argument("--sell", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.sell:
        asyncio.run(sell(options.models, options.bids, options.providers))
    with TemporaryDirectory() as folder, infrastructure(Path(folder)) as (accounts, mongo_url), market(options) as url:
        report = asyncio.run(measure(options, url, accounts[0], mongo_url))
    return 1 if report.missed else 0


if __name__ == "__main__":
    sys.exit(main())
