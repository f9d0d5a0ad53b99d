"""Accounts: who registers, and who proves to be whom."""

from collections.abc import Callable
from dataclasses import dataclass, field

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
from morpheus_auth.invites import Invites
from morpheus_auth.login_throttle import LoginThrottle
from morpheus_auth.passwords import Passwords, read_new_password, read_password


@dataclass(frozen=True, slots=True)
class Proven:
    """A user who has just proved who he is: by the password with this hash, from this address (by a keyed hash)."""

    user_id: str
    password_hash: str = field(repr=False)
    address: str


@dataclass(frozen=True, slots=True)
class Accounts:
    """`staged` is called after an event was written."""

    audit: Audit
    invites: Invites
    throttle: LoginThrottle
    passwords: Passwords
    clock: Clock
    staged: Callable[[], None]

    async def register(
        self, *, email: str, name: str | None, password: bytes, invite_sha256: str | None = None
    ) -> UserRow:
        """Make an account.

        Raises `ApiError`: email_taken, which takes as long as success does; validation_error for an e-mail or a
        password that cannot be; password_too_common; registration_closed; invite_required; overloaded.
        """
        await self.invites.check(invite_sha256)
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
                AuditAction.USER_REGISTERED,
                session=session,
                actor=Actor.USER,
                subject_user=user.id,
                facts={"registration": self.invites.registration},
            )
            await self.invites.use(invite_sha256, session)
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

    async def authenticate(self, *, email: str, password: bytes, address: str | None) -> Proven:
        """Return the user who has this e-mail and password. `address`: the client's.

        Raises `ApiError`: invalid_credentials, the same after the same time whatever was wrong; rate_limit_exceeded;
        overloaded.
        """
        try:
            email_key = normalise_email(email)
        except ValueError:
            # what cannot be an address belongs to nobody: go on and take the usual time
            email_key = email
        with self.passwords.place():
            user = await UserDocument.find_one({"email_key": email_key})
            proven = await self._prove(user, email_key, password, address)
        if proven is None:
            raise ApiError("invalid_credentials")
        return proven

    async def prove_again(self, *, user_id: str, password: bytes, address: str | None) -> Proven:
        """Return the user with this id, who has this password. A wrong one is a failed login.

        Raises `ApiError`: invalid_credentials, rate_limit_exceeded, overloaded; invalid_token if the user is gone.
        """
        with self.passwords.place():
            user = await UserDocument.find_one({"_id": user_id, "is_active": True})
            if user is None:
                raise ApiError("invalid_token")
            proven = await self._prove(user, user.email_key, password, address)
        if proven is None:
            raise ApiError("invalid_credentials", "The current password is wrong.", param="current_password")
        return proven

    async def _prove(
        self, user: UserDocument | None, email_key: str, password: bytes, address: str | None
    ) -> Proven | None:
        known = user.known_addresses if user else []
        made = await self.throttle.admit(email_key=email_key, address=address, known=known)
        try:
            given, stored = read_password(password), user.password_hash if user else None
        except ValueError:
            # what cannot be a password is nobody's
            given, stored = "", None
        try:
            is_right = await self.passwords.verify(given, stored)
        except ApiError:
            await self.throttle.not_made(made)
            raise
        if not is_right or user is None or not user.is_active:
            return None
        await self.throttle.succeeded(made)
        return Proven(user.id, user.password_hash, made.address)

    async def get(self, user_id: str) -> UserRow:
        """Return an account. Raises `ApiError` (invalid_token) if it is gone or disabled."""
        user = await UserDocument.find_one({"_id": user_id, "is_active": True})
        if user is None:
            raise ApiError("invalid_token")
        return _row(user)


async def is_active_user(user_id: str) -> bool:
    """Tell whether the user exists and is not disabled. Asked with every request, hence past Beanie."""
    users = UserDocument.get_pymongo_collection()
    return await users.find_one({"_id": user_id, "is_active": True}, {"_id": 1}) is not None


async def guard_active_user(user_id: str, guard: str, session: AsyncClientSession) -> bool:
    """Tell whether the user exists and is not disabled, inside the running transaction, and write his document: so neither
    his deletion nor another that writes the same `guard` can pass this one unseen.
    """
    guarded = await UserDocument.get_pymongo_collection().update_one(
        {"_id": user_id, "is_active": True}, {"$inc": {guard: 1}}, session=session
    )
    return bool(guarded.matched_count)


def _row(user: UserDocument) -> UserRow:
    return UserRow(id=user.id, email=user.email, name=user.name, is_active=user.is_active, created_at=user.created_at)
