"""What is swept: every moment of opening and closing, times what strikes there, what the chain does, and what is wished.

The moments that our code can name come from its own registry (`Step`), so a new step is swept without a word here. The
others lie in the router or on the chain; they are reached through the simulator, which holds a call where we want it.
"""

import itertools
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from morpheus_common.steps import SESSION_STEPS, Step


class Fault(StrEnum):
    """What strikes. A pause lasts longer than the lease, so that another takes over; then the process goes on."""

    KILL = "kill"
    PAUSE = "pause"
    LOST = "lost"
    CUT = "cut"


class Outcome(StrEnum):
    """What becomes of the transaction. A ghost is mined and answered with an error, a broken connection or nothing."""

    SUCCESS = "success"
    GHOST = "ghost"
    REVERT = "revert"
    NEVER = "never"
    LATE = "late"
    LATEST = "latest"


class Wish(StrEnum):
    """Whether anybody wants the session, from the moment of the strike on."""

    WANTED = "wanted"
    REVOKED = "revoked"


LEGEND: Final = {
    Fault.KILL: "kill -9",
    Fault.PAUSE: "SIGSTOP past the lease, SIGCONT",
    Fault.LOST: "MongoDB's answer lost",
    Fault.CUT: "bus cut",
    Outcome.SUCCESS: "success",
    Outcome.GHOST: "ghost success",
    Outcome.REVERT: "reverted",
    Outcome.NEVER: "never mined",
    Outcome.LATE: "mined after the takeover",
    Outcome.LATEST: "mined after it was given up (a close: after another close)",
    Wish.WANTED: "wanted",
    Wish.REVOKED: "key revoked at this point",
}


class Journey(StrEnum):
    """What is under way. A switch opens a second session that takes the first one's place, which is closed; after a renewal
    the first one is parked.
    """

    OPEN = "open"
    SWITCH = "switch"
    RENEW = "renew"
    CLOSE = "close"

    @property
    def has_first(self) -> bool:
        """Whether a session is there before, and another open is what it is about."""
        return self in {Journey.SWITCH, Journey.RENEW}


class Twist(StrEnum):
    """What else happens at a point."""

    NONE = "none"
    ROUTER_RESTARTED = "router restarted, storage kept"
    ROUTER_WIPED = "router restarted, storage lost"
    ROUTER_DOWN = "router down for long"
    CLIENT_GONE = "waiting client gone"
    LAG = "node lags"
    DUPLICATE = "duplicate approval, not adopted"
    WALLET_EMPTY = "duplicate masked by an empty wallet"
    BID_DELETED = "duplicate masked by a deleted bid"
    ESCALATED = "escalated, second attempt refused"
    MIDNIGHT = "UTC midnight"
    EXPIRED = "session runs out"
    NO_GAS = "funding account empty"
    PROMPT = "a prompt runs"
    MOVED = "mined again under another id"


@dataclass(frozen=True, slots=True)
class Hold:
    """Where the simulator holds a call: a kind of fault, and its stage; without a stage the edge of the route."""

    kind: str
    stage: str | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """A moment. It is reached at a `step` of ours, or at a `hold` in the router.

    `primed`: the first open is answered with an error before anything was sent, which leads here. `after_mining`: only
    what the chain shows gets here. `moves_time`: the chain's clock jumps, so other sessions run out. `may_be_last`: another
    process may have written all that is left to write, so that no answer can be lost.
    `cannot`: what is impossible here, with the reason.
    """

    number: str
    title: str
    journey: Journey
    step: str | None = None
    hold: Hold | None = None
    twist: Twist = Twist.NONE
    primed: bool = False
    after_mining: bool = False
    moves_time: bool = False
    may_be_last: bool = False
    cannot: Mapping[StrEnum, str] = field(default_factory=dict)


_ONLY_ON_CHAIN: Final[Mapping[StrEnum, str]] = {Outcome.NEVER: "only what the chain shows gets here"}
_GIVEN_UP = "only what the chain does not show is given up"
_NO_READ_BACK = "its id is read back only after a clear answer"
_GONE = "what is given up, or never mined, is not undone"
_DUPLICATE = "what is sent again is a duplicate when the first was mined after we had looked"
_ESCALATED = "being escalated is an outcome of its own"
_NOT_MINED = "what is not mined in time, or without effect, does not get here"
_NO_WRITE = "nothing is written from here on"

_EXTRAS: Final[Mapping[str, Mapping[str, object]]] = {
    "O19": {"after_mining": True, "cannot": _ONLY_ON_CHAIN},
    "O20": {"after_mining": True, "may_be_last": True, "cannot": _ONLY_ON_CHAIN},
    "O22": {"cannot": {Fault.LOST: _NO_WRITE}},
    "O23": {"primed": True},
    "O24": {"primed": True, "may_be_last": True},
    "O25": {"after_mining": True, "cannot": _ONLY_ON_CHAIN},
    "O26": {"cannot": dict.fromkeys((Outcome.SUCCESS, Outcome.GHOST, Outcome.REVERT, Outcome.LATE), _GIVEN_UP)},
    "O31": {
        "twist": Twist.MOVED,
        "after_mining": True,
        "cannot": dict.fromkeys((Outcome.NEVER, Outcome.LATEST), _GONE),
    },
    "K3": {"twist": Twist.PROMPT},
    "K14": {"may_be_last": True},
    "K15": {"cannot": {Fault.LOST: _NO_WRITE}},
}
"""What leads to steps that a plain open or close does not pass, and what cannot be there."""


def _named(step: Step) -> Point:
    journey = {"O": Journey.OPEN, "K": Journey.CLOSE}[step.number[0]]
    title = step.value.partition(" ")[2]
    return Point(step.number, title, journey, step=step.number, **_EXTRAS.get(step.number, {}))  # type: ignore[arg-type]  # fields by name


def _in_router() -> Iterator[Point]:
    """The moments that lie outside of our processes, or that need something else to happen."""

    def opens(number: str, title: str, **more: object) -> Point:
        return Point(number, title, Journey.OPEN, **more)  # type: ignore[arg-type]  # fields by name

    def closes(number: str, title: str, **more: object) -> Point:
        return Point(number, title, Journey.CLOSE, **more)  # type: ignore[arg-type]  # fields by name

    before, after = Hold("open", "before_allowance"), Hold("open", "after_allowance")
    mempool, mined = Hold("open", "in_mempool"), Hold("open", "mined")
    yield opens("O11", "sent, before the allowance", hold=before)
    yield opens("O12", "allowance mined, open not sent", hold=after)
    yield opens("O13", "open in the mempool", hold=mempool)
    only_ghost: dict[StrEnum, str] = dict.fromkeys(set(Outcome) - {Outcome.GHOST}, _ESCALATED)
    yield opens("O14", "escalated, attempt 1 mined", step="O16", twist=Twist.ESCALATED, cannot=only_ghost)
    unmined: dict[StrEnum, str] = dict.fromkeys(
        (Outcome.REVERT, Outcome.NEVER, Outcome.LATE, Outcome.LATEST), _NOT_MINED
    )
    yield opens("O15", "mined, no reply", hold=mined, cannot=unmined)
    unread = dict.fromkeys((Outcome.GHOST, Outcome.NEVER, Outcome.LATE, Outcome.LATEST), _NO_READ_BACK)
    yield opens("O18", "read back, node lags", hold=Hold("session"), twist=Twist.LAG, cannot=unread)
    duplicate: dict[StrEnum, str] = dict.fromkeys(set(Outcome) - {Outcome.LATE}, _DUPLICATE)
    for letter, twist in (("a", Twist.DUPLICATE), ("b", Twist.WALLET_EMPTY), ("c", Twist.BID_DELETED)):
        yield opens(f"O24{letter}", twist, step="O24", twist=twist, cannot=duplicate)
    yield Point(
        "O27", "next active, not cut over", Journey.SWITCH, step="O19", after_mining=True, cannot=_ONLY_ON_CHAIN
    )
    renewal = {"journey": Journey.RENEW, "after_mining": True, "cannot": _ONLY_ON_CHAIN}
    yield Point("O27r", "renewed, not cut over", step="O19", **renewal)  # type: ignore[arg-type]  # fields by name
    yield Point("O4r", "renewal written, answer lost", Journey.RENEW, step="O4")
    restarts: tuple[tuple[str, dict[str, object]], ...] = (
        ("O7", {"step": "O7"}),
        ("O11", {"hold": before}),
        ("O12", {"hold": after}),
        ("O13", {"hold": mempool}),
        ("O15", {"hold": mined, "cannot": unmined}),
    )
    for letters, twist in (("abcde", Twist.ROUTER_RESTARTED), ("fghij", Twist.ROUTER_WIPED)):
        for letter, (at, place) in zip(letters, restarts, strict=True):
            yield opens(f"O28{letter}", f"{twist}, at {at}", twist=twist, **place)
    yield opens("O29", "waiter gone before O7", step="O6", twist=Twist.CLIENT_GONE)
    yield opens("O30", "midnight before it is mined", step="O8", twist=Twist.MIDNIGHT, moves_time=True)
    yield closes("K6", "provider's report hangs", hold=Hold("close", "report"))
    yield closes("K7", "close in the mempool", hold=Hold("close", "in_mempool"))
    yield closes("K8", "close mined, no reply", hold=Hold("close", "mined"), cannot=unmined)
    yield closes("K11", "refused: no gas", step="K5", twist=Twist.NO_GAS)
    yield closes("K12", "the router's closer wins", step="K5", twist=Twist.EXPIRED, moves_time=True)
    yield closes("K17", "router down while closing", step="K5", twist=Twist.ROUTER_DOWN)


def _order(point: Point) -> tuple[bool, str, int, str]:
    digits = "".join(char for char in point.number if char.isdigit())
    return point.moves_time, {"O": "1", "K": "2"}[point.number[0]], int(digits), point.number


POINTS: Final[tuple[Point, ...]] = tuple(sorted([*map(_named, SESSION_STEPS), *_in_router()], key=_order))
DUPLICATES: Final = frozenset({Twist.DUPLICATE, Twist.WALLET_EMPTY, Twist.BID_DELETED})
"""Twists in which the first transaction is mined between our look at the chain and the second call."""
BY_NUMBER: Final = {point.number: point for point in POINTS}
NOT_SWEPT: Final = {
    "K16": "the saga has steps of its own, which tests/service/{auth,sessions,automation} kill its processes at"
}
"""Crash points that nothing in the product stands for, with the reason."""


@dataclass(frozen=True, slots=True)
class Case:
    """One run through one point."""

    point: Point
    fault: Fault
    outcome: Outcome
    wish: Wish

    @property
    def id(self) -> str:
        return f"{self.point.number}.{self.fault}.{self.outcome}.{self.wish}"

    @property
    def impossible(self) -> str | None:
        """Why this cannot happen; None if it can."""
        reasons = [
            self.point.cannot[part] for part in (self.fault, self.outcome, self.wish) if part in self.point.cannot
        ]
        return reasons[0] if reasons else None

    def chance(self, seed: int) -> random.Random:
        """What decides the details of this case: the same for the same seed, whatever else is run."""
        return random.Random(f"{seed}/{self.id}")

    @property
    def pairs(self) -> set[tuple[str, str]]:
        """Each two of its four parts."""
        parts = (
            self.point.number,
            *(f"{type(part).__name__}.{part}" for part in (self.fault, self.outcome, self.wish)),
        )
        return set(itertools.combinations(parts, 2))


def by_id(identifier: str) -> Case:
    """The case with an id. Raises `ValueError` for one that does not exist."""
    try:
        number, fault, outcome, wish = identifier.split(".")
        return Case(BY_NUMBER[number], Fault(fault), Outcome(outcome), Wish(wish))
    except KeyError:
        raise ValueError(f"no point is called {identifier.partition('.')[0]}") from None


def every_case() -> list[Case]:
    """The full product, without what is impossible."""
    product = itertools.product(POINTS, Fault, Outcome, Wish)
    return [case for case in itertools.starmap(Case, product) if case.impossible is None]


def pairwise(cases: Sequence[Case], seed: int) -> list[Case]:
    """A selection in which each two parts that can meet do: every point with every fault, outcome and wish."""
    order = list(cases)
    random.Random(seed).shuffle(order)
    missing = set().union(*(case.pairs for case in order))
    chosen: set[str] = set()
    # greedy by gain: first those that cover four or more new pairs, at the end those that cover a last one
    for gain in range(6, 0, -1):
        for case in order:
            new = case.pairs & missing
            if len(new) >= gain:
                missing -= new
                chosen.add(case.id)
    return in_order(case for case in cases if case.id in chosen)


def short(cases: Sequence[Case], seed: int) -> list[Case]:
    """One case for each step and each place in the router where a call can be; faults and outcomes take turns."""
    left = pairwise(cases, seed)
    random.Random(seed).shuffle(left)
    used: dict[StrEnum, int] = {}
    chosen = []
    for point in POINTS:
        named = point.step == point.number or (point.hold is not None and point.twist is Twist.NONE)
        mine = [case for case in left if case.point is point]
        if not named or not mine:
            continue
        best = min(mine, key=lambda case: sum(used.get(part, 0) for part in (case.fault, case.outcome, case.wish)))
        for part in (best.fault, best.outcome, best.wish):
            used[part] = used.get(part, 0) + 1
        chosen.append(best)
    return in_order(chosen)


def in_order(cases: Iterable[Case]) -> list[Case]:
    """Point by point; what moves the chain's clock comes last."""
    return sorted(cases, key=lambda case: (_order(case.point), case.id))
