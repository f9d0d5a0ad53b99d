"""What the gauges of a session worker show, and for how long."""

import asyncio
import json
from contextlib import suppress
from typing import Any

import httpx2
import pytest
from morpheus_common.errors import ApiError
from morpheus_sessions.chain_watch import LEAP_BLOCKS, LEAPS_BELIEVED, ChainWatch
from morpheus_sessions.figures import Figures, InHand
from morpheus_sessions.fleet import Fleet, Member
from morpheus_sessions.gauges import KEPT_SECONDS, Gauges, Own
from morpheus_sessions.purse import PurseReader
from morpheus_sessions.queueing import Till
from morpheus_sessions.router import Router, RouterRefused, RouterTimedOut, RouterUnclear, RouterUnreachable
from morpheus_sessions.settings import RouterSettings
from prometheus_client import CollectorRegistry, generate_latest
from pydantic import SecretStr
from pymongo.errors import AutoReconnect, ExecutionTimeout


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakeRouter(Router):
    """Has a height and a wallet, or an error instead. Without a height it asks for one."""

    def __init__(self) -> None:
        settings = RouterSettings(name="r1", url="http://127.0.0.1:9", user="admin", password=SecretStr("x"))
        super().__init__(settings, read_timeout=1.0)
        self.height: int | Exception | None = 100
        self.owner: str | Exception = "0xw"

    async def latest_block(self) -> int:
        if isinstance(self.height, Exception):
            raise self.height
        return await super().latest_block() if self.height is None else self.height

    async def current_wallet(self) -> str:
        if isinstance(self.owner, Exception):
            raise self.owner
        return self.owner


class Deployment:
    """Answers readings with figures, or fails."""

    def __init__(self) -> None:
        self.figures: Figures | Exception = Figures(
            operations={("open", "sent"): InHand(1, 30.0), ("close", "pending"): InHand()},
            pass_ages={"r1": 100.0},
            violations={"I1": 2},
        )
        self.limit: int | Exception = 5000

    async def read(self) -> Figures:
        if isinstance(self.figures, Exception):
            raise self.figures
        return self.figures

    async def in_all(self) -> int:
        if isinstance(self.limit, Exception):
            raise self.limit
        return self.limit


class Worker:
    """Gauges over all that is faked."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.router = FakeRouter()
        self.deployment = Deployment()
        self.purse = PurseReader(self.router)
        self.chains = ChainWatch([self.router], seconds=15, clock=self.clock)
        member = Member(self.router, Till(self.purse, least_gas=0), deployment=1)
        own = Own(
            fleet=Fleet([member]),
            chains=self.chains,
            purses={"r1": self.purse},
            prompts_waiting=lambda: 3,
            prompts_running=lambda: 2,
            sessions_owned=lambda: 1,
        )
        self.gauges = Gauges(own, self.deployment.read, self.deployment.in_all, seconds=15, clock=self.clock)

    def shown(self, name: str, **labels: str) -> float | None:
        found = [
            sample.value
            for metric in self.gauges.collect()
            for sample in metric.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        return found[0] if found else None


@pytest.fixture
def worker() -> Worker:
    return Worker()


def test_a_worker_shows_its_prompts_and_sessions_before_it_has_read_anything(worker: Worker) -> None:
    worker.clock.now += 7
    assert worker.shown("morpheus_prompts_waiting") == 3
    assert worker.shown("morpheus_prompts_running") == 2
    assert worker.shown("morpheus_sessions_owned") == 1
    assert worker.shown("morpheus_router_up") == 0
    assert worker.shown("morpheus_gauges_age_seconds") == 7
    assert worker.shown("morpheus_invariant_violations") is None
    assert worker.shown("morpheus_chain_up") is None


async def test_ages_go_on_growing_between_two_readings(worker: Worker) -> None:
    await worker.gauges.refresh()
    worker.clock.now += 10
    assert worker.shown("morpheus_gauges_age_seconds") == 10
    assert worker.shown("morpheus_pass_age_seconds", router="r1") == 110
    assert worker.shown("morpheus_operation_oldest_seconds", kind="open", state="sent") == 40
    assert worker.shown("morpheus_operation_oldest_seconds", kind="close", state="pending") == 0
    assert worker.shown("morpheus_stake_limit_wei") == 5000


@pytest.mark.parametrize("problem", [AutoReconnect("away"), ExecutionTimeout("slow"), TimeoutError(), KeyError("form")])
async def test_a_reading_that_fails_leaves_the_last_one_to_stand_for_a_minute_and_no_longer(
    worker: Worker, problem: Exception
) -> None:
    await worker.gauges.refresh()
    worker.deployment.figures = problem
    worker.clock.now += KEPT_SECONDS
    await worker.gauges.refresh()
    assert worker.shown("morpheus_invariant_violations", invariant="I1") == 2

    worker.clock.now += 1
    assert worker.shown("morpheus_invariant_violations", invariant="I1") is None
    assert worker.shown("morpheus_stake_limit_wei") is None
    assert worker.shown("morpheus_gauges_age_seconds") == KEPT_SECONDS + 1
    assert worker.shown("morpheus_prompts_waiting") == 3

    worker.deployment.figures = Figures(violations={"I1": 0})
    await worker.gauges.refresh()
    assert worker.shown("morpheus_invariant_violations", invariant="I1") == 0
    assert worker.shown("morpheus_gauges_age_seconds") == 0


async def test_a_limit_that_hangs_on_unknown_wallets_keeps_no_other_figure_back(worker: Worker) -> None:
    worker.deployment.limit = ApiError("service_unavailable")
    await worker.gauges.refresh()
    assert worker.shown("morpheus_stake_limit_wei") is None
    assert worker.shown("morpheus_invariant_violations") == 2


async def test_the_job_reads_again_after_a_reading_that_failed() -> None:
    readings = asyncio.Queue[None]()
    worker = Worker()

    async def read() -> Figures:
        readings.put_nowait(None)
        raise AutoReconnect("away")

    gauges = Gauges(worker.gauges._own, read, worker.deployment.in_all, seconds=0.001)
    job = asyncio.create_task(gauges.run())
    async with asyncio.timeout(5):
        for _ in range(3):
            await readings.get()
    job.cancel()


def chain(worker: Worker) -> dict[str, Any]:
    names = ("chain_up", "block_height", "block_age_seconds")
    return {name: worker.shown(f"morpheus_{name}", router="r1") for name in names}


async def test_a_chain_that_grows_is_up_and_its_block_ages_while_it_does_not(worker: Worker) -> None:
    await worker.chains.look(worker.router)
    worker.clock.now += 15
    worker.router.height = 107
    await worker.chains.look(worker.router)
    assert chain(worker) == {"chain_up": 1, "block_height": 107, "block_age_seconds": 0}

    worker.clock.now += 15
    # a node that lags has an older one: no newer block was seen
    worker.router.height = 105
    await worker.chains.look(worker.router)
    assert chain(worker) == {"chain_up": 1, "block_height": 105, "block_age_seconds": 15}


async def look_again(worker: Worker, height: int) -> None:
    worker.clock.now += 15
    worker.router.height = height
    await worker.chains.look(worker.router)


async def test_a_height_that_is_absurd_now_and_then_makes_no_block_look_old(worker: Worker) -> None:
    await worker.chains.look(worker.router)
    for height in range(107, 107 + 2 * LEAPS_BELIEVED):
        await look_again(worker, 1 << 50)
        await look_again(worker, height)
        assert chain(worker) == {"chain_up": 1, "block_height": height, "block_age_seconds": 0}


async def test_a_first_height_that_was_absurd_is_forgotten_within_two_minutes(worker: Worker) -> None:
    worker.router.height = 1 << 50
    await worker.chains.look(worker.router)
    ages = []
    for height in range(100, 135, 7):
        await look_again(worker, height)
        ages.append(worker.shown("morpheus_block_age_seconds", router="r1"))
    assert ages == [15, 30, 45, 60, 0]


async def test_a_chain_that_stands_looks_no_younger_because_of_heights_far_from_its_own(worker: Worker) -> None:
    """As behind a router with two nodes that both stand, or with one that says anything now and then."""
    await worker.chains.look(worker.router)
    far = 100 + 2 * LEAP_BLOCKS
    heights = [far, 100, *[far] * LEAPS_BELIEVED, far, 100, far, *[100] * LEAPS_BELIEVED, 100]
    for looks, height in enumerate(heights, 1):
        await look_again(worker, height)
        assert worker.shown("morpheus_block_age_seconds", router="r1") == 15 * looks


async def test_a_node_that_has_caught_up_with_a_whole_day_is_believed(worker: Worker) -> None:
    await worker.chains.look(worker.router)
    for looks in range(LEAPS_BELIEVED + 1):
        await look_again(worker, 43_300 + 7 * looks)
    assert worker.shown("morpheus_block_age_seconds", router="r1") == 0


async def test_numbers_that_no_chain_has_keep_nobody_from_reading_the_metrics(worker: Worker) -> None:
    """C42"""
    body = json.dumps({"mor": 10**400, "eth": 10**400, "allowance": "5", "block": 10**400}).encode()
    await worker.router.http.aclose()
    worker.router.http = httpx2.AsyncClient(
        base_url="http://router.test",
        transport=httpx2.MockTransport(lambda _: httpx2.Response(200, stream=httpx2.ByteStream(body))),
    )
    worker.router.wallet, worker.router.height = "0xw", None
    with suppress(RouterUnclear):
        await worker.purse.read()
    await worker.chains.look(worker.router)
    assert chain(worker) == {"chain_up": 0, "block_height": None, "block_age_seconds": None}
    registry = CollectorRegistry()
    registry.register(worker.gauges)
    assert b"morpheus_router_up" in generate_latest(registry)


@pytest.mark.parametrize("problem", [RouterRefused(500, "dial tcp: lookup node"), RouterTimedOut("ReadTimeout")])
async def test_a_router_that_answers_without_its_node_has_a_chain_that_is_not_up(
    worker: Worker, problem: Exception
) -> None:
    await worker.chains.look(worker.router)
    worker.router.height = problem
    worker.clock.now += 15
    await worker.chains.look(worker.router)
    assert chain(worker) == {"chain_up": 0, "block_height": None, "block_age_seconds": 15}


@pytest.mark.parametrize(
    ("of_height", "of_wallet"),
    [
        (RouterUnreachable("ConnectError"), None),
        (RouterTimedOut("ReadTimeout"), RouterTimedOut("ReadTimeout")),
        (RouterRefused(401, "no"), RouterRefused(401, "no")),
    ],
)
async def test_of_a_router_that_does_not_answer_nobody_says_how_its_chain_is(
    worker: Worker, of_height: Exception, of_wallet: Exception | None
) -> None:
    worker.router.height = of_height
    worker.router.owner = of_wallet or "0xw"
    await worker.chains.look(worker.router)
    assert chain(worker) == {"chain_up": None, "block_height": None, "block_age_seconds": None}
