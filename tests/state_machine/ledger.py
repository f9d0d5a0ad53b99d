"""A small chain of our own: what the contract does with opens and closes, in blocks that may be undone.

Written from the contract of the router alone, apart from the simulator, so that the two do not share a mistake. There is
no clock in it: everything is told in Unix seconds of now, and when time passes what is past moves further back (`age`).
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from morpheus_sessions.router import Bid, ChainSession

MIN_SESSION_SECONDS: Final = 300
MAX_SESSION_SECONDS: Final = 7 * 86_400
FINAL_BLOCKS: Final = 4
"""The chain undoes no more than so many blocks; our records take the fifth for final."""
SUPPLY: Final = 316_670
BUDGET: Final = 1_000
"""Their ratio is that of the deployed contracts on a day on which no provider has claimed."""
PLENTY: Final = 10**24


class Fate(StrEnum):
    """What becomes of a transaction that was handed to the chain."""

    NEXT = "mined in the next block"
    HELD = "mined some day"


@dataclass(slots=True, kw_only=True)
class Transaction:
    """An open (`approval`, `bid`, `stake`) or the close of `session`. `block`: where it was mined, None before; `succeeded`:
    it was not reverted there; `undone`: that block, or another before it, was undone.
    """

    number: int
    fate: Fate
    session: str = ""
    approval: str = ""
    bid: Bid | None = None
    stake: int = 0
    block: int | None = None
    succeeded: bool = False
    undone: bool = False


@dataclass(slots=True, kw_only=True)
class Opened:
    """A session on chain. `closed_at` 0 and `closed_block` None while it is open; `again`: its approval opened one before,
    whose block was undone.
    """

    id: str
    approval: str
    bid: Bid
    stake: int
    opened_at: int
    ends_at: int
    opened_block: int
    closed_at: int = 0
    closed_block: int | None = None
    again: bool = False


@dataclass(slots=True)
class Ledger:
    """The chain. `skew`: seconds its clock is ahead of everybody's. `mor`: what the wallet would have with all closed."""

    wallet: str
    skew: int = 0
    mor: int = PLENTY
    height: int = 100
    budget: int = BUDGET
    sessions: dict[str, Opened] = field(default_factory=dict)
    transactions: list[Transaction] = field(default_factory=list)
    ever_opened: list[Opened] = field(default_factory=list)
    """Every session there ever was, those that were undone included: an id may stand for several."""
    _others: list[int] = field(default_factory=list)
    """The blocks in which other wallets opened sessions."""

    def now(self) -> int:
        """The chain's time, in Unix seconds."""
        return int(time.time()) + self.skew

    @property
    def balance(self) -> int:
        """The wallet's MOR in wei."""
        return self.mor - sum(session.stake for session in self.sessions.values() if not session.closed_at)

    def open_sessions(self) -> list[Opened]:
        """The sessions that hold a stake, at the newest block."""
        return [session for session in self.sessions.values() if not session.closed_at]

    # transactions

    def send_open(self, approval: str, bid: Bid, stake: int, fate: Fate = Fate.NEXT) -> Transaction:
        """Hand in an open."""
        return self._hand_in(Transaction(number=0, fate=fate, approval=approval, bid=bid, stake=stake))

    def send_close(self, session: str, fate: Fate = Fate.NEXT) -> Transaction:
        """Hand in a close."""
        return self._hand_in(Transaction(number=0, fate=fate, session=session))

    def _hand_in(self, transaction: Transaction) -> Transaction:
        transaction.number = len(self.transactions) + 1
        self.transactions.append(transaction)
        return transaction

    def held(self) -> list[Transaction]:
        """What may be mined some day."""
        return [item for item in self.transactions if item.block is None and item.fate is Fate.HELD]

    def mine(self, blocks: int = 1) -> None:
        """Make blocks; all that is due goes into the first, in the order in which it was handed in."""
        for _ in range(blocks):
            self.height += 1
            for transaction in self.transactions:
                if transaction.block is None and transaction.fate is Fate.NEXT:
                    transaction.block = self.height
                    self._execute(transaction)

    def refusal(self, transaction: Transaction) -> str | None:
        """What the contract has against a transaction right now, in the order of its checks; None: nothing."""
        if transaction.bid is None:
            session = self.sessions.get(transaction.session)
            if session is None:
                return "session not found"
            return "EVM error: SessionAlreadyClosed() []" if session.closed_at else None
        if self.balance < transaction.stake:
            return "execution reverted: ERC20: transfer amount exceeds balance"
        if any(session.approval == transaction.approval for session in self.sessions.values()):
            return "EVM error: SessionDuplicateApproval() []"
        if self._seconds(transaction) < MIN_SESSION_SECONDS:
            return "EVM error: SessionTooShort() []"
        return None

    def _seconds(self, transaction: Transaction) -> int:
        assert transaction.bid is not None
        return min(MAX_SESSION_SECONDS, transaction.stake * self.budget // (SUPPLY * transaction.bid.price))

    def _execute(self, transaction: Transaction) -> None:
        transaction.succeeded = self.refusal(transaction) is None
        if not transaction.succeeded:
            return
        now = self.now()
        if transaction.bid is None:
            session = self.sessions[transaction.session]
            session.closed_at, session.closed_block = now, self.height
            return
        transaction.session = f"{transaction.bid.id[:6]}{len(self._others) + len(self.sessions):060x}"
        opened = Opened(
            id=transaction.session,
            approval=transaction.approval,
            bid=transaction.bid,
            stake=transaction.stake,
            opened_at=now,
            ends_at=now + self._seconds(transaction),
            opened_block=self.height,
            again=any(before.approval == transaction.approval for before in self.ever_opened),
        )
        self.sessions[opened.id] = opened
        self.ever_opened.append(opened)

    def undo(self, blocks: int, fate: Fate, *, others: int = 0, turned: bool = False) -> None:
        """Replace the newest `blocks` by empty ones; what was in them waits for its `fate` again.

        `others`: other wallets open so many sessions before it, so that a session that is opened again has another id
        (ids hang on how many were opened before). `turned`: it is mined in the opposite order, so that one may have the
        id that another had.
        """
        last = self.height - blocks
        self._others = [block for block in self._others if block <= last] + [self.height] * others
        for session in list(self.sessions.values()):
            if session.closed_block is not None and session.closed_block > last:
                session.closed_at, session.closed_block = 0, None
            if session.opened_block > last:
                del self.sessions[session.id]
        for transaction in self.transactions:
            if transaction.block is not None and transaction.block > last:
                transaction.block, transaction.fate, transaction.undone = None, fate, True
        if turned:
            self.transactions.sort(key=lambda item: -item.number if item.block is None and item.undone else item.number)

    def age(self, seconds: int) -> None:
        """Let time pass: a block every two seconds, but not more than our records can tell from many."""
        for session in self.ever_opened:
            session.opened_at -= seconds
            session.ends_at -= seconds
            if session.closed_at:
                session.closed_at -= seconds
        self.mine(min(20, -(-seconds // 2)))

    # reading

    def at(self, height: int) -> Iterator[ChainSession]:
        """What a node that has read up to a block knows of the wallet's sessions, newest first."""
        for session in sorted(self.sessions.values(), key=lambda item: (item.opened_block, item.id), reverse=True):
            if session.opened_block <= height:
                yield self._seen(session, height)

    def _seen(self, session: Opened, height: int) -> ChainSession:
        closed = session.closed_block is not None and session.closed_block <= height
        return ChainSession(
            id=session.id,
            user=self.wallet,
            provider=session.bid.provider,
            model_id=session.bid.model_id,
            bid_id=session.bid.id,
            stake=session.stake,
            price=session.bid.price,
            opened_at=session.opened_at,
            ends_at=session.ends_at,
            closed_at=session.closed_at if closed else 0,
        )
