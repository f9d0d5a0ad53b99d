"""The chain of the audit log against a hand that can write the database and has no key."""

import copy
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import bson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from morpheus_auth.audit_chain import AuditKeys, examine, examine_head, examine_noted, not_reached
from morpheus_common.contracts.audit import START, AuditMark, AuditProblem, AuditProblemKind

KEYS = AuditKeys({"new": b"2" * 32, "old": b"1" * 32})
STRANGER = AuditKeys({"new": b"x" * 32, "old": b"y" * 32})
NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)

Row = dict[str, Any]
Log = tuple[list[Row], Row | None]


def sealed(entry: Row, keys: AuditKeys = KEYS) -> Row:
    return {**entry, "hash": keys.hash_of(entry)}


def head_of(sequence: int, digest: str, sealed_by: str = "new", keys: AuditKeys = KEYS) -> Row:
    head = {"_id": "head", "sequence": sequence, "hash": digest, "sealed_by": sealed_by}
    return {**head, "mac": keys.mac_of(head)}


def make_log(length: int) -> Log:
    """A log whose key was changed in the middle."""
    rows: list[Row] = []
    for sequence in range(1, length + 1):
        entry = {
            "_id": sequence,
            "at": NOON + timedelta(seconds=sequence),
            "action": "key.created",
            "actor": "user",
            "subject": f"{sequence:032x}",
            "facts": {"key_id": f"k{sequence}", "count": sequence, "again": False},
            "sealed_by": "old" if sequence <= length // 2 else "new",
            "previous": rows[-1]["hash"] if rows else START.hash,
        }
        rows.append(sealed(entry))
    return rows, head_of(length, rows[-1]["hash"] if rows else START.hash)


def problems(log: Log, *, after: AuditMark = START) -> list[AuditProblem]:
    rows, head = log
    # through the database and back
    stored: list[Row] = [bson.decode(bson.encode(row), bson.CodecOptions(tz_aware=True)) for row in rows]
    last, found = examine(stored, KEYS, after)
    return found + examine_head(head, KEYS, last)


def kinds(found: list[AuditProblem]) -> list[tuple[AuditProblemKind, int | None]]:
    return [(item.kind, item.sequence) for item in found]


@given(st.integers(0, 12))
def test_a_log_as_it_was_written_is_whole(length: int) -> None:
    assert problems(make_log(length)) == []


def test_a_log_is_whole_read_in_pages() -> None:
    rows, head = make_log(10)
    last = START
    for page in (rows[:4], rows[4:8], rows[8:]):
        last, found = examine(page, KEYS, last)
        assert found == []
    assert examine_head(head, KEYS, last) == []


def other(value: Any, draw: st.DataObject) -> Any:
    """Another value for a field: of the same kind, or of none that belongs there."""
    strange: list[st.SearchStrategy[Any]] = [st.none(), st.booleans(), st.integers(-5, 2**40), st.text(max_size=70)]
    strange += [st.floats(allow_nan=False), st.just({}), st.just(NOON), st.just("0" * 64), st.just(value).map(str)]
    return draw.draw(st.one_of(strange).filter(lambda drawn: (type(drawn), drawn) != (type(value), value)))


def remove(log: Log, draw: st.DataObject) -> Log:
    rows, head = log
    gone = draw.draw(st.integers(0, len(rows) - 1))
    return rows[:gone] + rows[gone + 1 :], head


def cut(log: Log, draw: st.DataObject) -> Log:
    rows, head = log
    return rows[: draw.draw(st.integers(0, len(rows) - 1))], head


def cut_with_a_head_to_match(log: Log, draw: st.DataObject) -> Log:
    rows, head = cut(log, draw)
    assert head is not None
    last = (len(rows), rows[-1]["hash"]) if rows else (0, START.hash)
    return rows, {**head, "sequence": last[0], "hash": last[1]}


def swap(log: Log, draw: st.DataObject) -> Log:
    """Exchange two entries, with their numbers or as they stand."""
    rows, head = log
    one, two = draw.draw(st.lists(st.integers(0, len(rows) - 1), min_size=2, max_size=2, unique=True))
    rows[one], rows[two] = rows[two], rows[one]
    if draw.draw(st.booleans()):
        rows[one]["_id"], rows[two]["_id"] = rows[two]["_id"], rows[one]["_id"]
    return rows, head


def insert(log: Log, draw: st.DataObject) -> Log:
    """Put a forged entry in, at the end too, all that follow moved on or not."""
    rows, head = log
    place = draw.draw(st.integers(0, len(rows)))
    forged = copy.deepcopy(rows[min(place, len(rows) - 1)])
    forged |= {"_id": place + 1, "previous": rows[place - 1]["hash"] if place else START.hash}
    forged = sealed({name: forged[name] for name in forged if name != "hash"}, STRANGER)
    behind = rows[place:]
    if draw.draw(st.booleans()):
        behind = [{**row, "_id": row["_id"] + 1} for row in behind]
    return [*rows[:place], forged, *behind], head


def repeat(log: Log, draw: st.DataObject) -> Log:
    rows, head = log
    place = draw.draw(st.integers(0, len(rows) - 1))
    return [*rows, {**rows[place], "_id": len(rows) + 1}], head


def alter(log: Log, draw: st.DataObject) -> Log:
    rows, head = log
    row = draw.draw(st.sampled_from(rows))
    name = draw.draw(st.sampled_from(sorted(row.keys() - {"_id"})))
    row[name] = other(row[name], draw)
    return rows, head


def renumber(log: Log, draw: st.DataObject) -> Log:
    rows, head = log
    row = draw.draw(st.sampled_from(rows))
    row["_id"] = draw.draw(st.integers(1, 100).filter(lambda number: number != row["_id"]))
    return sorted(rows, key=lambda item: int(item["_id"])), head


def alter_a_fact(log: Log, draw: st.DataObject) -> Log:
    rows, head = log
    facts = draw.draw(st.sampled_from(rows))["facts"]
    name = draw.draw(st.sampled_from(sorted(facts)))
    facts[name] = other(facts[name], draw)
    return rows, head


def drop_a_field(log: Log, draw: st.DataObject) -> Log:
    rows, head = log
    row = draw.draw(st.sampled_from(rows))
    del row[draw.draw(st.sampled_from(sorted(row.keys() - {"_id"})))]
    return rows, head


def add_a_field(log: Log, draw: st.DataObject) -> Log:
    rows, head = log
    draw.draw(st.sampled_from(rows))["note"] = draw.draw(st.text(max_size=5))
    return rows, head


def alter_and_seal_with_another_key(log: Log, draw: st.DataObject) -> Log:
    rows, head = alter_a_fact(log, draw)
    return [sealed({name: row[name] for name in row if name != "hash"}, STRANGER) for row in rows], head


def alter_the_head(log: Log, draw: st.DataObject) -> Log:
    rows, head = log
    assert head is not None
    name = draw.draw(st.sampled_from(["sequence", "hash", "sealed_by", "mac"]))
    return rows, {**head, name: other(head[name], draw)}


def drop_the_head(log: Log, draw: st.DataObject) -> Log:
    del draw
    return log[0], None


MUTATIONS: list[Callable[[Log, st.DataObject], Log]] = [
    remove,
    cut,
    cut_with_a_head_to_match,
    swap,
    insert,
    repeat,
    alter,
    renumber,
    alter_a_fact,
    drop_a_field,
    add_a_field,
    alter_and_seal_with_another_key,
    alter_the_head,
    drop_the_head,
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
@given(draw=st.data(), length=st.integers(2, 8))
def test_any_single_mutation_of_the_log_is_found(
    mutation: Callable[[Log, st.DataObject], Log], draw: st.DataObject, length: int
) -> None:
    """C50."""
    assert problems(mutation(make_log(length), draw)) != []


def test_what_is_wrong_is_told_with_the_number_of_the_entry() -> None:
    """C50."""
    rows, head = make_log(8)
    assert kinds(problems((rows[:3] + rows[4:], head))) == [(AuditProblemKind.MISSING, 4)]
    assert kinds(problems((rows[:5], head))) == [(AuditProblemKind.MISSING, 6)]
    assert [item.message for item in problems((rows[:5], head))] == ["Entries 6 to 8 are missing."]
    altered = [*rows[:3], {**rows[3], "actor": "operator"}, *rows[4:]]
    assert kinds(problems((altered, head))) == [(AuditProblemKind.ALTERED, 4)]
    behind = {**rows[7], "_id": 9, "previous": rows[7]["hash"]}
    found = kinds(problems(([*rows, behind], head)))
    assert (AuditProblemKind.INSERTED, 9) in found


def test_an_older_head_with_its_tail_is_found_by_a_mark_that_was_noted() -> None:
    """C50: a database put back to an older state is whole in itself."""
    rows, _ = make_log(8)
    older = rows[:5], head_of(5, rows[4]["hash"])
    assert problems(older) == []
    noted, last = AuditMark(sequence=8, hash=rows[7]["hash"]), AuditMark(sequence=5, hash=rows[4]["hash"])
    assert not_reached(noted, last).kind is AuditProblemKind.NOT_AS_NOTED
    gone_on = sealed({**{name: rows[5][name] for name in rows[5] if name != "hash"}, "facts": {"another": 1}})
    passed = AuditMark(sequence=6, hash=rows[5]["hash"])
    assert examine_noted(passed, rows) == []
    assert kinds(examine_noted(passed, [*rows[:5], gone_on])) == [(AuditProblemKind.NOT_AS_NOTED, 6)]


def test_without_an_old_key_its_entries_are_said_to_be_unproven() -> None:
    rows, head = make_log(4)
    newer = AuditKeys({"new": b"2" * 32})
    last, found = examine(rows, newer, START)
    assert kinds(found) == [(AuditProblemKind.NO_KEY, 1), (AuditProblemKind.NO_KEY, 2)]
    assert examine_head(head, newer, last) == []


def test_an_entry_of_one_kind_is_not_taken_for_the_other() -> None:
    content = {"_id": "head", "sequence": 1, "hash": "0" * 64, "sealed_by": "old"}
    assert KEYS.mac_of(content) != KEYS.hash_of(content)
