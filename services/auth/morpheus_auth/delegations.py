"""Delegations: what users let the gateway do on chain for them. Kept for their owners; nothing is ever spent on them."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from morpheus_common.clock import Clock
from morpheus_common.contracts.audit import Actor, AuditAction
from morpheus_common.contracts.base import EventType
from morpheus_common.contracts.delegations import (
    DELEGATION_ACTIVATED,
    DELEGATION_DEACTIVATED,
    DELEGATION_DELETED,
    DELEGATION_STORED,
    DelegationChanged,
    DelegationRow,
    StoreDelegation,
)
from morpheus_common.errors import ApiError
from morpheus_common.store.outbox import stage
from pymongo import ReturnDocument
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import DuplicateKeyError

from morpheus_auth.accounts import guard_active_user
from morpheus_auth.audit import Audit
from morpheus_auth.documents import DelegationDocument
from morpheus_auth.signed_delegations import DelegationRules

_NOT_EXPIRED = {"$or": [{"$eq": ["$expiry", None]}, {"$gt": ["$expiry", "$$NOW"]}]}
"""By the database's clock."""
_SHOW_WHAT_COUNTS = {"$set": {"is_active": {"$and": ["$is_active", _NOT_EXPIRED]}}}


@dataclass(frozen=True, slots=True)
class Delegations:
    """`most`: delegations a user may have. `staged` is called after an event was written."""

    counted_as: ClassVar[str] = "delegations"

    audit: Audit
    rules: DelegationRules
    most: int
    clock: Clock
    staged: Callable[[], None]

    async def store(self, wanted: StoreDelegation) -> DelegationRow:
        """Keep a delegation; if it is to be active, the user's others no longer are.

        The same delegation of the same user again is the row that is there, as active as is wanted now. Raises
        `ApiError`: validation_error, delegation_unrestricted, delegation_taken, delegation_limit_reached, invalid_token
        if the user is gone.
        """
        now = self.clock()
        if wanted.expiry is not None and wanted.expiry <= now:
            raise ApiError("validation_error", "expiry has to be in the future.", param="expiry")
        # in a thread: hundreds of callers wait for this loop to say whose key they have
        checked = await asyncio.to_thread(self.rules.check, wanted.signed_delegation, wanted.delegate_address)
        new = DelegationDocument(
            user_id=wanted.user_id,
            delegate_address=checked.delegate,
            delegator_address=checked.delegator,
            delegation_hash=checked.hash,
            signed_delegation=wanted.signed_delegation,
            sent_as_text=wanted.sent_as_text,
            expiry=wanted.expiry,
            is_active=wanted.is_active,
            verification=checked.verification,
            chain_id=self.rules.chain_id,
            created_at=now,
        )

        async def write(session: AsyncClientSession) -> DelegationDocument:
            if not await guard_active_user(new.user_id, "delegation_guard", session):
                raise ApiError("invalid_token")
            found = await DelegationDocument.find_one({"delegation_hash": new.delegation_hash}, session=session)
            if found is not None and found.user_id != new.user_id:
                raise ApiError("delegation_taken")
            if new.is_active:
                others = {"user_id": new.user_id, "is_active": True, "delegation_hash": {"$ne": new.delegation_hash}}
                await self._switch(others, DELEGATION_DEACTIVATED, session, is_active=False)
            if found is not None:
                other_state = {"_id": found.id, "is_active": not new.is_active}
                event = DELEGATION_ACTIVATED if new.is_active else DELEGATION_DEACTIVATED
                return await self._switch(other_state, event, session, is_active=new.is_active) or found
            if await DelegationDocument.find({"user_id": new.user_id}, session=session).count() >= self.most:
                raise ApiError("delegation_limit_reached")
            await self._record(AuditAction.DELEGATION_STORED, new.user_id, new.id, session)
            await new.insert(session=session)
            await self._tell(DELEGATION_STORED, new, session)
            return new

        try:
            stored = await self.audit.transaction(write, read_back=lambda: DelegationDocument.get(new.id))
        except DuplicateKeyError:
            # another user stored it in the same moment
            raise ApiError("delegation_taken") from None
        self.staged()
        return _row(stored)

    async def list_of(self, user_id: str, *, skip: int, limit: int) -> list[DelegationRow]:
        """Return delegations of a user, newest first. An expired one is not active, whatever was wished."""
        return await self._find([{"$match": {"user_id": user_id}}, *_newest(skip, limit)])

    async def active_of(self, user_id: str) -> DelegationRow | None:
        """Return the delegation of a user that counts now."""
        counting = {"user_id": user_id, "is_active": True, "$expr": _NOT_EXPIRED}
        found = await self._find([{"$match": counting}, *_newest(0, 1)])
        return found[0] if found else None

    async def delete(self, *, user_id: str, delegation_id: str) -> None:
        """Forget a delegation of the user's. Raises `ApiError` (delegation_not_found)."""

        async def write(session: AsyncClientSession) -> int:
            deleted = await self._erase({"_id": delegation_id, "user_id": user_id}, session)
            if deleted:
                await self._record(AuditAction.DELEGATION_DELETED, user_id, delegation_id, session)
            return deleted

        if not await self.audit.transaction(write):
            raise ApiError("delegation_not_found")
        self.staged()

    async def erase(self, user_id: str, session: AsyncClientSession) -> int:
        """Forget all delegations of a user inside the running transaction; return how many there were.

        Who runs it calls `staged` when it is committed.
        """
        return await self._erase({"user_id": user_id}, session)

    async def _record(self, action: AuditAction, user_id: str, delegation_id: str, session: AsyncClientSession) -> None:
        await self.audit.append(
            action, session=session, actor=Actor.USER, subject_user=user_id, facts={"delegation_id": delegation_id}
        )

    async def _erase(self, which: dict[str, Any], session: AsyncClientSession) -> int:
        delegations = await DelegationDocument.find(which, session=session).to_list()
        for delegation in delegations:
            delegation.version += 1
            delegation.is_active = False
            await self._tell(DELEGATION_DELETED, delegation, session)
        # past Beanie, whose query forgets its session when it deletes
        await DelegationDocument.get_pymongo_collection().delete_many(which, session=session)
        return len(delegations)

    async def _switch(
        self,
        which: dict[str, Any],
        event: EventType[DelegationChanged],
        session: AsyncClientSession,
        *,
        is_active: bool,
    ) -> DelegationDocument | None:
        """Change whether one delegation is active; return it if there was one to change."""
        changed = await DelegationDocument.get_pymongo_collection().find_one_and_update(
            which,
            {"$set": {"is_active": is_active}, "$inc": {"version": 1}},
            return_document=ReturnDocument.AFTER,
            session=session,
        )
        if changed is None:
            return None
        delegation: DelegationDocument = DelegationDocument.model_validate(changed)
        await self._tell(event, delegation, session)
        return delegation

    async def _tell(
        self, event: EventType[DelegationChanged], delegation: DelegationDocument, session: AsyncClientSession
    ) -> None:
        await stage(
            event,
            DelegationChanged(delegation_id=delegation.id, user_id=delegation.user_id, is_active=delegation.is_active),
            entity=delegation.id,
            version=delegation.version,
            at=self.clock(),
            session=session,
        )

    async def _find(self, pipeline: list[dict[str, Any]]) -> list[DelegationRow]:
        cursor = await DelegationDocument.get_pymongo_collection().aggregate([*pipeline, _SHOW_WHAT_COUNTS])
        return [_row(DelegationDocument.model_validate(found)) async for found in cursor]


def _newest(skip: int, limit: int) -> list[dict[str, Any]]:
    return [{"$sort": {"_id": -1}}, {"$skip": skip}, {"$limit": limit}]


def _row(delegation: DelegationDocument) -> DelegationRow:
    return DelegationRow(**delegation.model_dump(exclude={"version", "revision_id"}))
