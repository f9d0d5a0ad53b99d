"""Which worker runs a session's prompts.

A worker claims a key's current session with one find-and-modify and keeps it while it is used, so that a prompt on a
warm session waits for no database operation. Busy marks are written unwaited, in one bulk write every 50 ms.
"""

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from morpheus_common.contracts.sessions import SessionState, Slot
from morpheus_common.logs import get_logger
from morpheus_common.store.leases import Holder
from morpheus_common.store.mongo import Database, from_now
from morpheus_common.store.workers import Heartbeat, is_alive
from pymongo import ReturnDocument, UpdateOne
from pymongo.errors import PyMongoError

from morpheus_sessions.documents import SessionDocument
from morpheus_sessions.metrics import TAKEN_OVER

log = get_logger(__name__)

MARK_SECONDS: Final = 0.05
MARKS_COMMENT: Final = "busy marks"
REFRESH_COMMENT: Final = "owner refresh"
USED_SECONDS: Final = 1.0
"""When a session was last used is written at most this much too old."""
_FREE: Final = {"$set": {"owner": None}}


@dataclass(slots=True)
class OwnedSession:
    """What a worker knows of a session it owns. Times are monotonic seconds of this process.

    `usable_until`: when the chain takes its time for over, None while it is opening. `rests_until`: no prompt before
    then, because one whose end nobody saw may still run.
    """

    id: str
    key_id: str
    state: SessionState
    operation_id: str
    model_id: str
    model_name: str
    chain_session: str
    provider: str
    router: str
    usable_until: float | None
    rests_until: float
    used_at: float
    claimed_at: datetime
    gone: bool = False
    busy_written: bool = False
    """Whether the database may have a busy mark of it."""
    used_written_at: float = -math.inf

    def time_left(self) -> float:
        """Seconds until its time is over."""
        return 0.0 if self.usable_until is None else self.usable_until - time.monotonic()

    def rest_left(self) -> float:
        """Seconds until a prompt may run again."""
        return self.rests_until - time.monotonic()


@dataclass(frozen=True, slots=True)
class _Mark:
    """What is still to be written of a session."""

    owned: OwnedSession
    changes: dict[str, Any]
    noted_at: float

    @property
    def is_busy(self) -> bool:
        return self.changes["busy"] is not None


@dataclass(frozen=True, slots=True)
class OwnedElsewhere:
    """Another worker that is alive owns the key's session."""

    worker: str


class Ownership:
    """The sessions of this worker."""

    def __init__(self, database: Database, heartbeat: Heartbeat, *, quarantine: float) -> None:
        self._database = database
        self._heartbeat = heartbeat
        self._quarantine = quarantine
        self._quarantine_ms = int(quarantine * 1000)
        self._owned: dict[str, OwnedSession] = {}
        self._marks: dict[str, _Mark] = {}
        self._being_written: dict[str, _Mark] = {}
        self._marked = asyncio.Event()
        self._flushing = asyncio.Lock()

    @property
    def holder(self) -> Holder:
        """This worker."""
        return self._heartbeat.holder

    def owned(self, key_id: str) -> OwnedSession | None:
        """Return the session of a key if this worker owns it."""
        return self._owned.get(key_id)

    def all(self) -> list[OwnedSession]:
        """Return every session this worker owns."""
        return list(self._owned.values())

    async def claim(self, key_id: str) -> OwnedSession | OwnedElsewhere | None:
        """Take a key's current session, opening or active. None if the key has none.

        One operation when nobody else owns it; an owner that is dead is replaced, and a session whose busy mark it
        left behind rests until the mark is old enough. So marks of our own prompts for this key go first: one whose end we
        have seen must not be taken for one that may still run.
        """
        unwritten = (*self._marks.values(), *self._being_written.values())
        if any(mark.owned.key_id == key_id for mark in unwritten):
            await self._flush_marks()
        free_or_mine = [
            {"owner": None},
            {"owner.worker": self.holder.worker, "owner.boot": {"$lte": self.holder.boot}},
        ]
        taken = await self._take(key_id, {"$or": free_or_mine})
        if taken is not None:
            return taken
        other = await SessionDocument.get_pymongo_collection().find_one(
            {"key_id": key_id, "slot": Slot.CURRENT.value}, {"owner": 1, "busy": 1}
        )
        if other is None:
            return None
        owner = other.get("owner")
        if owner is None:
            return await self._take(key_id, {"owner": None})
        if await is_alive(self._database, Holder(owner["worker"], owner["boot"])):
            return OwnedElsewhere(owner["worker"])
        log.info("taking over from a dead worker", key_id=key_id, dead=owner["worker"])
        taken = await self._take(key_id, {"owner": owner})
        if taken is not None:
            TAKEN_OVER.labels("busy" if other.get("busy") else "none").inc()
        return taken

    async def _take(self, key_id: str, whose: dict[str, Any]) -> OwnedSession | None:
        rest = {"$dateAdd": {"startDate": "$busy.since", "unit": "millisecond", "amount": self._quarantine_ms}}
        document = await SessionDocument.get_pymongo_collection().find_one_and_update(
            {"key_id": key_id, "slot": Slot.CURRENT.value, **whose},
            [
                {
                    "$set": {
                        "owner": {"worker": self.holder.worker, "boot": self.holder.boot},
                        "claimed_at": "$$NOW",
                        "quarantined_until": {"$cond": [{"$ifNull": ["$busy", False]}, rest, "$quarantined_until"]},
                        "busy": None,
                    }
                }
            ],
            return_document=ReturnDocument.AFTER,
        )
        if document is None:
            return None
        owned = _owned(document)
        self._owned[key_id] = owned
        return owned

    def forget(self, owned: OwnedSession) -> None:
        """Use a session no more: its next prompt claims anew."""
        owned.gone = True
        if self._owned.get(owned.key_id) is owned:
            del self._owned[owned.key_id]

    async def release(self, owned: OwnedSession) -> None:
        """Let another worker have a session that no prompt runs in."""
        self.forget(owned)
        await self.disown(owned.id, owned.claimed_at)

    async def release_untaken(self, key_id: str) -> None:
        """The same with a key's session that was opened or renewed for this worker, and that it has not claimed since."""
        found = await SessionDocument.get_pymongo_collection().find_one(
            {
                "key_id": key_id,
                "slot": Slot.CURRENT.value,
                "owner.worker": self.holder.worker,
                "owner.boot": {"$lte": self.holder.boot},
            },
            {"claimed_at": 1},
        )
        if found is not None:
            await self.disown(found["_id"], found["claimed_at"])

    async def release_all(self, sessions: Sequence[OwnedSession]) -> None:
        """The same for many at once: whoever comes for one of them does not wait for the others."""
        for owned in sessions:
            self.forget(owned)
        await self._flush_marks()
        updates = [UpdateOne(self._claim_of(owned.id, owned.claimed_at), _FREE) for owned in sessions]
        if updates:
            await SessionDocument.get_pymongo_collection().bulk_write(updates, ordered=False)

    async def disown(self, session_id: str, claimed_at: datetime | None) -> None:
        """Write that this worker gives up its claim of a session (our own id); marks of its prompts go first.

        A claim made since `claimed_at`, by a prompt that came meanwhile, stays.
        """
        await self._flush_marks()
        await SessionDocument.get_pymongo_collection().update_one(self._claim_of(session_id, claimed_at), _FREE)

    def _claim_of(self, session_id: str, claimed_at: datetime | None) -> dict[str, Any]:
        return {
            "_id": session_id,
            "claimed_at": claimed_at,
            "owner.worker": self.holder.worker,
            "owner.boot": {"$lte": self.holder.boot},
        }

    def mark_busy(self, owned: OwnedSession, attempt: str) -> None:
        """Note that a prompt runs at the router; written soon, not now."""
        self._note(owned, busy={"attempt": attempt, "since": "$$NOW"})

    def mark_free(self, owned: OwnedSession, *, used: bool = True) -> None:
        """Note that the end of the prompt was seen. `used`: its key's owner sent it."""
        owned.used_at = time.monotonic()
        if not owned.busy_written and (not used or owned.used_at - owned.used_written_at < USED_SECONDS):
            # the prompt was over before its mark was written: the database has it right as it is
            self._marks.pop(owned.id, None)
            return
        self._note(owned, busy=None, **({"last_used_at": "$$NOW"} if used else {}))

    def mark_resting(self, owned: OwnedSession) -> None:
        """Note that the prompt may still run at the router: no other until it must have ended."""
        owned.used_at = time.monotonic()
        owned.rests_until = owned.used_at + self._quarantine
        self._note(owned, busy=None, last_used_at="$$NOW", quarantined_until=from_now(self._quarantine))

    def _note(self, owned: OwnedSession, **changes: Any) -> None:
        self._marks[owned.id] = _Mark(owned, changes, time.monotonic())
        self._marked.set()

    async def write_marks(self) -> None:
        """Write marks in bulk until cancelled."""
        while True:
            await self._marked.wait()
            await asyncio.sleep(MARK_SECONDS)
            try:
                await self._flush_marks()
            except PyMongoError as error:
                log.warning("busy marks not written", problem=type(error).__name__)
                await asyncio.sleep(1.0)

    async def _flush_marks(self) -> None:
        # one at a time: who gives up a claim must know that all earlier marks are written
        async with self._flushing:
            await self._write_marks_now()

    async def _write_marks_now(self) -> None:
        marks, self._marks = self._marks, {}
        self._marked.clear()
        if not marks:
            return
        mine = {"owner.worker": self.holder.worker, "owner.boot": self.holder.boot}
        self._being_written = marks
        for mark in marks.values():
            # also if nobody knows whether it was written, and until its end certainly was
            mark.owned.busy_written |= mark.is_busy
        try:
            await SessionDocument.get_pymongo_collection().bulk_write(
                [
                    UpdateOne({"_id": session_id, **mine}, [{"$set": mark.changes}])
                    for session_id, mark in marks.items()
                ],
                ordered=False,
                comment=MARKS_COMMENT,
            )
        except PyMongoError:
            self._marks = marks | self._marks
            self._marked.set()
            raise
        else:
            for mark in marks.values():
                mark.owned.busy_written &= mark.is_busy
                if "last_used_at" in mark.changes:
                    mark.owned.used_written_at = mark.noted_at
        finally:
            self._being_written = {}

    async def refresh(self, key_id: str | None = None) -> None:
        """Read the owned sessions again, of one key or all: what is not current any more is not ours to use."""
        watched = [owned for owned in self.all() if key_id in {None, owned.key_id}]
        if not watched:
            return
        cursor = SessionDocument.get_pymongo_collection().find(
            {"_id": {"$in": [owned.id for owned in watched]}, "slot": Slot.CURRENT.value}, comment=REFRESH_COMMENT
        )
        current = {document["_id"]: document async for document in cursor}
        for owned in watched:
            document = current.get(owned.id)
            owner = {} if document is None else document.get("owner") or {}
            if owner.get("worker") != self.holder.worker or owner.get("boot") != self.holder.boot:
                self.forget(owned)


def _owned(document: dict[str, Any]) -> OwnedSession:
    now = time.monotonic()
    claimed: datetime = document["claimed_at"]

    def local(moment: datetime | None) -> float | None:
        # both times are the database's, so that clocks of workers do not matter
        return None if moment is None else now + (moment - claimed).total_seconds()

    return OwnedSession(
        id=document["_id"],
        key_id=document["key_id"],
        state=SessionState(document["state"]),
        operation_id=document["operation_id"],
        model_id=document["model_id"],
        model_name=document["model_name"],
        chain_session=document["chain_session"] or "",
        provider=document["provider"] or "",
        router=document["router"] or "",
        usable_until=local(document["ends_at"]),
        rests_until=local(document["quarantined_until"]) or 0.0,
        used_at=now,
        claimed_at=claimed,
    )
