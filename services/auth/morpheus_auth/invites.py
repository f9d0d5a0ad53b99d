"""Who may register: everybody, who has an invite code, or nobody."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from morpheus_common.contracts.audit import Actor, AuditAction
from morpheus_common.errors import ApiError
from pymongo import UpdateOne
from pymongo.asynchronous.client_session import AsyncClientSession

from morpheus_auth.audit import Audit
from morpheus_auth.documents import NOT_EXPIRED_IF_EVER, InviteDocument
from morpheus_auth.keyed_hashes import KeyedHashes
from morpheus_auth.settings import Registration

_PURPOSE = "invite"
_USABLE = {"$expr": NOT_EXPIRED_IF_EVER}


@dataclass(frozen=True, slots=True)
class Invites:
    """Invite codes, each good for one account. `sha256` is the hex SHA-256 of a code: 256 random bits, never seen here."""

    audit: Audit
    hashes: KeyedHashes
    registration: Registration

    async def make(self, sha256: Sequence[str], *, days: int | None) -> None:
        """Record codes that are good for `days`, or until they are used (None)."""
        end = None if days is None else {"$dateAdd": {"startDate": "$$NOW", "unit": "day", "amount": days}}
        made = {"$set": {"created_at": "$$NOW", "expires_at": end}}
        writes = [UpdateOne({"_id": self.hashes.new(_PURPOSE, item)}, [made], upsert=True) for item in sha256]

        async def write(session: AsyncClientSession) -> None:
            facts = {"invites": len(writes)}
            await self.audit.append(
                AuditAction.INVITE_MADE, session=session, actor=Actor.OPERATOR, subject_user=None, facts=facts
            )
            await InviteDocument.get_pymongo_collection().bulk_write(writes, session=session)

        await self.audit.transaction(write)

    async def check(self, sha256: str | None) -> None:
        """Refuse who may not register, before anything is worked out for him. `use` decides.

        Raises `ApiError`: registration_closed, invite_required.
        """
        if self.registration is Registration.CLOSED:
            raise ApiError("registration_closed")
        invites = InviteDocument.get_pymongo_collection()
        if self.registration is Registration.INVITE and await invites.find_one(self._usable(sha256)) is None:
            raise ApiError("invite_required", param="invite_code")

    async def use(self, sha256: str | None, session: AsyncClientSession) -> None:
        """Use a code up, in the transaction that makes the account. Raises `ApiError` (invite_required)."""
        if self.registration is Registration.INVITE:
            used = await InviteDocument.get_pymongo_collection().delete_one(self._usable(sha256), session=session)
            if not used.deleted_count:
                raise ApiError("invite_required", param="invite_code")

    def _usable(self, sha256: str | None) -> dict[str, Any]:
        ids = [] if sha256 is None else self.hashes.every(_PURPOSE, sha256)
        return {"_id": {"$in": ids}, **_USABLE}
