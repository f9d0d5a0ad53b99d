"""Users who were deleted, and the document that keeps what is written for a user from missing his deletion.

Whatever first writes something of a user here passes his guard, in its transaction; a deletion writes the same document.
So of two at once one is done again and sees the other: what comes late is refused, for ever, also after a crash.

A guard is stored under the SHA-256 of the user's id. Ids have 74 random bits, so nobody finds the id from the hash; whoever
has an id still learns that its user was deleted. That is what stays of a user, and no more.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from beanie import Document
from pymongo import ReturnDocument
from pymongo.asynchronous.client_session import AsyncClientSession


class UserGuardDocument(Document):
    """`ended`: the user is being deleted. `counted`: how many records of his were erased so far; `erased`: how many there
    were in all, once none is left.
    """

    id: str  # type: ignore[assignment]  # the SHA-256 (hex) of the user's id
    changes: int = 0
    ended: bool = False
    counted: int = 0
    erased: int | None = None

    class Settings:
        """Where it is stored."""

        name = "user_guards"


@dataclass(frozen=True, slots=True)
class UserGuard:
    """How a user stands: `ended` if he is being deleted, `counted` records of his erased so far, `erased` in the end."""

    ended: bool
    counted: int
    erased: int | None


async def pass_user_guard(user_id: str, tx: AsyncClientSession) -> UserGuard:
    """Stand in the way of the user's deletion, in this transaction, and return how he stands."""
    return await _change(user_id, tx)


async def ended_users(user_ids: Iterable[str], tx: AsyncClientSession) -> set[str]:
    """Return which of these users are being deleted, as this transaction sees it.

    It writes nothing and so stands in no deletion's way: whoever uses it for what is written needs another document that
    both write.
    """
    by_guard = {_guard_id(user_id): user_id for user_id in user_ids}
    guards = UserGuardDocument.get_pymongo_collection().find(
        {"_id": {"$in": list(by_guard)}, "ended": True}, {"_id": 1}, session=tx
    )
    return {by_guard[guard["_id"]] async for guard in guards}


async def end_user(user_id: str, tx: AsyncClientSession) -> UserGuard:
    """Write that a user is being deleted: nothing is written for him after this transaction. Repeatable."""
    return await _change(user_id, tx, ended=True)


async def count_erased(user_id: str, count: int, tx: AsyncClientSession) -> None:
    """Write that so many records of a user were erased in this transaction, and that there are more."""
    await _change(user_id, tx, counted=count, ended=True)


async def note_erased(user_id: str, total: int, tx: AsyncClientSession) -> None:
    """Write that nothing of a user is left, and how many records there were, so that a repeat answers the same."""
    await _change(user_id, tx, ended=True, erased=total)


def _guard_id(user_id: str) -> str:
    return hashlib.sha256(user_id.encode()).hexdigest()


async def _change(user_id: str, tx: AsyncClientSession, *, counted: int = 0, **changes: Any) -> UserGuard:
    update: dict[str, Any] = {"$inc": {"changes": 1, "counted": counted}}
    if changes:
        update["$set"] = changes
    guard: Any = await UserGuardDocument.get_pymongo_collection().find_one_and_update(
        {"_id": _guard_id(user_id)},
        update,
        upsert=True,
        return_document=ReturnDocument.AFTER,
        session=tx,
    )
    return UserGuard(ended=bool(guard.get("ended")), counted=guard["counted"], erased=guard.get("erased"))
