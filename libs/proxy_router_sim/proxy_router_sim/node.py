"""The consumer node: one wallet that opens and closes sessions, and passes prompts to providers one at a time."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator

from proxy_router_sim.agents import Purse
from proxy_router_sim.chain import MAX_UINT256, Chain, Session, UnknownSessionError
from proxy_router_sim.clock import Clock
from proxy_router_sim.closer import AutoCloser
from proxy_router_sim.errors import RouterError
from proxy_router_sim.ethereum import Approval, checksum, sign
from proxy_router_sim.faults import AUTO_CLOSE, CALL_ACTIONS, CLOSING_REPORT, HANDSHAKE, Faults, Stage, Strikes
from proxy_router_sim.ledger import Ledger
from proxy_router_sim.marketplace import Bid, Marketplace, Model
from proxy_router_sim.provider import HUNG_UP, HandshakeError, ProviderNetwork, no_capacity
from proxy_router_sim.sender import ALLOWANCE, APPROVE, CLOSE, OPEN, WITHDRAW, Sender
from proxy_router_sim.store import KnownProvider, NodeStore
from proxy_router_sim.transactions import Approve, CloseSession, IncreaseAllowance, OpenSession, WithdrawStakes


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
        self.sender = Sender(wallet, chain, clock, save)
        self.closer = AutoCloser(wallet, chain, store, clock, self._close_expired_one)
        self.counters: Counter[str] = Counter()
        self.prompts_of_session: Counter[str] = Counter()
        self._unfinished: Counter[str] = Counter()
        self._turns: dict[str, asyncio.Lock] = {}
        self._chain_calls = 0
        self._unstruck = Strikes(Faults(), "", "")
        self._save = save

    def sync(self) -> None:
        """Bring the chain up to the clock."""
        self.sender.sync()

    def seen(self) -> Ledger:
        """The contracts' state as the node behind the router shows it."""
        self.sync()
        return self.chain.seen_ledger(self.clock.now())

    def session(self, session_id: str) -> Session:
        """Straight from the chain."""
        try:
            return self.seen().session(session_id)
        except UnknownSessionError:
            raise RouterError("session not found") from None

    def start(self) -> None:
        """What the router does when it starts: take the open sessions on chain into its storage."""
        self.sync()
        self.closer.rehydrate()
        self._save()

    def wipe(self) -> None:
        """Lose the storage and start again; the chain stays."""
        self.store.wipe()
        self.start()

    # -- opening --------------------------------------------------------------------------------------------------

    async def initiate(self, *, user: str, provider: str, bid_id: str, endpoint: str) -> tuple[str, Approval, str]:
        """First step of an open: the provider's key, approval and signature. Its key and address are remembered."""
        asked = self.clock.now()
        await self._strike_handshake(f"{provider} {bid_id} {endpoint}", asked)
        answering, approval, signature = await self.providers.handshake(
            user=user, provider=provider, bid_id=bid_id, endpoint=endpoint, now=asked
        )
        self.counters["initiated"] += 1
        known = KnownProvider(answering.public_key, endpoint)
        if self.store.providers.get(provider) != known:
            self.store.providers.put(provider, known)
            self._save()
        return answering.public_key, approval, signature

    async def _strike_handshake(self, about: str, asked: float) -> None:
        """Let a fault make a provider late, full (or whatever its text says), or hang up. Raises HandshakeError."""
        fault = self.faults.take(HANDSHAKE, CALL_ACTIONS, about)
        if fault is None:
            return
        try:
            if fault.action in {"delay", "hang"}:
                await fault.wait()
            elif fault.action == "drop":
                raise HandshakeError(HUNG_UP)
            else:
                raise HandshakeError(str(fault.params.get("text", no_capacity(int(asked * 1000)))))
        finally:
            self.faults.done(fault)

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
            stake = self.seen().stake_for(bid.price_per_second, seconds, now)
        return OpenSession(approval.encode(), signature, stake, direct_payment)

    async def _open(self, call: OpenSession, strikes: Strikes, purse: Purse) -> str:
        purse.check(call.stake)
        await strikes.reached(Stage.BEFORE_ALLOWANCE)
        await self._top_up(call.stake, strikes)
        await strikes.reached(Stage.AFTER_ALLOWANCE)
        opened = await self.sender.send(call, OPEN, strikes)
        session_id = opened.session_id
        if session_id is None:
            raise RouterError(
                "failed to send transaction: parse session receipt failed: Transaction failed with status 0"
            )
        # The router wants one more block on top of the one that has the session.
        confirmed = self.chain.next_block(opened.due)
        await strikes.reached(Stage.MINED)
        await self.sender.until(confirmed)
        purse.spend(call.stake, opened.hash)
        if session_id not in self.seen().sessions:
            raise RouterError("failed to get session: session not found")
        self.store.sessions.put(session_id, True)
        self.counters["opened"] += 1
        self._save()
        return session_id

    async def _top_up(self, stake: int, strikes: Strikes) -> None:
        """Increase the allowance by the stake while it is under three stakes (contract section 3)."""
        allowance = self.seen().allowance(self.wallet, self.chain.diamond)
        if allowance >= 3 * stake or allowance + stake > MAX_UINT256:
            return
        raised = await self.sender.send(IncreaseAllowance(self.chain.diamond, stake), ALLOWANCE, strikes)
        if raised.revert is not None:
            raise RouterError("failed to send transaction: approve tx failed with status 0")

    # -- approving and closing ------------------------------------------------------------------------------------

    async def approve(self, spender: str, amount: int, strikes: Strikes) -> str:
        """Set the wallet's allowance (wei) for a spender. Returns the transaction's hash."""
        with self._calling_chain():
            transaction = await self.sender.send(Approve(spender, amount), APPROVE, strikes)
        if transaction.revert is not None:
            raise RouterError("failed to send transaction: transaction failed with status 0")
        await strikes.reached(Stage.MINED)
        return transaction.hash

    async def withdraw(self) -> str:
        """Send withdrawUserStakes, which no route of the router does. Returns the transaction's hash."""
        return (await self.sender.send(WithdrawStakes(), WITHDRAW, self._unstruck)).hash

    async def close(self, session_id: str, strikes: Strikes) -> str:
        """Close a session, with the provider's report or else the node's own. Returns the transaction's hash."""
        with self._calling_chain():
            return await self._close(session_id, strikes)

    async def _close(self, session_id: str, strikes: Strikes) -> str:
        session = self.seen().sessions.get(session_id)
        if session is None:
            raise RouterError("failed to get session report from user: session not found")
        await strikes.reached(Stage.REPORT)
        report = await self._report_of_provider(session)
        own_report = sign(self.wallet, f"report/{session.id}").removeprefix("0x")
        call = CloseSession(session.id, report or own_report, signed_by_provider=report is not None)
        closed = await self.sender.send(call, CLOSE, strikes)
        if closed.revert is not None:
            raise RouterError("failed to send transaction: close session tx failed with status 0")
        await strikes.reached(Stage.MINED)
        self.counters["closed"] += 1
        return closed.hash

    async def _close_expired_one(self, session: Session) -> str:
        """A close by the router's own closer, which no caller asked for."""
        closed = await self._close(session.id, Strikes(self.faults, AUTO_CLOSE, f"{session.id} {session.provider}"))
        self.counters["closed_by_router"] += 1
        return closed

    async def close_expired(self) -> int:
        """Let the closer make a round now. Returns how many sessions were closed."""
        self.sync()
        return await self.closer.close_expired()

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

    # -- prompts --------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def prompt(self, session_id: str) -> AsyncIterator[Model]:
        """Wait for the session's turn, first come first served, and hold it. Gives the session's model."""
        session = self.session_of_prompt(session_id)
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

    def session_of_prompt(self, session_id: str) -> Session:
        """From the storage if the node opened it, else from the chain, of which it may see an old state."""
        self.sync()
        if session_id in self.store.sessions and session_id in self.chain.ledger.sessions:
            return self.chain.ledger.session(session_id)
        return self.session(session_id)

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
