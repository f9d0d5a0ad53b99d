"""Everything that runs while we measure, and how long each thing is measured."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import peers
from benchmarks.ours import Ours, behind_upstream, upstream
from benchmarks.targets import Target

Say = Callable[[str], None]


@dataclass(frozen=True)
class Form:
    """How much is measured. Times in seconds.

    `patient_requests`: for a peer whose requests take tens of milliseconds.
    """

    name: str
    rounds: int
    requests: int
    patient_requests: int
    burst: float
    stream_runs: int
    gap_chunks: int
    cycles: int
    slow_streams: int
    slow_chunks: int
    mixed_warm_up: float
    mixed: float
    routers: int
    opens_each: int
    block: float
    installs: bool
    peers: tuple[str, ...]


DEFAULT = Form(
    name="default",
    rounds=5,
    requests=400,
    patient_requests=60,
    burst=2.5,
    stream_runs=4,
    gap_chunks=100,
    cycles=20,
    slow_streams=500,
    slow_chunks=60,
    mixed_warm_up=15.0,
    mixed=60.0,
    routers=4,
    opens_each=6,
    block=2.0,
    installs=True,
    peers=("litellm", "portkey"),
)
FULL = Form(
    name="full",
    rounds=9,
    requests=1_000,
    patient_requests=150,
    burst=6.0,
    stream_runs=10,
    gap_chunks=400,
    cycles=60,
    slow_streams=500,
    slow_chunks=60,
    mixed_warm_up=120.0,
    mixed=600.0,
    routers=4,
    opens_each=24,
    block=2.0,
    installs=True,
    peers=("litellm", "portkey"),
)
SHORT = Form(
    name="short",
    rounds=1,
    requests=30,
    patient_requests=5,
    burst=0.5,
    stream_runs=1,
    gap_chunks=20,
    cycles=2,
    slow_streams=64,
    slow_chunks=3,
    mixed_warm_up=1.0,
    mixed=2.0,
    routers=2,
    opens_each=2,
    block=0.2,
    installs=False,
    peers=(),
)
"""Shows that every figure comes out, and nothing about the figures."""


@dataclass
class Lab:
    """What is there to be measured. `missing`: why a peer is not."""

    form: Form
    folder: Path
    morpheus: Path
    say: Say
    direct: Target
    floor: Target
    floor_httpx2: Target
    ours: Ours
    far_peers: Mapping[str, Target] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)

    def everybody(self, callers: int) -> list[Target]:
        """Return who answers prompts: the router itself, the floor, ours (as so many keys), and the peers that are there."""
        return [self.direct, self.floor, self.ours.target(callers), *self.far_peers.values()]

    def in_rounds(self, targets: list[Target]) -> Iterator[tuple[int, Target]]:
        """Yield everybody in every round, each round beginning with another one."""
        for number in range(self.form.rounds):
            start = number % len(targets)
            for target in targets[start:] + targets[:start]:
                yield number + 1, target


@contextmanager
def lab(form: Form, folder: Path, morpheus: Path, say: Say) -> Iterator[Lab]:
    """Start everything; end it when the block is left."""
    with ExitStack() as stack:
        enter = stack.enter_context
        say("starting the simulated router and our stack")
        router = enter(upstream(folder))
        ours = enter(behind_upstream(folder, morpheus, router))
        say(f"our stack answered after {ours.started_in:.1f} s; starting the floor and the peers")
        floor = enter(peers.floor(router, folder))
        floor_httpx2 = enter(peers.floor(router, folder, "floor_httpx2"))
        there, missing = peers.enter_those_there(stack, router, folder, list(form.peers))
        for name, why in missing.items():
            say(f"WITHOUT {name}: {why}")
        yield Lab(form, folder, morpheus, say, peers.direct(router), floor, floor_httpx2, ours, there, missing)
