"""What auth holds of a user, and how each part of it is erased."""

from typing import ClassVar, Protocol

from pymongo.asynchronous.client_session import AsyncClientSession

from morpheus_auth.documents import (
    ApiKeyDocument,
    LoginDocument,
    PasswordResetDocument,
    RefreshAnswerDocument,
    RefreshTokenDocument,
)


class Part(Protocol):
    """Something auth holds of its users. `counted_as`: under which name the deletion tells how many there were."""

    counted_as: ClassVar[str]

    async def erase(self, user_id: str, session: AsyncClientSession) -> int:
        """Erase a user's records in the running transaction, and return how many there were."""
        ...


class OwnedLogins:
    """Logins, refresh tokens, and the answers that spent ones still give."""

    counted_as: ClassVar[str] = "logins"

    async def erase(self, user_id: str, session: AsyncClientSession | None) -> int:
        """Erase them, in the running transaction if there is one."""
        logins, tokens = LoginDocument.get_pymongo_collection(), RefreshTokenDocument.get_pymongo_collection()
        login_ids = [login["_id"] async for login in logins.find({"user_id": user_id}, {"_id": 1}, session=session)]
        of_logins = {"login_id": {"$in": login_ids}}
        digests = [token["_id"] async for token in tokens.find(of_logins, {"_id": 1}, session=session)]
        answers = RefreshAnswerDocument.get_pymongo_collection()
        await answers.delete_many({"_id": {"$in": digests}}, session=session)
        await tokens.delete_many(of_logins, session=session)
        return (await logins.delete_many({"user_id": user_id}, session=session)).deleted_count


class OwnedKeys:
    """API keys."""

    counted_as: ClassVar[str] = "api_keys"

    async def erase(self, user_id: str, session: AsyncClientSession) -> int:
        """Erase them."""
        keys = ApiKeyDocument.get_pymongo_collection()
        return (await keys.delete_many({"user_id": user_id}, session=session)).deleted_count


class OwnedResets:
    """Tokens that would let their bearer set his password."""

    counted_as: ClassVar[str] = "password_resets"

    async def erase(self, user_id: str, session: AsyncClientSession) -> int:
        """Erase them."""
        resets = PasswordResetDocument.get_pymongo_collection()
        return (await resets.delete_many({"user_id": user_id}, session=session)).deleted_count


def parts_of(*others: Part) -> tuple[Part, ...]:
    """Return all that auth holds of a user beside his account, in the order in which it is erased: key material last.

    Whatever stores something of a user has to stand here, or be among `others`, and to refuse, in the transaction that writes
    it, a user who is not active: by `accounts.guard_active_user`, so that it cannot miss the deletion.
    """
    return (OwnedLogins(), OwnedKeys(), OwnedResets(), *others)
