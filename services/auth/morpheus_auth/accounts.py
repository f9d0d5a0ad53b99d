"""Accounts: who registers, and who proves to be whom."""

from collections.abc import Callable
from dataclasses import dataclass

from morpheus_common.clock import Clock
from morpheus_common.contracts.audit import Actor, AuditAction
from morpheus_common.contracts.auth import USER_REGISTERED, UserRegistered, UserRow
from morpheus_common.errors import ApiError
from morpheus_common.store.outbox import stage
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import DuplicateKeyError

from morpheus_auth.audit import Audit
from morpheus_auth.documents import UserDocument
from morpheus_auth.emails import normalise_email
from morpheus_auth.passwords import Passwords, read_new_password, read_password


@dataclass(frozen=True, slots=True)
class Accounts:
    """`staged` is called after an event was written."""

    audit: Audit
    passwords: Passwords
    clock: Clock
    staged: Callable[[], None]

    async def register(self, *, email: str, name: str | None, password: bytes) -> UserRow:
        """Make an account.

        Raises `ApiError`: email_taken, which takes as long as success does; validation_error for an e-mail or a
        password that cannot be; overloaded.
        """
        try:
            email_key = normalise_email(email)
        except ValueError as error:
            raise ApiError("validation_error", f"{error}.".capitalize(), param="email") from None
        password_hash = await self.passwords.hash(read_new_password(password))
        user = UserDocument(
            email=email.strip(), email_key=email_key, name=name, password_hash=password_hash, created_at=self.clock()
        )

        async def write(session: AsyncClientSession) -> UserDocument:
            await self.audit.append(
                AuditAction.USER_REGISTERED, session=session, actor=Actor.USER, subject_user=user.id, facts={}
            )
            await user.insert(session=session)
            await stage(
                USER_REGISTERED,
                UserRegistered(user_id=user.id),
                entity=user.id,
                version=user.version,
                at=user.created_at,
                session=session,
            )
            return user

        try:
            await self.audit.transaction(write, read_back=lambda: UserDocument.get(user.id))
        except DuplicateKeyError:
            raise ApiError("email_taken", param="email") from None
        self.staged()
        return _row(user)

    async def authenticate(self, *, email: str, password: bytes) -> str:
        """Return the id of the user who has this e-mail and password.

        Raises `ApiError` (invalid_credentials), the same after the same time whatever was wrong; overloaded.
        """
        user, given = None, ""
        try:
            given = read_password(password)
            user = await UserDocument.find_one({"email_key": normalise_email(email)})
        except ValueError:
            # what cannot be a password or an address belongs to nobody: go on and take the usual time
            user = None
        if not await self.passwords.verify(given, user.password_hash if user else None) or not user:
            raise ApiError("invalid_credentials")
        if not user.is_active:
            raise ApiError("invalid_credentials")
        return user.id


async def is_active_user(user_id: str) -> bool:
    """Tell whether the user exists and is not disabled. Asked with every request, hence past Beanie."""
    users = UserDocument.get_pymongo_collection()
    return await users.find_one({"_id": user_id, "is_active": True}, {"_id": 1}) is not None


def _row(user: UserDocument) -> UserRow:
    return UserRow(id=user.id, email=user.email, name=user.name, is_active=user.is_active, created_at=user.created_at)
