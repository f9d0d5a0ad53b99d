"""What must hold once a pass over chain and records is complete, whatever struck before: I1 to I10 as far as a sweep sees.

Nothing here asks a server: a `Snapshot` is what MongoDB, the simulator and the event stream said; `check` is pure.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tests.faults.chain import ChainRow

Row = Mapping[str, Any]

TAG_SPACE: Final = 10**9
COUNTER_SPACE: Final = 10**6
"""The last nine digits of our stakes: three for the deployment, six for a counter. Written down again, not imported: the
checker must not inherit a mistake of what it checks."""
OPEN_ON_CHAIN = frozenset({"active", "parked", "closing"})
LIVE = OPEN_ON_CHAIN | {"opening"}
ENDED = frozenset({"done", "failed", "abandoned"})


@dataclass(frozen=True, slots=True)
class Event:
    """A message of the stream EVENTS, in the stream's order."""

    id: str
    entity: str
    version: int
    subject: str


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that does not hold. `keys` are the API keys it concerns, none if that cannot be said."""

    invariant: str
    what: str
    keys: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that is looked at. Amounts in wei."""

    sessions: Sequence[Row]
    operations: Sequence[Row]
    guards: Sequence[Row]
    findings: Sequence[Row]
    outboxes: Mapping[str, Sequence[Row]]
    """By service."""
    chain: Sequence[ChainRow]
    events: Sequence[Event]
    deployment: int
    foreign: frozenset[str]
    """Sessions that somebody opened past us."""
    mor_at_start: int
    mor: int
    held: int
    most_prompts_at_once: int
    overlapping_calls: int = 0
    """Chain calls of ours that ran at once although no fault can have forced it."""
    asked: Mapping[str, int] = field(default_factory=dict)
    """How many opens were asked for, by API key."""


def is_ours(session: ChainRow, deployment: int) -> bool:
    """Tell whether a chain session carries our tag."""
    return session.stake % TAG_SPACE // COUNTER_SPACE == deployment


def _keys(rows: Iterable[Row]) -> frozenset[str]:
    return frozenset(str(row["key_id"]) for row in rows if row.get("key_id"))


def _stake(row: Row) -> int | None:
    value = row.get("stake")
    return None if value is None else int(str(value))


def one_session_per_slot(seen: Snapshot) -> Iterator[Violation]:
    """I1: at most one session per key and slot; a slot is held by what opens or is active, and by nothing else."""
    slots: defaultdict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in seen.sessions:
        if row["slot"] is not None:
            slots[row["key_id"], row["slot"]].append(row)
            if row["state"] not in {"opening", "active"}:
                yield Violation("I1", f"session {row['_id']} is {row['state']} in slot {row['slot']}", _keys([row]))
        elif row["state"] in {"opening", "active"}:
            yield Violation("I1", f"session {row['_id']} is {row['state']} in no slot", _keys([row]))
    for (key, slot), rows in slots.items():
        if len(rows) > 1:
            yield Violation("I1", f"key {key} has {len(rows)} sessions in slot {slot}", frozenset({key}))


def every_open_session_is_known(seen: Snapshot) -> Iterator[Violation]:
    """I2: what is open on chain with our tag is linked to one session that is live; the rest is listed as what it is."""
    linked: defaultdict[str, list[Row]] = defaultdict(list)
    for row in seen.sessions:
        if row.get("chain_session"):
            linked[row["chain_session"]].append(row)
    listed = {row["_id"]: row["kind"] for row in seen.findings}
    for session in seen.chain:
        rows = linked[session.id]
        if not session.is_open:
            continue
        if not is_ours(session, seen.deployment):
            if listed.get(session.id) != "foreign":
                yield Violation("I2", f"foreign session {session.id} is listed as {listed.get(session.id)}")
        elif len(rows) != 1:
            yield Violation("I2", f"session {session.id} is open and has {len(rows)} records", _keys(rows))
        elif rows[0]["state"] not in LIVE:
            yield Violation("I2", f"session {session.id} is open and recorded as {rows[0]['state']}", _keys(rows))
    for chain_id, kind in listed.items():
        if kind == "lost":
            yield Violation("I2", f"session {chain_id} with our tag is listed as lost")


def every_record_is_on_chain(seen: Snapshot) -> Iterator[Violation]:
    """I2 the other way round: what we hold for open is on chain, and what we hold for closed is closed there."""
    chain = {session.id: session for session in seen.chain}
    for row in seen.sessions:
        session = chain.get(row.get("chain_session") or "")
        if row["state"] in OPEN_ON_CHAIN and session is None:
            yield Violation("I2", f"session {row['_id']} is {row['state']} and not on chain", _keys([row]))
        elif row["state"] in {"active", "parked"} and session is not None and not session.is_open:
            yield Violation("I2", f"session {row['_id']} is {row['state']} and closed on chain", _keys([row]))
        elif row["state"] == "closed" and (session is None or session.is_open):
            yield Violation("I2", f"session {row['_id']} is recorded as closed and is not", _keys([row]))


def one_session_per_approval(seen: Snapshot) -> Iterator[Violation]:
    """I3: an approval is journalled before it is sent, one operation sends one, and so opens one session at most."""
    approvals = Counter(row["approval"] for row in seen.operations if row.get("approval"))
    for row in seen.operations:
        if row.get("approval") and approvals[row["approval"]] > 1:
            yield Violation("I3", f"operation {row['_id']} shares its approval with another", _keys([row]))
    opens: defaultdict[tuple[str, int | None], list[Row]] = defaultdict(list)
    for row in seen.operations:
        if row["kind"] == "open" and row.get("approval"):
            opens[row["bid_id"], _stake(row)].append(row)
    opened: defaultdict[str, list[str]] = defaultdict(list)
    by_id = {row["_id"]: row for row in seen.operations}
    for session in seen.chain:
        if not is_ours(session, seen.deployment):
            continue
        rows = opens[session.bid_id, session.stake]
        if len(rows) != 1:
            yield Violation("I3", f"{len(rows)} operations can have opened session {session.id}", _keys(rows))
            continue
        opened[rows[0]["_id"]].append(session.id)
        if rows[0]["state"] in {"pending", "failed"}:
            yield Violation(
                "I3", f"operation {rows[0]['_id']} is {rows[0]['state']} and opened {session.id}", _keys(rows)
            )
    for operation, ids in opened.items():
        if len(ids) > 1:
            yield Violation("I3", f"double stake: operation {operation} opened {len(ids)}", _keys([by_id[operation]]))
    owner = {ids[0]: operation for operation, ids in opened.items()}
    for row in seen.sessions:
        chain_id = row.get("chain_session")
        if chain_id in owner and row["operation_id"] != owner[chain_id]:
            yield Violation("I3", f"session {chain_id} is recorded for another operation", _keys([row]))


def no_key_stakes_twice(seen: Snapshot) -> Iterator[Violation]:
    """I3: a key has no more opens than were asked for, and no more than one session open that is not parked."""
    key_of = {row["chain_session"]: row for row in seen.sessions if row.get("chain_session")}
    standing: Counter[str] = Counter()
    for session in seen.chain:
        row = key_of.get(session.id)
        if session.is_open and row is not None and row["state"] != "parked":
            standing[row["key_id"]] += 1
    for key, count in standing.items():
        if count > 1:
            yield Violation("I3", f"double stake: key {key} has {count} sessions open", frozenset({key}))
    opens = Counter(str(row["key_id"]) for row in seen.operations if row["kind"] == "open")
    for key, asked in seen.asked.items():
        if opens[key] > asked:
            yield Violation("I3", f"key {key} asked for {asked} opens and has {opens[key]}", frozenset({key}))


def versions_are_gapless(seen: Snapshot) -> Iterator[Violation]:
    """I5: an entity's versions count from 1 without a gap, each with one event, and the last is the entity's."""
    for service, rows in seen.outboxes.items():
        versions: defaultdict[str, list[int]] = defaultdict(list)
        for row in rows:
            versions[row["entity"]].append(row["version"])
            if row.get("published_at") is None:
                yield Violation("I5", f"{service}: event {row['_id']} of {row['entity']} was never published")
        for entity, found in versions.items():
            if sorted(found) != list(range(1, len(found) + 1)):
                yield Violation("I5", f"{service}: {entity} has the versions {sorted(found)}")
        for row in seen.sessions if service == "sessions" else ():
            told = max(versions.get(row["_id"], [0]))
            if told != row["version"]:
                yield Violation(
                    "I5", f"session {row['_id']} is at {row['version']}, its events at {told}", _keys([row])
                )


def events_arrive_in_order(seen: Snapshot) -> Iterator[Violation]:
    """I5: every event is in the stream, first seen in the order of its entity's versions, and told by nobody else."""
    staged = {row["_id"]: row for rows in seen.outboxes.values() for row in rows}
    service_of = {row["_id"]: service for service, rows in seen.outboxes.items() for row in rows}
    # two services may each tell of a user, and number what they tell for themselves
    last: defaultdict[tuple[str, str], int] = defaultdict(int)
    known: set[str] = set()
    for event in seen.events:
        row = staged.get(event.id)
        if row is None:
            yield Violation("I5", f"event {event.id} ({event.subject}) in the stream was never decided")
        elif (row["entity"], row["version"], row["subject"]) != (event.entity, event.version, event.subject):
            yield Violation("I5", f"event {event.id} says something else than was decided")
        elif event.id not in known:
            known.add(event.id)
            told = service_of[event.id], event.entity
            if event.version != last[told] + 1:
                yield Violation("I5", f"{event.entity}: version {event.version} after {last[told]}")
            last[told] = event.version
    for identifier, row in staged.items():
        if row.get("published_at") is not None and identifier not in known:
            yield Violation("I5", f"event {identifier} of {row['entity']} is marked as published and is not there")


def calls_do_not_overlap(seen: Snapshot) -> Iterator[Violation]:
    """I7: no chain call was begun beside another of ours, where no fault can have forced it."""
    if seen.overlapping_calls:
        yield Violation("I7", f"{seen.overlapping_calls} chain calls ran beside another of ours")


def prompts_do_not_overlap(seen: Snapshot) -> Iterator[Violation]:
    """I8: one unfinished prompt of ours per session."""
    if seen.most_prompts_at_once > 1:
        yield Violation("I8", f"{seen.most_prompts_at_once} prompts were unfinished at one session")


def a_chain_session_has_one_record(seen: Snapshot) -> Iterator[Violation]:
    """I9: a chain session is in at most one document, for ever."""
    records: defaultdict[str, list[Row]] = defaultdict(list)
    for row in seen.sessions:
        if row.get("chain_session"):
            records[row["chain_session"]].append(row)
    for chain_id, rows in records.items():
        if len(rows) > 1:
            yield Violation("I9", f"session {chain_id} is in {len(rows)} records", _keys(rows))


def what_is_not_ours_stays(seen: Snapshot) -> Iterator[Violation]:
    """I10: nothing is closed before its time that does not carry our tag; and what we did not open carries none."""
    for session in seen.chain:
        if not is_ours(session, seen.deployment):
            if not session.is_open and session.closed_at < session.ends_at:
                yield Violation("I10", f"session {session.id}, which is not ours, was closed early")
            if session.id not in seen.foreign:
                yield Violation("I10", f"session {session.id} was opened without our tag")


def everything_came_to_an_end(seen: Snapshot) -> Iterator[Violation]:
    """No operation is under way, nothing opens or closes any more, and what nobody wants is not open."""
    for row in seen.operations:
        if row["state"] not in ENDED:
            yield Violation("end", f"operation {row['_id']} ({row['kind']}) is still {row['state']}", _keys([row]))
    unwanted = {row["_id"] for row in seen.guards if not row["wanted"]}
    for row in seen.sessions:
        if row["state"] in {"opening", "closing"}:
            yield Violation("end", f"session {row['_id']} is still {row['state']}", _keys([row]))
        elif row["state"] in {"active", "parked"} and row["key_id"] in unwanted:
            yield Violation("end", f"session {row['_id']} of a revoked key is {row['state']}", _keys([row]))


def no_stake_is_missing(seen: Snapshot) -> Iterator[Violation]:
    """The wallet's MOR, what is staked and what is on hold add up to what there was."""
    staked = sum(session.stake for session in seen.chain if session.is_open)
    missing = seen.mor_at_start - seen.mor - seen.held - staked
    if missing:
        yield Violation("money", f"{missing} wei are neither in the wallet nor staked nor on hold")


CHECKS: Final[tuple[Callable[[Snapshot], Iterator[Violation]], ...]] = (
    one_session_per_slot,
    every_open_session_is_known,
    every_record_is_on_chain,
    one_session_per_approval,
    no_key_stakes_twice,
    versions_are_gapless,
    events_arrive_in_order,
    calls_do_not_overlap,
    prompts_do_not_overlap,
    a_chain_session_has_one_record,
    what_is_not_ours_stays,
    everything_came_to_an_end,
    no_stake_is_missing,
)


def check(seen: Snapshot) -> list[Violation]:
    """Return everything that does not hold."""
    return [violation for look in CHECKS for violation in look(seen)]
