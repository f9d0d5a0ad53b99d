"""The end of a user: everything of his is closed on chain, then what names him is erased.

His records stay without him. What a session was on chain is needed for ever (whose id is taken, what stake a late open may
still bring), so users and keys are replaced by one id of nobody's in place of deleting rows.
"""

import asyncio
import re
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import Any

from beanie import Document
from morpheus_common.contracts.sessions import SessionState
from morpheus_common.contracts.usage import ERASED, USAGE_RECORDED, UsageRecorded
from morpheus_common.ids import uuid7
from morpheus_common.steps import Step, reached
from morpheus_common.store.mongo import MongoClient
from morpheus_common.store.outbox import OutboxRow
from morpheus_common.store.transactions import run_transaction
from morpheus_common.store.user_guards import count_erased, end_user, note_erased
from pymongo.asynchronous.client_session import AsyncClientSession

from morpheus_sessions.documents import (
    LIVE_STATES,
    IdempotencyDocument,
    KeyGuardDocument,
    OperationDocument,
    PlaceDocument,
    SessionDocument,
    UsageDocument,
    UsageSeriesDocument,
)
from morpheus_sessions.journal import UNWANTED, Journal

BATCH = 500
"""Records in one transaction: 20,000 sessions and their operations took longer than a transaction may, 20 s (measured)."""
EVENTS_AT_ONCE = 10
"""Of usage that are not published yet, in one transaction: each has up to 600 KB."""
CALL_SECONDS = 10.0


class Part(Enum):
    """What a transaction that does not end an erasure leaves. `NOT_YET`: stake of the user may be on chain."""

    MORE = auto()
    NOT_YET = auto()


@dataclass(frozen=True, slots=True)
class Erasing:
    """Carries out the end of a user. Everything here can be asked for again.

    `batch`: records erased in one transaction; `seconds`: how long a call goes on erasing.
    """

    client: MongoClient
    journal: Journal
    batch: int = BATCH
    seconds: float = CALL_SECONDS

    async def close_all(self, user_id: str) -> int:
        """Have everything of a user closed on chain, and nothing opened any more; return how many sessions are not closed.

        What was sent and given up is not among them: it is watched for, and closed should it appear.
        """

        async def body(tx: AsyncClientSession) -> bool:
            await end_user(user_id, tx)
            await KeyGuardDocument.get_pymongo_collection().update_many(
                {"user_id": user_id, "wanted": True}, [{"$set": UNWANTED}], session=tx
            )
            return True

        await run_transaction(self.client, body)
        await reached(Step.USER_CLOSING, user_id)
        open_or_opening = (SessionState.OPENING, SessionState.ACTIVE, SessionState.PARKED)
        for session in await self.journal.sessions_of_user(user_id, open_or_opening):
            await self.journal.request_close(session, "account_deleted")
        await reached(Step.USER_CLOSES_ASKED, user_id)
        return await SessionDocument.get_pymongo_collection().count_documents(_live_of(user_id))

    async def erase(self, user_id: str) -> int | None:
        """Erase who a user was; return how many sessions he had, the same on every repeat.

        None if something is left: nothing is erased while stake of his may be on chain, and who opened very many sessions
        is erased in several calls. What was erased stays counted.
        """
        nobody = uuid7()
        # before the readings of what follows: a worker that they do not know yet sees it when it writes
        await run_transaction(self.client, partial(end_user, user_id))
        loop = asyncio.get_running_loop()
        until = loop.time() + self.seconds
        while True:
            part = await run_transaction(self.client, partial(self._erase_part, user_id, nobody))
            if part is not Part.MORE or loop.time() >= until:
                break
        if part is Part.MORE or part is Part.NOT_YET:
            return None
        await reached(Step.SESSIONS_ERASED, user_id)
        return part

    async def _erase_part(self, user_id: str, nobody: str, tx: AsyncClientSession) -> int | Part:
        """Erase some of a user's records in a transaction; with the last of them all else that names him."""
        guard = await end_user(user_id, tx)
        if guard.erased is not None:
            return guard.erased
        sessions = SessionDocument.get_pymongo_collection()
        if await sessions.find_one(_live_of(user_id), {"_id": 1}, session=tx) is not None:
            return Part.NOT_YET
        ids = {"user_id": nobody, "key_id": nobody}
        # not wanted: what appears of it after all is closed
        emptied = {"key_prefix": "", "wanted": False, "last_used_at": None}
        changed = await self._rename(SessionDocument, user_id, {**ids, **emptied}, tx)
        if changed:
            await count_erased(user_id, changed, tx)
        if (
            changed == self.batch
            or await self._rename(OperationDocument, user_id, {**ids, "traceparent": None}, tx) == self.batch
        ):
            return Part.MORE
        if await self._erase_usage(user_id, tx):
            return Part.MORE
        total = guard.counted + changed
        await KeyGuardDocument.get_pymongo_collection().delete_many({"user_id": user_id}, session=tx)
        await IdempotencyDocument.get_pymongo_collection().delete_many({"user_id": user_id}, session=tx)
        await PlaceDocument.get_pymongo_collection().delete_one({"_id": user_id}, session=tx)
        await note_erased(user_id, total, tx)
        await reached(Step.SESSIONS_ERASING, user_id)
        return total

    async def _erase_usage(self, user_id: str, tx: AsyncClientSession) -> bool:
        """Take a user from some of what tells of his prompts; return whether there may be more. It is counted nowhere.

        Events that were published keep his ids as long as their stream does; those that were not lose them.
        """
        # what a worker is writing now may be his: of the two of us one is done again and sees the other
        await UsageSeriesDocument.get_pymongo_collection().update_many({}, {"$inc": {"erasures": 1}}, session=tx)
        if await self._rename(UsageDocument, user_id, dict.fromkeys(ERASED), tx) == self.batch:
            return True
        outbox = OutboxRow.get_pymongo_collection()
        unpublished = {
            "published_at": None,
            "subject": USAGE_RECORDED.subject,
            "payload": {"$regex": re.escape(user_id)},
        }
        rows = [row async for row in outbox.find(unpublished, session=tx).limit(EVENTS_AT_ONCE)]
        for row in rows:
            told = UsageRecorded.model_validate_json(row["payload"])
            records = [
                record.model_copy(update=dict.fromkeys(ERASED)) if record.user_id == user_id else record
                for record in told.records
            ]
            payload = UsageRecorded(records=records).model_dump_json()
            await outbox.update_one({"_id": row["_id"]}, {"$set": {"payload": payload}}, session=tx)
        return len(rows) == EVENTS_AT_ONCE

    async def _rename(
        self, documents: type[Document], user_id: str, changes: dict[str, Any], tx: AsyncClientSession
    ) -> int:
        """Take a user from at most `batch` documents; return how many there were."""
        collection = documents.get_pymongo_collection()
        found = collection.find({"user_id": user_id}, {"_id": 1}, session=tx).limit(self.batch)
        of_user = [item["_id"] async for item in found]
        if of_user:
            await collection.update_many({"_id": {"$in": of_user}}, {"$set": changes}, session=tx)
        return len(of_user)


def _live_of(user_id: str) -> dict[str, Any]:
    return {"user_id": user_id, "state": {"$in": [state.value for state in LIVE_STATES]}}
