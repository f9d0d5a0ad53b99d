"""The allowance of one wallet as the chain has it, and what we did to it last."""

from morpheus_sessions.documents import WalletDocument
from morpheus_sessions.router import Router, RouterUnclear


class Allowances:
    """Reads the allowance of the wallet behind one router."""

    def __init__(self, router: Router) -> None:
        self._router = router

    async def read(self, spender: str) -> int:
        """Return what a contract may take, in wei.

        Raises `RouterUnclear` while the node is behind the block at which we set it: it could show it lower than it is.
        """
        document = await WalletDocument.get_pymongo_collection().find_one(
            {"_id": self._router.wallet}, {"approved_block": 1}
        )
        known = int((document or {}).get("approved_block") or 0)
        if known and await self._router.latest_block() < known:
            raise RouterUnclear("the node is behind our last approval")
        return await self._router.allowance(spender)

    async def note(self, tx: str, block: int) -> None:
        """Write that a transaction of ours has set it, at or before a height."""
        await WalletDocument.get_pymongo_collection().update_one(
            {"_id": self._router.wallet}, {"$set": {"approved_tx": tx}, "$max": {"approved_block": block}}, upsert=True
        )

    async def last_transaction(self) -> str | None:
        """Return the transaction with which we set it last, None if we never did."""
        document = await WalletDocument.get_pymongo_collection().find_one(
            {"_id": self._router.wallet}, {"approved_tx": 1}
        )
        tx = (document or {}).get("approved_tx")
        return None if tx is None else str(tx)
