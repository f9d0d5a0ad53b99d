"""Transactions that were sent and are not mined yet, in the order of their nonces.

A transaction that is held, or so late that its sender gave it up, has lost its nonce to whatever its sender sends next.
When it comes back it takes the next free one, as another attempt of the router's escalator would.
"""

from collections.abc import Iterator

from proxy_router_sim.table import Table
from proxy_router_sim.transactions import Call, NonceError, Transaction


class Mempool:
    """All of them, of every sender. ``rows`` is what the state file keeps."""

    def __init__(self) -> None:
        self.rows: Table[Transaction] = Table(Transaction.encode, Transaction.decode)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Transaction]:
        return iter(list(self.rows.values()))

    def next_nonce(self, sender: str, mined: int) -> int:
        """The pending nonce of a sender of whom ``mined`` transactions are in blocks."""
        return mined + len(self._queue(sender))

    def check_nonce(self, sender: str, call: Call, nonce: int, mined: int) -> None:
        """Raises NonceError, in a node's words, for a nonce that is used."""
        if nonce < mined:
            raise NonceError(f"nonce too low: next nonce {mined}, tx nonce {nonce}")
        for other in self._queue(sender):
            if other.nonce == nonce:
                raise NonceError("already known" if other.call == call else "replacement transaction underpriced")

    def add(self, transaction: Transaction) -> None:
        """Take a transaction that was sent."""
        self.rows.put(transaction.hash, transaction)

    def remove(self, transaction: Transaction) -> None:
        """Forget a transaction: lost, or mined."""
        self.rows.remove(transaction.hash)

    def hold(self, transaction: Transaction, mined: int) -> None:
        """Keep a transaction from being mined until ``release``."""
        transaction.held = True
        self._changed(transaction)
        self.renumber(transaction.sender, mined)

    def postpone(self, transaction: Transaction, due: float | None, mined: int) -> None:
        """Have a transaction mined at ``due`` (unix seconds) or, with None, only when it is released."""
        transaction.late = True
        transaction.held = due is None
        if due is not None:
            transaction.due = due
        self._changed(transaction)
        self.renumber(transaction.sender, mined)

    def release(self, transaction: Transaction, due: float, mined: int) -> None:
        """Let a transaction be mined at ``due`` (unix seconds)."""
        if transaction.hash not in self.rows:
            return
        transaction.nonce = self.next_nonce(transaction.sender, mined)
        transaction.held = transaction.late = False
        transaction.due = due
        self._changed(transaction)

    def late(self) -> list[Transaction]:
        """Those that their sender gave up and that may still be mined."""
        return [transaction for transaction in self.rows.values() if transaction.late]

    def due(self, now: float) -> list[Transaction]:
        """What belongs into the blocks up to ``now`` (unix seconds), in their order."""
        ready = [t for t in self.rows.values() if not t.held and t.due <= now + 1e-6]
        return sorted(ready, key=lambda t: (t.due, t.late, t.nonce))

    def renumber(self, sender: str, mined: int) -> None:
        """Close the gap that a transaction left, so that those behind it are not stuck."""
        for nonce, transaction in enumerate(self._queue(sender), mined):
            if transaction.nonce != nonce:
                transaction.nonce = nonce
                self._changed(transaction)

    def _queue(self, sender: str) -> list[Transaction]:
        """Those that hold a nonce, lowest first."""
        waiting = [t for t in self.rows.values() if t.sender == sender and not t.held and not t.late]
        return sorted(waiting, key=lambda t: t.nonce)

    def _changed(self, transaction: Transaction) -> None:
        if transaction.hash in self.rows:
            self.rows.put(transaction.hash, transaction)
