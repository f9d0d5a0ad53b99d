"""The chain: blocks that follow the time, a mempool before them, and the ledger that they change.

Nothing here waits: transactions are sent, and mined when somebody says what time it is. Blocks can be taken back, and
a node that lags shows the ledger as it was some blocks ago.
"""

import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

from proxy_router_sim.ethereum import checksum, hash_id
from proxy_router_sim.ledger import (
    CHAIN_ID,
    MAX_UINT256,
    Changes,
    Ledger,
    Session,
    UnknownSessionError,
)
from proxy_router_sim.marketplace import Marketplace
from proxy_router_sim.mempool import Mempool
from proxy_router_sim.table import Table
from proxy_router_sim.transactions import Call, RevertError, Transaction, transaction_hash

__all__ = ["CHAIN_ID", "GAS_WEI", "HISTORY_BLOCKS", "MAX_UINT256", "Block", "Chain", "Session", "UnknownSessionError"]

GAS_WEI: Final = 2 * 10**12
"""What each transaction costs the sender in ETH; about a cent, as on an L2."""
HISTORY_BLOCKS: Final = 256
"""How far back a reorganisation or a lagging node can go."""

_FIRST_BLOCK = 30_000_000


@dataclass(frozen=True, slots=True)
class Block:
    """A block with transactions in it; the others leave no trace."""

    height: int
    transactions: list[Transaction] = field(default_factory=list)
    before: Changes = field(default_factory=dict)
    """What it changed in the ledger, as it was before."""


class Chain:
    """Advanced by ``mine_until``. ``seed`` decides the order in which a reorganisation mines again."""

    def __init__(self, marketplace: Marketplace, *, now: float, block_seconds: float, seed: int = 1) -> None:
        self.marketplace = marketplace
        self.block_seconds = block_seconds
        self.diamond = "0x" + hash_id("diamond")[-40:]
        self.mor_token = "0x" + hash_id("mor-token")[-40:]
        self.ledger = Ledger(marketplace.bids.get, self.diamond)
        # Worlds that began at different moments have no session id in common.
        self.ledger.begin(int(now * 1000))
        self.mempool = Mempool()
        self.lag = 0
        """How many blocks the node behind the router is late."""
        self.reorganised = 0
        """How often blocks were taken back."""
        self._anchor = (now, _FIRST_BLOCK)
        self._sent = 0
        self._history: deque[Block] = deque()
        self._version = 0
        self._seen: tuple[tuple[int, int], Ledger] | None = None
        self._order = random.Random(f"reorganisation/{seed}")

    # -- blocks ---------------------------------------------------------------------------------------------------

    def height(self, now: float) -> int:
        """Number of the latest block at ``now`` (unix seconds)."""
        anchor_time, anchor_height = self._anchor
        # A moment computed as "time of block n" must belong to block n in spite of rounding.
        return anchor_height + int((now - anchor_time) / self.block_seconds + 1e-6)

    def block_time(self, height: int) -> float:
        """Unix seconds at which a block appears."""
        anchor_time, anchor_height = self._anchor
        return anchor_time + (height - anchor_height) * self.block_seconds

    def next_block(self, now: float) -> float:
        """Unix seconds of the block after the latest one."""
        return self.block_time(self.height(now) + 1)

    def seen_height(self, now: float) -> int:
        """The latest block that a lagging node knows."""
        return self.height(now) - self.lag

    def seen_ledger(self, now: float) -> Ledger:
        """The ledger as a lagging node shows it."""
        if not self.lag:
            return self.ledger
        state = (self._version, self.seen_height(now))
        if self._seen is None or self._seen[0] != state:
            ledger = self.ledger.copy()
            for block in reversed(self._history):
                if block.height > self.seen_height(now):
                    ledger.undo(block.before)
            self._seen = (state, ledger)
        return self._seen[1]

    # -- changes --------------------------------------------------------------------------------------------------

    def fund(self, owner: str, *, mor: int, eth: int) -> None:
        """Set an account's balances (wei), past all blocks."""
        self.ledger.fund(owner, mor=mor, eth=eth)
        self._beyond_blocks()

    def set_funding(self, amount: int | None) -> None:
        """Set what the protocol can pay to providers (wei; None: enough), past all blocks."""
        self.ledger.set_funding(amount)
        self._beyond_blocks()

    def pending_nonce(self, sender: str) -> int:
        """The nonce that a new transaction takes."""
        return self.mempool.next_nonce(sender, self.ledger.account(sender).nonce)

    def estimate(self, sender: str, call: Call, now: float) -> None:
        """Raises RevertError if a call would fail against the present state, as gas estimation does."""
        eth = self.ledger.eth_balance(sender)
        if eth < GAS_WEI:
            raise RevertError(
                f"insufficient funds for gas * price + value: address {checksum(sender)} have {eth} want {GAS_WEI}"
            )
        self.ledger.execute(sender, call, now, commit=False)

    def submit(self, sender: str, call: Call, now: float, nonce: int | None = None) -> Transaction:
        """Send a transaction, by default with the pending nonce; it is mined with the next block.

        Raises RevertError as ``estimate`` does, and NonceError for a nonce that is used.
        """
        self.estimate(sender, call, now)
        mined = self.ledger.account(sender).nonce
        if nonce is None:
            nonce = self.pending_nonce(sender)
        self.mempool.check_nonce(sender, call, nonce, mined)
        self._sent += 1
        transaction = Transaction(
            hash=transaction_hash("tx", sender, nonce, self._sent, repr(now), str(call)),
            sender=sender,
            nonce=nonce,
            call=call,
            due=self.next_block(now),
        )
        self.mempool.add(transaction)
        return transaction

    def hold(self, transaction: Transaction) -> None:
        """Keep a sent transaction from being mined until ``release``."""
        self.mempool.hold(transaction, self._mined(transaction))

    def release(self, transaction: Transaction, now: float) -> None:
        """Let a transaction into the block after ``now``."""
        self.mempool.release(transaction, self.next_block(now), self._mined(transaction))

    def postpone(self, transaction: Transaction, until: float | None) -> None:
        """Have a transaction mined only after ``until`` (unix seconds), or only when it is released."""
        due = None if until is None else self.next_block(until)
        self.mempool.postpone(transaction, due, self._mined(transaction))

    def drop(self, transaction: Transaction) -> None:
        """Have a sent transaction forgotten by everybody: it is never mined."""
        self.mempool.remove(transaction)
        self.mempool.renumber(transaction.sender, self._mined(transaction))

    def mine_until(self, now: float) -> bool:
        """Mine every transaction whose block has come; says whether there was any."""
        due = self.mempool.due(now)
        for transaction in due:
            self._mine(transaction)
        return bool(due)

    def reorganise(self, blocks: int, now: float, *, drop: bool = False, others: int = 0) -> list[Transaction]:
        """Take the last blocks back. Returns their transactions.

        These go back to the mempool and into the next block, in whatever order, or are lost with ``drop``. In the new
        blocks in place of the old ones only ``others`` opened sessions, so many, and the height stays.
        """
        taken_back: list[Transaction] = []
        while self._history and self._history[-1].height > self.height(now) - blocks:
            block = self._history.pop()
            self.ledger.undo(block.before)
            taken_back = block.transactions + taken_back
        self.ledger.open_for_others(others)
        self._version += 1
        self.reorganised += 1
        for transaction in taken_back:
            transaction.unmine()
        if drop:
            for transaction in taken_back:
                self.mempool.renumber(transaction.sender, self._mined(transaction))
            return taken_back
        self._order.shuffle(taken_back)
        for transaction in taken_back:
            transaction.due = self.next_block(now)
            transaction.nonce = self.pending_nonce(transaction.sender)
            self.mempool.add(transaction)
        return taken_back

    def _mined(self, transaction: Transaction) -> int:
        return self.ledger.account(transaction.sender).nonce

    def _mine(self, transaction: Transaction) -> None:
        self.mempool.remove(transaction)
        transaction.mined_at = transaction.due
        self.ledger.count_transaction(transaction.sender, GAS_WEI)
        if transaction.reverts:
            transaction.revert = "execution reverted"
        else:
            try:
                transaction.session_id = self.ledger.execute(
                    transaction.sender, transaction.call, transaction.due, commit=True
                )
            except RevertError as revert:
                transaction.revert = str(revert)
        if transaction.late:
            # It took a nonce that others behind it had counted on.
            transaction.late = False
            self.mempool.renumber(transaction.sender, self._mined(transaction))
        self._record(transaction)

    def _record(self, transaction: Transaction) -> None:
        height = self.height(transaction.due)
        if not self._history or self._history[-1].height != height:
            self._history.append(Block(height))
        block = self._history[-1]
        block.transactions.append(transaction)
        for table, rows in self.ledger.take_changes().items():
            before = block.before.setdefault(table, {})
            for key, value in rows.items():
                before.setdefault(key, value)
        while self._history[0].height <= height - HISTORY_BLOCKS:
            self._history.popleft()
        self._version += 1

    def _beyond_blocks(self) -> None:
        """What was set past all blocks cannot be undone with them, so history starts anew."""
        self.ledger.take_changes()
        self._history.clear()
        self._version += 1

    # -- storage --------------------------------------------------------------------------------------------------

    def tables(self) -> dict[str, Table[Any]]:
        """Everything that must survive a restart, but for ``clock_state``. The history of blocks does not."""
        return {**self.ledger.tables, "mempool": self.mempool.rows, "bids_deleted_at": self.marketplace.deletions}

    def clock_state(self, now: float) -> list[float]:
        """How blocks and time belong together, and how many transactions were sent."""
        return [now, self.height(now), self._sent]

    def restore_clock(self, state: list[float]) -> None:
        """Take over what ``clock_state`` gave, with the tables loaded."""
        moment, height, sent = state
        self._anchor = (moment, int(height))
        self._sent = int(sent)
        for sender in {transaction.sender for transaction in self.mempool}:
            self.mempool.renumber(sender, self.ledger.account(sender).nonce)
        for bid_id, deleted_at in list(self.marketplace.deletions.items()):
            self.marketplace.set_bid_deleted_at(bid_id, deleted_at)
