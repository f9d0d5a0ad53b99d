"""Users' automation settings: kept for everybody from the first time they are asked for."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from morpheus_common.clock import Clock
from morpheus_common.contracts.automation import (
    SETTINGS_CHANGED,
    AutomationSettings,
    PutSettings,
    SettingsChanged,
)
from morpheus_common.errors import ApiError
from morpheus_common.store.mongo import MongoClient
from morpheus_common.store.outbox import stage
from morpheus_common.store.transactions import run_transaction
from morpheus_common.store.user_guards import pass_user_guard
from pymongo import ReturnDocument
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import DuplicateKeyError

from morpheus_automation.documents import AutomationSettingsDocument


@dataclass(frozen=True, slots=True)
class Preferences:
    """`default_duration` in seconds. `staged` is called after an event was written."""

    client: MongoClient
    default_duration: int
    clock: Clock
    staged: Callable[[], None]

    async def of(self, user_id: str) -> AutomationSettings:
        """Return a user's settings. The first time, the defaults are stored, so that their times stay the same.

        Raises `ApiError` (invalid_token) if the user was deleted.
        """
        stored = await AutomationSettingsDocument.get(user_id)
        if stored is None:
            stored = self._defaults(user_id)
            try:
                await self._store_first(stored)
            except DuplicateKeyError:
                # somebody else's first time was a moment earlier
                return await self.of(user_id)
        return _answer(stored)

    async def _store_first(self, settings: AutomationSettingsDocument) -> None:
        async def write(session: AsyncClientSession) -> bool:
            if (await pass_user_guard(settings.id, session)).ended:
                raise ApiError("invalid_token")
            await settings.insert(session=session)
            return True

        await run_transaction(self.client, write)

    async def change(self, wanted: PutSettings) -> AutomationSettings:
        """Change what is given, leave the rest. Raises `ApiError` (invalid_token) if the user was deleted."""
        changes: dict[str, Any] = wanted.model_dump(include={"is_enabled", "session_duration"}, exclude_none=True)
        current = await self.of(wanted.user_id)
        if not changes:
            return current
        # after the first time that the settings are kept, which may be now
        now = self.clock()

        async def write(session: AsyncClientSession) -> AutomationSettingsDocument:
            changed = await AutomationSettingsDocument.get_pymongo_collection().find_one_and_update(
                {"_id": wanted.user_id},
                {"$set": {**changes, "updated_at": now}, "$inc": {"version": 1}},
                return_document=ReturnDocument.AFTER,
                session=session,
            )
            if changed is None:
                raise ApiError("invalid_token")
            settings: AutomationSettingsDocument = AutomationSettingsDocument.model_validate(changed)
            await stage(
                SETTINGS_CHANGED,
                SettingsChanged(
                    user_id=settings.id, is_enabled=settings.is_enabled, session_duration=settings.session_duration
                ),
                entity=settings.id,
                version=settings.version,
                at=now,
                session=session,
            )
            return settings

        changed = await run_transaction(self.client, write)
        self.staged()
        return _answer(changed)

    async def of_many(self, user_ids: Iterable[str]) -> dict[str, AutomationSettings]:
        """Return the settings of users by their ids, defaults where none were ever set. Nothing is stored."""
        wanted = set(user_ids)
        stored = {item.id: item async for item in AutomationSettingsDocument.find({"_id": {"$in": list(wanted)}})}
        return {user_id: _answer(stored.get(user_id) or self._defaults(user_id)) for user_id in wanted}

    def _defaults(self, user_id: str) -> AutomationSettingsDocument:
        now = self.clock()
        return AutomationSettingsDocument(
            id=user_id,
            is_enabled=False,
            session_duration=self.default_duration,
            created_at=now,
            updated_at=now,
            version=0,
        )


def _answer(stored: AutomationSettingsDocument) -> AutomationSettings:
    return AutomationSettings(
        user_id=stored.id,
        is_enabled=stored.is_enabled,
        session_duration=stored.session_duration,
        created_at=stored.created_at,
        updated_at=stored.updated_at,
    )
