"""The end of a user: everything of his is closed on chain, then what names him is erased.

His records stay without him. What a session was on chain is needed for ever (whose id is taken, what stake a late open may
still bring), so users and keys are replaced by one id of nobody's in place of deleting rows.
"""

from dataclasses import dataclass

from morpheus_common.contracts.sessions import SessionState
from morpheus_common.ids import uuid7
from morpheus_common.steps import Step, reached
from morpheus_common.store.mongo import MongoClient
from morpheus_common.store.transactions import run_transaction
from morpheus_common.store.user_guards import end_user, note_erased
from pymongo.asynchronous.client_session import AsyncClientSession

from morpheus_sessions.documents import (
    LIVE_STATES,
    IdempotencyDocument,
    KeyGuardDocument,
    OperationDocument,
    PlaceDocument,
    SessionDocument,
)
from morpheus_sessions.journal import Journal

_LIVE = [state.value for state in LIVE_STATES]


@dataclass(frozen=True, slots=True)
class Erasing:
    """Carries out the end of a user. Everything here can be asked for again."""

    client: MongoClient
    journal: Journal

    async def close_all(self, user_id: str) -> int:
        """Have everything of a user closed on chain, and nothing opened any more; return how many sessions are not closed.

        What was sent and given up is not among them: it is watched for, and closed should it appear.
        """

        async def body(tx: AsyncClientSession) -> bool:
            await end_user(user_id, tx)
            await KeyGuardDocument.get_pymongo_collection().update_many(
                {"user_id": user_id, "wanted": True}, {"$set": {"wanted": False}, "$inc": {"changes": 1}}, session=tx
            )
            return True

        await run_transaction(self.client, body)
        await reached(Step.USER_CLOSING, user_id)
        open_or_opening = (SessionState.OPENING, SessionState.ACTIVE, SessionState.PARKED)
        for session in await self.journal.sessions_of_user(user_id, open_or_opening):
            await self.journal.request_close(session, "account_deleted")
        await reached(Step.USER_CLOSES_ASKED, user_id)
        return len(await self.journal.sessions_of_user(user_id, LIVE_STATES))

    async def erase(self, user_id: str) -> int | None:
        """Erase who a user was; return how many sessions he had, the same on every repeat.

        None, and nothing is erased, while stake of his may be on chain.
        """
        nobody = uuid7()

        async def body(tx: AsyncClientSession) -> int | None:
            guard = await end_user(user_id, tx)
            if guard.erased is not None:
                return guard.erased
            sessions = SessionDocument.get_pymongo_collection()
            of_user = {"user_id": user_id}
            if await sessions.find_one({**of_user, "state": {"$in": _LIVE}}, {"_id": 1}, session=tx) is not None:
                return None
            ids = {"user_id": nobody, "key_id": nobody}
            # not wanted: what appears of it after all is closed
            changed = await sessions.update_many(
                of_user, {"$set": {**ids, "key_prefix": "", "wanted": False, "last_used_at": None}}, session=tx
            )
            await OperationDocument.get_pymongo_collection().update_many(of_user, {"$set": ids}, session=tx)
            guards = KeyGuardDocument.get_pymongo_collection()
            await guards.delete_many(of_user, session=tx)
            await guards.insert_one({"_id": nobody, "user_id": nobody, "wanted": False, "changes": 0}, session=tx)
            await IdempotencyDocument.get_pymongo_collection().delete_many(of_user, session=tx)
            await PlaceDocument.get_pymongo_collection().delete_one({"_id": user_id}, session=tx)
            await note_erased(user_id, changed.modified_count, tx)
            await reached(Step.SESSIONS_ERASING, user_id)
            return changed.modified_count

        count = await run_transaction(self.client, body)
        await reached(Step.SESSIONS_ERASED, user_id)
        return count
