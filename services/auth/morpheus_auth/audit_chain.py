"""The chain of the audit log: what seals an entry to all before it, and what is found where the chain is broken.

Pure. Rows are documents as the database has them, because a field that nobody asked for is a change as well.
"""

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import bson
from morpheus_common.contracts.audit import START, AuditMark, AuditProblem, AuditProblemKind

Row = Mapping[str, Any]

_HASH: Final = re.compile(r"[0-9a-f]{64}")
_HEAD_FIELDS: Final = ("_id", "sequence", "hash", "sealed_by")


class UnknownKeyError(Exception):
    """There is no key under the id that something names as its own."""


class AuditKeys:
    """The keys that seal the log, by their ids, the one in use first: who can only write the database has none."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        self._keys = dict(keys)
        self.current_id = next(iter(self._keys))

    def hash_of(self, entry: Row) -> str:
        """Return the hash that an entry has to have. Raises `UnknownKeyError`."""
        return self._mac(b"entry", {name: entry[name] for name in sorted(entry) if name != "hash"})

    def mac_of(self, head: Row) -> str:
        """Return the MAC that a head has to have. Raises `UnknownKeyError`."""
        return self._mac(b"head", {name: head.get(name) for name in _HEAD_FIELDS})

    def _mac(self, kind: bytes, content: Row) -> str:
        sealed_by = content.get("sealed_by")
        key = self._keys.get(sealed_by) if isinstance(sealed_by, str) else None
        if key is None:
            raise UnknownKeyError
        # BSON tells a number from a text and a time, where JSON does not, and is what the database keeps
        return hmac.new(key, kind + b"\0" + bson.encode(content), hashlib.sha256).hexdigest()


def _is_hash(stored: object) -> bool:
    return isinstance(stored, str) and _HASH.fullmatch(stored) is not None


def same(one: object, other: str) -> bool:
    """Tell whether a stored hash is the computed one."""
    return isinstance(one, str) and hmac.compare_digest(one.encode(), other.encode())


def examine(rows: Iterable[Row], keys: AuditKeys, after: AuditMark) -> tuple[AuditMark, list[AuditProblem]]:
    """Return what is wrong with the entries that follow `after`, and the last of them."""
    last, problems = after, []
    for row in rows:
        sequence = row["_id"]
        if sequence > last.sequence + 1:
            problems.append(_missing(last.sequence + 1, sequence - 1))
        elif sequence <= last.sequence:
            problems.append(_problem(AuditProblemKind.INSERTED, sequence, "stands where it does not belong"))
        elif not same(row.get("previous"), last.hash):
            text = f"does not follow entry {last.sequence}: one of the two is not what it was"
            problems.append(_problem(AuditProblemKind.BROKEN_LINK, sequence, text))
        try:
            if not same(row.get("hash"), keys.hash_of(row)):
                problems.append(_problem(AuditProblemKind.ALTERED, sequence, "is not as it was written"))
        except UnknownKeyError:
            text = "names a key that is not there: nobody can tell whether it was altered"
            problems.append(_problem(AuditProblemKind.NO_KEY, sequence, text))
        last = AuditMark(sequence=sequence, hash=row["hash"] if _is_hash(row.get("hash")) else START.hash)
    return last, problems


def examine_head(head: Row | None, keys: AuditKeys, last: AuditMark) -> list[AuditProblem]:
    """Return what is wrong with the head, if `last` is the last entry there is."""
    problem = head_problem(head, keys)
    if problem is not None:
        return [AuditProblem(kind=AuditProblemKind.HEAD, sequence=None, message=f"The head {problem}.")]
    assert head is not None  # noqa: S101 - a missing head is a problem; for the type checker
    sequence = head["sequence"]
    if sequence > last.sequence:
        return [_missing(last.sequence + 1, sequence)]
    if sequence < last.sequence:
        return [_problem(AuditProblemKind.INSERTED, sequence + 1, "stands behind the end of the log")]
    if not same(head["hash"], last.hash):
        return [_problem(AuditProblemKind.BROKEN_LINK, sequence, "is not the one that the head names")]
    return []


def head_problem(head: Row | None, keys: AuditKeys) -> str | None:
    """Return what keeps anybody from building on this head, or None."""
    if head is None:
        return "of the audit log is gone"
    try:
        return None if same(head.get("mac"), keys.mac_of(head)) else "of the audit log is not as it was written"
    except UnknownKeyError:
        return "of the audit log names a key that is not there"


def examine_noted(noted: AuditMark, rows: Iterable[Row]) -> list[AuditProblem]:
    """Return whether the noted entry, where it is among `rows`, has another hash."""
    text = f"is not the one that was noted: the log was written anew, or is an older state that went on from before {noted.sequence}"
    return [
        _problem(AuditProblemKind.NOT_AS_NOTED, noted.sequence, text)
        for row in rows
        if row["_id"] == noted.sequence and not same(row.get("hash"), noted.hash)
    ]


def not_reached(noted: AuditMark, last: AuditMark) -> AuditProblem:
    """Return the problem that the log ends before an entry that was noted."""
    text = f"was noted, and the log ends with entry {last.sequence}: it is an older state, or its end was cut off"
    return _problem(AuditProblemKind.NOT_AS_NOTED, noted.sequence, text)


def _missing(first: int, last: int) -> AuditProblem:
    message = f"Entry {first} is missing." if first == last else f"Entries {first} to {last} are missing."
    return AuditProblem(kind=AuditProblemKind.MISSING, sequence=first, message=message)


def _problem(kind: AuditProblemKind, sequence: int, what: str) -> AuditProblem:
    return AuditProblem(kind=kind, sequence=sequence, message=f"Entry {sequence} {what}.")
