"""How the router sends the transactions of its wallet: an escalator, no lock, and no nonces of its own (section 5)."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from proxy_router_sim.chain import Chain
from proxy_router_sim.clock import Clock
from proxy_router_sim.errors import RouterError
from proxy_router_sim.faults import Fault, Stage, Strikes, strike
from proxy_router_sim.transactions import Call, NonceError, RevertError, Transaction

_TIMEOUT: Final = "transaction timeout: tx not mined within timeout period: context deadline exceeded"


@dataclass(frozen=True, slots=True)
class Words:
    """How the router names a transaction in its errors, and how long it waits (contract sections 2.5, 2.6, 2.8)."""

    name: str
    failed: str = ""
    repeated: str = ""
    """What building a second attempt says while the first is being mined."""
    patience: float = 180.0
    """Seconds until the router gives up waiting for a block."""
    has_stage: bool = True
    """Whether its call can be struck while it is in the mempool."""

    def not_built(self, cause: str) -> str:
        """The contract or the node refused it at gas estimation."""
        return self._join("failed to build transaction" if self.repeated else "", cause)

    def not_sent(self, cause: str) -> str:
        """The node refused it."""
        return self._join("failed to send transaction" if self.failed else "", cause)

    def not_mined(self, last: str) -> str:
        """It was sent, and then waited for in vain."""
        return self._join(
            f"transaction not mined after all escalation attempts: last tx {last}" if self.failed else _TIMEOUT
        )

    def _join(self, *parts: str) -> str:
        return ": ".join(part for part in ("failed to send transaction", self.failed, *parts) if part)


OPEN: Final = Words("open", "open session failed", "EVM error: SessionDuplicateApproval() []")
ALLOWANCE: Final = Words("allowance", "approve failed", has_stage=False)
CLOSE: Final = Words("close", "close session failed", "EVM error: SessionAlreadyClosed() []")
APPROVE: Final = Words("approve", patience=60.0)
WITHDRAW: Final = Words("withdraw", "withdraw")


@dataclass(slots=True)
class NonceRaces:
    """Whether transactions of one wallet that overlap can collide.

    Between reading the pending nonce and sending lies the time that a real router needs to build a transaction. Without
    races that time is nothing.
    """

    enabled: bool = False
    seconds: float = 1.0
    """Chain time between reading the nonce and sending."""
    attempts: int = 1
    """How often a refused transaction is sent, each time with a new nonce. The router's escalator tries 5 times, its
    ``approve`` once."""


class Sender:
    """Sends for one wallet. ``save`` is called after every change."""

    def __init__(self, wallet: str, chain: Chain, clock: Clock, save: Callable[[], None]) -> None:
        self.wallet = wallet
        self.chain = chain
        self.races = NonceRaces()
        self.counters: Counter[str] = Counter()
        self._clock = clock
        self._save = save
        self._in_flight = 0

    def sync(self) -> None:
        """Bring the chain up to the clock."""
        if self.chain.mine_until(self._clock.now()):
            self._save()

    async def until(self, moment: float) -> None:
        """Wait for a moment of the clock (unix seconds) and mine what is due by then."""
        await self._clock.sleep_until(moment)
        if self.chain.mine_until(max(moment, self._clock.now())):
            self._save()

    async def send(self, call: Call, words: Words, strikes: Strikes) -> Transaction:
        """Send a transaction and wait until it is mined, be it reverted. Raises RouterError."""
        self.sync()
        self._in_flight += 1
        if self._in_flight > 1:
            self.counters["overlapping_transactions"] += 1
        self.counters["max_transactions_in_flight"] = max(self.counters["max_transactions_in_flight"], self._in_flight)
        try:
            transaction = await self._submit(call, words)
            with strikes.on(words.name) as fault:
                if fault is not None:
                    await self._befall(transaction, fault, words)
            # Sent is sent: were this process to die now, the chain would still mine it.
            self._save()
            if words.has_stage:
                await self._stand_in_mempool(transaction, strikes)
            given_up = self._clock.now() + words.patience
            while not transaction.mined:
                if self._clock.now() > given_up:
                    raise RouterError(words.not_mined(transaction.hash))
                await self.until(self.chain.next_block(self._clock.now()))
            return transaction
        finally:
            self._in_flight -= 1

    def release_late(self, transaction_hash: str | None = None) -> list[str]:
        """Let late transactions, or the one with this hash, into the next block. Returns the hashes."""
        released = [t for t in self.chain.mempool.late() if transaction_hash in {None, t.hash}]
        for transaction in released:
            self.chain.release(transaction, self._clock.now())
        self._save()
        return [transaction.hash for transaction in released]

    async def _submit(self, call: Call, words: Words) -> Transaction:
        refused: NonceError | None = None
        for _ in range(self.races.attempts):
            try:
                nonce = self.chain.pending_nonce(self.wallet)
                if self.races.enabled:
                    self.chain.estimate(self.wallet, call, self._clock.now())
                    await self.until(self._clock.now() + self.races.seconds)
                return self.chain.submit(self.wallet, call, self._clock.now(), nonce)
            except RevertError as revert:
                raise RouterError(words.not_built(str(revert))) from revert
            except NonceError as error:
                self.counters["nonce_conflicts"] += 1
                refused = error
        raise RouterError(words.not_sent(str(refused)))

    async def _stand_in_mempool(self, transaction: Transaction, strikes: Strikes) -> None:
        """Let a fault strike while the transaction waits for its block; what it holds is not mined meanwhile."""
        with strikes.at(Stage.IN_MEMPOOL) as fault:
            if fault is None:
                return
            if fault.action not in {"delay", "hang"}:
                await strike(fault)
            self.chain.hold(transaction)
            try:
                await fault.wait()
            except asyncio.CancelledError:
                self.chain.release(transaction, self._clock.now())
                raise
            self.chain.release(transaction, self._clock.now())
            self._save()

    async def _befall(self, transaction: Transaction, fault: Fault, words: Words) -> None:
        """What a fault makes of a transaction that was sent. Raises RouterError unless the router waits for it."""
        match fault.action:
            case "revert":
                transaction.reverts = True
                return
            case "escalated":
                self._save()
                raise RouterError(words.not_built(str(fault.params.get("text", words.repeated))))
            case "mined_late":
                until = None if fault.seconds is None else self._clock.now() + fault.seconds
                self.chain.postpone(transaction, until)
                patience = float(fault.params.get("patience", 0))
            case _:
                self.chain.drop(transaction)
                patience = fault.seconds or 0.0
        self._save()
        with fault.holding():
            await self._clock.sleep(patience)
        raise RouterError(words.not_mined(transaction.hash))
