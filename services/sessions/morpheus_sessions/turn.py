"""The turn at a wallet's chain calls: one of ours at a time, as far as our processes know.

The lease says which process works for a wallet, a lock orders the calls within it, and a mark in the database tells the
next holder that a call of the last one may still run. All that spares gas and nonce conflicts; no stake depends on it.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from morpheus_common.logs import get_logger
from morpheus_common.store.leases import Holder
from morpheus_common.store.mongo import Database
from morpheus_common.store.workers import is_alive
from pymongo.errors import PyMongoError

from morpheus_sessions.documents import WalletDocument
from morpheus_sessions.router import Router

log = get_logger(__name__)


class NotOurTurn(Exception):
    """Another process has the wallet by now, or a call of its runs: it, or the next look, carries the operation on."""


class Turn:
    """When this process may call the chain with one wallet. `held_until` is kept by the loop that renews the lease.

    `longest_call` in seconds: a mark is not believed for longer.
    """

    def __init__(self, router: Router, database: Database, holder: Holder, *, longest_call: float) -> None:
        self._router = router
        self._call_ms = int(longest_call * 1000)
        self._database = database
        self._holder = holder
        self._lock = asyncio.Lock()
        self.held_until = float("-inf")

    @property
    def holds(self) -> bool:
        """Whether nobody else may take the wallet yet."""
        return asyncio.get_running_loop().time() < self.held_until

    @asynccontextmanager
    async def call(self, operation_id: str) -> AsyncIterator[None]:
        """Make one chain call in the block. Raises `NotOurTurn` before it when it is not for us to make."""
        async with self._lock:
            if not self.holds:
                raise NotOurTurn(operation_id)
            await self._mark(operation_id)
            try:
                yield
            finally:
                await self._unmark()

    async def _mark(self, operation_id: str) -> None:
        """Write that a call runs. One of a process that lives is waited for; one of a dead process is overlapped."""
        wallets = WalletDocument.get_pymongo_collection()
        mine = {"calling.worker": self._holder.worker, "calling.boot": {"$lte": self._holder.boot}}
        free: list[dict[str, Any]] = [{"calling": None}, mine, {"$expr": {"$lt": ["$calling.until", "$$NOW"]}}]
        if await self._marked(operation_id, free):
            return
        document: Any = await wallets.find_one({"_id": self._router.wallet}, {"calling": 1})
        if document is None:
            await wallets.update_one(
                {"_id": self._router.wallet},
                {"$setOnInsert": {"router": self._router.name, "counter": 0, "overlaps": 0, "calling": None}},
                upsert=True,
            )
        elif running := document.get("calling"):
            if await is_alive(self._database, Holder(running["worker"], running["boot"])):
                raise NotOurTurn(operation_id)
            log.warning("a chain call of a dead process may still run", operation_id=running["operation"])
            free.append({"calling.worker": running["worker"], "calling.boot": running["boot"]})
        if not await self._marked(operation_id, free):
            raise NotOurTurn(operation_id)

    async def _marked(self, operation_id: str, free: list[dict[str, Any]]) -> bool:
        until = {"$dateAdd": {"startDate": "$$NOW", "unit": "millisecond", "amount": self._call_ms}}
        mark = {
            "worker": self._holder.worker,
            "boot": self._holder.boot,
            "operation": {"$literal": operation_id},
            "until": until,
        }
        overlaps = {"$add": [{"$ifNull": ["$overlaps", 0]}, {"$cond": [{"$ifNull": ["$calling.worker", False]}, 1, 0]}]}
        result = await WalletDocument.get_pymongo_collection().update_one(
            {"_id": self._router.wallet, "$or": free}, [{"$set": {"overlaps": overlaps, "calling": mark}}]
        )
        return bool(result.matched_count)

    async def _unmark(self) -> None:
        try:
            await WalletDocument.get_pymongo_collection().update_one(
                {
                    "_id": self._router.wallet,
                    "calling.worker": self._holder.worker,
                    "calling.boot": self._holder.boot,
                },
                {"$set": {"calling": None}},
            )
        except PyMongoError as error:
            # it ends by itself when the longest call would have ended
            log.warning("the mark of a chain call stays", problem=type(error).__name__)
