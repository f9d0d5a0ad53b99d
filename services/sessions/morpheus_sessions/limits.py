"""How much stake may be at risk, and how often a user may open: decided in the transaction that writes the operation.

The router signs with the operator's wallet, so every user's stake is the operator's MOR. Nothing is counted up or down:
what is at risk is the sum over the sessions as they are stored, read in the transaction. Whatever puts stake at risk writes
one document first (`StakeGuardDocument`), so that of two at once one is done again and sees the other. In one process they
take turns beforehand, which spares the database most of those repetitions.

At risk are: an open that is written (what the cheapest bid takes; exactly what is sent from the approval on), a session that
is active, parked or closing, what an early close leaves on hold (holds.py), and for `abandoned_at_risk` seconds an open that
was given up: its transaction could still be mined. Later than that it is watched for, and counts again once it is seen.
"""

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from bson import Decimal128
from morpheus_common.contracts.sessions import OPENS_LEFT, OpensLeft, StakeAtRisk
from morpheus_common.errors import CATALOGUE, ApiError
from pymongo import DESCENDING, ReturnDocument
from pymongo.asynchronous.client_session import AsyncClientSession

from morpheus_sessions.capital import Capital, as_wei
from morpheus_sessions.documents import (
    LIVE_STATES,
    OperationDocument,
    OperationState,
    SessionDocument,
    StakeGuardDocument,
)
from morpheus_sessions.settings import SessionsSettings

MINUTE = timedelta(seconds=60)
DAY = timedelta(hours=24)
FREES_ROWS = 1_000
"""Sessions of a user that are looked at to say when enough is free; who has more learns no time."""
CAPACITY_RETRY_SECONDS = 60

_GUARD = "stake"
_LIVE = [state.value for state in LIVE_STATES]
LIVE_AMOUNT = {"$ifNull": ["$stake", {"$ifNull": ["$reserved", 0]}]}
"""What a live session puts at risk, in wei."""
_WALLET = {"$ifNull": ["$wallet", "$reserved_on"]}


@dataclass(frozen=True, slots=True)
class AtRisk:
    """Stake at risk in wei: of one user, on one wallet, in all."""

    user: int = 0
    wallet: int = 0
    in_all: int = 0


@dataclass(frozen=True, slots=True)
class Bounds:
    """The stake limits at a time, in wei; `per_router` as it is set. `capital` is what each wallet has, if that was asked."""

    user: int
    in_all: int
    per_router: str | None = None
    capital: Mapping[str, int] = field(default_factory=dict)

    def of_wallet(self, wallet: str) -> int | None:
        """Return the limit of a wallet, None if it has none."""
        return None if self.per_router is None else share_of(self.per_router, self.capital.get(wallet, 0))


@dataclass(frozen=True, slots=True)
class Room:
    """What a session of a user may take, in wei: `user_at_risk` of `user_limit` is in use, `in_all` is what all users together
    may still put at risk, `wallet` what the wallet with the most can take.
    """

    user_limit: int
    user_at_risk: int
    in_all: int
    wallet: int


def share_of(limit: str, total: int) -> int:
    """Return a limit in wei: itself, or its share of `total`, rounded down."""
    if not limit.endswith("%"):
        return int(limit)
    whole, _, thousandths = limit.removesuffix("%").partition(".")
    return total * (int(whole) * 1000 + int(f"{thousandths:0<3}")) // 100_000


def wait_for_room(newest_first: list[datetime], allowed: int, window: timedelta, now: datetime) -> float:
    """Return the seconds until fewer than `allowed` of these times are within the window that ends then; 0 if they are."""
    if len(newest_first) < allowed:
        return 0.0
    return max(0.0, (newest_first[allowed - 1] + window - now).total_seconds())


def opens_left(newest_first: list[datetime], allowed: int, window: timedelta, now: datetime) -> OpensLeft:
    """Return how many of `allowed` opens are left in the window that ends now, and when nothing counts any more."""
    reset = (newest_first[0] + window - now).total_seconds() if newest_first else 0.0
    return OpensLeft(limit=allowed, remaining=max(0, allowed - len(newest_first)), reset=max(0.0, reset))


def frees_at(rows: list[tuple[datetime, int]], excess: int) -> datetime | None:
    """Return when `excess` wei will be free, from (time, wei) of what is at risk; None if not even all of it is enough."""
    for at, amount in sorted(rows):
        excess -= amount
        if excess <= 0:
            return at
    return None


class StakeRefused(ApiError):
    """A stake that would pass a limit: `stake_limit_reached` or `stake_capacity`."""


class Limits:
    """Says whether an open may be written, and whether its stake may be sent."""

    def __init__(self, settings: SessionsSettings, capital: Capital) -> None:
        self._settings = settings
        self._capital = capital
        self.turn = asyncio.Lock()

    def check(self, *, duration: int, price: int, automatic: bool) -> None:
        """Check what hangs on nobody else. `duration` in seconds, `price` in wei a second.

        Raises `validation_error`, `price_limit_reached`.
        """
        longest = self._settings.automatic_duration_limit if automatic else self._settings.duration_limit
        if duration > longest:
            raise ApiError("validation_error", f"A session can be {longest} seconds at most.", param="sessionDuration")
        if not self.is_affordable(price):
            raise self.too_dear(price)

    def is_affordable(self, price: int) -> bool:
        """Tell whether a bid's price (wei a second) is within the limit."""
        return self._settings.price_limit is None or price <= self._settings.price_limit

    def too_dear(self, price: int) -> ApiError:
        """Return the refusal of a bid's price (wei a second)."""
        return ApiError(
            "price_limit_reached", details={"limit": str(self._settings.price_limit), "price_per_second": str(price)}
        )

    @property
    def longest_automatic(self) -> int:
        """The seconds of the longest session that automation may ask for."""
        return self._settings.automatic_duration_limit

    def automatic_duration(self, wished: int) -> int:
        """Return the seconds that automation may ask for of those its user wishes."""
        return min(wished, self._settings.automatic_duration_limit)

    async def bounds(self) -> Bounds:
        """Return the stake limits as they are now. Raises `service_unavailable` while the wallets are not known."""
        per_user, in_all = self._settings.stake_limit_per_user, self._settings.stake_limit_in_all
        per_router = self._settings.stake_limit_per_router
        is_share = any(limit.endswith("%") for limit in (per_user, in_all, per_router or ""))
        # who sets amounts opens without asking what the wallets have
        capital = await self._capital.by_wallet() if is_share else {}
        total = sum(capital.values())
        return Bounds(share_of(per_user, total), share_of(in_all, total), per_router, capital)

    async def in_all(self) -> int:
        """Return how much stake of all users may be at risk (wei). Raises as `bounds`."""
        return (await self.bounds()).in_all

    async def room(self, user_id: str, now: datetime) -> Room:
        """Return what a session of a user may take at a time of the database's. Nothing is set aside by asking.

        Raises `service_unavailable` while the wallets are not known.
        """
        bounds, free = await self.bounds(), await self._capital.free()
        risk = await at_risk(now, user_id=user_id)
        rooms = [0]
        for wallet, amount in free.items():
            limit = bounds.of_wallet(wallet)
            taken = 0 if limit is None else (await at_risk(now, user_id=user_id, wallet=wallet)).wallet
            rooms.append(amount if limit is None else min(amount, limit - taken))
        return Room(bounds.user, risk.user, max(0, bounds.in_all - risk.in_all), max(rooms))

    async def frees(
        self, user_id: str, excess: int, now: datetime, *, tx: AsyncClientSession | None = None
    ) -> datetime | None:
        """Return when `excess` wei of what a user has at risk will be free, None if nobody knows."""
        rows = await _frees(tx, user_id, now)
        return None if len(rows) > FREES_ROWS else frees_at(rows, excess)

    async def standing(self, user_id: str, now: datetime) -> StakeAtRisk:
        """Return what a user has at risk at a time of the database's, and the limit of it."""
        risk = await at_risk(now, user_id=user_id)
        return StakeAtRisk(at_risk=risk.user, limit=(await self.bounds()).user)

    async def opens(self, user_id: str, now: datetime) -> OpensLeft:
        """Return how many sessions a user may still open in the minute that ends at a time of the database's."""
        allowed = self._settings.opens_per_minute
        return opens_left(await _opens(None, user_id, now - MINUTE, allowed, even_failed=True), allowed, MINUTE, now)

    async def admit(self, tx: AsyncClientSession, bounds: Bounds, *, user_id: str, stake: int) -> datetime:
        """Let an open of a user that needs `stake` wei be written in this transaction; return the database's time.

        Raises `session_open_limit` (its details hold the `OpensLeft` of the limit that is reached), `stake_limit_reached`,
        `stake_capacity`, `insufficient_balance`.
        """
        now = await _pass_guard(tx)
        await self._count_opens(tx, user_id, now)
        risk = await at_risk(now, user_id=user_id, tx=tx)
        if bounds.capital and stake > max(bounds.capital.values()):
            raise ApiError("insufficient_balance", details={"required_stake": str(stake)})
        await self._check_stake(tx, bounds, risk, now, user_id=user_id, stake=stake)
        return now

    async def reserve(
        self, tx: AsyncClientSession, bounds: Bounds, *, session_id: str, user_id: str, wallet: str, stake: int
    ) -> None:
        """Set exactly the stake aside that is about to be sent for a session that is opening, in this transaction.

        Raises as `admit` if it is more than was set aside and more than there is room for, or if the wallet's own limit
        is reached.
        """
        now = await _pass_guard(tx)
        sessions = SessionDocument.get_pymongo_collection()
        own: Any = await sessions.find_one({"_id": session_id}, {"reserved": 1, "reserved_on": 1}, session=tx) or {}
        before = as_wei(own.get("reserved"))
        risk = await at_risk(now, user_id=user_id, wallet=wallet, tx=tx)
        others = AtRisk(
            user=risk.user - before,
            wallet=risk.wallet - (before if own.get("reserved_on") == wallet else 0),
            in_all=risk.in_all - before,
        )
        if stake > before:
            await self._check_stake(tx, bounds, others, now, user_id=user_id, stake=stake)
        limit = bounds.of_wallet(wallet)
        if limit is not None and others.wallet + stake > limit:
            raise _no_capacity(stake)
        await sessions.update_one(
            {"_id": session_id},
            {"$set": {"reserved": Decimal128(str(stake)), "reserved_on": wallet}},
            session=tx,
        )

    async def _count_opens(self, tx: AsyncClientSession, user_id: str, now: datetime) -> None:
        # what came to nothing before the chain was touched does not spoil the day
        for allowed, window, even_failed, what in (
            (self._settings.opens_per_minute, MINUTE, True, "a minute"),
            (self._settings.opens_per_day, DAY, False, "in 24 hours"),
        ):
            counted = await _opens(tx, user_id, now - window, allowed, even_failed=even_failed)
            wait = wait_for_room(counted, allowed, window, now)
            if wait:
                left = opens_left(counted, allowed, window, now)
                raise ApiError(
                    "session_open_limit",
                    f"You may open {allowed} sessions {what}.",
                    retry_after=min(60, max(1, math.ceil(wait))),
                    details={"frees_at": _shown(now + timedelta(seconds=wait)), OPENS_LEFT: left.model_dump()},
                )

    async def _check_stake(
        self, tx: AsyncClientSession, bounds: Bounds, risk: AtRisk, now: datetime, *, user_id: str, stake: int
    ) -> None:
        if risk.user + stake > bounds.user:
            details = {"limit": str(bounds.user), "at_risk": str(risk.user), "required_stake": str(stake)}
            free = await self.frees(user_id, risk.user + stake - bounds.user, now, tx=tx)
            kind = CATALOGUE["stake_limit_reached"]
            message = kind.message if free is None else f"{kind.message} Or wait until `details.frees_at`."
            shown = None if free is None else _shown(free)
            raise StakeRefused(kind.code, message, details=details | {"frees_at": shown})
        if risk.in_all + stake > bounds.in_all:
            raise _no_capacity(stake)


async def at_risk(
    now: datetime, *, user_id: str, wallet: str | None = None, tx: AsyncClientSession | None = None
) -> AtRisk:
    """Return what is at risk at a time of the database's, of a user, on a wallet, in all (wei)."""
    live = _sums({"state": {"$in": _LIVE}}, LIVE_AMOUNT, _WALLET, user_id, wallet)
    held = _sums({"held_until": {"$gt": now}, "state": {"$nin": _LIVE}}, "$held", "$wallet", user_id, wallet)
    sessions = SessionDocument.get_pymongo_collection()
    found: list[Any] = []
    for pipeline, index in ((live, "at_risk"), (held, "on_hold")):
        cursor = await sessions.aggregate(pipeline, session=tx, hint=index)
        found += await cursor.to_list()
    return AtRisk(
        user=sum(as_wei(item["user"]) for item in found),
        wallet=sum(as_wei(item["wallet"]) for item in found),
        in_all=sum(as_wei(item["in_all"]) for item in found),
    )


def _sums(match: Any, amount: Any, wallet_of: Any, user_id: str, wallet: str | None) -> list[dict[str, Any]]:
    def of(what: Any, value: str | None) -> dict[str, Any]:
        return {"$sum": {"$cond": [{"$eq": [what, {"$literal": value}]}, amount, 0]}}

    group = {"_id": None, "in_all": {"$sum": amount}, "user": of("$user_id", user_id)}
    group["wallet"] = {"$sum": 0} if wallet is None else of(wallet_of, wallet)
    return [{"$match": match}, {"$group": group}]


async def _pass_guard(tx: AsyncClientSession) -> datetime:
    """Stand in the way of everything else that puts stake at risk; return the database's time."""
    guard: Any = await StakeGuardDocument.get_pymongo_collection().find_one_and_update(
        {"_id": _GUARD},
        [{"$set": {"changes": {"$add": [{"$ifNull": ["$changes", 0]}, 1]}, "at": "$$NOW"}}],
        upsert=True,
        return_document=ReturnDocument.AFTER,
        session=tx,
    )
    at: datetime = guard["at"]
    return at


async def _opens(
    tx: AsyncClientSession | None, user_id: str, since: datetime, limit: int, *, even_failed: bool
) -> list[datetime]:
    """Return when a user's opens since a time were written, newest first, at most `limit` of them."""
    query: dict[str, Any] = {"user_id": user_id, "counted_at": {"$gt": since}}
    if not even_failed:
        query["state"] = {"$ne": OperationState.FAILED.value}
    cursor = OperationDocument.get_pymongo_collection().find(query, {"counted_at": 1}, session=tx)
    return [item["counted_at"] async for item in cursor.sort("counted_at", DESCENDING).limit(limit)]


async def _frees(tx: AsyncClientSession | None, user_id: str, now: datetime) -> list[tuple[datetime, int]]:
    """Return when what a user has at risk will be free, with the amounts in wei; at most one more than are looked at."""
    query = {"user_id": user_id, "$or": [{"state": {"$in": _LIVE}}, {"held_until": {"$gt": now}}]}
    wanted = dict.fromkeys(("state", "stake", "reserved", "held", "held_until", "ends_at", "duration", "created_at"), 1)
    cursor = SessionDocument.get_pymongo_collection().find(query, wanted, session=tx)
    rows = []
    async for item in cursor.limit(FREES_ROWS + 1):
        if item["state"] not in _LIVE:
            rows.append((item["held_until"], as_wei(item["held"])))
            continue
        ends_at = item["ends_at"] or item["created_at"] + timedelta(seconds=item["duration"])
        rows.append((max(ends_at, now), as_wei(item["stake"] or item.get("reserved"))))
    return rows


def _shown(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _no_capacity(stake: int) -> StakeRefused:
    # how much the operator has, and others use, is not for users
    return StakeRefused("stake_capacity", retry_after=CAPACITY_RETRY_SECONDS, details={"required_stake": str(stake)})
