"""The wiring: which part is made from which setting, and which part knows which."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxy_router_sim import marketplace, state
from proxy_router_sim.auth import User, Users
from proxy_router_sim.chain import Chain
from proxy_router_sim.clock import Clock, SystemClock
from proxy_router_sim.ethereum import address
from proxy_router_sim.faults import Faults
from proxy_router_sim.marketplace import WEI
from proxy_router_sim.models import LanguageModel, RemoteModel, SimulatedModel
from proxy_router_sim.node import ConsumerNode
from proxy_router_sim.provider import ProviderNetwork
from proxy_router_sim.store import NodeStore


@dataclass(frozen=True, slots=True)
class Settings:
    """What can be chosen at start."""

    users: Sequence[User]
    seed: int = 1
    speed: float = 1.0
    """Seconds of the simulator's clock in a second of the wall's."""
    block_seconds: float = 2.0
    """Time between blocks, in seconds of the simulator's clock."""
    answer_seconds: float = 0.6
    """How long a simulated answer takes, in seconds of the wall's clock."""
    mor: int = 1_000_000 * WEI
    """The wallet's MOR at the very start, in wei."""
    eth: int = 10 * WEI
    """The wallet's ETH at the very start, in wei."""
    llm_url: str | None = None
    llm_key: str | None = field(default=None, repr=False)
    llm_model: str | None = None
    state_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Simulator:
    """All parts of a running simulator."""

    settings: Settings
    clock: Clock
    users: Users
    chain: Chain
    providers: ProviderNetwork
    store: NodeStore
    node: ConsumerNode
    faults: Faults
    model: LanguageModel
    state_file: state.StateFile | None
    started: float = field(default_factory=time.monotonic)

    def save(self) -> None:
        """Write the state file, if there is one."""
        if self.state_file is not None:
            self.state_file.save()

    async def close(self) -> None:
        """Save and let go of what is open."""
        self.save()
        if isinstance(self.model, RemoteModel):
            await self.model.close()


def build(settings: Settings, clock: Clock | None = None) -> Simulator:
    """Make a simulator, from its state file if that exists. Raises ValueError for a file it cannot use.

    Without a ``clock`` time starts at the machine's, or where the file left it plus the time it lay still.
    """
    stored = state.load(settings.state_file) if settings.state_file else None
    if clock is None:
        start = stored["now"] + max(0.0, time.time() - stored["wall"]) * settings.speed if stored else None
        clock = SystemClock(settings.speed, start)
    wallet = stored["wallet"] if stored else address("wallet", settings.seed)
    market = marketplace.seeded()
    chain = Chain(market, now=clock.now(), block_seconds=settings.block_seconds)
    store = NodeStore()
    if stored:
        chain.restore(stored["chain"])
        store.restore(stored["store"])
    else:
        chain.fund(wallet, mor=settings.mor, eth=settings.eth)

    def dump() -> dict[str, Any]:
        now = clock.now()
        return {"wall": time.time(), "now": now, "wallet": wallet, "chain": chain.dump(now), "store": store.dump()}

    file = state.StateFile(settings.state_file, dump) if settings.state_file else None
    providers = ProviderNetwork(market, settings.seed)
    faults = Faults(seed=settings.seed)
    node = ConsumerNode(
        wallet=wallet,
        marketplace=market,
        chain=chain,
        providers=providers,
        store=store,
        clock=clock,
        faults=faults,
        save=file.save if file else lambda: None,
    )
    model: LanguageModel
    if settings.llm_url:
        model = RemoteModel(settings.llm_url, api_key=settings.llm_key, model=settings.llm_model)
    else:
        model = SimulatedModel(seed=settings.seed, answer_seconds=settings.answer_seconds, now=clock.now)
    simulator = Simulator(settings, clock, Users(settings.users), chain, providers, store, node, faults, model, file)
    simulator.save()
    return simulator
