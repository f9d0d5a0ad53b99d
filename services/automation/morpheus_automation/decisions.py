"""The record of what automation decided, with reasons: one document a decision; the same again, soon after, is counted."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from morpheus_common.clock import Clock
from morpheus_common.contracts import automation as contracts
from morpheus_common.contracts.automation import SESSION_DECIDED, Decision, ListDecisions, SessionDecided
from morpheus_common.errors import ApiError
from morpheus_common.logs import get_logger
from morpheus_common.store.mongo import MongoClient
from morpheus_common.store.outbox import stage
from morpheus_common.store.transactions import run_transaction
from morpheus_common.store.user_guards import pass_user_guard
from pymongo import DESCENDING, ReturnDocument, UpdateOne
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import PyMongoError

from morpheus_automation.documents import DecisionDocument

log = get_logger(__name__)

FLUSH_SECONDS: Final = 1.0
PENDING: Final = 10_000
"""Different counted decisions that wait to be written; more in a second are dropped, and that is logged."""
REMEMBERED: Final = 10_000
"""Counted decisions whose record is known, so that a repeat is one update among others."""
SAME_COUNTED_SECONDS: Final = 3_600.0
SAME_OPEN_SECONDS: Final = 60.0
SAME_RENEWAL_SECONDS: Final = 86_400.0
"""The same decision within so long of its first is counted there."""

Same = tuple[str, str, str, str, str | None]
"""Key, model, decision, reason and session: what makes two decisions one."""


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision to be recorded; the fields are those of `DecisionRow`."""

    user_id: str
    key_id: str
    key_prefix: str
    model_id: str
    decision: Decision
    reason: str
    session_id: str | None = None
    duration: int | None = None
    shortened_by: str | None = None
    operation_id: str | None = None
    error: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def same(self) -> Same:
        """What it has in common with a repeat of it."""
        return (self.key_id, self.model_id, self.decision.value, self.reason, self.session_id)


@dataclass(frozen=True, slots=True)
class _Known:
    id: str
    first_at: datetime


class Decisions:
    """Records and lists decisions. `staged` is called after an event was written."""

    def __init__(self, client: MongoClient, *, clock: Clock, staged: Callable[[], None]) -> None:
        self._client = client
        self._clock = clock
        self._staged = staged
        self._pending: dict[Same, tuple[Decided, int]] = {}
        self._known: OrderedDict[Same, _Known] = OrderedDict()
        self._dropped = 0

    # writing

    async def record(self, decided: Decided) -> str:
        """Record a decision now; return its id. Raises `invalid_api_key` if its user was deleted."""

        async def body(tx: AsyncClientSession) -> str:
            return (await self.write(tx, decided, within=SAME_OPEN_SECONDS)).id

        identifier = await run_transaction(self._client, body)
        self._staged()
        return identifier

    async def write(
        self, tx: AsyncClientSession, decided: Decided, *, within: float, times: int = 1
    ) -> DecisionDocument:
        """Record a decision in the running transaction, or count it where the same was recorded `within` seconds.

        Its event is written if it is new, or leads to another open. Raises `invalid_api_key` if its user was deleted.
        """
        if (await pass_user_guard(decided.user_id, tx)).ended:
            raise ApiError("invalid_api_key")
        now = self._clock()
        key_id, model_id, decision, reason, session_id = decided.same
        is_news = decided.operation_id is not None or decided.error is not None
        counted = await DecisionDocument.get_pymongo_collection().find_one_and_update(
            {
                "key_id": key_id,
                "at": {"$gt": now - timedelta(seconds=within)},
                "model_id": model_id,
                "decision": decision,
                "reason": reason,
                "session_id": session_id,
            },
            {"$inc": {"times": times, "version": int(is_news)}, "$set": {**_latest(decided), "last_at": now}},
            sort=[("at", DESCENDING)],
            return_document=ReturnDocument.AFTER,
            session=tx,
        )
        if counted is not None:
            written: DecisionDocument = DecisionDocument.model_validate(counted)
        else:
            written = DecisionDocument(
                user_id=decided.user_id,
                key_id=key_id,
                key_prefix=decided.key_prefix,
                model_id=model_id,
                session_id=session_id,
                decision=decided.decision,
                reason=reason,
                times=times,
                at=now,
                last_at=now,
                **_latest(decided),
            )
            await written.insert(session=tx)
        if counted is None or is_news:
            await _tell(written, tx)
        return written

    async def note_error(self, tx: AsyncClientSession, decision_id: str, error: str) -> None:
        """Write what came of a decision, an error code, in the running transaction."""
        changed = await DecisionDocument.get_pymongo_collection().find_one_and_update(
            {"_id": decision_id},
            {"$inc": {"version": 1}, "$set": {"error": error, "last_at": self._clock()}},
            return_document=ReturnDocument.AFTER,
            session=tx,
        )
        if changed is not None:
            await _tell(DecisionDocument.model_validate(changed), tx)

    # counting

    def count(self, decided: Decided) -> None:
        """Have a decision recorded soon: what is repeated meanwhile is one write."""
        before = self._pending.get(decided.same)
        if before is None and len(self._pending) >= PENDING:
            self._dropped += 1
            return
        self._pending[decided.same] = (decided, 1 if before is None else before[1] + 1)

    async def run(self) -> None:
        """Write what was counted, until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Write what was counted. What cannot be written now is kept for the next time."""
        if self._dropped:
            log.warning("decisions not recorded: too many at once", dropped=self._dropped)
            self._dropped = 0
        pending, self._pending = self._pending, {}
        try:
            await self._count_known(pending)
            while pending:
                same, (decided, times) = next(iter(pending.items()))
                await self._record_first(decided, times)
                del pending[same]
        except PyMongoError as error:
            log.warning("decisions wait for the database", problem=type(error).__name__)
            for decided, times in pending.values():
                already = self._pending.get(decided.same)
                if already is not None or len(self._pending) < PENDING:
                    self._pending[decided.same] = (decided, times + (0 if already is None else already[1]))

    async def _count_known(self, pending: dict[Same, tuple[Decided, int]]) -> None:
        """Count repeats of what is recorded already, all in one write, and take them off what is pending."""
        now = self._clock()
        updates = {}
        for same, (decided, times) in pending.items():
            known = self._known.get(same)
            if known is not None and known.first_at > now - timedelta(seconds=SAME_COUNTED_SECONDS):
                change: dict[str, Any] = {"$inc": {"times": times}, "$set": {**_latest(decided), "last_at": now}}
                # of a user who was deleted meanwhile nothing is found
                updates[same] = UpdateOne({"_id": known.id}, change)
        if updates:
            await DecisionDocument.get_pymongo_collection().bulk_write(list(updates.values()), ordered=False)
            for same in updates:
                del pending[same]

    async def _record_first(self, decided: Decided, times: int) -> None:
        async def body(tx: AsyncClientSession) -> DecisionDocument:
            return await self.write(tx, decided, within=SAME_COUNTED_SECONDS, times=times)

        try:
            written = await run_transaction(self._client, body)
        except ApiError:
            log.info("no decision recorded for a user who was deleted")
            return
        self._known[decided.same] = _Known(written.id, written.at)
        self._known.move_to_end(decided.same)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        self._staged()

    # reading

    async def list(self, question: ListDecisions) -> contracts.Decisions:
        """Return decisions about a user's sessions, or those of one key of his, newest first."""
        query: dict[str, Any] = {"user_id": question.user_id}
        if question.key_id is not None:
            query["key_id"] = question.key_id
        cursor = DecisionDocument.get_pymongo_collection().find(query)
        found = cursor.sort([("at", DESCENDING), ("_id", DESCENDING)]).limit(question.limit)
        return contracts.Decisions(decisions=[DecisionDocument.model_validate(item).row() async for item in found])


def _latest(decided: Decided) -> dict[str, Any]:
    """What the last of several that are one says."""
    return {
        "duration": decided.duration,
        "shortened_by": decided.shortened_by,
        "operation_id": decided.operation_id,
        "error": decided.error,
        "facts": dict(decided.facts),
    }


async def _tell(written: DecisionDocument, tx: AsyncClientSession) -> None:
    payload = SessionDecided.model_validate(written.model_dump())
    await stage(SESSION_DECIDED, payload, entity=written.id, version=written.version, at=written.last_at, session=tx)
