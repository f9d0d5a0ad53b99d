"""The journal: every change of a session or an operation, each one transaction with its event.

Nothing here talks to a router, and nothing else writes these collections (but owner and busy marks: ownership.py).
"""

import asyncio
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from bson import Decimal128
from morpheus_common.clock import utc_now
from morpheus_common.contracts.sessions import SESSION_EVENTS, AutomationWord, SessionState, Slot
from morpheus_common.errors import ApiError
from morpheus_common.ids import uuid7
from morpheus_common.logs import get_logger
from morpheus_common.request_context import traceparent
from morpheus_common.steps import Step, reached
from morpheus_common.store.mongo import MongoClient, from_now
from morpheus_common.store.outbox import OutboxRelay, stage
from morpheus_common.store.transactions import run_transaction
from morpheus_common.store.user_guards import pass_user_guard
from pymongo import ASCENDING, DESCENDING, ReturnDocument
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import DuplicateKeyError

from morpheus_sessions.documents import (
    ENDED,
    SENT_STATES,
    FindingDocument,
    FindingKind,
    KeyGuardDocument,
    OperationDocument,
    OperationKind,
    OperationState,
    Owner,
    Replaces,
    SessionDocument,
    WalletDocument,
    wei,
)
from morpheus_sessions.holds import Hold, Holds
from morpheus_sessions.limits import Bounds, Limits
from morpheus_sessions.listing import Listing
from morpheus_sessions.router import Approval, Bid, ChainSession
from morpheus_sessions.stake import TAG_COUNTERS
from morpheus_sessions.waiting import Waiting

log = get_logger(__name__)

WATCH_SECONDS = 0.25
"""How often a waiter looks at an operation that another worker's loop carries out."""

SETTLED_BLOCKS = 5
"""So many blocks past it, a block is taken for final."""

CLOSED_WATCHED_SECONDS = 3_600
"""So long after a session was seen closed, a pass looks whether it still is."""
ABANDONED_WATCHED_SECONDS = 7 * 86_400
"""So long after its end, a pass looks whether a session that was not on chain is there after all."""

OPEN_STATES = (SessionState.ACTIVE, SessionState.PARKED, SessionState.CLOSING)
"""States of a session that is on chain, as far as our records go."""

IN_HAND = [OperationState.PENDING.value, OperationState.SENT.value, OperationState.UNKNOWN.value]
"""States of an operation that somebody has to carry on."""
_WITHOUT_FACTS = {"facts": 0}

UNWANTED: dict[str, Any] = {
    "wanted": False,
    # a repeat is not a later end
    "unwanted_at": {"$cond": [{"$eq": ["$wanted", False]}, "$unwanted_at", "$$NOW"]},
    "changes": {"$add": [{"$ifNull": ["$changes", 0]}, 1]},
}
"""What is set in a key's guard, by a pipeline, when the key is not wanted any more."""

LOST = "lost"
"""Why a session is parked that its provider or its router does not know any more."""
SUSPECT = "suspect"
"""Why a session is parked that the chain does not show."""
SWITCHED = "switched"
"""Why a session is parked that its key may want back: another model was asked for."""


class SlotTaken(Exception):
    """The key has another session in that slot by now; read it and go on from there."""


class StakeTaken(Exception):
    """Another live operation has this stake at this bid, or the approval was used: make another."""


class StateChanged(Exception):
    """The session is not in a state the change is for; somebody was faster."""


class AlreadyAdopted(Exception):
    """The chain session belongs to another of our sessions."""


def _session(document: Mapping[str, Any]) -> SessionDocument:
    read: SessionDocument = SessionDocument.model_validate(document)
    return read


def _operation(document: Mapping[str, Any]) -> OperationDocument:
    read: OperationDocument = OperationDocument.model_validate(document)
    return read


def _held(hold: Hold | None) -> dict[str, Any]:
    if hold is None:
        return {"held": None, "held_until": None}
    return {"held": Decimal128(str(hold.amount)), "held_until": hold.until}


def _from_unix(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


class Journal:
    """Reads and writes the operations and sessions of this service."""

    def __init__(
        self, client: MongoClient, outbox: OutboxRelay, waiting: Waiting | None = None, holds: Holds | None = None
    ) -> None:
        self._client = client
        self._holds = holds or Holds()
        self._outbox = outbox
        self._waiting = waiting or Waiting()
        self._listeners: list[asyncio.Event] = []
        self._leapt: set[str] = set()

    def listen(self) -> asyncio.Event:
        """Return an event that is set whenever an operation is queued by this process. One for each loop."""
        event = asyncio.Event()
        self._listeners.append(event)
        return event

    def wake(self) -> None:
        """Say to the wallets' loops of this process that something is queued."""
        self._outbox.nudge()
        for event in self._listeners:
            event.set()

    # reading

    async def now(self) -> datetime:
        """Return the database's time. What costs money if a worker's clock is wrong is decided by it."""
        answer = await self._client.admin.command("hello", codec_options=self._client.codec_options)
        now: datetime = answer["localTime"]
        return now

    async def session_in(self, key_id: str, slot: Slot) -> SessionDocument | None:
        """Return the session of a key in a slot."""
        return await self._find_session({"key_id": key_id, "slot": slot.value})

    async def session(self, session_id: str) -> SessionDocument | None:
        """Return a session by our own id."""
        return await self._find_session({"_id": session_id})

    async def session_of_operation(self, operation_id: str) -> SessionDocument | None:
        """Return the session that an open was written with."""
        return await self._find_session({"operation_id": operation_id})

    async def sessions_of(self, key_id: str, states: Iterable[SessionState]) -> list[SessionDocument]:
        """Return the sessions of a key in any of `states`."""
        return await self._list_sessions({"key_id": key_id, "state": {"$in": [state.value for state in states]}})

    async def sessions_of_user(self, user_id: str, states: Iterable[SessionState]) -> list[SessionDocument]:
        """Return the sessions of a user in any of `states`."""
        return await self._list_sessions({"user_id": user_id, "state": {"$in": [state.value for state in states]}})

    async def newest_sessions_of(
        self, key_id: str, states: Iterable[SessionState], *, limit: int
    ) -> list[SessionDocument]:
        """Return at most `limit` sessions of a key in any of `states`, newest first."""
        cursor = SessionDocument.get_pymongo_collection().find(
            {"key_id": key_id, "state": {"$in": [state.value for state in states]}}
        )
        return [_session(item) async for item in cursor.sort("created_at", DESCENDING).limit(limit)]

    async def oldest_watched(self, wallet: str) -> int | None:
        """Return when the oldest session on a wallet was opened that may be open on chain (Unix seconds), None if there is
        none. Those that the chain showed closed lately, or did not show, are among them: blocks can be undone, nodes err.
        """
        now = await self.now()
        watched: list[dict[str, Any]] = [
            {"state": {"$in": [state.value for state in OPEN_STATES]}},
            {
                "state": SessionState.CLOSED.value,
                "updated_at": {"$gte": now - timedelta(seconds=CLOSED_WATCHED_SECONDS)},
            },
            {
                "state": SessionState.ABANDONED.value,
                "ends_at": {"$gte": now - timedelta(seconds=ABANDONED_WATCHED_SECONDS)},
            },
        ]
        session = await SessionDocument.get_pymongo_collection().find_one(
            {"opened_at": {"$type": "date"}, "$or": [{"wallet": wallet, **which} for which in watched]},
            {"opened_at": 1},
            sort=[("opened_at", ASCENDING)],
        )
        # what no record stands for is looked at until it is closed
        finding = await FindingDocument.get_pymongo_collection().find_one(
            {"wallet": wallet}, {"opened_at": 1}, sort=[("opened_at", ASCENDING)]
        )
        return min((int(item["opened_at"].timestamp()) for item in (session, finding) if item), default=None)

    async def count_on(self, wallet: str, states: Iterable[SessionState]) -> int:
        """Count the sessions on a wallet that are in any of `states`."""
        query = {"wallet": wallet, "state": {"$in": [state.value for state in states]}}
        return await SessionDocument.get_pymongo_collection().count_documents(query)

    async def oldest_on(self, wallet: str, states: Iterable[SessionState], *, limit: int) -> list[SessionDocument]:
        """Return at most `limit` sessions on a wallet in any of `states`, those that end first."""
        query = {"wallet": wallet, "state": {"$in": [state.value for state in states]}}
        cursor = SessionDocument.get_pymongo_collection().find(query).sort("ends_at", ASCENDING).limit(limit)
        return [_session(item) async for item in cursor]

    async def operation(self, operation_id: str) -> OperationDocument | None:
        """Return an operation."""
        document = await OperationDocument.get_pymongo_collection().find_one({"_id": operation_id})
        return None if document is None else _operation(document)

    async def operations_of(self, request: str) -> list[OperationDocument]:
        """Return what a command of a user began, oldest first."""
        cursor = OperationDocument.get_pymongo_collection().find({"$or": [{"_id": request}, {"request": request}]})
        return [_operation(item) async for item in cursor.sort("_id", ASCENDING)]

    async def unfinished(self, wallet: str, *, besides: Iterable[str], closes: int) -> list[OperationDocument]:
        """Return what a wallet's loop has to carry on: its own operations that have not ended and are due, oldest first,
        without their facts. `besides`: those that it has in hand; `closes`: no more of them than this.
        """
        due = {"$or": [{"not_before": None}, {"$expr": {"$lte": ["$not_before", "$$NOW"]}}]}
        mine = {"wallet": wallet, "state": {"$in": IN_HAND}, "_id": {"$nin": list(besides)}, **due}
        # asked for each time anything is queued: a thousand closes that wait are not read each time
        kinds: list[tuple[Any, int]] = [({"$ne": OperationKind.CLOSE.value}, 0)]
        if closes > 0:
            kinds.append((OperationKind.CLOSE.value, closes))
        found: list[OperationDocument] = []
        for kind, limit in kinds:
            cursor = OperationDocument.get_pymongo_collection().find({**mine, "kind": kind}, _WITHOUT_FACTS)
            found += [_operation(item) async for item in cursor.sort("created_at", ASCENDING).limit(limit)]
        return found

    async def ended(self, operation_id: str, *, wait: float) -> OperationDocument | None:
        """Wait up to `wait` seconds for an operation to end and return it as it is then; None if there is no such."""
        loop = asyncio.get_running_loop()
        until = loop.time() + wait
        with self._waiting.for_end_of(operation_id) as event:
            while True:
                operation = await self.operation(operation_id)
                left = until - loop.time()
                if operation is None or operation.state in ENDED or left <= 0:
                    return operation
                try:
                    async with asyncio.timeout(left):
                        await event.wait()
                except TimeoutError:
                    continue
                event.clear()

    async def sent_opens(self, wallet: str, *, seen: Sequence[ChainSession]) -> list[OperationDocument]:
        """Return the opens of a wallet that were sent and not settled, without their facts, oldest first: those under way,
        and of those that were given up, which are watched for ever, the ones whose stake is among `seen`.
        """
        stakes = [Decimal128(str(stake)) for stake in {item.stake for item in seen}]
        cursor = OperationDocument.get_pymongo_collection().find(
            {
                "wallet": wallet,
                "kind": OperationKind.OPEN.value,
                "$or": [
                    {"state": {"$in": [state.value for state in SENT_STATES if state not in ENDED]}},
                    {"state": OperationState.ABANDONED.value, "stake": {"$in": stakes}},
                ],
            },
            _WITHOUT_FACTS,
        )
        return [_operation(item) async for item in cursor.sort("created_at", ASCENDING)]

    async def sessions_on_chain(
        self, wallet: str, states: Iterable[SessionState], *, also: Sequence[ChainSession]
    ) -> list[SessionDocument]:
        """Return the sessions on a wallet that are in `states` and on chain, or have an id, or bid and stake, in common
        with one in `also`.
        """
        stakes = [Decimal128(str(seen.stake)) for seen in also]
        return await self._list_sessions(
            {
                "wallet": wallet,
                "$or": [
                    {"state": {"$in": [state.value for state in states]}, "chain_session": {"$type": "string"}},
                    {"chain_session": {"$in": [seen.id for seen in also]}},
                    {"bid_id": {"$in": [seen.bid_id for seen in also]}, "stake": {"$in": stakes}},
                ],
            }
        )

    async def keys_in_use(self, *, after: str, limit: int) -> dict[str, str]:
        """Return the keys (ids, with their users') that have sessions which nobody has begun to close, in order of id."""
        states = (SessionState.OPENING, SessionState.ACTIVE, SessionState.PARKED)
        cursor = await SessionDocument.get_pymongo_collection().aggregate(
            [
                {"$match": {"key_id": {"$gt": after}, "state": {"$in": [state.value for state in states]}}},
                {"$group": {"_id": "$key_id", "user_id": {"$first": "$user_id"}}},
                {"$sort": {"_id": ASCENDING}},
                {"$limit": limit},
            ]
        )
        return {item["_id"]: item["user_id"] async for item in cursor}

    async def stuck_providers(self, wallet: str) -> set[str]:
        """Return the providers (addresses) of closes that are stuck: they give no closing report."""
        stuck = [
            item["session"]
            async for item in OperationDocument.get_pymongo_collection().find(
                {"wallet": wallet, "stuck": True, "state": {"$nin": [state.value for state in ENDED]}}, {"session": 1}
            )
        ]
        if not stuck:
            return set()
        return {item.provider for item in await self._list_sessions({"_id": {"$in": stuck}}) if item.provider}

    async def disowning_providers(self, key_id: str, *, times: int) -> set[str]:
        """Return the providers (addresses) that did not know at least so many sessions of a key whose time is not over."""
        lost = {"state": SessionState.PARKED.value, "reason": LOST, "$expr": {"$gt": ["$ends_at", "$$NOW"]}}
        counted = Counter(item.provider for item in await self._list_sessions({"key_id": key_id, **lost}))
        return {provider for provider, count in counted.items() if provider is not None and count >= times}

    async def read_to(self, wallet: str) -> int:
        """Return when the newest session of the last complete listing was opened (Unix seconds), 0 before the first."""
        document = await WalletDocument.get_pymongo_collection().find_one({"_id": wallet}, {"read_to": 1})
        return int((document or {}).get("read_to") or 0)

    async def _find_session(self, query: Mapping[str, Any]) -> SessionDocument | None:
        document = await SessionDocument.get_pymongo_collection().find_one(query)
        return None if document is None else _session(document)

    async def _list_sessions(self, query: Mapping[str, Any]) -> list[SessionDocument]:
        cursor = SessionDocument.get_pymongo_collection().find(query)
        return [_session(item) async for item in cursor.sort("created_at", ASCENDING)]

    # opening

    async def next_counter(self, wallet: str, router: str) -> int:
        """Return the next number for the tag of a stake of this wallet.

        Each process begins with a leap: where records were lost, or a back-up was restored, the numbers after the last one
        that is known are those of sessions on chain.
        """
        step = 1 if wallet in self._leapt else random.randrange(1, TAG_COUNTERS)  # noqa: S311 - to be apart, not secret
        self._leapt.add(wallet)
        document: Any = await WalletDocument.get_pymongo_collection().find_one_and_update(
            {"_id": wallet},
            {"$inc": {"counter": step}, "$set": {"router": router}},
            upsert=True,
            return_document=ReturnDocument.AFTER,
        )
        return int(document["counter"])

    async def record_approval(
        self,
        operation: OperationDocument,
        bid: Bid,
        approval: Approval,
        stake: int,
        block: int,
        *,
        limits: Limits,
        bounds: Bounds,
    ) -> OperationDocument:
        """Write approval and exact stake, and that they are about to be sent, before a byte goes out.

        Raises `StakeTaken` if another operation has this stake or this approval, `StateChanged` if another process has
        carried this operation on, `StakeRefused` if the stake passes a limit.
        """
        now = utc_now()

        async def body(session: AsyncClientSession) -> bool:
            await limits.reserve(
                session,
                bounds,
                session_id=operation.session,
                user_id=operation.user_id,
                wallet=operation.wallet or "",
                stake=stake,
            )
            # what a settled open sent stays its own for ever: two of a kind could not be told apart on chain
            twin = {"wallet": operation.wallet, "bid_id": bid.id, "stake": Decimal128(str(stake))}
            if await SessionDocument.get_pymongo_collection().find_one(twin, {"_id": 1}, session=session) is not None:
                raise StakeTaken
            recorded = await OperationDocument.get_pymongo_collection().update_one(
                # bound to another wallet meanwhile: what this one sends would be looked for in the wrong place
                {"_id": operation.id, "state": OperationState.PENDING.value, "wallet": operation.wallet},
                {
                    "$set": {
                        "state": OperationState.SENT.value,
                        "bid_id": bid.id,
                        "provider": bid.provider,
                        "price_per_second": Decimal128(str(bid.price)),
                        "stake": Decimal128(str(stake)),
                        "approval": approval.data,
                        "approval_signature": approval.signature,
                        "sent_block": block,
                        "updated_at": now,
                    },
                    "$currentDate": {"sent_at": True},
                    "$push": {"facts": {"at": now, "what": "sending", "block": block}},
                    "$inc": {"attempts": 1},
                },
                session=session,
            )
            if not recorded.matched_count:
                raise StateChanged(operation.id)
            return True

        try:
            async with limits.turn:
                await run_transaction(self._client, body)
        except DuplicateKeyError:
            raise StakeTaken from None
        # read back with majority: what is not durable is not sent
        stored = await self.operation(operation.id)
        if stored is None or stored.approval != approval.data or stored.stake is None or int(stored.stake) != stake:
            msg = f"operation {operation.id} was not stored as written"
            raise RuntimeError(msg)
        return stored

    async def append_fact(self, operation_id: str, what: str, **details: Any) -> None:
        """Add what was observed, whoever observed it."""
        await OperationDocument.get_pymongo_collection().update_one(
            {"_id": operation_id},
            {"$push": {"facts": {"$each": [{"at": utc_now(), "what": what, **details}], "$slice": -100}}},
        )

    async def note_absence(
        self, operation: OperationDocument, *, height: int, spacing: float, retry_in: float
    ) -> OperationDocument:
        """A listing of the chain at `height` does not show it: its outcome is unknown. Look again in `retry_in` seconds.

        It counts if the chain is five blocks past where it was last sent, and the last that counted is `spacing` seconds
        old. Raises `StateChanged` if it has ended, or was sent again, meanwhile.
        """
        now = utc_now()
        counts = {
            "$and": [
                {"$gte": [height, {"$add": ["$sent_block", SETTLED_BLOCKS]}]},
                {
                    "$or": [
                        {"$eq": [{"$ifNull": ["$absent_at", None]}, None]},
                        {"$lte": ["$absent_at", from_now(-spacing)]},
                    ]
                },
            ]
        }
        document = await OperationDocument.get_pymongo_collection().find_one_and_update(
            {
                "_id": operation.id,
                "state": {"$in": [OperationState.SENT.value, OperationState.UNKNOWN.value]},
                "sent_block": operation.sent_block,
            },
            [
                {
                    "$set": {
                        "state": OperationState.UNKNOWN.value,
                        "updated_at": now,
                        "not_before": from_now(retry_in),
                        "attempts": {"$add": ["$attempts", 1]},
                        "absences": {"$add": ["$absences", {"$cond": [counts, 1, 0]}]},
                        "absent_at": {"$cond": [counts, "$$NOW", "$absent_at"]},
                    }
                }
            ],
            return_document=ReturnDocument.AFTER,
        )
        if document is None:
            raise StateChanged(operation.id)
        return _operation(document)

    async def record_resend(self, operation: OperationDocument, block: int) -> OperationDocument:
        """Write that the same approval is about to be sent again at this height; absences count anew.

        Raises `StateChanged` if another process has carried this operation on.
        """
        now = utc_now()
        document = await OperationDocument.get_pymongo_collection().find_one_and_update(
            {"_id": operation.id, "state": OperationState.UNKNOWN.value, "attempts": operation.attempts},
            {
                "$set": {"sent_block": block, "absences": 0, "absent_at": None, "updated_at": now},
                "$inc": {"attempts": 1},
                "$push": {"facts": {"$each": [{"at": now, "what": "sending again", "block": block}], "$slice": -100}},
            },
            return_document=ReturnDocument.AFTER,
        )
        if document is None:
            raise StateChanged(operation.id)
        return _operation(document)

    async def is_overdue(self, operation: OperationDocument, seconds: float) -> bool:
        """Tell whether an open was first sent more than `seconds` ago, by the database's clock."""
        found = await OperationDocument.get_pymongo_collection().find_one(
            {"_id": operation.id, "$expr": {"$lt": ["$sent_at", from_now(-seconds)]}}, {"_id": 1}
        )
        return found is not None

    async def mark_stuck(self, operation: OperationDocument, *, retry_in: float) -> None:
        """A close that gets no answer: it is tried again, but seldom, and what it holds up is named."""
        await OperationDocument.get_pymongo_collection().update_one(
            {"_id": operation.id}, [{"$set": {"stuck": True, "not_before": from_now(retry_in)}}]
        )

    async def postpone(self, operation: OperationDocument, *, retry_in: float, counted: bool = True) -> None:
        """Try again later; nothing has changed. `counted`: it was an attempt, and the next waits longer."""
        await OperationDocument.get_pymongo_collection().update_one(
            {"_id": operation.id},
            [
                {
                    "$set": {
                        "not_before": from_now(retry_in),
                        "updated_at": utc_now(),
                        "attempts": {"$add": ["$attempts", int(counted)]},
                    }
                }
            ],
        )

    async def is_wanted(self, operation: OperationDocument) -> bool:
        """Tell whether anybody still wants what an open would open: its key is not revoked, no close was asked for."""
        guard = await KeyGuardDocument.get_pymongo_collection().find_one({"_id": operation.key_id})
        opening = await self.session(operation.session)
        return (guard is None or guard["wanted"]) and opening is not None and opening.wanted

    async def settle_open(
        self, operation: OperationDocument, found: ChainSession, *, chain: int, wallet: str, router: str, block: int
    ) -> SessionDocument:
        """The chain has the session: make it usable, and give it its key's current slot.

        Writing the chain's id is what adopts a session: a unique index allows it once, for ever. If the key was revoked
        meanwhile the session goes straight to `closing`; if the key has another current session by now, this one is
        parked. Raises `AlreadyAdopted`, `SlotTaken` (try again), `StateChanged` (another process settled it).
        """
        now = utc_now()

        async def body(session: AsyncClientSession) -> SessionDocument:
            before = await SessionDocument.get_pymongo_collection().find_one(
                {"_id": operation.session}, session=session
            )
            if before is None:
                raise StateChanged(operation.session)
            # key and user as the session has them: they are nobody's if the user was deleted since the operation was read
            guard: Any = await KeyGuardDocument.get_pymongo_collection().find_one_and_update(
                {"_id": before["key_id"]},
                {"$inc": {"changes": 1}, "$setOnInsert": {"user_id": before["user_id"], "wanted": True}},
                upsert=True,
                return_document=ReturnDocument.AFTER,
                session=session,
            )
            given_up = before["state"] == SessionState.ABANDONED
            wanted = guard["wanted"] and before["wanted"]
            taken_over: dict[str, Any] = {}
            if operation.replaces is not None and wanted and not given_up:
                # what is closed as soon as it is there takes the place of nothing
                taken_over = await self._give_way(operation.replaces, before, now, session)
            current = await SessionDocument.get_pymongo_collection().find_one(
                {"key_id": before["key_id"], "slot": Slot.CURRENT.value}, session=session
            )
            if (
                given_up
                and wanted
                and current is not None
                and await self._steps_aside(current, operation, now, session)
            ):
                # its key was told that it came to nothing, and waits for another of the model: it has this one instead
                given_up, current = False, None
            wanted = wanted and not given_up
            fits = wanted and (current is None or current["_id"] == operation.session)
            changes = {
                "state": SessionState.ACTIVE if fits else SessionState.PARKED,
                "slot": Slot.CURRENT if fits else None,
                "reason": None if fits else SWITCHED,
                "router": router,
                "wallet": wallet,
                "chain": chain,
                "chain_session": found.id,
                "bid_id": found.bid_id,
                "provider": found.provider,
                "stake": Decimal128(str(found.stake)),
                "price_per_second": Decimal128(str(found.price)),
                "opened_at": _from_unix(found.opened_at),
                "ends_at": _from_unix(found.ends_at),
                "seen_block": block,
            }
            if fits:
                changes |= taken_over
            await self._free_id(found, session)
            opened = await self._change(
                operation.session, (SessionState.OPENING, SessionState.ABANDONED), changes, "opened", now, session
            )
            await self._end_operation(operation, OperationState.DONE, None, now, session, even_abandoned=True)
            await reached(Step.OPEN_SETTLING, operation.id)
            if not guard["wanted"]:
                opened = await self.start_close(opened, "key_revoked", now, session)
            elif not opened.wanted:
                opened = await self.start_close(opened, "requested", now, session)
            elif given_up:
                # its key was told that this open came to nothing, and may have another session by now
                opened = await self.start_close(opened, "came_late", now, session)
            return opened

        async def read_back() -> SessionDocument | None:
            return await self._find_session({"chain": chain, "chain_session": found.id})

        try:
            opened = await run_transaction(self._client, body, read_back=read_back)
        except DuplicateKeyError as error:
            if "chain_session" in (error.details or {}).get("keyPattern", {}):
                raise AlreadyAdopted from None
            raise SlotTaken from None
        self._tell(operation.id)
        self.wake()
        return opened

    async def _free_id(self, found: ChainSession, tx: AsyncClientSession) -> None:
        """Take a chain session's id from a session of another open that is over, or was given up: its block was undone,
        and the next open was given the id. Should it be mined again, it is known by what its open sent.
        """
        await SessionDocument.get_pymongo_collection().update_many(
            {
                "chain_session": found.id,
                "state": {"$nin": [state.value for state in OPEN_STATES]},
                "$or": [{"bid_id": {"$ne": found.bid_id}}, {"stake": {"$ne": Decimal128(str(found.stake))}}],
            },
            {"$set": {"chain_session": None}},
            session=tx,
        )

    async def _steps_aside(
        self, waiting: Mapping[str, Any], operation: OperationDocument, now: datetime, session: AsyncClientSession
    ) -> bool:
        """End an open that was not sent yet, in favour of one of the same model that came late. False: it cannot."""
        if waiting["state"] != SessionState.OPENING or waiting["model_id"] != operation.model_id:
            return False
        if not waiting["wanted"]:
            return False
        ended = await OperationDocument.get_pymongo_collection().update_one(
            {"_id": waiting["operation_id"], "state": OperationState.PENDING.value, "wanted_bid": None},
            {"$set": {"state": OperationState.DONE.value, "session": operation.session, "updated_at": now}},
            session=session,
        )
        if not ended.matched_count:
            return False
        changes = {"state": SessionState.FAILED, "slot": None, "reason": "superseded", "owner": None}
        await self._change(waiting["_id"], (SessionState.OPENING,), changes, "failed", now, session)
        return True

    async def _give_way(
        self, replaces: Replaces, new: Mapping[str, Any], now: datetime, session: AsyncClientSession
    ) -> dict[str, Any]:
        """Take a session out of its slot in favour of `new`; return what the new one takes over from it."""
        old = await SessionDocument.get_pymongo_collection().find_one({"_id": replaces.session}, session=session)
        if old is None or old["state"] != SessionState.ACTIVE:
            return {}
        if replaces.becomes is not SessionState.PARKED:
            await self.start_close(_session(old), "replaced", now, session)
            return {}
        await self._change(
            replaces.session,
            (SessionState.ACTIVE,),
            {"state": SessionState.PARKED, "slot": None, "reason": SWITCHED},
            "parked",
            now,
            session,
        )
        if old["model_id"] != new["model_id"] or new["owner"] is not None:
            return {}
        # renewed: its key's prompts stand in line at one worker, and whether the key is in use is not forgotten
        used = [time for time in (old["last_used_at"], (old["busy"] or {}).get("since")) if time is not None]
        return {"owner": old["owner"], "last_used_at": max(used, default=None)}

    async def fail_open(self, operation: OperationDocument, error: ApiError) -> None:
        """Nothing was ever sent: the session has failed, its key is free.

        Raises `StateChanged` unless the operation is as the caller knew it. Recording an approval and each sending
        change it, so that a process that slept here cannot declare failed what another has sent meanwhile.
        """
        now = utc_now()

        async def body(session: AsyncClientSession) -> bool:
            changes = {"state": SessionState.FAILED, "slot": None, "reason": error.code, "owner": None}
            await self._change(operation.session, (SessionState.OPENING,), changes, "failed", now, session)
            await self._end_operation(operation, OperationState.FAILED, error, now, session, unchanged=True)
            for item in await self._closes_of(operation.session, session):
                # there is nothing to close
                await self._end_operation(item, OperationState.DONE, None, now, session)
            return True

        await run_transaction(self._client, body)
        self._tell(operation.id)

    async def abandon_open(self, operation: OperationDocument, error: ApiError) -> None:
        """Sent, and not seen on chain in time: the key is free, the fingerprint is watched for ever."""
        # until when its stake weighs is read beside the database's time
        now = await self.now()

        async def body(session: AsyncClientSession) -> bool:
            changes = {"state": SessionState.ABANDONED, "slot": None, "reason": error.code, "owner": None}
            changes |= _held(self._holds.after_giving_up(stake=wei(operation.stake) or 0, now=now))
            await self._change(operation.session, (SessionState.OPENING,), changes, "abandoned", now, session)
            await self._end_operation(operation, OperationState.ABANDONED, error, now, session)
            for item in await self._closes_of(operation.session, session):
                # taken up again should the session appear
                await self._end_operation(item, OperationState.ABANDONED, None, now, session)
            return True

        await run_transaction(self._client, body)
        self._tell(operation.id)

    # approving

    async def record_approve(self, operation: OperationDocument, block: int) -> OperationDocument:
        """Write that an approve is about to be sent at this height. Raises `StateChanged` if another process has ended it."""
        now = utc_now()
        document = await OperationDocument.get_pymongo_collection().find_one_and_update(
            {"_id": operation.id, "wallet": operation.wallet, "state": {"$nin": [state.value for state in ENDED]}},
            [
                {
                    "$set": {
                        "state": OperationState.UNKNOWN.value,
                        "sent_at": {"$ifNull": ["$sent_at", "$$NOW"]},
                        "sent_block": block,
                        "attempts": {"$add": ["$attempts", 1]},
                        "updated_at": now,
                    }
                }
            ],
            return_document=ReturnDocument.AFTER,
        )
        if document is None:
            raise StateChanged(operation.id)
        return _operation(document)

    async def end_approve(
        self, operation: OperationDocument, state: OperationState, error: ApiError | None, *, tx: str | None = None
    ) -> None:
        """End an approve: `done`, `failed` if nothing was sent, `abandoned` if it was. Raises `StateChanged`."""
        now = utc_now()

        async def body(session: AsyncClientSession) -> bool:
            await OperationDocument.get_pymongo_collection().update_one(
                {"_id": operation.id}, {"$set": {"tx": tx}}, session=session
            )
            await self._end_operation(operation, state, error, now, session)
            return True

        await run_transaction(self._client, body)
        self._tell(operation.id)

    # what the chain shows

    async def note_session_absence(self, session: SessionDocument, *, spacing: float, enough: int) -> None:
        """The chain, well past where it had the session, does not show it: no new prompts. Counted `enough` times,
        `spacing` seconds apart: it is given up, and watched for.
        """
        document = await SessionDocument.get_pymongo_collection().find_one_and_update(
            {
                "_id": session.id,
                "$or": [{"absent_at": None}, {"$expr": {"$lte": ["$absent_at", from_now(-spacing)]}}],
            },
            [{"$set": {"absences": {"$add": [{"$ifNull": ["$absences", 0]}, 1]}, "absent_at": "$$NOW"}}],
            return_document=ReturnDocument.AFTER,
        )
        if document is None:
            return
        if document["absences"] < enough:
            await self.park(session.id, SUSPECT)
            return
        now = await self.now()

        async def body(tx: AsyncClientSession) -> bool:
            await self._give_up(session.id, now, tx)
            return True

        await run_transaction(self._client, body)
        self._outbox.nudge()

    async def note_session_seen(self, session: SessionDocument) -> None:
        """The chain shows a session that was missing: its key may have it back."""
        await SessionDocument.get_pymongo_collection().update_one(
            {"_id": session.id},
            [
                {
                    "$set": {
                        "absences": 0,
                        "absent_at": None,
                        "reason": {"$cond": [{"$eq": ["$reason", SUSPECT]}, SWITCHED, "$reason"]},
                    }
                }
            ],
        )

    async def move(self, moves: Sequence[tuple[SessionDocument, ChainSession | None]], *, block: int) -> None:
        """The chain, at height `block`, has these sessions under other ids: blocks were undone, and mined again.

        All in one transaction, because one may have had the id that is another's by now. None in place of a chain session:
        its id is another's, and itself is nowhere; it is given up, and watched for. What had ended and is open again is
        closed. Raises `StateChanged` if one of them is not any more as the caller knew it.
        """
        now = await self.now()
        sessions = SessionDocument.get_pymongo_collection()

        async def body(tx: AsyncClientSession) -> bool:
            for known, _ in moves:
                as_known = {"version": known.version, "chain_session": known.chain_session}
                freed = await sessions.update_one(
                    {"_id": known.id, **as_known}, {"$set": {"chain_session": None}}, session=tx
                )
                if not freed.matched_count:
                    raise StateChanged(known.id)
            taken = [found.id for _, found in moves if found is not None]
            # of a session that has ended: it is of use to no one
            ended = {"chain_session": {"$in": taken}, "state": {"$nin": [state.value for state in OPEN_STATES]}}
            await sessions.update_many(ended, {"$set": {"chain_session": None}}, session=tx)
            for known, found in moves:
                if found is not None:
                    await self._move_one(known, found, block, now, tx)
                elif known.state in OPEN_STATES:
                    await self._give_up(known.id, now, tx)
            await reached(Step.SESSION_MOVING, moves[0][0].operation_id)
            return True

        try:
            await run_transaction(self._client, body)
        except DuplicateKeyError:
            raise StateChanged(moves[0][0].id) from None
        self.wake()

    async def _move_one(
        self, known: SessionDocument, found: ChainSession, block: int, now: datetime, tx: AsyncClientSession
    ) -> None:
        changes = {
            "chain_session": found.id,
            "opened_at": _from_unix(found.opened_at),
            "ends_at": _from_unix(found.ends_at),
            "seen_block": block,
            "absences": 0,
            "absent_at": None,
            "reason": SWITCHED if known.reason == SUSPECT else known.reason,
            # whoever owns it knows it by its old id
            "owner": None,
            "busy": None,
        }
        fact = {"at": now, "what": "moved on chain", "session": found.id, "before": known.chain_session}
        await OperationDocument.get_pymongo_collection().update_one(
            {"_id": known.operation_id}, {"$push": {"facts": {"$each": [fact], "$slice": -100}}}, session=tx
        )
        if known.state in OPEN_STATES:
            await self._change(known.id, (known.state,), changes, "moved", now, tx)
            # a close that got no answer was of the other id
            await OperationDocument.get_pymongo_collection().update_many(
                {"session": known.id, "kind": OperationKind.CLOSE, "state": {"$nin": [item.value for item in ENDED]}},
                {"$set": {"not_before": None, "attempts": 0, "stuck": False}},
                session=tx,
            )
        else:
            await SessionDocument.get_pymongo_collection().update_one({"_id": known.id}, {"$set": changes}, session=tx)
            await self.start_close(known, "came_back", now, tx, expected=(known.state,))

    async def _give_up(self, session_id: str, now: datetime, tx: AsyncClientSession) -> None:
        changes = {"state": SessionState.ABANDONED, "slot": None, "reason": "not_on_chain", "owner": None}
        known = await SessionDocument.get_pymongo_collection().find_one({"_id": session_id}, session=tx)
        if known is not None:
            stake = wei(_session(known).stake) or 0
            changes |= _held(self._holds.after_giving_up(stake=stake, now=now))
        await self._change(session_id, OPEN_STATES, changes, "abandoned", now, tx)
        for item in await self._closes_of(session_id, tx):
            await self._end_operation(item, OperationState.DONE, None, now, tx)

    async def keep_findings(
        self, wallet: str, router: str, found: Iterable[tuple[FindingKind, ChainSession]], listing: Listing
    ) -> None:
        """Keep what a listing showed that no record of ours stands for; what is no such any more goes."""
        findings = FindingDocument.get_pymongo_collection()
        now = utc_now()
        kept = {}
        for kind, seen in found:
            kept[seen.id] = kind
            new: Any = await findings.update_one(
                {"_id": seen.id},
                {
                    "$set": {"kind": kind.value},
                    "$setOnInsert": {
                        "wallet": wallet,
                        "router": router,
                        "bid_id": seen.bid_id,
                        "provider": seen.provider,
                        "stake": Decimal128(str(seen.stake)),
                        "opened_at": _from_unix(seen.opened_at),
                        "ends_at": _from_unix(seen.ends_at),
                        "found_at": now,
                    },
                },
                upsert=True,
            )
            if new.upserted_id is not None:
                log.error(
                    "a chain session that no record stands for", kind=kind, session=seen.id, stake=str(seen.stake)
                )
        gone = [seen.id for seen in listing.sessions if seen.id not in kept]
        await findings.delete_many({"wallet": wallet, "_id": {"$in": gone}})

    async def mark_read_to(self, wallet: str, opened_at: int) -> None:
        """Write that everything on a wallet opened up to then (Unix seconds) has been looked at."""
        await WalletDocument.get_pymongo_collection().update_one({"_id": wallet}, {"$max": {"read_to": opened_at}})

    async def close_again(self, session: SessionDocument) -> None:
        """The chain has a session open that our records have ended: close it."""
        now = utc_now()
        ended = (SessionState.CLOSED, SessionState.ABANDONED, SessionState.FAILED)

        async def body(tx: AsyncClientSession) -> bool:
            await self.start_close(session, "came_back", now, tx, expected=ended)
            return True

        await run_transaction(self._client, body)
        self.wake()

    # what operators ask for

    async def ask_pass(self, wallet: str, router: str) -> int:
        """Ask the loop of a wallet for a pass, and let all that waits there be tried at once; return the pass's number."""
        document: Any = await WalletDocument.get_pymongo_collection().find_one_and_update(
            {"_id": wallet},
            {"$inc": {"passes_asked": 1}, "$setOnInsert": {"router": router}},
            upsert=True,
            return_document=ReturnDocument.AFTER,
        )
        await OperationDocument.get_pymongo_collection().update_many(
            {"wallet": wallet, "state": {"$nin": [state.value for state in ENDED]}}, {"$set": {"not_before": None}}
        )
        self.wake()
        return int(document["passes_asked"])

    async def passes(self, wallet: str) -> tuple[int, int]:
        """Return the number of the last pass that was asked for, and of the last of those that was made."""
        document = await WalletDocument.get_pymongo_collection().find_one({"_id": wallet}) or {}
        return int(document.get("passes_asked") or 0), int(document.get("passes_made") or 0)

    async def note_pass(self, wallet: str, asked: int, done: Mapping[str, int]) -> None:
        """Write that a complete pass was made, when number `asked` was the last that was asked for, and what it did."""
        await WalletDocument.get_pymongo_collection().update_one(
            {"_id": wallet}, {"$set": {"passes_made": asked, "last_pass": dict(done)}}
        )

    async def note_complete_pass(self, wallet: str, router: str, found: Mapping[str, int], *, undone: int) -> None:
        """Write that a complete pass was made, how often it found what, and how much of that it could not put right."""
        # a finding is a name of ours, and `$$NOW` is none: only the time is worked out
        told = {"found": {"$literal": dict(found)}, "undone": undone, "at": "$$NOW"}
        await WalletDocument.get_pymongo_collection().update_one(
            {"_id": wallet}, [{"$set": {"router": router, "complete_pass": told}}], upsert=True
        )

    async def pass_made(self, wallet: str, asked: int, *, wait: float) -> dict[str, int] | None:
        """Wait up to `wait` seconds for a pass; return what it did, None if it was not made by then."""
        loop = asyncio.get_running_loop()
        until = loop.time() + wait
        while True:
            document = await WalletDocument.get_pymongo_collection().find_one({"_id": wallet}) or {}
            if int(document.get("passes_made") or 0) >= asked:
                return dict(document.get("last_pass") or {})
            if loop.time() >= until:
                return None
            await asyncio.sleep(WATCH_SECONDS)

    async def adopt_lost(
        self,
        found: ChainSession,
        *,
        chain: int,
        wallet: str,
        router: str,
        block: int,
        user_id: str,
        key_id: str,
        key_prefix: str,
        model_name: str,
    ) -> SessionDocument:
        """Make a record, parked, for a chain session that has our tag and no record. Raises `AlreadyAdopted`.

        If the key was revoked, or the user deleted, its close is queued in the same transaction; of a deleted user, the
        record is nobody's.
        """
        now = utc_now()
        common: dict[str, Any] = {"model_id": found.model_id, "bid_id": found.bid_id}
        common |= {"provider": found.provider, "router": router, "wallet": wallet}
        common |= {"duration": found.ends_at - found.opened_at, "created_at": now, "updated_at": now}
        amounts = {"stake": Decimal128(str(found.stake)), "price_per_second": Decimal128(str(found.price))}
        identifier, operation_id, nobody = uuid7(), uuid7(), uuid7()

        async def body(session: AsyncClientSession) -> SessionDocument:
            deleted = (await pass_user_guard(user_id, session)).ended
            whose = {"user_id": nobody, "key_id": nobody} if deleted else {"user_id": user_id, "key_id": key_id}
            guard: Any = await KeyGuardDocument.get_pymongo_collection().find_one_and_update(
                {"_id": whose["key_id"]},
                {"$inc": {"changes": 1}, "$setOnInsert": {"user_id": whose["user_id"], "wanted": not deleted}},
                upsert=True,
                return_document=ReturnDocument.AFTER,
                session=session,
            )
            adopted = _session(
                {
                    **whose,
                    **common,
                    **amounts,
                    "_id": identifier,
                    "version": 1,
                    "state": SessionState.PARKED,
                    "slot": None,
                    "reason": SWITCHED,
                    "key_prefix": "" if deleted else key_prefix,
                    "model_name": model_name,
                    "operation_id": operation_id,
                    "chain": chain,
                    "chain_session": found.id,
                    "opened_at": _from_unix(found.opened_at),
                    "ends_at": _from_unix(found.ends_at),
                    "seen_block": block,
                }
            )
            await adopted.insert(session=session)
            fact = {"at": now, "what": "adopted by an operator", "session": found.id}
            await _operation(
                {
                    **whose,
                    **common,
                    **amounts,
                    "_id": operation_id,
                    "kind": OperationKind.OPEN,
                    "state": OperationState.DONE,
                    "session": identifier,
                    "facts": [fact],
                }
            ).insert(session=session)
            await self.stage("opened", adopted, session)
            if not guard["wanted"]:
                adopted = await self.start_close(adopted, "key_revoked", now, session)
            return adopted

        async def read_back() -> SessionDocument | None:
            return await self._find_session({"chain": chain, "chain_session": found.id})

        try:
            adopted = await run_transaction(self._client, body, read_back=read_back)
        except DuplicateKeyError:
            raise AlreadyAdopted from None
        self.wake()
        return adopted

    # moving between slots

    async def park(self, session_id: str, reason: str, *, chain_session: str | None = None) -> SessionDocument | None:
        """Take an active session out of its slot; it stays open on chain. None if it is not active any more, or has not
        the id on chain that the caller knew it by.
        """
        now = utc_now()

        async def body(session: AsyncClientSession) -> SessionDocument | None:
            old = await SessionDocument.get_pymongo_collection().find_one({"_id": session_id}, session=session)
            if old is None or old["state"] != SessionState.ACTIVE:
                return None
            if chain_session is not None and old["chain_session"] != chain_session:
                return None
            changes = {"state": SessionState.PARKED, "slot": None, "reason": reason}
            return await self._change(session_id, (SessionState.ACTIVE,), changes, "parked", now, session)

        parked = await run_transaction(self._client, body)
        self._outbox.nudge()
        return parked

    async def resume(
        self, parked_id: str, *, instead_of: str | None, owner: Owner | None, automation: AutomationWord | None = None
    ) -> SessionDocument:
        """Make a parked session its key's current one, and park the one that is. Raises `SlotTaken`.

        `automation`: the decision to do so, None if its user asked for it.
        """
        now = utc_now()

        async def body(session: AsyncClientSession) -> SessionDocument:
            if instead_of is not None:
                changes: dict[str, Any] = {"state": SessionState.PARKED, "slot": None, "reason": SWITCHED}
                await self._change(instead_of, (SessionState.ACTIVE,), changes, "parked", now, session)
            changes = {
                "state": SessionState.ACTIVE,
                "slot": Slot.CURRENT,
                "reason": None,
                "owner": None if owner is None else owner.model_dump(),
                "automation": None if automation is None else automation.model_dump(),
            }
            return await self._change(parked_id, (SessionState.PARKED,), changes, "resumed", now, session)

        try:
            resumed = await run_transaction(self._client, body)
        except (DuplicateKeyError, StateChanged):
            raise SlotTaken from None
        self._outbox.nudge()
        return resumed

    # closing

    async def request_close(
        self, session: SessionDocument, reason: str, *, operation_id: str | None = None
    ) -> str | None:
        """Stop a session's use and queue its close. Return the operation's id; None if it was not open any more.

        A session that is still opening closes as soon as it is on chain, because its key is not wanted: `revoke`.
        """
        now = utc_now()

        async def body(tx: AsyncClientSession) -> str | None:
            fresh = await SessionDocument.get_pymongo_collection().find_one({"_id": session.id}, session=tx)
            if fresh is None:
                return None
            if fresh["state"] == SessionState.CLOSING:
                running = await OperationDocument.get_pymongo_collection().find_one(
                    {"session": session.id, "kind": OperationKind.CLOSE}, session=tx
                )
                return None if running is None else str(running["_id"])
            if fresh["state"] not in (SessionState.ACTIVE, SessionState.PARKED):
                return None
            identifier = operation_id or uuid7()
            await self.start_close(_session(fresh), reason, now, tx, operation_id=identifier)
            return identifier

        identifier = await run_transaction(self._client, body)
        await reached(Step.CLOSE_INSERTED, session.id)
        self.wake()
        return identifier

    async def unwant(self, session: SessionDocument) -> bool:
        """Close a session that is still opening as soon as it is on chain. False: it is not opening any more."""
        result = await SessionDocument.get_pymongo_collection().update_one(
            {"_id": session.id, "state": SessionState.OPENING.value}, {"$set": {"wanted": False}}
        )
        return bool(result.matched_count)

    async def revoke(self, key_id: str, user_id: str) -> list[SessionDocument]:
        """The key is not wanted any more: no open begins after this, and what is open is closed. Repeatable.

        Returns the sessions that were open or opening.
        """

        async def body(session: AsyncClientSession) -> bool:
            if (await pass_user_guard(user_id, session)).erased is not None:
                # the word of it came late: nothing is left of the key, and its id is not to come back
                return False
            await KeyGuardDocument.get_pymongo_collection().update_one(
                {"_id": key_id},
                [{"$set": {"user_id": {"$ifNull": ["$user_id", {"$literal": user_id}]}, **UNWANTED}}],
                upsert=True,
                session=session,
            )
            return True

        await run_transaction(self._client, body)
        found = await self.sessions_of(key_id, (SessionState.OPENING, SessionState.ACTIVE, SessionState.PARKED))
        for session in found:
            await self.request_close(session, "key_revoked")
        return found

    async def settle_close(self, session_id: str, closed_at: int, *, operation: OperationDocument | None) -> None:
        """The chain says that the session is closed."""
        now = utc_now()

        async def body(session: AsyncClientSession) -> bool:
            current = await SessionDocument.get_pymongo_collection().find_one({"_id": session_id}, session=session)
            if current is not None and current["state"] in OPEN_STATES:
                changes = {
                    "state": SessionState.CLOSED,
                    "slot": None,
                    "closed_at": _from_unix(closed_at),
                    "owner": None,
                    "busy": None,
                }
                changes |= self._held_after_close(_session(current), _from_unix(closed_at))
                await self._change(session_id, OPEN_STATES, changes, "closed", now, session)
            for item in await self._closes_of(session_id, session):
                await self._end_operation(item, OperationState.DONE, None, now, session)
            await reached(Step.CLOSE_SETTLING, session_id)
            return True

        await run_transaction(self._client, body)
        if operation is not None:
            self._tell(operation.id)
        self._outbox.nudge()

    def _held_after_close(self, closed: SessionDocument, closed_at: datetime) -> dict[str, Any]:
        if closed.opened_at is None or closed.ends_at is None:
            return _held(None)
        return _held(
            self._holds.after_close(
                stake=wei(closed.stake) or 0, opened_at=closed.opened_at, ends_at=closed.ends_at, closed_at=closed_at
            )
        )

    async def _closes_of(self, session_id: str, session: AsyncClientSession) -> list[OperationDocument]:
        running = OperationDocument.get_pymongo_collection().find(
            {
                "session": session_id,
                "kind": OperationKind.CLOSE,
                "state": {"$nin": [state.value for state in ENDED]},
            },
            session=session,
        )
        return [_operation(item) for item in await running.to_list()]

    async def start_close(
        self,
        old: SessionDocument,
        reason: str,
        now: datetime,
        session: AsyncClientSession,
        *,
        operation_id: str | None = None,
        request: str | None = None,
        expected: tuple[SessionState, ...] = (SessionState.ACTIVE, SessionState.PARKED),
    ) -> SessionDocument:
        """Stop a session's use and queue its close, in the running transaction.

        What was asked for while it was still opening is that close.
        """
        closing = await self._change(
            old.id,
            expected,
            {"state": SessionState.CLOSING, "slot": None, "reason": reason},
            "close_requested",
            now,
            session,
        )
        waiting = await OperationDocument.get_pymongo_collection().update_one(
            {
                "session": old.id,
                "kind": OperationKind.CLOSE.value,
                "wallet": None,
                "state": {"$in": [OperationState.PENDING.value, OperationState.ABANDONED.value]},
            },
            {
                "$set": {
                    "state": OperationState.PENDING.value,
                    "wallet": old.wallet,
                    "router": old.router,
                    "updated_at": now,
                }
            },
            session=session,
        )
        if waiting.matched_count:
            return closing
        await OperationDocument(
            id=operation_id or uuid7(),
            kind=OperationKind.CLOSE,
            session=old.id,
            user_id=closing.user_id,
            key_id=closing.key_id,
            request=request,
            model_id=old.model_id,
            duration=old.duration,
            wallet=old.wallet,
            router=old.router,
            traceparent=traceparent(),
            created_at=now,
            updated_at=now,
        ).insert(session=session)
        return closing

    # the pieces every transaction is made of

    async def _change(
        self,
        session_id: str,
        expected: tuple[SessionState, ...],
        changes: Mapping[str, Any],
        past_tense: str,
        now: datetime,
        session: AsyncClientSession,
    ) -> SessionDocument:
        document = await SessionDocument.get_pymongo_collection().find_one_and_update(
            {"_id": session_id, "state": {"$in": [state.value for state in expected]}},
            {"$set": {**changes, "updated_at": now}, "$inc": {"version": 1}},
            return_document=ReturnDocument.AFTER,
            session=session,
        )
        if document is None:
            raise StateChanged(session_id)
        changed = _session(document)
        await self.stage(past_tense, changed, session)
        return changed

    async def stage(self, past_tense: str, changed: SessionDocument, session: AsyncClientSession) -> None:
        """Write the event of a change of a session into the running transaction."""
        await stage(
            SESSION_EVENTS[past_tense],
            changed.changed(),
            entity=changed.id,
            version=changed.version,
            at=changed.updated_at,
            session=session,
        )

    async def _end_operation(
        self,
        operation: OperationDocument,
        state: OperationState,
        error: ApiError | None,
        now: datetime,
        session: AsyncClientSession,
        *,
        unchanged: bool = False,
        even_abandoned: bool = False,
    ) -> None:
        told = None
        if error is not None:
            told = {
                "code": error.code,
                "message": error.message,
                "param": error.param,
                "retry_after": error.retry_after,
                "details": error.details,
            }
        ended = [item.value for item in ENDED if not (even_abandoned and item is OperationState.ABANDONED)]
        query: dict[str, Any] = {"_id": operation.id, "state": {"$nin": ended}}
        if unchanged:
            query |= {
                "state": operation.state.value,
                "attempts": operation.attempts,
                "approval": operation.approval,
                "wallet": operation.wallet,
            }
            if operation.wallet is None:
                # whoever has come meanwhile to wait for it shall have it
                query["patience_until"] = operation.patience_until
        result = await OperationDocument.get_pymongo_collection().update_one(
            query, {"$set": {"state": state.value, "error": told, "updated_at": now}}, session=session
        )
        if not result.matched_count:
            raise StateChanged(operation.id)

    def _tell(self, operation_id: str) -> None:
        self._waiting.tell(operation_id)
        self._outbox.nudge()
