"""The consumer node: one wallet that opens and closes sessions, and passes prompts to providers one at a time."""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

from proxy_router_sim.agents import Purse
from proxy_router_sim.chain import (
    MAX_UINT256,
    Approve,
    Call,
    Chain,
    CloseSession,
    IncreaseAllowance,
    OpenSession,
    RevertError,
    Session,
    Transaction,
    UnknownSessionError,
    WithdrawStakes,
)
from proxy_router_sim.clock import Clock
from proxy_router_sim.errors import ConnectionCutError, RouterError
from proxy_router_sim.ethereum import Approval, checksum, sign
from proxy_router_sim.faults import AUTO_CLOSE, CALL_ACTIONS, CLOSING_REPORT, Fault, Faults, Stage, Strikes, strike
from proxy_router_sim.marketplace import Bid, Marketplace, Model
from proxy_router_sim.provider import HandshakeError, ProviderNetwork
from proxy_router_sim.store import KnownProvider, NodeStore

CLOSER_PERIOD_SECONDS = 60
"""How often the router closes what has run out (contract section 3)."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Words:
    """How the router names a transaction in its errors (contract sections 2.5, 2.6, 2.8)."""

    name: str
    failed: str = ""
    repeated: str = "nonce too low"
    """What building the second attempt says while the first is being mined."""

    def not_built(self, cause: str) -> str:
        """The contract or the node refused it at gas estimation."""
        built = "failed to build transaction" if self.name in {"open", "close"} else ""
        return ": ".join(part for part in ("failed to send transaction", self.failed, built, cause) if part)

    def not_mined(self, last: str) -> str:
        """It was sent, and then waited for in vain."""
        if self.name == "approve":
            return (
                "failed to send transaction: transaction timeout: tx not mined within timeout period: "
                "context deadline exceeded"
            )
        stuck = f"transaction not mined after all escalation attempts: last tx {last}"
        return f"failed to send transaction: {self.failed}: {stuck}"


_OPEN = _Words("open", "open session failed", "EVM error: SessionDuplicateApproval() []")
_ALLOWANCE = _Words("allowance", "approve failed")
_CLOSE = _Words("close", "close session failed", "EVM error: SessionAlreadyClosed() []")
_APPROVE = _Words("approve")
_WITHDRAW = _Words("withdraw", "withdraw")


class ConsumerNode:
    """What the routes call. ``save`` is called after every change, before the caller hears of it."""

    def __init__(
        self,
        *,
        wallet: str,
        marketplace: Marketplace,
        chain: Chain,
        providers: ProviderNetwork,
        store: NodeStore,
        clock: Clock,
        faults: Faults,
        save: Callable[[], None],
    ) -> None:
        self.wallet = wallet
        self.marketplace = marketplace
        self.chain = chain
        self.providers = providers
        self.store = store
        self.clock = clock
        self.faults = faults
        self.counters: Counter[str] = Counter()
        self.prompts_of_session: Counter[str] = Counter()
        self._unfinished: Counter[str] = Counter()
        self._turns: dict[str, asyncio.Lock] = {}
        self._chain_calls = 0
        self._unstruck = Strikes(Faults(), "", "")
        self._save = save

    def sync(self) -> None:
        """Bring the chain up to the clock."""
        if self.chain.mine_until(self.clock.now()):
            self._save()

    def session(self, session_id: str) -> Session:
        """Straight from the chain."""
        self.sync()
        try:
            return self.chain.session(session_id)
        except UnknownSessionError:
            raise RouterError("session not found") from None

    # -- opening --------------------------------------------------------------------------------------------------

    async def initiate(self, *, user: str, provider: str, bid_id: str, endpoint: str) -> tuple[str, Approval, str]:
        """First step of an open: the provider's key, approval and signature. Its key and address are remembered."""
        answering, approval, signature = await self.providers.handshake(
            user=user, provider=provider, bid_id=bid_id, endpoint=endpoint, now=self.clock.now()
        )
        self.counters["initiated"] += 1
        known = KnownProvider(answering.public_key, endpoint)
        if self.store.providers.get(provider) != known:
            self.store.providers[provider] = known
            self._save()
        return answering.public_key, approval, signature

    async def open_with_approval(
        self, *, approval: str, signature: str, stake: int, direct_payment: bool, strikes: Strikes, purse: Purse
    ) -> str:
        """Second step: top up the allowance, openSession, wait for one more block. Returns the session's id."""
        with self._calling_chain():
            return await self._open(OpenSession(approval, signature, stake, direct_payment), strikes, purse)

    async def open_by_bid(self, bid_id: str, seconds: int, *, strikes: Strikes, purse: Purse) -> str:
        """Both steps with one bid; the stake is the router's own arithmetic."""
        bid = self.marketplace.bids.get(bid_id)
        if bid is None:
            raise RouterError("failed to get bid: bid not found")
        if bid.provider == self.wallet:
            raise RouterError("cannot open session with own bid")
        with self._calling_chain():
            try:
                call = await self._agree(bid, seconds, direct_payment=False)
            except HandshakeError as error:
                raise RouterError(f"failed to initiate session: {error.text}") from error
            return await self._open(call, strikes, purse)

    async def open_by_model(
        self, model_id: str, seconds: int, *, direct_payment: bool, strikes: Strikes, purse: Purse
    ) -> str:
        """Both steps with the first rated bid whose provider agrees; what fails later is not tried again."""
        rated = self.marketplace.rated_bids(model_id)
        if not rated:
            raise RouterError("no bids available")
        refusals = []
        with self._calling_chain():
            for bid, _ in rated:
                if bid.provider == self.wallet:
                    continue
                try:
                    call = await self._agree(bid, seconds, direct_payment=direct_payment)
                except HandshakeError as error:
                    reason = f"failed to initiate session: {error.text}"
                    refusals.append(f'{{"provider":"{checksum(bid.provider)}","reason":"{reason}"}}')
                    continue
                return await self._open(call, strikes, purse)
        listed = f"[{','.join(refusals)}]" if refusals else "null"
        raise RouterError(f"no provider accepting session: {listed}")

    async def _agree(self, bid: Bid, seconds: int, *, direct_payment: bool) -> OpenSession:
        now = self.clock.now()
        endpoint = self.marketplace.providers[bid.provider].endpoint
        _, approval, signature = await self.initiate(
            user=self.wallet, provider=bid.provider, bid_id=bid.id, endpoint=endpoint
        )
        if direct_payment:
            stake = bid.price_per_second * seconds
        else:
            stake = self.chain.stake_for(bid.price_per_second, seconds, now)
        return OpenSession(approval.encode(), signature, stake, direct_payment)

    async def _open(self, call: OpenSession, strikes: Strikes, purse: Purse) -> str:
        purse.check(call.stake)
        await strikes.reached(Stage.BEFORE_ALLOWANCE)
        await self._top_up(call.stake, strikes)
        await strikes.reached(Stage.AFTER_ALLOWANCE)
        opened = await self._send(call, _OPEN, strikes)
        if opened.session_id is None:
            raise RouterError(
                "failed to send transaction: parse session receipt failed: Transaction failed with status 0"
            )
        await strikes.reached(Stage.MINED)
        # The router wants one more block on top of the one that has the session.
        await self._until(self.chain.next_block(self.clock.now()))
        purse.spend(call.stake, opened.hash)
        self.counters["opened"] += 1
        return opened.session_id

    async def _top_up(self, stake: int, strikes: Strikes) -> None:
        """Increase the allowance by the stake while it is under three stakes (contract section 3)."""
        allowance = self.chain.allowance(self.wallet, self.chain.diamond)
        if allowance >= 3 * stake or allowance + stake > MAX_UINT256:
            return
        raised = await self._send(IncreaseAllowance(self.chain.diamond, stake), _ALLOWANCE, strikes)
        if raised.revert is not None:
            raise RouterError("failed to send transaction: approve tx failed with status 0")

    # -- approving and closing ------------------------------------------------------------------------------------

    async def approve(self, spender: str, amount: int, strikes: Strikes) -> str:
        """Set the wallet's allowance (wei) for a spender. Returns the transaction's hash."""
        with self._calling_chain():
            transaction = await self._send(Approve(spender, amount), _APPROVE, strikes)
        if transaction.revert is not None:
            raise RouterError("failed to send transaction: transaction failed with status 0")
        await strikes.reached(Stage.MINED)
        return transaction.hash

    async def withdraw(self) -> str:
        """Send withdrawUserStakes, which no route of the router does. Returns the transaction's hash."""
        return (await self._send(WithdrawStakes(), _WITHDRAW, self._unstruck)).hash

    async def close(self, session_id: str, strikes: Strikes) -> str:
        """Close a session, with the provider's report or else the node's own. Returns the transaction's hash."""
        with self._calling_chain():
            return await self._close(session_id, strikes)

    async def _close(self, session_id: str, strikes: Strikes) -> str:
        self.sync()
        try:
            session = self.chain.session(session_id)
        except UnknownSessionError:
            raise RouterError("failed to get session report from user: session not found") from None
        await strikes.reached(Stage.REPORT)
        report = await self._report_of_provider(session)
        own_report = sign(self.wallet, f"report/{session.id}").removeprefix("0x")
        call = CloseSession(session.id, report or own_report, signed_by_provider=report is not None)
        closed = await self._send(call, _CLOSE, strikes)
        if closed.revert is not None:
            raise RouterError("failed to send transaction: close session tx failed with status 0")
        await strikes.reached(Stage.MINED)
        self.counters["closed"] += 1
        return closed.hash

    async def _report_of_provider(self, session: Session) -> str | None:
        """The provider's signed report. It is asked without a read deadline; None if it cannot be had."""
        about = f"{session.provider} {session.id} {session.bid_id}"
        fault = self.faults.take(CLOSING_REPORT, CALL_ACTIONS, about)
        if fault is None:
            return self.providers.closing_report(session)
        try:
            if fault.action not in {"delay", "hang"}:
                return None
            await fault.wait()
            return self.providers.closing_report(session)
        finally:
            self.faults.done(fault)

    async def close_expired(self) -> int:
        """Close the wallet's sessions whose time is over, one after another. Returns how many were closed."""
        self.sync()
        now = self.clock.now()
        closed = 0
        for session in self.chain.sessions_of(self.wallet):
            if session.closed_at or session.ends_at >= now:
                continue
            try:
                await self._close(session.id, Strikes(self.faults, AUTO_CLOSE, f"{session.id} {session.provider}"))
            except RouterError as error:
                logger.warning("session %s could not be closed: %s", session.id, error.text)
                continue
            except ConnectionCutError:
                logger.warning("closing session %s ended early", session.id)
                continue
            self.counters["closed_by_router"] += 1
            closed += 1
        return closed

    async def run_closer(self) -> None:
        """Close expired sessions every minute of the clock, for ever."""
        while True:
            await self.clock.sleep(CLOSER_PERIOD_SECONDS)
            await self.close_expired()

    # -- prompts --------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def prompt(self, session_id: str) -> AsyncIterator[Model]:
        """Wait for the session's turn, first come first served, and hold it. Gives the session's model."""
        session = self.session(session_id)
        known = self.store.providers.get(session.provider)
        if known is None:
            raise RouterError("provider not found")
        turn = self._turns.setdefault(session_id, asyncio.Lock())
        self._unfinished[session_id] += 1
        unfinished = self._unfinished[session_id]
        self.counters["prompts"] += 1
        self.prompts_of_session[session_id] += 1
        self.counters["max_unfinished_prompts_of_a_session"] = max(
            self.counters["max_unfinished_prompts_of_a_session"], unfinished
        )
        try:
            async with turn:
                await self.providers.admit_prompt(session, known.endpoint, self.clock.now())
                yield self.marketplace.models[session.model_id]
                self.counters["prompts_served"] += 1
        finally:
            self._unfinished[session_id] -= 1
            if not self._unfinished[session_id]:
                del self._unfinished[session_id], self._turns[session_id]

    # -- chain ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _calling_chain(self) -> Iterator[None]:
        """Counts the callers that are at the chain at once; the router itself has no lock (contract section 5)."""
        self.sync()
        self._chain_calls += 1
        self.counters["max_concurrent_chain_calls"] = max(
            self.counters["max_concurrent_chain_calls"], self._chain_calls
        )
        try:
            yield
        finally:
            self._chain_calls -= 1

    async def _send(self, call: Call, words: _Words, strikes: Strikes) -> Transaction:
        """Send a transaction of the wallet and wait until it is mined."""
        self.sync()
        try:
            transaction = self.chain.submit(self.wallet, call, self.clock.now())
        except RevertError as revert:
            raise RouterError(words.not_built(str(revert))) from revert
        with strikes.on(words.name) as fault:
            if fault is not None:
                await self._befall(transaction, fault, words)
        # Sent is sent: were this process to die now, the chain would still mine it.
        self._save()
        if words.name != _ALLOWANCE.name:
            await self._in_mempool(transaction, strikes)
        while not transaction.mined:
            await self._until(self.chain.next_block(self.clock.now()))
        return transaction

    async def _in_mempool(self, transaction: Transaction, strikes: Strikes) -> None:
        """Let a fault strike while the transaction waits for its block; what it holds is not mined meanwhile."""
        with strikes.at(Stage.IN_MEMPOOL) as fault:
            if fault is None:
                return
            if fault.action not in {"delay", "hang"}:
                await strike(fault)
            self.chain.hold(transaction)
            try:
                await fault.wait()
            finally:
                self.chain.release(transaction, self.clock.now())
                self._save()

    async def _befall(self, transaction: Transaction, fault: Fault, words: _Words) -> None:
        """What a fault makes of a transaction that was sent. Raises RouterError unless the router waits for it."""
        now = self.clock.now()
        match fault.action:
            case "revert":
                transaction.reverts = True
                return
            case "escalated":
                cause = str(fault.params.get("text", words.repeated))
                self._save()
                raise RouterError(words.not_built(cause))
            case "mined_late":
                self.chain.delay(transaction, None if fault.seconds is None else now + fault.seconds)
                patience = float(fault.params.get("patience", 0))
            case _:
                self.chain.drop(transaction)
                patience = fault.seconds or 0.0
        self._save()
        with fault.holding():
            await self.clock.sleep(patience)
        raise RouterError(words.not_mined(transaction.hash))

    def release_late(self, transaction_hash: str | None = None) -> list[str]:
        """Let late transactions, or the one with this hash, into the next block. Returns the hashes."""
        now = self.clock.now()
        released = [t for t in self.chain.late_transactions() if transaction_hash in {None, t.hash}]
        for transaction in released:
            self.chain.release(transaction, now)
        self._save()
        return [transaction.hash for transaction in released]

    async def _until(self, moment: float) -> None:
        await self.clock.sleep_until(moment)
        if self.chain.mine_until(max(moment, self.clock.now())):
            self._save()
