"""Renewal: sessions in use get a successor before they end, so that no prompt waits for an open. Idle ones run out.

One worker of any number looks, by a lease; the lease spares work and no more. What is decided is written first, with the
id of the open it leads to: whoever goes on, after a crash or beside a worker that slept, names the same open, and sessions
open one successor of a session whoever asks.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from morpheus_common.bus.rpc import RpcClient
from morpheus_common.clock import Clock
from morpheus_common.contracts.automation import AutomationSettings, Decision
from morpheus_common.contracts.renewal import (
    LIST_ENDING,
    RENEW_SESSION,
    EndingAfter,
    EndingSession,
    ListEnding,
    RenewalProgress,
    RenewSession,
)
from morpheus_common.contracts.sessions import AutomationWord
from morpheus_common.errors import ApiError
from morpheus_common.ids import uuid7
from morpheus_common.logs import get_logger
from morpheus_common.steps import Step, reached
from morpheus_common.store.leases import Leases
from morpheus_common.store.mongo import MongoClient, from_now
from morpheus_common.store.transactions import run_transaction
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import DuplicateKeyError, PyMongoError

from morpheus_automation.decisions import SAME_RENEWAL_SECONDS, Decided, Decisions
from morpheus_automation.documents import RenewalDocument
from morpheus_automation.metrics import DECISIONS, RENEWALS_FAILED, PassAge
from morpheus_automation.planning import read_facts
from morpheus_automation.policy import (
    LONGEST_PAUSE_SECONDS,
    RENEW_LEAST_SECONDS,
    RENEW_SHARE,
    pause_after,
    plan_renewal,
    told,
    weigh,
)
from morpheus_automation.preferences import Preferences

log = get_logger(__name__)

LEASE: Final = "renewals"
AT_ONCE: Final = 8
"""Users whose sessions are decided on side by side."""
NOT_TAKEN_UP: Final = frozenset({"service_unavailable", "service_timeout", "internal_error", "session_opening"})
"""Codes that leave open whether a command was carried out, or say that it will be soon: the same one is sent again."""


class Changed(Exception):
    """Another worker has decided about that session meanwhile."""


@dataclass(frozen=True, slots=True)
class Record:
    """How it stands with a session: what is stored of it, and whether it is too soon to try again."""

    stored: RenewalDocument | None = None
    waits: bool = False

    @property
    def failures(self) -> int:
        return 0 if self.stored is None else self.stored.failures

    @property
    def refusals(self) -> int:
        return 0 if self.stored is None else self.stored.refusals


class Renewals:
    """Looks at sessions near their end, every `seconds` while the lease is ours."""

    def __init__(
        self,
        *,
        client: MongoClient,
        rpc: RpcClient,
        leases: Leases,
        preferences: Preferences,
        decisions: Decisions,
        seconds: float,
        clock: Clock,
        staged: Callable[[], None],
    ) -> None:
        self._client = client
        self._rpc = rpc
        self._leases = leases
        self._preferences = preferences
        self._decisions = decisions
        self._seconds = seconds
        self._clock = clock
        self._staged = staged
        self._few = asyncio.Semaphore(AT_ONCE)
        self._age = PassAge()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                if not self._rpc.is_connected:
                    # another process may have the bus
                    await self.retire()
                elif await self._leases.acquire(LEASE) is not None:
                    await self.look()
            except (ApiError, PyMongoError) as error:
                log.warning("sessions near their end not looked at", problem=str(error)[:200])
            except Exception:
                # the outermost edge of a pass: what one session brings about must not end renewals
                log.exception("pass failed unexpectedly; the next is made as always")
            await asyncio.sleep(self._seconds)

    async def retire(self) -> None:
        """Leave the work to another process at once."""
        await self._leases.retire(LEASE)

    async def look(self) -> None:
        """Look once at every session near its end; those that end first come first."""
        after = None
        while True:
            page = await self._rpc.call(
                LIST_ENDING, ListEnding(share=RENEW_SHARE, least=RENEW_LEAST_SECONDS, after=after)
            )
            await self._look_at(page.sessions)
            if not page.more:
                self._age.made()
                return
            after = EndingAfter(ends_at=page.sessions[-1].ends_at, id=page.sessions[-1].id)
            if await self._leases.acquire(LEASE) is None:
                return

    async def _look_at(self, rows: list[EndingSession]) -> None:
        waiting = [row for row in rows if not row.coming]
        of_users: dict[str, list[EndingSession]] = {}
        for row in waiting:
            of_users.setdefault(row.user_id, []).append(row)
        settings = await self._preferences.of_many(of_users)
        records = await self._records(row.id for row in waiting)

        async def decide(user_id: str) -> None:
            # one after the other: what is written of a user stands in the way of all else that is
            async with self._few:
                for row in of_users[user_id]:
                    await self._try(row, settings[user_id], records.get(row.id, Record()))

        await asyncio.gather(*(decide(user_id) for user_id in of_users))

    async def _records(self, sessions: Iterable[str]) -> dict[str, Record]:
        cursor = await RenewalDocument.get_pymongo_collection().aggregate(
            [
                {"$match": {"_id": {"$in": list(sessions)}}},
                {"$set": {"waits": {"$gt": [{"$ifNull": ["$not_before", None]}, "$$NOW"]}}},
            ]
        )
        found = [(bool(item.pop("waits")), item) async for item in cursor]
        return {item["_id"]: Record(RenewalDocument.model_validate(item), waits) for waits, item in found}

    async def _try(self, row: EndingSession, settings: AutomationSettings, record: Record) -> None:
        try:
            await self._decide(row, settings, record)
        except Changed:
            log.info("another worker decides about this session", session=row.id)
        except (ApiError, PyMongoError) as error:
            log.warning("session near its end not decided on", session=row.id, problem=str(error)[:200])

    async def _decide(self, row: EndingSession, settings: AutomationSettings, record: Record) -> None:
        stored = record.stored
        if stored is not None and stored.operation_id is not None and settings.is_enabled:
            # decided before, by whichever worker: what became of it?
            await self._ask(row, stored)
            return
        if record.waits:
            return
        verdict = plan_renewal(is_enabled=settings.is_enabled, idle=row.idle, failures=record.failures)
        decided = self._decided(row, verdict.decision, verdict.reason)
        if verdict.decision is Decision.LEAVE:
            if stored is None or (stored.decision, stored.reason) != (verdict.decision, verdict.reason):
                await self._write(row, record, decided)
            return
        facts = await read_facts(self._rpc, row.user_id, row.model_id)
        weighed = weigh(settings.session_duration, facts)
        decided = replace(decided, facts={**decided.facts, **told(facts)})
        if weighed.duration is None:
            refused = replace(decided, decision=Decision.REFUSE, reason=str(weighed.bound))
            await self._write(row, record, refused, refusals=1, pause=pause_after(record.refusals + 1))
            return
        renewing = replace(decided, duration=weighed.duration, shortened_by=weighed.bound, operation_id=uuid7())
        await self._ask(row, await self._write(row, record, renewing))

    def _decided(self, row: EndingSession, decision: Decision, reason: str) -> Decided:
        facts = {"seconds_left": str(int(row.left)), "seconds_of_session": str(int(row.duration))}
        if row.idle is not None:
            facts["seconds_since_use"] = str(int(row.idle))
        return Decided(
            user_id=row.user_id,
            key_id=row.key_id,
            key_prefix=row.key_prefix,
            model_id=row.model_id,
            session_id=row.session_id,
            decision=decision,
            reason=reason,
            facts=facts,
        )

    async def _ask(self, row: EndingSession, stored: RenewalDocument) -> None:
        """Have the successor opened that was decided on; asked again, learn what became of it."""
        if stored.operation_id is None or stored.duration is None:
            return
        command = RenewSession(
            operation_id=stored.operation_id,
            session=row.id,
            user_id=row.user_id,
            key_id=row.key_id,
            key_prefix=row.key_prefix,
            model_id=row.model_id,
            duration=stored.duration,
            word=AutomationWord(decision=stored.decision, reason=stored.reason, at=self._clock()),
        )
        await reached(Step.RENEWAL_WRITTEN, row.id)
        try:
            renewal = await self._rpc.call(RENEW_SESSION, command)
        except ApiError as error:
            if error.code not in NOT_TAKEN_UP:
                refused = self._decided(row, Decision.REFUSE, error.code)
                await self._write(
                    row,
                    Record(stored),
                    refused,
                    refusals=1,
                    pause=pause_after(stored.refusals + 1, error.retry_after),
                )
            return
        await reached(Step.RENEWAL_ASKED, row.id)
        if renewal.progress is RenewalProgress.RUNNING:
            return
        if renewal.progress is RenewalProgress.FAILED:
            code = "open_failed" if renewal.error is None else renewal.error.code
            log.warning("renewal came to nothing; tried again", session=row.id, code=code)
            await self._note_failure(stored, code)
            return
        # there is a successor, or nothing to succeed to: looked at again should it still be near its end in a while
        await self._leave_for(stored, seconds=LONGEST_PAUSE_SECONDS)

    # what is stored

    async def _write(
        self,
        row: EndingSession,
        record: Record,
        decided: Decided,
        *,
        refusals: int = 0,
        pause: float | None = None,
    ) -> RenewalDocument:
        """Write a decision and how it stands now, in one transaction. Raises `Changed` if another worker was faster."""
        before = record.stored

        async def body(tx: AsyncClientSession) -> RenewalDocument:
            decision = await self._decisions.write(tx, decided, within=SAME_RENEWAL_SECONDS)
            written = RenewalDocument(
                id=row.id,
                user_id=row.user_id,
                key_id=row.key_id,
                decision=decided.decision,
                reason=decided.reason,
                decision_id=decision.id,
                operation_id=decided.operation_id,
                duration=decided.duration,
                failures=record.failures,
                refusals=record.refusals + refusals,
                at=self._clock(),
            )
            if before is None:
                await written.insert(session=tx)
            else:
                await self._change(before, written.model_dump(exclude={"id"}), pause, tx)
            if before is None and pause is not None:
                await self._change(written, {}, pause, tx)
            if decided.operation_id is not None:
                await reached(Step.RENEWAL_WRITING, row.id)
            return written

        try:
            written = await run_transaction(self._client, body)
        except DuplicateKeyError:
            raise Changed from None
        self._staged()
        DECISIONS[decided.decision].inc()
        return written

    async def _note_failure(self, stored: RenewalDocument, code: str) -> None:
        async def body(tx: AsyncClientSession) -> bool:
            await self._decisions.note_error(tx, stored.decision_id, code)
            failures = stored.failures + 1
            await self._change(stored, {"operation_id": None, "failures": failures}, pause_after(failures), tx)
            return True

        await run_transaction(self._client, body)
        self._staged()
        RENEWALS_FAILED.inc()

    async def _leave_for(self, stored: RenewalDocument, *, seconds: float) -> None:
        async def body(tx: AsyncClientSession) -> bool:
            await self._change(stored, {"operation_id": None}, seconds, tx)
            return True

        await run_transaction(self._client, body)

    async def _change(
        self, before: RenewalDocument, changes: Mapping[str, Any], pause: float | None, tx: AsyncClientSession
    ) -> None:
        """Change what is stored of a session, if it is as the caller knew it. `pause` in seconds."""
        until = None if pause is None else from_now(pause)
        known = {"operation_id": before.operation_id, "failures": before.failures, "refusals": before.refusals}
        changed = await RenewalDocument.get_pymongo_collection().update_one(
            {"_id": before.id, **known},
            [{"$set": {**{name: {"$literal": value} for name, value in changes.items()}, "not_before": until}}],
            session=tx,
        )
        if not changed.matched_count:
            raise Changed
