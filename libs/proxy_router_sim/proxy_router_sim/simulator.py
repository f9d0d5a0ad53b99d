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
    wallet_seed: int | None = None
    """Decides the wallet; the same as ``seed`` if not given. Several simulators are several wallets on one chain id."""
    nonce_races: bool = False
    """Whether overlapping transactions of the wallet can collide."""


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
        if self.state_file is not None:
            self.state_file.close()
        if isinstance(self.model, RemoteModel):
            await self.model.close()


def build(settings: Settings, clock: Clock | None = None) -> Simulator:
    """Make a simulator, from its state file if that exists. Raises ValueError for a file it cannot use.

    Without a ``clock`` time starts at the machine's, or where the file left it plus the time it lay still.
    """
    stored = state.load(settings.state_file) if settings.state_file else None
    facts = stored.facts if stored else None
    if clock is None:
        start = facts["now"] + max(0.0, time.time() - facts["wall"]) * settings.speed if facts else None
        clock = SystemClock(settings.speed, start)
    seed = settings.seed if settings.wallet_seed is None else settings.wallet_seed
    wallet = facts["wallet"] if facts else address("wallet", seed)
    market = marketplace.seeded()
    chain = Chain(market, now=clock.now(), block_seconds=settings.block_seconds, seed=settings.seed)
    store = NodeStore()
    tables = {**chain.tables(), **store.tables()}
    if stored:
        for name, table in tables.items():
            table.load(stored.tables.get(name, {}))
        chain.restore_clock(stored.facts["chain"])
    else:
        chain.fund(wallet, mor=settings.mor, eth=settings.eth)

    def state_facts() -> dict[str, Any]:
        now = clock.now()
        return {"wall": time.time(), "now": now, "wallet": wallet, "chain": chain.clock_state(now)}

    file = state.StateFile(settings.state_file, tables, state_facts) if settings.state_file else None
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
    node.sender.races.enabled = settings.nonce_races
    model: LanguageModel
    if settings.llm_url:
        model = RemoteModel(settings.llm_url, api_key=settings.llm_key, model=settings.llm_model)
    else:
        model = SimulatedModel(seed=settings.seed, answer_seconds=settings.answer_seconds, now=clock.now)
    simulator = Simulator(settings, clock, Users(settings.users), chain, providers, store, node, faults, model, file)
    node.start()
    return simulator
