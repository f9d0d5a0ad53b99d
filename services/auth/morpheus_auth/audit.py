"""The audit log: every privileged act, written in the act's own transaction, so that there is neither without the other.

Entries are numbered without gaps and each is sealed to the one before it (audit_chain.py). A user is named by a random
id whose link to him is deleted with his account.
"""

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from bson import CodecOptions
from bson.codec_options import DatetimeConversion
from morpheus_common.clock import Clock
from morpheus_common.contracts.audit import (
    START,
    Actor,
    AuditAction,
    AuditEntries,
    AuditEntry,
    AuditProblem,
    AuditProblemKind,
    AuditVerdict,
    ListAudit,
    VerifyAudit,
)
from morpheus_common.logs import get_logger
from morpheus_common.store.mongo import MongoClient
from morpheus_common.store.transactions import run_transaction
from pymongo import ASCENDING, ReturnDocument
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import DuplicateKeyError

from morpheus_auth.audit_chain import AuditKeys, Row, examine, examine_head, examine_noted, head_problem, not_reached
from morpheus_auth.documents import AUDIT_HEAD, AuditDocument, AuditHeadDocument, AuditKeyDocument, AuditSubjectDocument
from morpheus_auth.keyring import Keyring
from morpheus_auth.service_keys import load_or_create

log = get_logger(__name__)

T = TypeVar("T")

KEY_BYTES: Final = 32
MAX_FACTS: Final = 16
_FACT_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
_FACT_TEXT: Final = re.compile(r"[A-Za-z0-9_.:-]{0,128}")
"""Ids and words of ours. An e-mail address, a name or a text does not fit."""
_INTEGERS: Final = range(-(2**63), 2**63)

_NUMBERED: Final = {"$type": ["int", "long"]}
_NOT_NUMBERED: Final = {"$or": [{"_id": {"$not": _NUMBERED}}, {"_id": {"$lt": 1}}]}
_STRAYS: Final = 10
# whatever somebody wrote into the log has to be told of, not to end the reading
_ANYTHING: Final = CodecOptions[dict[str, Any]](
    tz_aware=True, datetime_conversion=DatetimeConversion.DATETIME_AUTO, unicode_decode_error_handler="replace"
)


class AuditBrokenError(Exception):
    """Nothing can be added to the audit log, and so nothing privileged be done, before its end is what it was."""


@dataclass(frozen=True, slots=True)
class Audit:
    """The audit log of the service's database."""

    client: MongoClient
    keys: AuditKeys
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock, init=False, repr=False)

    async def begin(self) -> None:
        """Make the head of a new log. What is wrong with an old one is logged."""

        async def write(session: AsyncClientSession) -> str | None:
            heads = AuditHeadDocument.get_pymongo_collection()
            head = await heads.find_one({"_id": AUDIT_HEAD}, session=session)
            if head is not None or await AuditDocument.find_one({}, session=session) is not None:
                return head_problem(head, self.keys)
            await heads.insert_one(self._head(START.sequence, START.hash), session=session)
            return None

        try:
            problem = await run_transaction(self.client, write)
        except DuplicateKeyError:
            log.info("another process began the audit log")
            return
        if problem is not None:
            # the service starts all the same: it alone can tell what is wrong with the log
            log.error("nothing privileged is done; run `morpheus audit verify`", problem=f"the head {problem}")

    async def transaction(
        self,
        body: Callable[[AsyncClientSession], Awaitable[T]],
        *,
        read_back: Callable[[], Awaitable[T | None]] | None = None,
    ) -> T:
        """Run a transaction that appends, as `run_transaction` does.

        Those of one process take turns beforehand: each would be done again until it is its turn, which is slower.
        """
        async with self._turn:
            return await run_transaction(self.client, body, read_back=read_back)

    async def append(
        self,
        action: AuditAction,
        *,
        session: AsyncClientSession,
        actor: Actor,
        subject_user: str | None,
        facts: Mapping[str, str | int | bool],
    ) -> None:
        """Write an entry in the transaction of the act; `transaction` runs it best.

        Make it the act's first write: acts take turns at the log, and one that has to be done again then has done
        nothing yet. `subject_user` is the id of the user whom it is about. `facts` are ids, numbers and words of ours,
        never personal data; the user's id is not among them.

        Raises:
            AuditBrokenError: the end of the log is not as it was written.
            ValueError: facts that are none; the mistake is in the code.
        """
        told = _checked(facts, subject_user)
        heads = AuditHeadDocument.get_pymongo_collection()
        # a write before anything is read: of two appends at once one is done again
        head = await heads.find_one_and_update(
            {"_id": AUDIT_HEAD},
            [{"$set": {"touched_at": "$$NOW"}}],
            return_document=ReturnDocument.AFTER,
            session=session,
        )
        problem = head_problem(head, self.keys)
        if head is None or problem is not None:
            raise AuditBrokenError(f"the head {problem}")
        entry: dict[str, Any] = {
            "_id": int(head["sequence"]) + 1,
            "at": head["touched_at"],
            "action": action.value,
            "actor": actor.value,
            "subject": None if subject_user is None else await _subject_of(subject_user, session),
            "facts": told,
            "sealed_by": self.keys.current_id,
            "previous": head["hash"],
        }
        entry["hash"] = self.keys.hash_of(entry)
        try:
            await AuditDocument.get_pymongo_collection().insert_one(entry, session=session)
        except DuplicateKeyError:
            raise AuditBrokenError("an entry stands behind the end of the audit log") from None
        sealed = self._head(entry["_id"], entry["hash"])
        await heads.update_one({"_id": AUDIT_HEAD}, {"$set": sealed}, session=session)

    async def record(
        self,
        action: AuditAction,
        *,
        actor: Actor,
        subject_user: str | None,
        facts: Mapping[str, str | int | bool],
    ) -> None:
        """Write an entry of an act that is more than one transaction, after it."""

        async def write(session: AsyncClientSession) -> None:
            await self.append(action, session=session, actor=actor, subject_user=subject_user, facts=facts)

        await self.transaction(write)

    async def forget(self, user_id: str, *, session: AsyncClientSession) -> None:
        """Delete what tells which entries are about a user.

        The last thing done about him: an entry after it would make a new link.
        """
        await AuditSubjectDocument.get_pymongo_collection().delete_one({"_id": user_id}, session=session)

    async def verify(self, question: VerifyAudit) -> AuditVerdict:
        """Look at a page of entries, and at the end at the head: all as of one moment, though others append."""
        entries = AuditDocument.get_pymongo_collection().with_options(codec_options=_ANYTHING)
        heads = AuditHeadDocument.get_pymongo_collection().with_options(codec_options=_ANYTHING)

        async def read(session: AsyncClientSession) -> tuple[Sequence[Row], Row | None, Sequence[Row]]:
            page = {"_id": {"$gt": question.after.sequence, **_NUMBERED}}
            rows = entries.find(page, session=session).sort("_id", ASCENDING).limit(question.limit + 1)
            strays = entries.find(_NOT_NUMBERED, {"_id": 1}, session=session).limit(_STRAYS)
            head = await heads.find_one({"_id": AUDIT_HEAD}, session=session)
            return await rows.to_list(), head, await strays.to_list()

        rows, head, strays = await run_transaction(self.client, read)
        more, rows = len(rows) > question.limit, rows[: question.limit]
        last, problems = examine(rows, self.keys, question.after)
        if question.expect is not None:
            problems += examine_noted(question.expect, rows)
        if not more:
            problems += [_stray(row) for row in strays]
            problems += examine_head(head, self.keys, last)
            if question.expect is not None and question.expect.sequence > last.sequence:
                problems.append(not_reached(question.expect, last))
        return AuditVerdict(last=last, entries=len(rows), problems=problems, more=more)

    async def list_entries(self, question: ListAudit) -> AuditEntries:
        """Return a page of entries, oldest first."""
        wanted: dict[str, Any] = {"_id": {"$gt": question.after}}
        if question.since is not None:
            wanted["at"] = {"$gte": question.since}
        if question.action is not None:
            wanted["action"] = question.action.value
        if question.user_id is not None:
            link = await AuditSubjectDocument.get(question.user_id)
            if link is None:
                return AuditEntries(entries=[], more=False)
            wanted["subject"] = link.subject
        found = await AuditDocument.find(wanted).sort("+_id").limit(question.limit + 1).to_list()
        return AuditEntries(
            entries=[_row(entry) for entry in found[: question.limit]], more=len(found) > question.limit
        )

    def _head(self, sequence: int, entry_hash: str) -> dict[str, Any]:
        head = {
            "_id": AUDIT_HEAD,
            "sequence": sequence,
            "hash": entry_hash,
            "sealed_by": self.keys.current_id,
        }
        return {**head, "mac": self.keys.mac_of(head)}


async def load_audit_keys(keyring: Keyring, clock: Clock) -> AuditKeys:
    """Return the keys all processes of the service share. Raises `KeyringError`."""
    return AuditKeys(await load_or_create(AuditKeyDocument, keyring, lambda: secrets.token_bytes(KEY_BYTES), clock))


async def _subject_of(user_id: str, session: AsyncClientSession) -> str:
    """Return what the log calls a user; the first time it is made up."""
    link = await AuditSubjectDocument.get_pymongo_collection().find_one_and_update(
        {"_id": user_id},
        {"$setOnInsert": {"subject": secrets.token_hex(16)}},
        upsert=True,
        return_document=ReturnDocument.AFTER,
        session=session,
    )
    return str(link["subject"])  # type: ignore[index]  # an upsert gives back what it made


def _checked(facts: Mapping[str, str | int | bool], subject_user: str | None) -> dict[str, str | int | bool]:
    """Return the facts. The error names the fact and not its value: that may be what must not be told."""
    if len(facts) > MAX_FACTS:
        raise ValueError(f"an entry of the audit log has at most {MAX_FACTS} facts")
    for name, value in facts.items():
        fits = _FACT_TEXT.fullmatch(value) is not None if isinstance(value, str) else value in _INTEGERS
        if not fits or not _FACT_NAME.fullmatch(name) or value == subject_user:
            raise ValueError(
                f"{name!r} is no fact for the audit log: ids, numbers and words of ours only, not the user's id"
            )
    return dict(facts)


def _stray(row: Row) -> AuditProblem:
    text = f"An entry stands outside of the sequence, under the id {row['_id']!r:.60}."
    return AuditProblem(kind=AuditProblemKind.INSERTED, sequence=None, message=text)


def _row(entry: AuditDocument) -> AuditEntry:
    return AuditEntry(
        sequence=entry.id,
        at=entry.at,
        action=entry.action,
        actor=entry.actor,
        subject=entry.subject,
        facts=entry.facts,
        hash=entry.hash,
    )
