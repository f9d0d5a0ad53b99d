"""The line in which opens wait for a wallet: round-robin over users, bound as late as can be.

A user's opens get places one after the other, from the last that was served on: who asks for 500 has the places 1 to 500,
and who comes then shares the first of those that are left. Nothing is counted in memory; all times are the database's.
"""

import asyncio
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from bson import Decimal128
from morpheus_common.errors import ApiError
from morpheus_common.logs import get_logger
from morpheus_common.store.mongo import from_now
from pymongo import ASCENDING, ReturnDocument
from pymongo.asynchronous.client_session import AsyncClientSession

from morpheus_sessions.documents import (
    ROUND,
    OperationDocument,
    OperationKind,
    OperationState,
    PlaceDocument,
    WalletDocument,
)
from morpheus_sessions.journal import IN_HAND
from morpheus_sessions.purse import Purse, PurseReader

log = get_logger(__name__)

LOOKED_AT = 16
"""Operations at the head of the line that a wallet looks at: those it cannot carry out now must not keep it from others."""
HEAD_START_SECONDS = 0.3
"""A wallet that has an open in hand leaves a new one to the idle for so long, and for as long again with each more."""
LONGEST_RETRY_SECONDS = 300
DECLINED_LOOKED_AT = 50
TAKEN_SECONDS = 5.0

_UNBOUND = {"state": OperationState.PENDING.value, "wallet": None, "kind": {"$ne": OperationKind.CLOSE.value}}
_DUE = {"$or": [{"not_before": None}, {"$expr": {"$lte": ["$not_before", "$$NOW"]}}]}


@dataclass(frozen=True, slots=True)
class Place:
    """What an open is given when it is written: its place in line, when it came, and until when it is worth beginning."""

    place: int
    queued_at: datetime
    patience_until: datetime | None


@dataclass(frozen=True, slots=True)
class Head:
    """What a wallet is to do next: `taken` is bound to it now; for `left` nobody waits any more."""

    taken: OperationDocument | None = None
    left: tuple[OperationDocument, ...] = ()


async def stand_in_line(
    tx: AsyncClientSession, *, user_id: str, now: datetime, patience: float | None, worth_for: float | None
) -> Place:
    """Give a user's open its place, in the transaction that writes it. `now`: the database's time.

    `patience`: how long its caller waits (seconds), None if that is not known. `worth_for`: how long it is worth beginning
    although nobody waits for it (seconds), None if for ever. Raises `session_queue_full` if its turn will come later than its
    caller waits.
    """
    places = PlaceDocument.get_pymongo_collection()
    served: Any = await places.find_one({"_id": ROUND}, session=tx) or {"last": 0}
    mine: Any = await places.find_one({"_id": user_id}, session=tx) or {"last": 0}
    place = max(served["last"], mine["last"]) + 1
    if patience is not None:
        estimate = await seconds_until(place, tx)
        if estimate > patience:
            retry_after = min(LONGEST_RETRY_SECONDS, max(1, math.ceil(estimate - patience)))
            raise ApiError("session_queue_full", retry_after=retry_after)
    await places.update_one({"_id": user_id}, {"$set": {"last": place}}, upsert=True, session=tx)
    return Place(place, now, None if worth_for is None else now + timedelta(seconds=worth_for))


async def seconds_until(place: int, tx: AsyncClientSession | None = None) -> float:
    """Estimate when an open that is given this place will be on chain, in seconds; 0 if nothing is before it in line, or
    nobody knows how long one takes.
    """
    operations = OperationDocument.get_pymongo_collection()
    before = await operations.count_documents({**_UNBOUND, "place": {"$lte": place}}, hint="line", session=tx)
    if not before:
        return 0.0
    serving = WalletDocument.get_pymongo_collection().find(
        {"$expr": {"$gt": ["$serving_until", "$$NOW"]}}, {"seconds_per_open": 1}, session=tx
    )
    known = [item.get("seconds_per_open") async for item in serving]
    a_second = opens_a_second(known)
    if not a_second:
        return 0.0
    in_hand = await operations.count_documents(
        {
            "state": {"$in": [OperationState.PENDING.value, OperationState.SENT.value]},
            "wallet": {"$type": "string"},
            "kind": OperationKind.OPEN.value,
        },
        session=tx,
    )
    return (before + in_hand + 1) / a_second


def opens_a_second(seconds_per_open: Iterable[float | None]) -> float:
    """Return how many opens wallets make in a second; one that has made none yet is taken for an average one. 0: nobody
    knows.
    """
    every = list(seconds_per_open)
    known = [1 / seconds for seconds in every if seconds]
    return sum(known) / len(known) * len(every) if known else 0.0


async def serve(wallet: str, *, seconds: float, seconds_per_open: float | None) -> None:
    """Say that a wallet takes opens for so many seconds (0: that it does not), and how long it is busy with one."""
    until = from_now(seconds)
    changes: dict[str, Any] = {"serving_until": until}
    if seconds_per_open is not None:
        changes["seconds_per_open"] = seconds_per_open
    # its document is made by its first chain call
    await WalletDocument.get_pymongo_collection().update_one({"_id": wallet}, [{"$set": changes}])


async def put_back(operation: OperationDocument, *, declined: bool, retry_in: float = 0.0) -> bool:
    """Put an open that was taken, and not sent, back to its place in line; tell whether it could be.

    `declined`: its wallet cannot carry it out and is not offered it again.
    """
    changes: dict[str, Any] = {"$set": {"wallet": None, "router": None, "needs": None}, "$inc": {"attempts": 1}}
    if declined:
        changes["$addToSet"] = {"declined": operation.wallet}
    unsent = {"state": OperationState.PENDING.value, "wallet": operation.wallet, "approval": None}
    operations = OperationDocument.get_pymongo_collection()
    if retry_in:
        # before it is anybody's
        until = from_now(retry_in)
        await operations.update_one({"_id": operation.id, **unsent}, [{"$set": {"not_before": until}}])
    result = await operations.update_one({"_id": operation.id, **unsent}, changes)
    return bool(result.matched_count)


async def declined_by(wallet: str) -> list[OperationDocument]:
    """Return the opens in line that a wallet declined, in the order of the line."""
    cursor = OperationDocument.get_pymongo_collection().find({**_UNBOUND, "declined": wallet}, hint="line")
    found = cursor.sort([("place", ASCENDING), ("created_at", ASCENDING)]).limit(DECLINED_LOOKED_AT)
    return [OperationDocument.model_validate(item) async for item in found]


async def in_line() -> list[OperationDocument]:
    """Return the opens that no wallet has taken, the first of them, in the order of the line."""
    cursor = OperationDocument.get_pymongo_collection().find(
        {**_UNBOUND, "kind": OperationKind.OPEN.value}, hint="line"
    )
    found = cursor.sort([("place", ASCENDING), ("created_at", ASCENDING)]).limit(DECLINED_LOOKED_AT)
    return [OperationDocument.model_validate(item) async for item in found]


async def taken_long_ago() -> list[OperationDocument]:
    """Return opens that a wallet has taken, and neither sent nor put back for longer than a handshake lasts."""
    cursor = OperationDocument.get_pymongo_collection().find(
        {
            "state": OperationState.PENDING.value,
            "wallet": {"$type": "string"},
            "kind": OperationKind.OPEN.value,
            "approval": None,
            "$expr": {"$lt": ["$updated_at", from_now(-TAKEN_SECONDS)]},
        }
    )
    return [OperationDocument.model_validate(item) async for item in cursor.limit(DECLINED_LOOKED_AT)]


async def is_anyone_serving() -> bool:
    """Tell whether the loop of any wallet, in any process, has said lately that it takes opens."""
    query = {"$expr": {"$gt": ["$serving_until", "$$NOW"]}}
    return await WalletDocument.get_pymongo_collection().find_one(query, {"_id": 1}) is not None


class Till:
    """What one wallet can spend: its MOR, less what its opens that are under way will take.

    `least_gas` (wei): with less than that it makes no transaction.
    """

    def __init__(self, purse: PurseReader, *, least_gas: int) -> None:
        self._purse = purse
        self._least_gas = least_gas
        self._turn = asyncio.Lock()

    def forget(self) -> None:
        """Have the purse read anew: a chain call changed it."""
        self._purse.forget()

    async def set_aside(self, operation: OperationDocument, stake: int) -> bool:
        """Set a stake (wei) aside for an open in hand, if it is there besides what the others will take."""
        async with self._turn:
            # in this order: what is settled meanwhile counts twice rather than not at all
            under_way = await self._under_way(str(operation.wallet), besides=operation.id)
            purse = await self._purse.read(at_most=0.0)
            if stake > purse.mor - under_way:
                return False
            await OperationDocument.get_pymongo_collection().update_one(
                {"_id": operation.id, "wallet": operation.wallet}, {"$set": {"needs": Decimal128(str(stake))}}
            )
            return True

    async def take(self, wallet: str, router: str, *, in_hand: int) -> Head:
        """Bind the first open in line that this wallet can carry out now, or an approve.

        What it has not MOR or gas enough for at all it declines; what it has not enough for until others are settled it
        leaves where it is. `in_hand`: how many it has already. Raises one of `ROUTER_ERRORS`.
        """
        waiting = await self._head(wallet)
        if not waiting:
            return Head()
        left = tuple(_operation(item) for item in waiting if item["is_left"])
        async with self._turn:
            purse = await self._purse.read()
            spare = purse.mor - await self._under_way(wallet)
            is_fresh = False
            for item in waiting:
                if item["is_left"]:
                    continue
                needs = _wei(item.get("required_stake"))
                is_open = item["kind"] == OperationKind.OPEN.value
                if is_open and self._lacks(purse, needs) and not is_fresh:
                    # what is declined is not offered again: that is not decided by an old reading
                    purse, is_fresh = await self._purse.read(at_most=0.0), True
                    spare = purse.mor - await self._under_way(wallet)
                if is_open and self._lacks(purse, needs):
                    log.warning("left to another wallet", wallet=wallet, mor=purse.mor, gas=purse.gas, needs=needs)
                    await _decline(item["_id"], wallet)
                elif needs <= spare and item["waited"] >= 1000 * HEAD_START_SECONDS * in_hand:
                    taken = await _bind(item, wallet, router)
                    if taken is not None:
                        return Head(taken, left)
        return Head(left=left)

    def _lacks(self, purse: Purse, needs: int) -> bool:
        return needs > purse.mor or purse.gas < self._least_gas

    async def _under_way(self, wallet: str, *, besides: str | None = None) -> int:
        cursor = await OperationDocument.get_pymongo_collection().aggregate(
            [
                {
                    "$match": {
                        "wallet": wallet,
                        "state": {"$in": IN_HAND},
                        "kind": OperationKind.OPEN.value,
                        "_id": {"$ne": besides},
                    }
                },
                {"$group": {"_id": None, "sum": {"$sum": {"$ifNull": ["$stake", {"$ifNull": ["$needs", 0]}]}}}},
            ]
        )
        return sum([_wei(item["sum"]) async for item in cursor])

    async def _head(self, wallet: str) -> list[Any]:
        cursor = await OperationDocument.get_pymongo_collection().aggregate(
            [
                {"$match": {**_UNBOUND, "declined": {"$ne": wallet}, **_DUE}},
                {"$sort": {"place": ASCENDING, "created_at": ASCENDING}},
                {"$limit": LOOKED_AT},
                {
                    "$set": {
                        "is_left": {"$lt": [{"$ifNull": ["$patience_until", "$$NOW"]}, "$$NOW"]},
                        "waited": {"$subtract": ["$$NOW", {"$ifNull": ["$queued_at", "$created_at"]}]},
                    }
                },
            ],
            hint="line",
        )
        return await cursor.to_list()


async def _decline(operation_id: str, wallet: str) -> None:
    await OperationDocument.get_pymongo_collection().update_one(
        {"_id": operation_id, **_UNBOUND}, {"$addToSet": {"declined": wallet}}
    )


async def _bind(item: Mapping[str, Any], wallet: str, router: str) -> OperationDocument | None:
    document = await OperationDocument.get_pymongo_collection().find_one_and_update(
        {"_id": item["_id"], **_UNBOUND},
        {
            "$set": {"wallet": wallet, "router": router, "needs": item.get("required_stake")},
            "$currentDate": {"updated_at": True},
        },
        return_document=ReturnDocument.AFTER,
    )
    if document is None:
        return None
    await PlaceDocument.get_pymongo_collection().update_one(
        {"_id": ROUND}, {"$max": {"last": item.get("place", 0)}}, upsert=True
    )
    return _operation(document)


def _operation(document: Mapping[str, Any]) -> OperationDocument:
    known = {name: value for name, value in document.items() if name not in {"is_left", "waited"}}
    read: OperationDocument = OperationDocument.model_validate(known)
    return read


def _wei(value: Any) -> int:
    return int(value.to_decimal() if isinstance(value, Decimal128) else Decimal(value or 0))
