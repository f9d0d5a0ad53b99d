"""What a session worker shows beside what it counts (metrics.py): how it stands itself, and how the deployment stands.

The figures of the deployment are read by a job of their own every few seconds; whoever asks for metrics gets the last reading,
and waits for nothing. Every worker shows the same, so they are to be taken with `max`. That is why a reading that is older than
`KEPT_SECONDS` is shown no more: a worker that has lost the database would hold an old figure up against the others' new
ones. How old the last reading is always stands in `morpheus_gauges_age_seconds`: the alert for "nobody knows". The same goes
for what a wallet has and where a chain is, while a router does not say.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from morpheus_common.errors import ApiError
from morpheus_common.logs import get_logger
from morpheus_common.metrics import REGISTRY, at_most
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from pymongo.errors import PyMongoError

from morpheus_sessions.chain_watch import ChainWatch
from morpheus_sessions.documents import OperationKind
from morpheus_sessions.figures import LIVE, STAKED, Figures
from morpheus_sessions.fleet import Fleet
from morpheus_sessions.invariants import TOLD
from morpheus_sessions.journal import IN_HAND
from morpheus_sessions.metrics import FAILED_CALLS, MOST_ROUTERS
from morpheus_sessions.purse import PurseReader
from morpheus_sessions.reconcile import Act

log = get_logger(__name__)

KEPT_SECONDS: Final = 60.0
"""A reading that is older is not shown: four that failed in a row."""
READING_SECONDS: Final = 20.0
"""A reading that takes longer has failed."""
ERROR_KINDS: Final = ("unreachable", "timeout", "refused", "chain", "other")

Read = Callable[[], Awaitable[Figures]]
Limit = Callable[[], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class Own:
    """What this worker knows of itself without asking."""

    fleet: Fleet
    chains: ChainWatch
    purses: Mapping[str, PurseReader]
    prompts_waiting: Callable[[], int]
    prompts_running: Callable[[], int]
    sessions_owned: Callable[[], int]


class Gauges:
    """The gauges of one worker. `read` makes a reading, `limit` says how much stake all users may put at risk (wei).

    `collect` is called by the thread of the private port: what it looks at is replaced whole, never changed.
    """

    def __init__(
        self, own: Own, read: Read, limit: Limit, *, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._own = own
        self._read = read
        self._limit = limit
        self._seconds = seconds
        self._clock = clock
        self._read_at = clock()
        self._last: tuple[Figures, int | None, float] | None = None
        for member in own.fleet.members:
            for kind in ERROR_KINDS:
                # there before the first, so that its increase is seen
                FAILED_CALLS.labels(member.router.name, kind)

    async def run(self) -> None:
        """Read again and again, until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(self._seconds)

    async def refresh(self) -> None:
        """Read once. What fails is tried again the next time; meanwhile the last reading gets older."""
        began = self._clock()
        try:
            async with asyncio.timeout(READING_SECONDS):
                figures = await self._read()
                limit = await self._known_limit()
        except (PyMongoError, TimeoutError) as error:
            log.warning("gauges not read", problem=type(error).__name__)
            return
        except Exception:
            # the outermost edge of the job: a record of an unknown form must not end the worker
            log.exception("gauges not read")
            return
        self._last = figures, limit, self._clock() - began
        self._read_at = began

    async def _known_limit(self) -> int | None:
        try:
            return await self._limit()
        except ApiError:
            # a share of wallets that no router has told of yet
            return None

    def collect(self) -> Iterator[Metric]:
        """Return all gauges as they are now."""
        last, age = self._last, self._clock() - self._read_at
        return self._shown(None if age > KEPT_SECONDS else last, age)

    def described(self) -> Iterator[Metric]:
        """Return all gauges that there can be, whatever they say."""
        return self._shown((Figures(), 0, 0.0), 0.0)

    def _shown(self, last: tuple[Figures, int | None, float] | None, age: float) -> Iterator[Metric]:
        yield from self._of_this_worker()
        yield from self._of_the_routers()
        yield _gauge("morpheus_gauges_age_seconds", "Since the last reading of the deployment's figures began", age)
        if last is None:
            return
        figures, limit, took = last
        yield _gauge("morpheus_gauges_read_seconds", "How long that reading took", took)
        yield from _of_the_deployment(figures, age)
        if limit is not None:
            yield _gauge("morpheus_stake_limit_wei", "Stake that all users together may have at risk", limit)

    def _of_this_worker(self) -> Iterator[Metric]:
        own = self._own
        yield _gauge(
            "morpheus_prompts_waiting",
            "Prompts of this worker in line behind others of their key, or waiting for a session",
            own.prompts_waiting(),
        )
        yield _gauge("morpheus_prompts_running", "Prompts of this worker that run in a session", own.prompts_running())
        yield _gauge("morpheus_sessions_owned", "Sessions whose prompts this worker runs", own.sessions_owned())
        yield _gauge(
            "morpheus_routers_left_behind",
            "Routers that were taken out of PROXY_ROUTERS while sessions stand on their wallets",
            len(own.fleet.left_behind),
        )

    def _of_the_routers(self) -> Iterator[Metric]:
        up = _family("morpheus_router_up", "1 while opens can be given to this router", "router")
        chain_up = _family("morpheus_chain_up", "0 while this router answers and its chain node does not", "router")
        height = _family("morpheus_block_height", "Height of the chain node behind this router", "router")
        block_age = _family("morpheus_block_age_seconds", "For how long no newer block was seen there", "router")
        wallet = _family("morpheus_wallet_wei", "What lies free in this router's wallet", "router", "token")
        for member in self._own.fleet.members:
            name = member.router.name
            up.add_metric([name], float(not member.is_away))
            chain = self._own.chains.chains[name]
            is_up, seen, age = chain.is_up, chain.height, self._own.chains.block_age(name)
            if is_up is not None:
                chain_up.add_metric([name], float(is_up))
            if seen is not None:
                height.add_metric([name], seen)
            if age is not None:
                block_age.add_metric([name], age)
            purse = self._own.purses[name].last(within=KEPT_SECONDS)
            if purse is not None:
                wallet.add_metric([name, "MOR"], purse.mor)
                wallet.add_metric([name, "ETH"], purse.gas)
        yield from (up, chain_up, height, block_age, wallet)


def _of_the_deployment(figures: Figures, age: float) -> Iterator[Metric]:
    yield _by("morpheus_sessions", "Sessions that have not ended", ["state"], figures.sessions)
    yield _gauge(
        "morpheus_sessions_quarantined",
        "Sessions that rest, because the end of their last prompt was not seen",
        figures.quarantined,
    )
    yield _by("morpheus_stake_wei", "Stake at risk by what it is in; at_risk: all of it", ["kind"], figures.stake)
    operations, oldest = figures.operations, {what: item.oldest for what, item in figures.operations.items()}
    yield _by(
        "morpheus_operations",
        "Operations that have not ended",
        ["kind", "state"],
        {what: item.count for what, item in operations.items()},
    )
    yield _by(
        "morpheus_operation_oldest_seconds",
        "Since the oldest of them that is not stuck was queued, or sent; 0 without any",
        ["kind", "state"],
        {what: seconds + age if seconds else 0.0 for what, seconds in oldest.items()},
    )
    yield _gauge("morpheus_wallet_queue", "Opens and approves that no wallet has taken", figures.queue)
    yield _gauge(
        "morpheus_close_stuck", "Sessions whose close is stuck: their providers give no closing report", figures.stuck
    )
    yield _gauge("morpheus_close_stuck_providers", "Those providers", figures.stuck_providers)
    yield _by(
        "morpheus_pass_findings",
        "Chain sessions that are foreign or lost, ours that the chain does not show (suspect); the others: what the last"
        " complete pass found and did",
        ["router", "finding"],
        figures.findings,
    )
    yield _by(
        "morpheus_pass_age_seconds",
        "Since the last complete pass over chain and records",
        ["router"],
        {router: seconds + age for router, seconds in figures.pass_ages.items()},
    )
    yield _by(
        "morpheus_chain_call_overlaps",
        "Chain calls begun although another of ours might still have run, ever; a process that dies can force one",
        ["router"],
        figures.overlaps,
    )
    yield _by(
        "morpheus_invariant_violations",
        "How often an invariant is broken, as far as records and the last complete passes tell; I6 from a minute after a "
        "revocation on",
        ["invariant"],
        figures.violations,
    )


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _family(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=labels)


def _by(
    name: str, text: str, labels: list[str], values: Mapping[str, float] | Mapping[tuple[str, str], float]
) -> Metric:
    family = _family(name, text, *labels)
    for label, value in values.items():
        family.add_metric([label] if isinstance(label, str) else label, value)
    return family


class _Shown(Collector):
    """Shows the gauges of the worker that runs in this process."""

    def __init__(self) -> None:
        self.gauges: Gauges | None = None

    def describe(self) -> Iterable[Metric]:
        """Return what there is to be measured, as a worker without a router and without a reading has it."""
        own = Own(Fleet([]), ChainWatch([], seconds=1.0), {}, int, int, int)
        yield from Gauges(own, _nothing, _no_limit, seconds=1.0).described()

    def collect(self) -> Iterable[Metric]:
        gauges = self.gauges
        return () if gauges is None else gauges.collect()


async def _nothing() -> Figures:
    return Figures()


async def _no_limit() -> int:
    return 0


_OF_A_ROUTER: Final = 4 + 2 + len(Act) + 2
_OF_THE_DEPLOYMENT: Final = len(LIVE) + len(STAKED) + 3 + 2 * len(OperationKind) * len(IN_HAND) + len(TOLD) + 16
_SHOWN: Final = at_most(_Shown(), MOST_ROUTERS * _OF_A_ROUTER + _OF_THE_DEPLOYMENT)
REGISTRY.register(_SHOWN)


def show(gauges: Gauges) -> None:
    """Show these gauges from now on."""
    _SHOWN.gauges = gauges
