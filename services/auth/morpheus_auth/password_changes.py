"""New passwords for old accounts: by who knows the old one, or by a token that the operator gives."""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from morpheus_common.contracts.audit import Actor, AuditAction
from morpheus_common.errors import ApiError
from pymongo.asynchronous.client_session import AsyncClientSession

from morpheus_auth.accounts import Accounts, guard_active_user
from morpheus_auth.audit import Audit
from morpheus_auth.documents import NOT_EXPIRED, PasswordResetDocument, UserDocument
from morpheus_auth.emails import normalise_email
from morpheus_auth.keyed_hashes import KeyedHashes
from morpheus_auth.passwords import Passwords, read_new_password
from morpheus_auth.tokens import revoke_logins

RESET_MINUTES = 60
_PURPOSE = "password reset"


@dataclass(frozen=True, slots=True)
class PasswordChanges:
    """Sets passwords. Whatever the old one let in goes with it: logins, the addresses they came from, unused tokens."""

    audit: Audit
    hashes: KeyedHashes
    passwords: Passwords
    accounts: Accounts

    async def change(self, *, user_id: str, login_id: str, current: str, new: str, address: str | None) -> None:
        """Set the password of a user who knows the current one, and end all his logins but `login_id`.

        Raises `ApiError`: validation_error, password_too_common, invalid_credentials, rate_limit_exceeded, overloaded.
        """
        password = read_new_password(new.encode(), param="new_password")
        proven = await self.accounts.prove_again(user_id=user_id, password=current.encode(), address=address)
        password_hash = await self.passwords.hash(password)

        async def write(session: AsyncClientSession) -> bool:
            await self._record(AuditAction.PASSWORD_CHANGED, Actor.USER, user_id, session)
            if not await self._set(user_id, password_hash, session, instead_of=proven.password_hash, keep=login_id):
                raise ApiError("invalid_credentials", "The current password is wrong.", param="current_password")
            return True

        await self._run(user_id, password_hash, write)

    async def allow_reset(self, *, email: str, sha256: str) -> None:
        """Let the bearer of a token (hex SHA-256 of 256 random bits) set a password, once and within an hour.

        Raises `ApiError` (not_found).
        """
        try:
            user = await UserDocument.find_one({"email_key": normalise_email(email), "is_active": True})
        except ValueError:
            user = None
        if user is None:
            raise ApiError("not_found", "No active account has this e-mail address.", param="email")
        user_id = user.id
        end = {"$dateAdd": {"startDate": "$$NOW", "unit": "minute", "amount": RESET_MINUTES}}

        async def write(session: AsyncClientSession) -> None:
            await self._record(AuditAction.PASSWORD_RESET_MADE, Actor.OPERATOR, user_id, session)
            # a user who is being deleted gets no more of them
            if not await guard_active_user(user_id, "login_guard", session):
                raise ApiError("not_found", "No active account has this e-mail address.", param="email")
            await PasswordResetDocument.get_pymongo_collection().update_one(
                {"_id": self.hashes.new(_PURPOSE, sha256)},
                [{"$set": {"user_id": user_id, "expires_at": end}}],
                upsert=True,
                session=session,
            )

        await self.audit.transaction(write)

    async def reset(self, *, token: str, new: str) -> None:
        """Use a token up to set its user's password, and end all his logins.

        Raises `ApiError`: validation_error, password_too_common, invalid_reset_token, overloaded.
        """
        password = read_new_password(new.encode(), param="new_password")
        sha256 = hashlib.sha256(token.encode()).hexdigest()
        usable = {"_id": {"$in": self.hashes.every(_PURPOSE, sha256)}, "$expr": NOT_EXPIRED}
        resets = PasswordResetDocument.get_pymongo_collection()
        found = await resets.find_one(usable, {"user_id": 1})
        if found is None:
            raise ApiError("invalid_reset_token", param="token")
        user_id: str = found["user_id"]
        password_hash = await self.passwords.hash(password)

        async def write(session: AsyncClientSession) -> bool:
            await self._record(AuditAction.PASSWORD_RESET_USED, Actor.USER, user_id, session)
            used = await resets.delete_one(usable, session=session)
            if not used.deleted_count or not await self._set(user_id, password_hash, session):
                raise ApiError("invalid_reset_token", param="token")
            return True

        await self._run(user_id, password_hash, write)

    async def _record(self, action: AuditAction, actor: Actor, user_id: str, session: AsyncClientSession) -> None:
        await self.audit.append(action, session=session, actor=actor, subject_user=user_id, facts={})

    async def _set(
        self,
        user_id: str,
        password_hash: str,
        session: AsyncClientSession,
        *,
        instead_of: str | None = None,
        keep: str | None = None,
    ) -> bool:
        """Set a password, unless the user is not active or has another than `instead_of` by now."""
        own = {"_id": user_id, "is_active": True} | ({} if instead_of is None else {"password_hash": instead_of})
        changed = await UserDocument.get_pymongo_collection().update_one(
            own,
            {"$set": {"password_hash": password_hash, "known_addresses": []}, "$inc": {"login_guard": 1}},
            session=session,
        )
        if not changed.matched_count:
            return False
        await PasswordResetDocument.get_pymongo_collection().delete_many({"user_id": user_id}, session=session)
        await revoke_logins({"user_id": user_id, "_id": {"$ne": keep}}, session)
        return True

    async def _run(
        self, user_id: str, password_hash: str, write: Callable[[AsyncClientSession], Awaitable[bool]]
    ) -> None:
        async def read_back() -> bool | None:
            # a hash has a salt of its own: nobody else wrote this one
            return await UserDocument.find_one({"_id": user_id, "password_hash": password_hash}) is not None or None

        await self.audit.transaction(write, read_back=read_back)
