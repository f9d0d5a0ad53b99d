"""Erasing what automation holds of a user. Who was erased is known by a hash of his id, and refused for ever."""

from dataclasses import dataclass

from morpheus_common.steps import Step, reached
from morpheus_common.store.mongo import MongoClient
from morpheus_common.store.transactions import run_transaction
from morpheus_common.store.user_guards import end_user, note_erased
from pymongo.asynchronous.client_session import AsyncClientSession

from morpheus_automation.documents import AutomationSettingsDocument, DecisionDocument, RenewalDocument


@dataclass(frozen=True, slots=True)
class Erasing:
    """Carries out the end of a user."""

    client: MongoClient

    async def erase(self, user_id: str) -> int:
        """Erase a user's settings, and what was decided for him; return how many settings there were, the same on every
        repeat.
        """

        async def end(tx: AsyncClientSession) -> bool:
            await end_user(user_id, tx)
            return True

        # from here on nothing is recorded of him; what is there may be more than fits into one transaction
        await run_transaction(self.client, end)
        for documents in (DecisionDocument, RenewalDocument):
            await documents.get_pymongo_collection().delete_many({"user_id": user_id})

        async def body(tx: AsyncClientSession) -> int:
            guard = await end_user(user_id, tx)
            if guard.erased is not None:
                return guard.erased
            settings = AutomationSettingsDocument.get_pymongo_collection()
            gone = await settings.delete_one({"_id": user_id}, session=tx)
            await note_erased(user_id, gone.deleted_count, tx)
            await reached(Step.SETTINGS_ERASING, user_id)
            return gone.deleted_count

        count = await run_transaction(self.client, body)
        await reached(Step.SETTINGS_ERASED, user_id)
        return count
