"""The checker is shown a sound world, and then each way in which it can be unsound: one that finds nothing proves nothing."""

from dataclasses import replace
from typing import Any

import pytest

from tests.faults.chain import ChainRow
from tests.faults.invariants import CHECKS, Event, Snapshot, check

DEPLOYMENT = 7
STAKE = 5 * 10**18
NOW = 1_800_000_000


def tagged(counter: int, *, deployment: int = DEPLOYMENT) -> int:
    return STAKE + deployment * 10**6 + counter


def chain_row(number: int, *, closed_at: int = 0, stake: int | None = None) -> ChainRow:
    return ChainRow(f"0x{number}", "bid", stake or tagged(number), NOW, NOW + 3_600, closed_at)


def session(number: int, state: str, **changes: Any) -> dict[str, Any]:
    return {
        "_id": f"s{number}",
        "key_id": f"k{number}",
        "state": state,
        "slot": "current" if state in {"opening", "active"} else None,
        "chain_session": f"0x{number}",
        "operation_id": f"o{number}",
        "version": 2,
        **changes,
    }


def operation(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "_id": f"o{number}",
        "key_id": f"k{number}",
        "kind": "open",
        "state": "done",
        "approval": f"0xa{number}",
        "bid_id": "bid",
        "stake": tagged(number),
        **changes,
    }


def outbox_row(number: int, version: int, **changes: Any) -> dict[str, Any]:
    row = {"_id": f"e{number}.{version}", "entity": f"s{number}", "version": version, "subject": f"evt.{version}"}
    return {**row, "published_at": NOW, **changes}


def event(number: int, version: int, **changes: Any) -> Event:
    return replace(Event(f"e{number}.{version}", f"s{number}", version, f"evt.{version}"), **changes)


FOREIGN = ChainRow("0xf", "bid", STAKE, NOW, NOW + 3_600, 0)


def sound() -> Snapshot:
    """One active session, one closed, one foreign."""
    return Snapshot(
        sessions=[session(1, "active"), session(2, "closed")],
        operations=[operation(1), operation(2)],
        guards=[{"_id": "k1", "wanted": True}, {"_id": "k2", "wanted": False}],
        findings=[{"_id": "0xf", "kind": "foreign"}],
        outboxes={"sessions": [outbox_row(n, v) for n in (1, 2) for v in (1, 2)]},
        chain=[chain_row(1), chain_row(2, closed_at=NOW + 5), FOREIGN],
        events=[event(1, 1), event(2, 1), event(1, 2), event(2, 2)],
        deployment=DEPLOYMENT,
        foreign=frozenset({"0xf"}),
        mor_at_start=100 * STAKE,
        mor=100 * STAKE - tagged(1) - STAKE,
        held=0,
        most_prompts_at_once=1,
        asked={"k1": 1, "k2": 1},
    )


def broken(**changes: Any) -> Snapshot:
    return replace(sound(), **changes)


def with_sessions(*rows: dict[str, Any]) -> Snapshot:
    return broken(sessions=[*sound().sessions, *rows])


def instead(number: int, state: str, **changes: Any) -> Snapshot:
    kept = [row for row in sound().sessions if row["_id"] != f"s{number}"]
    return broken(sessions=[*kept, session(number, state, **changes)])


UNSOUND: dict[str, tuple[str, Snapshot]] = {
    "two sessions of a key in one slot": ("I1", with_sessions(session(3, "opening", key_id="k1", chain_session=None))),
    "a closed session that holds a slot": ("I1", instead(2, "closed", slot="current")),
    "an active session without a slot": ("I1", instead(1, "active", slot=None)),
    "a session on chain without a record": ("I2", broken(chain=[*sound().chain, chain_row(3)])),
    "a record given up while the chain has the session": ("I2", instead(1, "abandoned")),
    "a record closed while the chain has it open": ("I2", instead(1, "closed")),
    "an active record that the chain does not know": ("I2", broken(chain=[sound().chain[1], FOREIGN])),
    "an active record that the chain has closed": (
        "I2",
        broken(chain=[chain_row(1, closed_at=NOW + 5), *sound().chain[1:]]),
    ),
    "a foreign session that nobody listed": ("I2", broken(findings=[])),
    "a session with our tag listed as lost": (
        "I2",
        broken(findings=[*sound().findings, {"_id": "0x9", "kind": "lost"}]),
    ),
    "one approval in two operations": ("I3", broken(operations=[operation(1), operation(2, approval="0xa1")])),
    "a session that no operation can have opened": ("I3", broken(operations=[operation(2)])),
    "an operation that opened twice": (
        "I3",
        broken(chain=[*sound().chain, replace(chain_row(4), stake=tagged(1))]),
    ),
    "an operation that failed and opened": ("I3", broken(operations=[operation(1, state="failed"), operation(2)])),
    "a session adopted by another operation": ("I3", instead(1, "active", operation_id="o2")),
    "two open sessions of one key": (
        "I3",
        broken(
            chain=[chain_row(1), chain_row(2), FOREIGN],
            sessions=[session(1, "active"), session(2, "closing", key_id="k1")],
        ),
    ),
    "more opens than were asked for": ("I3", broken(operations=[operation(1), operation(2, key_id="k1")])),
    "a version that is missing": (
        "I5",
        broken(outboxes={"sessions": [outbox_row(1, 2), outbox_row(2, 1), outbox_row(2, 2)]}),
    ),
    "two events for one version": (
        "I5",
        broken(outboxes={"sessions": [*sound().outboxes["sessions"], outbox_row(1, 2, _id="other")]}),
    ),
    "a change without its event": ("I5", instead(1, "active", version=3)),
    "an event that was never published": (
        "I5",
        broken(outboxes={"sessions": [*sound().outboxes["sessions"], outbox_row(3, 1, published_at=None)]}),
    ),
    "an event marked and not in the stream": ("I5", broken(events=sound().events[:3])),
    "an event out of order": ("I5", broken(events=[event(1, 2), event(1, 1), event(2, 1), event(2, 2)])),
    "an event that nobody decided": ("I5", broken(events=[*sound().events, event(1, 3)])),
    "an event that says something else": (
        "I5",
        broken(events=[event(1, 1, entity="s2"), *sound().events[1:]]),
    ),
    "calls that overlap": ("I7", broken(overlapping_calls=1)),
    "prompts that overlap": ("I8", broken(most_prompts_at_once=2)),
    "one chain session in two records": ("I9", with_sessions(session(3, "closed", chain_session="0x1"))),
    "a foreign session that was closed": (
        "I10",
        broken(chain=[*sound().chain[:2], replace(FOREIGN, closed_at=NOW + 9)]),
    ),
    "a session opened without our tag": ("I10", broken(foreign=frozenset())),
    "an operation that never ended": ("end", broken(operations=[operation(1), operation(2, state="unknown")])),
    "a session that closes for ever": ("end", instead(2, "closing")),
    "a revoked key with an active session": ("end", broken(guards=[{"_id": "k1", "wanted": False}])),
    "stake that is nowhere": ("money", broken(mor=sound().mor - 1)),
}


def test_a_sound_world_is_found_sound() -> None:
    assert check(sound()) == []


@pytest.mark.parametrize("name", UNSOUND)
def test_what_is_unsound_is_found(name: str) -> None:
    invariant, seen = UNSOUND[name]
    assert invariant in {violation.invariant for violation in check(seen)}


def test_every_check_is_needed_to_find_something() -> None:
    found_by = {
        look.__name__ for look in CHECKS for invariant, seen in UNSOUND.values() if any(v.invariant for v in look(seen))
    }
    assert found_by == {look.__name__ for look in CHECKS}


def test_a_violation_names_the_key_it_concerns() -> None:
    (violation,) = check(instead(1, "active", version=3))
    assert violation.keys == {"k1"}


def test_an_event_that_came_twice_is_no_violation() -> None:
    assert check(broken(events=[*sound().events, event(1, 1)])) == []
