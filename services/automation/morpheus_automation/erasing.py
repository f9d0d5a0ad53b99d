"""Erasing what automation holds of a user. Who was erased is known by a hash of his id, and refused for ever."""

from dataclasses import dataclass

from morpheus_common.steps import Step, reached
from morpheus_common.store.mongo import MongoClient
from morpheus_common.store.transactions import run_transaction
from morpheus_common.store.user_guards import end_user, note_erased
from pymongo.asynchronous.client_session import AsyncClientSession

from morpheus_automation.documents import AutomationSettingsDocument


@dataclass(frozen=True, slots=True)
class Erasing:
    """Carries out the end of a user."""

    client: MongoClient

    async def erase(self, user_id: str) -> int:
        """Erase a user's settings; return how many records there were, the same on every repeat."""

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
