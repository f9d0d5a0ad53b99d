"""Our records beside the chain's, of every wallet: what is linked to nothing, to two, or to something that has ended.

`compare` is pure. A reading takes time, in which sessions open and close: what counts is what two readings, some blocks
apart, both show.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from morpheus_common.bus.rpc import RpcClient
from morpheus_common.contracts.base import Empty
from morpheus_common.contracts.operator import (
    DOUBLED_RECORDS,
    LIST_SESSIONS,
    PAGE_ROWS,
    READ_CHAIN,
    WALLETS,
    Doubled,
    ListSessions,
    OnChain,
    OperatedSession,
    OperatedWallet,
    ReadChain,
    Rule,
)
from morpheus_common.contracts.sessions import SessionState

from morpheus_devstack.errors import StackError

LIVE: Final = (SessionState.OPENING, SessionState.ACTIVE, SessionState.PARKED, SessionState.CLOSING)
"""States in which stake is, or may be, locked."""
_OPEN: Final = (SessionState.ACTIVE, SessionState.PARKED, SessionState.CLOSING)
_MAX_PAGES: Final = 1_000
SETTLED_BLOCKS: Final = 5
"""So many blocks past it, a block is taken for final."""
HEIGHT_SECONDS: Final = 120.0
"""How long those blocks are waited for; a chain that stands still shows the same twice anyhow."""

Say = Callable[[str], None]


class Kind(StrEnum):
    """What is not as it should be."""

    FOREIGN = "foreign"
    LOST = "lost"
    GIVEN_UP = "given up, open on chain"
    ENDED = "recorded as ended, open on chain"
    CLOSED = "recorded as open, closed on chain"
    ABSENT = "recorded as open, not on chain"
    STAKE = "stake differs"
    TAG = "another deployment's tag"
    NO_ROUTER = "no router for its wallet"
    NO_CLOSE = "closing, and nobody closes it"
    NO_OPEN = "opening, and nobody opens it"
    OPENED_TWICE = "one open, two sessions on chain"
    RECORDED_TWICE = "one session on chain, two records"
    SLOT_TWICE = "one key, two sessions in a slot"
    OPERATION_TWICE = "one open, two records"
    APPROVAL_TWICE = "one approval, two opens"


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as it should be. `what` names it (a session on chain, else a record); `stake` in wei."""

    kind: Kind
    what: str
    why: str
    stake: int | None = None
    key_id: str | None = None
    router: str | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What chain and records said. `heights` by router: the lowest from which its listing was read."""

    wallets: list[OperatedWallet]
    chain: list[OnChain]
    records: list[OperatedSession]
    doubled: list[Doubled]
    heights: dict[str, int]


@dataclass(frozen=True, slots=True)
class Audit:
    """The outcome. `sessions` open on chain that are ours, `stake` in them (wei); `in_flight`: what only the first
    reading showed.
    """

    sessions: int
    stake: int
    differences: list[Difference]
    in_flight: int


def compare(reading: Reading) -> list[Difference]:
    """Return every difference between chain and records, and every rule that the records break."""
    on_chain = {seen.session_id: seen for seen in reading.chain}
    found: list[Difference] = []
    for seen in on_chain.values():
        if seen.closed_at is None:
            found += _of_open(seen)
    found += _opened_twice(on_chain.values())
    wallets = {item.wallet for item in reading.wallets}
    for record in reading.records:
        found += _of_record(record, on_chain, wallets)
    found += [_of_doubled(item) for item in reading.doubled]
    # the same thing can be seen from both sides
    return list({(item.kind, item.what): item for item in found}.values())


def _of_open(seen: OnChain) -> list[Difference]:
    def difference(kind: Kind, why: str, key_id: str | None = None) -> Difference:
        return Difference(kind, seen.session_id, why, seen.stake, key_id, seen.router)

    if len(seen.records) > 1:
        ids = ", ".join(record.id for record in seen.records)
        return [difference(Kind.RECORDED_TWICE, f"records {ids}")]
    if not seen.records:
        return _of_unrecorded(seen, difference)
    record = seen.records[0]
    found = []
    if record.state not in _OPEN:
        found.append(difference(Kind.ENDED, f"record {record.id} is {record.state}", record.key_id))
    if record.stake != seen.stake:
        found.append(difference(Kind.STAKE, f"record {record.id} says {record.stake} wei", record.key_id))
    if not seen.ours:
        found.append(difference(Kind.TAG, "our records name it, but we close only what has our tag", record.key_id))
    return found


def _of_unrecorded(seen: OnChain, difference: Callable[[Kind, str], Difference]) -> list[Difference]:
    if not seen.ours:
        return [difference(Kind.FOREIGN, "its stake does not carry our tag; it is never touched")]
    states = {item.state: item for item in seen.opens}
    if states.keys() & {"sent", "unknown"}:
        return []  # its session is opening: the loop is about to adopt it
    if "abandoned" in states:
        return [difference(Kind.GIVEN_UP, f"open {states['abandoned'].id}; the next pass adopts and closes it")]
    if states:
        told = ", ".join(f"open {item.id} is {item.state}" for item in seen.opens)
        return [difference(Kind.LOST, f"our tag, and no record: {told}")]
    return [difference(Kind.LOST, "our tag, and no record of it")]


def _opened_twice(chain: Iterable[OnChain]) -> list[Difference]:
    """A tagged stake at one bid is one operation's; the contract takes its approval once."""
    same: dict[tuple[str, str, int], list[OnChain]] = defaultdict(list)
    for seen in chain:
        if seen.ours:
            same[seen.wallet, seen.bid_id, seen.stake].append(seen)
    return [
        Difference(
            Kind.OPENED_TWICE,
            group[0].session_id,
            "the same bid and tagged stake as " + ", ".join(seen.session_id for seen in group[1:]),
            group[0].stake,
            None,
            group[0].router,
        )
        for group in same.values()
        if len(group) > 1 and any(seen.closed_at is None for seen in group)
    ]


def _of_record(record: OperatedSession, on_chain: dict[str, OnChain], wallets: set[str | None]) -> Iterable[Difference]:
    def difference(kind: Kind, why: str) -> Difference:
        what = record.session_id or record.id
        return Difference(kind, what, why, record.stake, record.key_id, record.router)

    if record.state is SessionState.OPENING:
        if record.operation is None:
            yield difference(Kind.NO_OPEN, f"record {record.id} has no open that goes on")
        return
    if record.state is SessionState.CLOSING and record.operation is None:
        yield difference(Kind.NO_CLOSE, f"record {record.id} has no close that goes on")
    if record.wallet not in wallets:
        yield difference(Kind.NO_ROUTER, f"no router has the wallet {record.wallet}; nothing of it can be closed")
        return
    seen = on_chain.get(record.session_id or "")
    if seen is None:
        yield difference(Kind.ABSENT, f"record {record.id} is {record.state}")
    elif seen.closed_at is not None:
        yield difference(Kind.CLOSED, f"record {record.id} is {record.state}")


def _of_doubled(item: Doubled) -> Difference:
    ids = ", ".join(item.ids)
    if item.rule is Rule.SLOT:
        key_id, _, slot = item.key.rpartition(" ")
        return Difference(Kind.SLOT_TWICE, item.key, f"slot {slot} has records {ids}", key_id=key_id)
    if item.rule is Rule.CHAIN_SESSION:
        return Difference(Kind.RECORDED_TWICE, item.key.rpartition(" ")[2], f"records {ids}")
    if item.rule is Rule.OPERATION:
        return Difference(Kind.OPERATION_TWICE, item.key, f"records {ids}")
    return Difference(Kind.APPROVAL_TWICE, ids, f"operations {ids}")


async def read(rpc: RpcClient, say: Say) -> Reading:
    """Read all pages of everything; the chain first, so that what it shows was journalled before.

    Raises:
        StackError: a router does not answer, or a wallet has more sessions than can be read.
    """
    known = (await rpc.call(WALLETS, Empty())).wallets
    for item in known:
        if item.problem is not None:
            raise StackError(f"Nothing can be said of router {item.router}: {item.problem}.")
    wallets = list({item.wallet: item for item in reversed(known)}.values())
    chain: list[OnChain] = []
    heights: dict[str, int] = {}
    for item in wallets:
        chain += await _listing(rpc, item, heights, say)
    records: list[OperatedSession] = []
    more, after = True, None
    while more:
        page = await rpc.call(LIST_SESSIONS, ListSessions(states=list(LIVE), after=after))
        records += page.sessions
        more, after = page.more, page.sessions[-1].id if page.sessions else None
        say(f"{len(records)} records read …")
    doubled = (await rpc.call(DOUBLED_RECORDS, Empty())).doubled
    return Reading(wallets, chain, records, doubled, heights)


async def _listing(rpc: RpcClient, item: OperatedWallet, heights: dict[str, int], say: Say) -> list[OnChain]:
    found: list[OnChain] = []
    for number in range(_MAX_PAGES):
        # what is opened meanwhile moves the pages on: a session can come twice, none is left out
        page = await rpc.call(READ_CHAIN, ReadChain(router=item.router, offset=number * PAGE_ROWS))
        found += page.sessions
        heights[item.router] = min(page.height, heights.get(item.router, page.height))
        say(f"{item.router}: {len(found)} sessions read …")
        if not page.more:
            return found
    raise StackError(f"The wallet {item.wallet} has more than {_MAX_PAGES * PAGE_ROWS} sessions: too many to read.")


async def audit(rpc: RpcClient, say: Say, *, apart: float | None) -> Audit:
    """Read, and if there is a difference read again `apart` seconds and five blocks later (None: two passes later).

    Raises:
        StackError: as `read`.
    """
    reading = await read(rpc, say)
    found, first = compare(reading), []
    if found:
        first = found
        seconds = max(item.pass_seconds * 2 for item in reading.wallets) if apart is None else apart
        say(f"{len(found)} differences; looking again in {seconds:.0f} s …")
        await asyncio.sleep(seconds)
        await _blocks_later(rpc, reading.heights)
        reading = await read(rpc, say)
        before = {(item.kind, item.what) for item in first}
        found = [item for item in compare(reading) if (item.kind, item.what) in before]
    ours = {seen.session_id: seen for seen in reading.chain if seen.closed_at is None and (seen.ours or seen.records)}
    return Audit(len(ours), sum(seen.stake for seen in ours.values()), found, max(0, len(first) - len(found)))


async def _blocks_later(rpc: RpcClient, heights: dict[str, int]) -> None:
    """Wait until every chain is past what was read first: nodes lag, and blocks are reorganised."""
    loop = asyncio.get_running_loop()
    until = loop.time() + HEIGHT_SECONDS
    while loop.time() < until:
        wallets = (await rpc.call(WALLETS, Empty())).wallets
        if all((item.height or 0) >= heights.get(item.router, 0) + SETTLED_BLOCKS for item in wallets):
            return
        await asyncio.sleep(1.0)
