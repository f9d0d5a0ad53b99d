"""How much MOR our wallets have, locked stakes included: what limits that are shares are shares of."""

import asyncio
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from bson import Decimal128
from morpheus_common.errors import ApiError
from morpheus_common.logs import get_logger
from pymongo.errors import PyMongoError

from morpheus_sessions.documents import LIVE_STATES, SessionDocument
from morpheus_sessions.purse import PurseReader
from morpheus_sessions.router import ROUTER_ERRORS, Router

log = get_logger(__name__)

REFRESH_SECONDS = 5.0
FIRST_SECONDS = 5.0
"""So long an open waits for a worker that has just started and not read its wallets yet."""


def as_wei(value: Any) -> int:
    """Return a sum of the database as an exact integer of wei."""
    return int(value.to_decimal() if isinstance(value, Decimal128) else Decimal(value or 0))


async def locked_stakes() -> dict[str, int]:
    """Return what is staked from each wallet in sessions that are on chain, in wei."""
    cursor = await SessionDocument.get_pymongo_collection().aggregate(
        [
            {"$match": {"state": {"$in": [state.value for state in LIVE_STATES]}, "stake": {"$type": "decimal"}}},
            {"$group": {"_id": "$wallet", "staked": {"$sum": "$stake"}}},
        ]
    )
    return {item["_id"]: as_wei(item["staked"]) async for item in cursor}


class Capital:
    """Keeps in memory what the wallets have: what lies free in them, and what is locked.

    It follows the chain by some seconds. A stake that moves meanwhile counts once or not at all, never twice; that of a
    session which the chain has closed and we not yet counts twice until we have.
    """

    def __init__(self, routers: Sequence[Router], purses: Mapping[str, PurseReader]) -> None:
        self._routers = routers
        self._purses = purses
        self._free: dict[str, int] = {}
        self._of_wallet: dict[str, int] = {}
        self._known = asyncio.Event()

    async def by_wallet(self) -> dict[str, int]:
        """Return what each wallet has, in wei. Waits a little for the first reading, else raises `service_unavailable`."""
        if not self._of_wallet:
            try:
                async with asyncio.timeout(FIRST_SECONDS):
                    await self._known.wait()
            except TimeoutError:
                raise ApiError("service_unavailable", retry_after=2) from None
        return self._of_wallet

    async def free(self) -> dict[str, int]:
        """Return what lies free in each wallet, in wei. Waits, and raises, as `by_wallet`."""
        await self.by_wallet()
        return self._free

    async def run(self) -> None:
        """Refresh until cancelled."""
        while True:
            try:
                await self.refresh()
            except PyMongoError as error:
                log.warning("what is staked is not known", problem=type(error).__name__)
            await asyncio.sleep(REFRESH_SECONDS)

    async def refresh(self) -> None:
        """Read purses and stakes once. Of a router that is away the last reading stays."""
        before = await locked_stakes()
        await asyncio.gather(*(self._read(router) for router in self._routers))
        after = await locked_stakes()
        self._of_wallet = {
            wallet: free + min(before.get(wallet, 0), after.get(wallet, 0)) for wallet, free in self._free.items()
        }
        if self._of_wallet:
            self._known.set()

    async def _read(self, router: Router) -> None:
        try:
            purse = await self._purses[router.name].read(at_most=0.0)
        except ROUTER_ERRORS as error:
            log.warning("purse not read", router=router.name, problem=str(error)[:200])
            return
        self._free[router.wallet] = purse.mor
