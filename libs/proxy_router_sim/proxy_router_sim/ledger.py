"""What the contracts store: MOR and ETH, allowances, used approvals and staked sessions, in exact wei and seconds.

Rules and figures are those of the proxy-router contract, sections 2.6b, 2.8 and 3.
"""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from proxy_router_sim.ethereum import ZERO_ADDRESS, Approval, MalformedApprovalError, checksum, sign
from proxy_router_sim.marketplace import NO_BID, WEI, Bid
from proxy_router_sim.table import HistoryTable, as_is
from proxy_router_sim.transactions import (
    Approve,
    Call,
    CloseSession,
    IncreaseAllowance,
    OpenSession,
    RevertError,
    WithdrawStakes,
)

CHAIN_ID: Final = 8453
MIN_SESSION_SECONDS: Final = 300
"""Constant in the contract (section 3)."""
MAX_SESSION_SECONDS: Final = 7 * 86_400
"""Caps the time of a session, not its stake (section 3)."""
DAY: Final = 86_400
MAX_UINT256: Final = 2**256 - 1

_EMISSION_START = 1_707_350_400
"""8 February 2024 UTC, when the reward pools began to pay."""
_FIRST_DAY_REWARD = 14_400 * WEI
_DAILY_DECREASE = 2_468_994_701_000_000_000
_CLAIMED = "claimed"
_FUNDING = "funding"
_SESSION_NONCE = "session_nonce"


class UnknownSessionError(LookupError):
    """No session has this id."""


def custom_error(signature: str, *arguments: str) -> RevertError:
    """A custom error of the contract in the router's spelling."""
    return RevertError(f"EVM error: {signature} [{' '.join(arguments)}]")


def required(reason: str) -> RevertError:
    """A revert with a reason string."""
    return RevertError(f"execution reverted: {reason}")


@dataclass(frozen=True, slots=True)
class Session:
    """A session as the contract stores it; amounts in wei, moments in unix seconds."""

    id: str
    user: str
    provider: str
    model_id: str
    bid_id: str
    stake: int
    price_per_second: int
    direct_payment: bool
    opened_at: int
    ends_at: int
    closed_at: int = 0
    closeout_receipt: str = ""
    closeout_type: int = 0
    provider_withdrawn: int = 0


@dataclass(frozen=True, slots=True)
class Hold:
    """Stake of an early close that can be withdrawn only from ``release_at`` (unix seconds) on."""

    amount: int
    release_at: int


@dataclass(frozen=True, slots=True)
class Account:
    """What an address has, in wei; ``nonce`` counts its mined transactions."""

    mor: int = 0
    eth: int = 0
    nonce: int = 0
    holds: tuple[Hold, ...] = ()

    @classmethod
    def decode(cls, row: dict[str, Any]) -> "Account":
        """From a JSON value."""
        return cls(row["mor"], row["eth"], row["nonce"], tuple(Hold(**hold) for hold in row["holds"]))


def allowance_key(owner: str, spender: str) -> str:
    """The key of an allowance's row."""
    return f"{owner}/{spender}"


Changes = dict[str, dict[str, Any]]
"""By table, what its changed rows were before."""


class Ledger:
    """State and rules of the contracts. A call is checked, and then done or not; nothing here knows of blocks."""

    def __init__(self, bid: Callable[[str], Bid | None], diamond: str) -> None:
        self._bid = bid
        self.diamond = diamond
        self.accounts: HistoryTable[Account] = HistoryTable(asdict, Account.decode)
        self.allowances: HistoryTable[int] = HistoryTable(as_is, as_is)
        self.approvals: HistoryTable[str] = HistoryTable(as_is, as_is)
        """Approvals that were used, with the id of the session that each opened."""
        self.sessions: HistoryTable[Session] = HistoryTable(asdict, lambda row: Session(**row))
        self.totals: HistoryTable[int] = HistoryTable(as_is, as_is)
        self.tables: dict[str, HistoryTable[Any]] = {
            "accounts": self.accounts,
            "allowances": self.allowances,
            "approvals": self.approvals,
            "sessions": self.sessions,
            "totals": self.totals,
        }

    # -- history --------------------------------------------------------------------------------------------------

    def begin(self, session_nonce: int) -> None:
        """Start a world in which so many sessions were opened before, by anybody."""
        self.totals[_SESSION_NONCE] = session_nonce

    def open_for_others(self, sessions: int) -> None:
        """Let other wallets open sessions. Of theirs only the number counts: it is part of the ids that follow."""
        self.totals.put(_SESSION_NONCE, self.totals[_SESSION_NONCE] + sessions)

    def take_changes(self) -> Changes:
        """What changed since the last question, as it was before."""
        return {name: changes for name, table in self.tables.items() if (changes := table.take_changes())}

    def undo(self, changes: Changes) -> None:
        """Go back to before those changes, which must be the latest."""
        for name, before in changes.items():
            self.tables[name].undo(before)

    def copy(self) -> "Ledger":
        """Another ledger with the same rows."""
        other = Ledger(self._bid, self.diamond)
        for name, table in self.tables.items():
            other.tables[name].update(table)
        return other

    # -- reads ----------------------------------------------------------------------------------------------------

    def account(self, owner: str) -> Account:
        """An address nobody has heard of has nothing."""
        return self.accounts.get(owner, Account())

    def mor_balance(self, owner: str) -> int:
        """In wei."""
        return self.account(owner).mor

    def eth_balance(self, owner: str) -> int:
        """In wei."""
        return self.account(owner).eth

    def allowance(self, owner: str, spender: str) -> int:
        """In wei."""
        return self.allowances.get(allowance_key(owner, spender), 0)

    def holds(self, owner: str) -> list[Hold]:
        """Stakes on hold; no route of the router shows them."""
        return list(self.account(owner).holds)

    def session(self, session_id: str) -> Session:
        """Raises UnknownSessionError."""
        try:
            return self.sessions[session_id]
        except KeyError:
            raise UnknownSessionError(session_id) from None

    def sessions_of(self, user: str) -> list[Session]:
        """A user's sessions, oldest first."""
        return [session for session in self.sessions.values() if session.user == user]

    @property
    def funding(self) -> int | None:
        """What the protocol's account for paying providers has left, in wei; None for enough."""
        return self.totals.get(_FUNDING)

    def supply(self, now: float) -> int:
        """What the session router calls totalMORSupply: all pools but the compute pool, plus claims (wei)."""
        return 7_600 * _reward_share(now) + self._claimed

    def budget(self, now: float) -> int:
        """Today's budget: a hundredth of the compute pool's balance (wei)."""
        return self._compute_balance(now) // 100

    def stake_for(self, price_per_second: int, seconds: int, now: float) -> int:
        """The stake (wei) that buys ``seconds`` at a price; integer division, as the router does it."""
        return self.supply(now) * price_per_second * seconds // self.budget(now)

    def seconds_for(self, stake: int, price_per_second: int, now: float) -> int:
        """The duration that the contract derives from a stake, before its 7 day cap."""
        return stake * self._compute_balance(now) // (self.supply(now) * 100 * price_per_second)

    @property
    def _claimed(self) -> int:
        return self.totals.get(_CLAIMED, 0)

    def _compute_balance(self, now: float) -> int:
        return 2_400 * _reward_share(now) - self._claimed

    # -- changes --------------------------------------------------------------------------------------------------

    def fund(self, owner: str, *, mor: int, eth: int) -> None:
        """Set what an address has (wei)."""
        self.accounts.put(owner, replace(self.account(owner), mor=mor, eth=eth))

    def set_funding(self, amount: int | None) -> None:
        """Set what the protocol can pay to providers (wei); None for enough."""
        if amount is None:
            self.totals.remove(_FUNDING)
        else:
            self.totals.put(_FUNDING, amount)

    def count_transaction(self, sender: str, gas: int) -> None:
        """A transaction of ``sender`` is in a block: its nonce is used and its gas (wei) is paid."""
        account = self.account(sender)
        self.accounts.put(sender, replace(account, nonce=account.nonce + 1, eth=max(0, account.eth - gas)))

    def execute(self, sender: str, call: Call, at: float, *, commit: bool) -> str | None:
        """Check a call at ``at`` (unix seconds) and, to ``commit``, do it. Returns the id of a session it opened.

        Raises RevertError; nothing is changed then.
        """
        second = int(at + 1e-6)
        match call:
            case Approve():
                if commit:
                    self.allowances.put(allowance_key(sender, call.spender), call.amount)
            case IncreaseAllowance():
                raised = self.allowance(sender, call.spender) + call.amount
                if raised > MAX_UINT256:
                    raise required("arithmetic overflow")
                if commit:
                    self.allowances.put(allowance_key(sender, call.spender), raised)
            case OpenSession():
                return self._open(sender, call, second, commit=commit)
            case CloseSession():
                self._close(sender, call, second, commit=commit)
            case WithdrawStakes():
                self._withdraw(sender, second, commit=commit)
        return None

    def _pay(self, owner: str, mor: int) -> None:
        account = self.account(owner)
        self.accounts.put(owner, replace(account, mor=account.mor + mor))

    def _open(self, user: str, call: OpenSession, at: int, *, commit: bool) -> str | None:
        """The order of these checks is the contract's and hides causes (section 2.6b): money comes early.

        Nobody compares the approval's user with the sender.
        """
        try:
            approval = Approval.decode(call.approval)
        except MalformedApprovalError:
            raise RevertError("execution reverted") from None
        if approval.chain_id != CHAIN_ID:
            # The real error is missing in the router's ABI and surfaces undecoded (section 6).
            raise RevertError("execution reverted")
        allowance = self.allowance(user, self.diamond)
        if allowance < call.stake:
            raise required("ERC20: insufficient allowance")
        if self.mor_balance(user) < call.stake:
            raise required("ERC20: transfer amount exceeds balance")
        bid = self._bid(approval.bid_id) or NO_BID
        if not bid.active:
            raise custom_error("SessionBidNotFound()")
        if call.signature.lower() != sign(bid.provider, call.approval):
            raise custom_error("SessionProviderSignatureMismatch()")
        used = call.approval.lower()
        if used in self.approvals:
            raise custom_error("SessionDuplicateApproval()")
        seconds = min(self.seconds_for(call.stake, bid.price_per_second, at), MAX_SESSION_SECONDS)
        if seconds < MIN_SESSION_SECONDS:
            raise custom_error("SessionTooShort()")
        if not commit:
            return None
        if allowance != MAX_UINT256:
            self.allowances.put(allowance_key(user, self.diamond), allowance - call.stake)
        self._pay(user, -call.stake)
        nonce = self.totals[_SESSION_NONCE]
        self.totals.put(_SESSION_NONCE, nonce + 1)
        # As in the contract: what a block that is mined again in another order opens has another id than before.
        identity = f"session/{CHAIN_ID}/{user}/{bid.provider}/{bid.id}/{nonce}"
        session = Session(
            id="0x" + hashlib.sha3_256(identity.encode()).hexdigest(),
            user=user,
            provider=bid.provider,
            model_id=bid.model_id,
            bid_id=bid.id,
            stake=call.stake,
            price_per_second=bid.price_per_second,
            direct_payment=call.direct_payment,
            opened_at=at,
            ends_at=at + seconds,
        )
        self.approvals.put(used, session.id)
        self.sessions.put(session.id, session)
        return session.id

    def _close(self, sender: str, call: CloseSession, at: int, *, commit: bool) -> None:
        session = self.sessions.get(call.session_id)
        if session is None or session.user != sender:
            owner = ZERO_ADDRESS if session is None else session.user
            raise custom_error("InsufficientRightsForOperation(address,address)", checksum(owner), checksum(sender))
        if session.closed_at:
            raise custom_error("SessionAlreadyClosed()")
        earned = (min(at, session.ends_at) - session.opened_at) * session.price_per_second
        seconds_today = at - max(session.opened_at, at // DAY * DAY) if at < session.ends_at else 0
        # The provider of a dispute waits for what it earned today, and has to claim it later.
        paid = earned if call.signed_by_provider else earned - seconds_today * session.price_per_second
        if not session.direct_payment and self.funding is not None and self.funding < paid:
            raise required("ERC20: transfer amount exceeds balance")
        if not commit:
            return
        refund = session.stake - min(earned, session.stake) if session.direct_payment else session.stake
        held = min(refund, self._stake_of(seconds_today * session.price_per_second, at))
        self._pay(session.user, refund - held)
        if held:
            account = self.account(session.user)
            hold = Hold(held, at // DAY * DAY + DAY)
            self.accounts.put(session.user, replace(account, holds=(*account.holds, hold)))
        self.sessions.put(
            session.id,
            replace(
                session,
                closed_at=at,
                closeout_receipt=call.receipt,
                closeout_type=0 if call.signed_by_provider else 1,
                provider_withdrawn=paid,
            ),
        )
        if paid:
            self._pay(session.provider, paid)
            # What providers got moves supply and budget, and with them every later stake.
            self.totals.put(_CLAIMED, self._claimed + paid)
            if not session.direct_payment and self.funding is not None:
                self.totals.put(_FUNDING, self.funding - paid)

    def _stake_of(self, cost: int, at: int) -> int:
        """The stake (wei) that stands for a cost: an early close leaves that of today's seconds until UTC midnight."""
        return cost * self.supply(at) * 100 // self._compute_balance(at)

    def _withdraw(self, user: str, at: int, *, commit: bool) -> None:
        account = self.account(user)
        free = sum(hold.amount for hold in account.holds if hold.release_at <= at)
        if not free:
            raise custom_error("SessionUserAmountToWithdrawIsZero()")
        if commit:
            waiting = tuple(hold for hold in account.holds if hold.release_at > at)
            self.accounts.put(user, replace(account, mor=account.mor + free, holds=waiting))


def _reward_share(now: float) -> int:
    """A ten-thousandth of what all pools paid until the start of the UTC day (wei).

    The compute pool is 24 % and the others 76 % of it, which makes supply / budget 7600 / 24 = 316.67 while nothing
    is claimed. A day's reward shrinks linearly.
    """
    days = max(1, (int(now) - _EMISSION_START) // DAY)
    return (days * _FIRST_DAY_REWARD - _DAILY_DECREASE * (days * (days - 1) // 2)) // 10_000
