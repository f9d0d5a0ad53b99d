"""The chain: MOR balances, allowances, bids and staked sessions in exact integers of wei and seconds.

Rules and figures are those of the proxy-router contract, sections 2.6b, 2.8 and 3. Nothing here waits: transactions
are submitted, and mined when somebody says what time it is.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from proxy_router_sim.ethereum import Approval, MalformedApprovalError, checksum, hash_id, sign
from proxy_router_sim.marketplace import NO_BID, WEI, Marketplace

CHAIN_ID = 8453
MIN_SESSION_SECONDS = 300
"""Constant in the contract (section 3)."""
MAX_SESSION_SECONDS = 7 * 86_400
"""Caps the time of a session, not its stake (section 3)."""
DAY = 86_400
MAX_UINT256 = 2**256 - 1
GAS_WEI = 2 * 10**12
"""What each transaction costs the sender in ETH; about a cent, as on an L2."""

_EMISSION_START = 1_707_350_400
"""8 February 2024 UTC, when the reward pools began to pay."""
_FIRST_DAY_REWARD = 14_400 * WEI
_DAILY_DECREASE = 2_468_994_701_000_000_000
_FIRST_BLOCK = 30_000_000


class RevertError(Exception):
    """The contract refuses; ``str()`` is the text the router decodes from it (section 6)."""


class UnknownSessionError(LookupError):
    """No session has this id."""


def custom_error(signature: str, *arguments: str) -> RevertError:
    """A custom error of the contract in the router's spelling."""
    return RevertError(f"EVM error: {signature} [{' '.join(arguments)}]")


def required(reason: str) -> RevertError:
    """A revert with a reason string."""
    return RevertError(f"execution reverted: {reason}")


@dataclass(slots=True)
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
class Approve:
    """ERC-20 approve: sets the allowance."""

    spender: str
    amount: int


@dataclass(frozen=True, slots=True)
class IncreaseAllowance:
    """ERC-20 increaseAllowance: adds to the allowance."""

    spender: str
    amount: int


@dataclass(frozen=True, slots=True)
class OpenSession:
    """openSession with a provider's approval (0x hex) and a stake (wei)."""

    approval: str
    signature: str
    stake: int
    direct_payment: bool


@dataclass(frozen=True, slots=True)
class CloseSession:
    """closeSession with a receipt (hex without 0x) that the provider signed, or else the user."""

    session_id: str
    receipt: str
    signed_by_provider: bool


@dataclass(frozen=True, slots=True)
class WithdrawStakes:
    """withdrawUserStakes: everything whose hold is over."""


Call = Approve | IncreaseAllowance | OpenSession | CloseSession | WithdrawStakes
_CALLS: dict[str, type[Call]] = {
    call.__name__: call for call in (Approve, IncreaseAllowance, OpenSession, CloseSession, WithdrawStakes)
}


@dataclass(slots=True)
class Transaction:
    """A call of ``sender`` that was sent, and once ``mined`` how it ended."""

    hash: str
    sender: str
    call: Call
    due: float
    """Time (unix seconds) of the block that contains it, unless it is held."""
    held: bool = False
    """Not mined until it is released."""
    late: bool = False
    """Its sender gave it up, and it may be mined long after."""
    reverts: bool = False
    """It will be mined without effect, whatever the contract would say."""
    mined: bool = False
    revert: str | None = None
    session_id: str | None = None
    """The session that it opened."""


@dataclass(slots=True)
class _Account:
    mor: int = 0
    eth: int = 0
    nonce: int = 0
    holds: list[Hold] = field(default_factory=list)


class Chain:
    """The ledger, advanced by ``mine_until``."""

    def __init__(self, marketplace: Marketplace, *, now: float, block_seconds: float) -> None:
        self.marketplace = marketplace
        self.block_seconds = block_seconds
        self.diamond = "0x" + hash_id("diamond")[-40:]
        self.mor_token = "0x" + hash_id("mor-token")[-40:]
        self.sessions: dict[str, Session] = {}
        self.mempool: list[Transaction] = []
        self._accounts: dict[str, _Account] = {}
        self._allowances: dict[tuple[str, str], int] = {}
        self._approvals: set[str] = set()
        self._claimed = 0
        self._anchor = (now, _FIRST_BLOCK)

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

    # -- reads ----------------------------------------------------------------------------------------------------

    def mor_balance(self, owner: str) -> int:
        """In wei."""
        return self._account(owner).mor

    def eth_balance(self, owner: str) -> int:
        """In wei."""
        return self._account(owner).eth

    def allowance(self, owner: str, spender: str) -> int:
        """In wei."""
        return self._allowances.get((owner, spender), 0)

    def holds(self, owner: str) -> list[Hold]:
        """Stakes on hold; no route of the router shows them."""
        return list(self._account(owner).holds)

    def session(self, session_id: str) -> Session:
        """Raises UnknownSessionError."""
        try:
            return self.sessions[session_id]
        except KeyError:
            raise UnknownSessionError(session_id) from None

    def sessions_of(self, user: str) -> list[Session]:
        """A user's sessions, oldest first."""
        return [session for session in self.sessions.values() if session.user == user]

    def supply(self, now: float) -> int:
        """What the session router calls totalMORSupply: all pools but the compute pool, plus claims (wei)."""
        return 7_600 * self._reward_share(now) + self._claimed

    def budget(self, now: float) -> int:
        """Today's budget: a hundredth of the compute pool's balance (wei)."""
        return self._compute_balance(now) // 100

    def stake_for(self, price_per_second: int, seconds: int, now: float) -> int:
        """The stake (wei) that buys ``seconds`` at a price; integer division, as the router does it."""
        return self.supply(now) * price_per_second * seconds // self.budget(now)

    def seconds_for(self, stake: int, price_per_second: int, now: float) -> int:
        """The duration that the contract derives from a stake, before its 7 day cap."""
        return stake * self._compute_balance(now) // (self.supply(now) * 100 * price_per_second)

    def _reward_share(self, now: float) -> int:
        """A ten-thousandth of what all pools paid until the start of the UTC day.

        The compute pool is 24 % and the others 76 % of it, which makes supply / budget 7600 / 24 = 316.67 while
        nothing is claimed. A day's reward shrinks linearly.
        """
        days = max(1, (int(now) - _EMISSION_START) // DAY)
        return (days * _FIRST_DAY_REWARD - _DAILY_DECREASE * (days * (days - 1) // 2)) // 10_000

    def _compute_balance(self, now: float) -> int:
        return 2_400 * self._reward_share(now) - self._claimed

    # -- changes --------------------------------------------------------------------------------------------------

    def fund(self, owner: str, *, mor: int, eth: int) -> None:
        """Set an account's balances (wei)."""
        account = self._account(owner)
        account.mor, account.eth = mor, eth

    def submit(self, sender: str, call: Call, now: float) -> Transaction:
        """Send a transaction; it is mined with the next block.

        Raises RevertError if it would fail against the present state, as gas estimation does.
        """
        account = self._account(sender)
        if account.eth < GAS_WEI:
            raise RevertError(
                f"insufficient funds for gas * price + value: address {checksum(sender)} "
                f"have {account.eth} want {GAS_WEI}"
            )
        self._execute(sender, call, now, commit=False)
        account.eth -= GAS_WEI
        account.nonce += 1
        transaction = Transaction(
            hash=hash_id("tx", sender, account.nonce, self.height(now), str(call)),
            sender=sender,
            call=call,
            due=self.next_block(now),
        )
        self.mempool.append(transaction)
        return transaction

    def hold(self, transaction: Transaction) -> None:
        """Keep a sent transaction from being mined until ``release``."""
        transaction.held = True

    def release(self, transaction: Transaction, now: float) -> None:
        """Let a transaction into the block after ``now``."""
        transaction.held = False
        transaction.due = self.next_block(now)

    def delay(self, transaction: Transaction, until: float | None) -> None:
        """Have a transaction mined only after ``until`` (unix seconds), or only when it is released."""
        transaction.late = True
        if until is None:
            transaction.held = True
        else:
            transaction.due = self.next_block(until)

    def drop(self, transaction: Transaction) -> None:
        """Have a sent transaction forgotten by everybody: it is never mined."""
        self.mempool.remove(transaction)

    def late_transactions(self) -> list[Transaction]:
        """Those that their sender gave up and that may still be mined."""
        return [transaction for transaction in self.mempool if transaction.late]

    def mine_until(self, now: float) -> bool:
        """Mine every transaction whose block has come; says whether there was any."""
        due = [t for t in self.mempool if not t.held and t.due <= now + 1e-6]
        for transaction in sorted(due, key=lambda t: t.due):
            self.mempool.remove(transaction)
            transaction.mined = True
            if transaction.reverts:
                transaction.revert = "execution reverted"
                continue
            try:
                transaction.session_id = self._execute(
                    transaction.sender, transaction.call, transaction.due, commit=True
                )
            except RevertError as revert:
                transaction.revert = str(revert)
        return bool(due)

    def _account(self, owner: str) -> _Account:
        return self._accounts.setdefault(owner, _Account())

    def _execute(self, sender: str, call: Call, at: float, *, commit: bool) -> str | None:
        """Check a call at ``at`` (unix seconds) and, to ``commit``, do it. Returns the id of a session it opened."""
        match call:
            case Approve():
                if commit:
                    self._allowances[sender, call.spender] = call.amount
            case IncreaseAllowance():
                raised = self.allowance(sender, call.spender) + call.amount
                if raised > MAX_UINT256:
                    raise required("arithmetic overflow")
                if commit:
                    self._allowances[sender, call.spender] = raised
            case OpenSession():
                return self._open(sender, call, int(at + 1e-6), commit=commit)
            case CloseSession():
                self._close(sender, call, int(at + 1e-6), commit=commit)
            case WithdrawStakes():
                self._withdraw(sender, int(at + 1e-6), commit=commit)
        return None

    def _open(self, user: str, call: OpenSession, at: int, *, commit: bool) -> str | None:
        """The order of these checks is the contract's and hides causes (section 2.6b): money comes first."""
        allowance = self.allowance(user, self.diamond)
        if allowance < call.stake:
            raise required("ERC20: insufficient allowance")
        account = self._account(user)
        if account.mor < call.stake:
            raise required("ERC20: transfer amount exceeds balance")
        try:
            approval = Approval.decode(call.approval)
        except MalformedApprovalError:
            raise RevertError("execution reverted") from None
        if approval.user != user or approval.chain_id != CHAIN_ID:
            # The real errors of these two are missing in the router's ABI and surface undecoded (section 6).
            raise RevertError("execution reverted")
        bid = self.marketplace.bids.get(approval.bid_id, NO_BID)
        if not bid.active:
            raise custom_error("SessionBidNotFound()")
        if call.signature.lower() != sign(bid.provider, call.approval):
            raise custom_error("SessionProviderSignatureMismatch()")
        if call.approval.lower() in self._approvals:
            raise custom_error("SessionDuplicateApproval()")
        seconds = min(self.seconds_for(call.stake, bid.price_per_second, at), MAX_SESSION_SECONDS)
        if seconds < MIN_SESSION_SECONDS:
            raise custom_error("SessionTooShort()")
        if not commit:
            return None
        if allowance != MAX_UINT256:
            self._allowances[user, self.diamond] = allowance - call.stake
        account.mor -= call.stake
        self._approvals.add(call.approval.lower())
        session = Session(
            id=hash_id("session", user, call.approval.lower()),
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
        self.sessions[session.id] = session
        return session.id

    def _close(self, sender: str, call: CloseSession, at: int, *, commit: bool) -> None:
        session = self.session(call.session_id)
        if session.user != sender:
            raise custom_error(
                "InsufficientRightsForOperation(address,address)", checksum(session.user), checksum(sender)
            )
        if session.closed_at:
            raise custom_error("SessionAlreadyClosed()")
        if not commit:
            return
        earned = (min(at, session.ends_at) - session.opened_at) * session.price_per_second
        refund = session.stake - min(earned, session.stake) if session.direct_payment else session.stake
        held = self._held(session, at) if at < session.ends_at and not session.direct_payment else 0
        user = self._account(session.user)
        user.mor += refund - held
        if held:
            user.holds.append(Hold(held, at // DAY * DAY + DAY))
        session.closed_at = at
        session.closeout_receipt = call.receipt
        session.closeout_type = 0 if call.signed_by_provider else 1
        if call.signed_by_provider:
            self._account(session.provider).mor += earned
            session.provider_withdrawn = earned
            if not session.direct_payment:
                # Paid by the protocol, so it moves supply and budget, and with them every later stake.
                self._claimed += earned

    def _held(self, session: Session, at: int) -> int:
        """Early close: min(stake, seconds used today x price x supply / budget) waits for UTC midnight."""
        used_today = at - max(session.opened_at, at // DAY * DAY)
        value = used_today * session.price_per_second * self.supply(at) * 100 // self._compute_balance(at)
        return min(session.stake, value)

    def _withdraw(self, user: str, at: int, *, commit: bool) -> None:
        account = self._account(user)
        free = sum(hold.amount for hold in account.holds if hold.release_at <= at)
        if not free:
            raise custom_error("SessionUserAmountToWithdrawIsZero()")
        if commit:
            account.holds = [hold for hold in account.holds if hold.release_at > at]
            account.mor += free

    # -- storage --------------------------------------------------------------------------------------------------

    def dump(self, now: float) -> dict[str, Any]:
        """Everything that must survive a restart, as JSON values. Bids are stored by their deletion only."""
        return {
            "anchor": [now, self.height(now)],
            "claimed": self._claimed,
            "accounts": {owner: asdict(account) for owner, account in self._accounts.items()},
            "allowances": [[owner, spender, amount] for (owner, spender), amount in self._allowances.items()],
            "approvals": sorted(self._approvals),
            "sessions": [asdict(session) for session in self.sessions.values()],
            "mempool": [self._dump_pending(transaction) for transaction in self.mempool],
            "bids_deleted_at": {bid.id: bid.deleted_at for bid in self.marketplace.bids.values() if bid.deleted_at},
        }

    @staticmethod
    def _dump_pending(pending: Transaction) -> dict[str, Any]:
        """What a hanging call of this process holds back is mined when the process is gone."""
        return {
            "hash": pending.hash,
            "sender": pending.sender,
            "due": pending.due,
            "held": pending.held and pending.late,
            "late": pending.late,
            "reverts": pending.reverts,
            "call": type(pending.call).__name__,
            "arguments": asdict(pending.call),
        }

    def restore(self, dumped: dict[str, Any]) -> None:
        """Take over what ``dump`` gave. Transactions that were pending then are still mined."""
        moment, height = dumped["anchor"]
        self._anchor = (moment, height)
        self._claimed = dumped["claimed"]
        self._accounts = {
            owner: _Account(a["mor"], a["eth"], a["nonce"], [Hold(**hold) for hold in a["holds"]])
            for owner, a in dumped["accounts"].items()
        }
        self._allowances = {(owner, spender): amount for owner, spender, amount in dumped["allowances"]}
        self._approvals = set(dumped["approvals"])
        self.sessions = {session["id"]: Session(**session) for session in dumped["sessions"]}
        self.mempool = []
        for stored in dumped["mempool"]:
            call = _CALLS[stored.pop("call")](**stored.pop("arguments"))
            self.mempool.append(Transaction(call=call, **stored))
        for bid_id in self.marketplace.bids:
            self.marketplace.set_bid_deleted_at(bid_id, dumped["bids_deleted_at"].get(bid_id, 0))
