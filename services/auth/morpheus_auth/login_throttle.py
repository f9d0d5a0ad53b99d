"""The throttle of logins to one account: who guesses its password waits, and its owner is never locked out.

After so many failed logins only addresses that logged in to the account before are tried at once. Any other address
waits for its turn, and then is tried, whatever all others do. All of it is kept by keyed hashes, the same for accounts
that exist and for those that do not.
"""

import ipaddress
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

from morpheus_common.clock import Clock
from morpheus_common.errors import ApiError
from morpheus_common.ids import uuid7
from pymongo import ReturnDocument
from pymongo.asynchronous.collection import AsyncCollection

from morpheus_auth.documents import KnownAddress, LoginTriesDocument, LoginWaitDocument
from morpheus_auth.keyed_hashes import KeyedHashes

MAX_KNOWN_ADDRESSES = 20
KNOWN_DAYS = 90
TURN_KEPT_SECONDS = 600
"""How long an address that has waited can still have its turn; it then waits anew."""
IPV6_PREFIX = 64
"""What one customer of a provider has at least, so all of it counts as one address."""

_ACCOUNT, _ADDRESS, _WAIT = "login account", "login address", "login wait"


@dataclass(frozen=True, slots=True)
class LoginTry:
    """A try that was let through. `account`, `address`, `wait`: keyed hashes; `wait` is None unless it took a turn."""

    id: str
    account: str
    address: str
    wait: str | None


@dataclass(frozen=True, slots=True)
class LoginThrottle:
    """`limit` failed logins of an account in `window` seconds; then `wait` seconds (at most 60) for each try."""

    hashes: KeyedHashes
    limit: int
    window: int
    wait: int
    clock: Clock

    async def admit(self, *, email_key: str, address: str | None, known: Iterable[KnownAddress]) -> LoginTry:
        """Let a try through, or not. `known`: the addresses that logged in to the account.

        A try counts as failed from now on, so that of many at once no more than the limit get through: what comes of
        it is told to `succeeded` or `not_made`. Raises `ApiError` (rate_limit_exceeded, with the seconds to wait).
        """
        where = network_of(address)
        account = self.hashes.new(_ACCOUNT, email_key)
        made = LoginTry(uuid7(), account, self.hashes.new(_ADDRESS, email_key, where), None)
        if await self._count(made, anyway=self._is_known(self.hashes.every(_ADDRESS, email_key, where), known)):
            return made
        turn = LoginTry(made.id, account, made.address, self.hashes.new(_WAIT, email_key, where))
        await self._take_turn(turn)
        await self._count(turn, anyway=True)
        return turn

    async def succeeded(self, made: LoginTry) -> None:
        """Count a try no more: the password was right."""
        await LoginTriesDocument.get_pymongo_collection().update_one(
            {"_id": made.account}, {"$pull": {"tries": {"id": made.id}}}
        )

    async def not_made(self, made: LoginTry) -> None:
        """Count a try no more, and give its turn back: the password was not looked at."""
        await self.succeeded(made)
        if made.wait is not None:
            await LoginWaitDocument.get_pymongo_collection().update_one(
                {"_id": made.wait, "taken_by": made.id}, [{"$set": {"turn_at": "$$NOW"}}]
            )

    def _is_known(self, digests: Sequence[str], known: Iterable[KnownAddress]) -> bool:
        oldest = self.clock() - timedelta(days=KNOWN_DAYS)
        return any(item.digest in digests and item.at > oldest for item in known)

    async def _count(self, made: LoginTry, *, anyway: bool) -> bool:
        """Count a try if there is room for it, or `anyway`, and tell whether it was counted."""
        recent = {"$filter": {"input": {"$ifNull": ["$tries", []]}, "cond": {"$gt": ["$$this.at", _ago(self.window)]}}}
        # more than the limit are kept: what is taken out of them does not make room
        with_this = {"$slice": [{"$concatArrays": ["$tries", [{"id": made.id, "at": "$$NOW"}]]}, -2 * self.limit]}
        fits = {"$or": [anyway, {"$lt": [{"$size": "$tries"}, self.limit]}]}
        kept = await _upsert(
            LoginTriesDocument.get_pymongo_collection(),
            made.account,
            [
                {"$set": {"tries": recent, "expires_at": _later("$$NOW", self.window)}},
                {"$set": {"tries": {"$cond": [fits, with_this, "$tries"]}}},
            ],
        )
        return any(item["id"] == made.id for item in kept["tries"])

    async def _take_turn(self, turn: LoginTry) -> None:
        """Take the turn of this address at this account, or let it begin to wait. Asking again makes no wait longer."""
        is_due = {"$lte": ["$turn_at", "$$NOW"]}
        begins = {"$eq": [{"$type": "$turn_at"}, "missing"]}
        has_turn = {"$and": [{"$not": [begins]}, is_due]}
        kept = await _upsert(
            LoginWaitDocument.get_pymongo_collection(),
            turn.wait,
            [
                {
                    "$set": {
                        "turn_at": {"$cond": [{"$or": [begins, is_due]}, _later("$$NOW", self.wait), "$turn_at"]},
                        "taken_by": {"$cond": [has_turn, turn.id, {"$ifNull": ["$taken_by", None]}]},
                        "asked_at": "$$NOW",
                    }
                },
                {"$set": {"expires_at": _later("$turn_at", TURN_KEPT_SECONDS)}},
            ],
        )
        if kept["taken_by"] != turn.id:
            raise ApiError(
                "rate_limit_exceeded",
                "Too many failed logins of this account. Wait as long as Retry-After says: then you are let through.",
                retry_after=math.ceil((kept["turn_at"] - kept["asked_at"]).total_seconds()),
            )


def network_of(address: str | None) -> str:
    """Return what counts as one address: an IPv4 address, or an IPv6 network of 64 bits. All that is neither is one."""
    try:
        parsed = ipaddress.ip_address(address or "")
    except ValueError:
        return ""
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed), IPV6_PREFIX), strict=False))


def remembering(digest: str) -> dict[str, Any]:
    """Return the stage of an update that puts an address first among those that logged in to a user's account."""
    oldest = {"$dateSubtract": {"startDate": "$$NOW", "unit": "day", "amount": KNOWN_DAYS}}
    is_other = {"$and": [{"$ne": ["$$this.digest", digest]}, {"$gt": ["$$this.at", oldest]}]}
    others = {"$filter": {"input": {"$ifNull": ["$known_addresses", []]}, "cond": is_other}}
    first = [{"digest": digest, "at": "$$NOW"}]
    return {"$set": {"known_addresses": {"$slice": [{"$concatArrays": [first, others]}, MAX_KNOWN_ADDRESSES]}}}


async def _upsert(
    collection: AsyncCollection[dict[str, Any]], id_: str | None, stages: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    # two that make it at once: the server lets the second update what the first has made
    kept = await collection.find_one_and_update(
        {"_id": id_}, list(stages), upsert=True, return_document=ReturnDocument.AFTER
    )
    return cast("dict[str, Any]", kept)


def _ago(seconds: int) -> dict[str, Any]:
    return {"$dateSubtract": {"startDate": "$$NOW", "unit": "second", "amount": seconds}}


def _later(start: str, seconds: int) -> dict[str, Any]:
    return {"$dateAdd": {"startDate": start, "unit": "second", "amount": seconds}}
