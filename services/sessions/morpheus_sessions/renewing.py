"""What automation asks of sessions: which come to their end, what bounds a new one, and to open a successor.

Automation decides when; here it is carried out, and here alone limits are enforced.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from morpheus_common.contracts.renewal import (
    EndingSession,
    EndingSessions,
    GetOpenFacts,
    ListEnding,
    OpenFacts,
    Renewal,
    RenewalProgress,
    RenewSession,
)
from morpheus_common.contracts.sessions import OperationProgress, SessionState, Slot
from morpheus_common.errors import ApiError
from pymongo import ASCENDING

from morpheus_sessions.catalogue import CatalogueCopy
from morpheus_sessions.documents import OperationDocument, Replaces, SessionDocument
from morpheus_sessions.journal import SWITCHED, Journal, SlotTaken
from morpheus_sessions.lifecycle import TRIES, USABLE_SECONDS, Lifecycle, is_usable
from morpheus_sessions.limits import Limits
from morpheus_sessions.operations import failure, progress
from morpheus_sessions.stake import MAX_CHAIN_SECONDS, MIN_ASKED_SECONDS, TAG_SPACE

TAG_WEI: Final = 2 * TAG_SPACE
"""A stake is rounded up and tagged: by less than this much it is more than its time takes."""

SPARE_SECONDS: Final = 120.0
"""A parked session that lasts for so long after the current one takes its place: by then it is near its own end."""

_PROGRESS: Final = {
    OperationProgress.RUNNING: RenewalProgress.RUNNING,
    OperationProgress.UNKNOWN: RenewalProgress.RUNNING,
    OperationProgress.SUCCEEDED: RenewalProgress.RENEWED,
    OperationProgress.FAILED: RenewalProgress.FAILED,
}


class Renewing:
    """Answers automation. `running_seconds`: no prompt runs for longer; a mark older than that was left behind."""

    def __init__(
        self,
        journal: Journal,
        lifecycle: Lifecycle,
        catalogue: CatalogueCopy,
        limits: Limits,
        *,
        running_seconds: float,
    ) -> None:
        self._journal = journal
        self._lifecycle = lifecycle
        self._catalogue = catalogue
        self._limits = limits
        self._running_seconds = running_seconds

    async def ending(self, question: ListEnding) -> EndingSessions:
        """Return a page of keys' current sessions near their end, those that end first first."""
        now = await self._journal.now()
        sessions = SessionDocument.get_pymongo_collection()
        cursor = sessions.find(_near_end(question, now), hint="ending")
        found = [
            item async for item in cursor.sort([("ends_at", ASCENDING), ("_id", ASCENDING)]).limit(question.limit + 1)
        ]
        rows = found[: question.limit]
        keys = [item["key_id"] for item in rows]
        coming = {
            item["key_id"]
            async for item in sessions.find({"key_id": {"$in": keys}, "slot": Slot.NEXT.value}, {"key_id": 1})
        }
        return EndingSessions(
            sessions=[self._row(item, now, is_coming=item["key_id"] in coming) for item in rows],
            more=len(found) > question.limit,
        )

    def _row(self, item: Mapping[str, Any], now: datetime, *, is_coming: bool) -> EndingSession:
        used = item["last_used_at"]
        running_since = (item["busy"] or {}).get("since")
        if running_since is not None:
            runs = now < running_since + timedelta(seconds=self._running_seconds)
            used = now if runs else max(filter(None, (used, running_since)))
        return EndingSession(
            id=item["_id"],
            session_id=item["chain_session"],
            user_id=item["user_id"],
            key_id=item["key_id"],
            key_prefix=item["key_prefix"],
            model_id=item["model_id"],
            ends_at=item["ends_at"],
            left=(item["ends_at"] - now).total_seconds(),
            duration=(item["ends_at"] - item["opened_at"]).total_seconds(),
            idle=None if used is None else max(0.0, (now - used).total_seconds()),
            coming=is_coming,
        )

    async def facts(self, question: GetOpenFacts) -> OpenFacts:
        """Return what bounds a session of a user for a model now.

        Raises `no_provider_available`, `open_failed`, and `service_unavailable` while wallets or market are not known.
        """
        price = self._catalogue.least_price(question.model_id)
        a_second = self._catalogue.stake_per_second(price)
        now = await self._journal.now()
        room = await self._limits.room(question.user_id, now)
        excess = room.user_at_risk + MIN_ASKED_SECONDS * a_second + TAG_WEI - room.user_limit
        return OpenFacts(
            price_per_second=price,
            stake_per_second=a_second,
            stake_extra=TAG_WEI,
            user_limit=room.user_limit,
            user_at_risk=room.user_at_risk,
            in_all_room=room.in_all,
            wallet_room=room.wallet,
            shortest=MIN_ASKED_SECONDS,
            longest=self._limits.longest_automatic,
            frees_at=await self._limits.frees(question.user_id, excess, now) if excess > 0 else None,
        )

    async def renew(self, command: RenewSession) -> Renewal:
        """Open a successor of a key's current session, once however often it is asked for, and tell how it stands.

        Nothing here touches the session that ends: it is parked in the transaction that makes its successor current. Raises
        what an open is refused with, and `session_opening` while one for another model is being opened.
        """
        known = await self._journal.operation(command.operation_id)
        if known is not None:
            return _standing(known)
        for _ in range(TRIES):
            current = await self._journal.session_in(command.key_id, Slot.CURRENT)
            left = await self._time_left(current, command)
            if current is None or left is None:
                return Renewal(progress=RenewalProgress.NOT_CURRENT, operation_id=command.operation_id)
            spare = await self._spare(current)
            if spare is not None:
                return Renewal(progress=RenewalProgress.RENEWED, operation_id=spare.operation_id)
            coming = await self._journal.session_in(command.key_id, Slot.NEXT)
            if coming is not None:
                if coming.model_id != command.model_id or not coming.wanted:
                    raise ApiError("session_opening", retry_after=5)
                return Renewal(progress=RenewalProgress.RUNNING, operation_id=coming.operation_id)
            try:
                await self._lifecycle.open_anew(
                    operation_id=command.operation_id,
                    user_id=command.user_id,
                    key_id=command.key_id,
                    key_prefix=command.key_prefix,
                    model_id=command.model_id,
                    bid_id=None,
                    duration=command.duration,
                    price=None,
                    owner=None,
                    replaces=Replaces(session=current.id, becomes=SessionState.PARKED),
                    automation=command.word,
                    idempotency=None,
                    patience=left,
                    # whoever needs it once the old one has ended waits for it himself
                    worth_for=left,
                )
            except SlotTaken:
                known = await self._journal.operation(command.operation_id)
                if known is not None:
                    return _standing(known)
                continue
            return Renewal(progress=RenewalProgress.RUNNING, operation_id=command.operation_id)
        raise ApiError("session_opening", retry_after=5)

    async def _spare(self, current: SessionDocument) -> SessionDocument | None:
        """Return a parked session that the key's prompts are taken to when the current one has ended, without a chain call."""
        for parked in await self._journal.sessions_of(current.key_id, (SessionState.PARKED,)):
            same = parked.model_id == current.model_id and parked.reason == SWITCHED
            if same and current.ends_at is not None and is_usable(parked, current.ends_at, at_least=SPARE_SECONDS):
                return parked
        return None

    async def _time_left(self, current: SessionDocument | None, command: RenewSession) -> float | None:
        """Return the seconds that the session to be renewed has left, None if there is nothing to renew."""
        now = await self._journal.now()
        if current is None or current.id != command.session or current.user_id != command.user_id:
            return None
        if current.state is not SessionState.ACTIVE or current.model_id != command.model_id:
            return None
        if current.ends_at is None or not is_usable(current, now):
            return None
        return (current.ends_at - now).total_seconds()


def _near_end(question: ListEnding, now: datetime) -> dict[str, Any]:
    # no session is longer than the chain allows: the index is read up to there
    horizon = max(question.least, question.share * MAX_CHAIN_SECONDS)
    ends: dict[str, Any] = {
        "$gt": now + timedelta(seconds=USABLE_SECONDS),
        "$lt": now + timedelta(seconds=horizon),
    }
    query: dict[str, Any] = {
        "slot": Slot.CURRENT.value,
        "state": SessionState.ACTIVE.value,
        "wanted": True,
        "ends_at": ends,
        "$expr": {
            "$lt": [
                {"$subtract": ["$ends_at", now]},
                {
                    "$max": [
                        {"$multiply": [{"$subtract": ["$ends_at", "$opened_at"]}, question.share]},
                        question.least * 1000,
                    ]
                },
            ]
        },
    }
    if question.after is not None:
        at, session_id = question.after.ends_at, question.after.id
        query["$or"] = [{"ends_at": {"$gt": at}}, {"ends_at": at, "_id": {"$gt": session_id}}]
    return query


def _standing(operation: OperationDocument) -> Renewal:
    return Renewal(progress=_PROGRESS[progress(operation)], operation_id=operation.id, error=failure(operation))
