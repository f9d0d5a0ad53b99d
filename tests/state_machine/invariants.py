"""What must hold whatever happened: after every rule (`at_any_time`), and when all has come to rest (`at_rest`).

Written from the architecture, not from the code: nothing of the product's own arithmetic is imported.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tests.state_machine.ledger import Ledger, Opened

DEPLOYMENT: Final = 1
LIVE: Final = frozenset({"opening", "active", "parked", "closing"})
ON_CHAIN: Final = frozenset({"active", "parked", "closing"})
WATCHED: Final = frozenset({"sent", "unknown", "abandoned"})
ENDED: Final = frozenset({"done", "failed", "abandoned"})
FOLLOWS: Final = {
    None: {"requested"},
    "requested": {"opened", "failed", "abandoned"},
    "opened": {"parked", "resumed", "moved", "close_requested", "closed", "abandoned"},
    "parked": {"resumed", "moved", "close_requested", "closed", "abandoned"},
    "resumed": {"parked", "moved", "close_requested", "closed", "abandoned"},
    "moved": {"parked", "resumed", "moved", "close_requested", "closed", "abandoned"},
    "close_requested": {"moved", "closed", "abandoned"},
    # seen on chain after all, or again (a block undone, a node that lagged)
    "abandoned": {"opened", "close_requested"},
    "closed": {"close_requested"},
    "failed": set(),
}
"""Which event of a session may follow which."""

Row = Mapping[str, Any]


class Violation(AssertionError):
    """An invariant is broken."""


@dataclass(frozen=True, slots=True)
class Records:
    """What the database holds."""

    sessions: Sequence[Row]
    operations: Sequence[Row]
    outbox: Sequence[Row]
    guards: Sequence[Row]
    findings: Sequence[Row]


def is_ours(stake: int) -> bool:
    """Whether a stake carries the tag of this deployment."""
    return stake % 10**9 // 10**6 == DEPLOYMENT


def stake_of(row: Row) -> int | None:
    return None if row.get("stake") is None else int(row["stake"].to_decimal())


def fingerprints(operations: Iterable[Row], states: frozenset[str]) -> set[tuple[str, int | None]]:
    """Bid and stake of the opens in `states`."""
    return {(row["bid_id"], stake_of(row)) for row in operations if row["kind"] == "open" and row["state"] in states}


def require(holds: bool, name: str, text: str) -> None:
    if not holds:
        raise Violation(f"{name}: {text}")


def at_any_time(records: Records, ledger: Ledger) -> None:
    """Check what holds between any two steps of any process."""
    _one_session_per_slot(records)
    _one_document_per_chain_session(records)
    _one_approval_per_open(records)
    _gapless_versions(records)
    _every_stake_is_known(records, ledger)
    _no_double_stake(records, ledger)


def _one_session_per_slot(records: Records) -> None:
    slots = Counter((row["key_id"], row["slot"]) for row in records.sessions if row["slot"] is not None)
    for (key, slot), number in slots.items():
        require(number == 1, "I1", f"key {key} has {number} sessions in slot {slot}")
    for row in records.sessions:
        has_slot = row["state"] in {"opening", "active"}
        require((row["slot"] is not None) == has_slot, "I1", f"session {row['_id']} is {row['state']} in {row['slot']}")


def _one_document_per_chain_session(records: Records) -> None:
    owners = Counter(row["chain_session"] for row in records.sessions if row["chain_session"] is not None)
    for chain_session, number in owners.items():
        require(number == 1, "I9", f"chain session {chain_session} is in {number} documents")


def _one_approval_per_open(records: Records) -> None:
    approvals = Counter(row["approval"] for row in records.operations if row["approval"] is not None)
    for approval, number in approvals.items():
        require(number == 1, "I3", f"approval {approval} is of {number} operations")


def _gapless_versions(records: Records) -> None:
    events: dict[str, dict[int, str]] = {}
    for row in records.outbox:
        versions = events.setdefault(row["entity"], {})
        require(row["version"] not in versions, "I5", f"two events of version {row['version']} of {row['entity']}")
        versions[row["version"]] = row["subject"].split(".")[3]
    for row in records.sessions:
        versions = events.get(row["_id"], {})
        wanted = list(range(1, row["version"] + 1))
        require(sorted(versions) == wanted, "I5", f"session {row['_id']} at {row['version']} has events {versions}")
        before = None
        for version in wanted:
            now = versions[version]
            require(now in FOLLOWS[before], "I5", f"session {row['_id']}: {now} after {before}, version {version}")
            before = now


def _ours(ledger: Ledger) -> list[Opened]:
    return [session for session in ledger.open_sessions() if is_ours(session.stake)]


def _every_stake_is_known(records: Records, ledger: Ledger) -> None:
    linked = {row["chain_session"] for row in records.sessions if row["chain_session"] is not None}
    watched = fingerprints(records.operations, WATCHED)
    done = fingerprints(records.operations, frozenset({"done"}))
    for session in _ours(ledger):
        opened_by = (session.bid.id, session.stake)
        # what was mined again may have another id than the one that its record has until the next pass
        known = session.id in linked or opened_by in watched or (session.again and opened_by in done)
        require(known, "I2", f"chain session {session.id} holds a stake, and no record knows it")


def _no_double_stake(records: Records, ledger: Ledger) -> None:
    opens = Counter((row["bid_id"], stake_of(row)) for row in records.operations if row["kind"] == "open")
    found = Counter((session.bid.id, session.stake) for session in ledger.sessions.values() if is_ours(session.stake))
    for (bid, stake), number in found.items():
        require(number <= opens[bid, stake], "I3", f"{number} chain sessions of {opens[bid, stake]} opens of {stake}")


def unsettled(records: Records, ledger: Ledger) -> Iterator[str]:
    """What has not come to rest yet: it must, when faults have ended and time goes on."""
    for row in records.operations:
        if row["state"] not in ENDED:
            yield f"{row['kind']} {row['_id']} is {row['state']}"
    on_chain = {session.id: session for session in ledger.open_sessions()}
    for row in records.sessions:
        is_open = row["chain_session"] in on_chain
        if row["state"] in {"opening", "closing"}:
            yield f"session {row['_id']} is {row['state']}"
        elif row["state"] in ON_CHAIN and not is_open:
            yield f"session {row['_id']} is {row['state']}, and not open on chain"
        elif row["state"] not in ON_CHAIN and is_open:
            yield f"session {row['_id']} is {row['state']}, and open on chain"
    linked = {row["chain_session"] for row in records.sessions}
    for session in _ours(ledger):
        if session.id not in linked:
            yield f"chain session {session.id} is in no document"


def at_rest(records: Records, ledger: Ledger, *, revoked: set[str]) -> None:
    """Check what holds when nothing is left to be done."""
    at_any_time(records, ledger)
    for text in unsettled(records, ledger):
        raise Violation(f"does not come to rest: {text}")
    opened = {session.id: session for session in ledger.open_sessions()}
    for row in records.sessions:
        if row["state"] not in ON_CHAIN:
            continue
        require(row["key_id"] not in revoked, "unwanted", f"session {row['_id']} of a revoked key is {row['state']}")
        session = opened[row["chain_session"]]
        # its length, because a process on its way holds what it read before time passed; when a session is mined anew its
        # times are new, and a record that keeps its id keeps the old ones
        lasts = int((row["ends_at"] - row["opened_at"]).total_seconds())
        told = (row["bid_id"], stake_of(row), lasts)
        found = (session.bid.id, session.stake, lasts if session.again else session.ends_at - session.opened_at)
        require(told == found, "usable", f"{told} is not {session}")
    reported = {row["_id"]: row["kind"] for row in records.findings}
    for session in opened.values():
        kind = None if is_ours(session.stake) else "foreign"
        require(reported.get(session.id) == kind, "findings", f"{session.id} is {reported.get(session.id)}, not {kind}")
