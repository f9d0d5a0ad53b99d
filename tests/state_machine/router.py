"""A proxy-router over the ledger: what it answers, and all the ways in which it does not."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NoReturn

from morpheus_sessions.router import (
    Approval,
    Bid,
    ChainModel,
    ChainSession,
    Provider,
    Router,
    RouterRefused,
    RouterUnclear,
    RouterUnreachable,
)

from tests.state_machine.actors import current, gate
from tests.state_machine.ledger import SUPPLY, Fate, Ledger, Transaction

CHAIN_ID: Final = 8453
WALLET: Final = "0x" + "ab" * 20
MODELS: Final = {name: "0x" + f"{number:02x}" * 32 for number, name in enumerate(("small", "large"), start=1)}
PROVIDERS: Final = ["0x" + f"{number:02x}" * 20 for number in (0x51, 0x52)]
BIDS: Final = {
    "cheap small": Bid(id="0x" + "b1" * 32, provider=PROVIDERS[0], model_id=MODELS["small"], price=10**13),
    "dear small": Bid(id="0x" + "b2" * 32, provider=PROVIDERS[1], model_id=MODELS["small"], price=2 * 10**13),
    "large": Bid(id="0x" + "b3" * 32, provider=PROVIDERS[0], model_id=MODELS["large"], price=3 * 10**13),
}


class Fault(StrEnum):
    """What goes wrong with a call. Which calls a fault can befall stands in `FAULTS`."""

    NONE = "nothing goes wrong"
    AWAY = "no connection"
    FORBIDDEN = "403, nothing was done"
    ERROR = "500, nothing was done"
    DROP = "connection lost, nothing was done"
    LAG = "a node six blocks behind answers"
    SHORT_LAG = "a node one block behind answers"
    SILENT = "the provider does not answer"
    FULL = "the provider has no capacity"
    TWIN = "the approval of the call before, made in the same millisecond"
    GHOST = "500, and it was done"
    GHOST_DROP = "connection lost, and it was done"
    MASKED = "500 that names another cause, and it was done"
    REVERT = "mined and reverted"
    LATE = "500, and it is mined some day"
    LATE_DROP = "connection lost, and it is mined some day"
    SLOW = "connection lost, and it is in the next block"


class Call(StrEnum):
    """The kinds of calls."""

    READ = "read"
    HANDSHAKE = "handshake"
    OPEN = "open"
    CLOSE = "close"


_ANY: Final = (Fault.AWAY, Fault.ERROR, Fault.DROP)
_SENDING: Final = (
    *_ANY,
    Fault.GHOST,
    Fault.GHOST_DROP,
    Fault.MASKED,
    Fault.REVERT,
    Fault.LATE,
    Fault.LATE_DROP,
    Fault.SLOW,
)
FAULTS: Final = {
    Call.READ: (*_ANY, Fault.LAG, Fault.SHORT_LAG),
    Call.HANDSHAKE: (*_ANY, Fault.SILENT, Fault.FULL, Fault.TWIN),
    Call.OPEN: (*_SENDING, Fault.FORBIDDEN),
    Call.CLOSE: _SENDING,
}


@dataclass(frozen=True, slots=True)
class Trouble:
    """A fault of the first call of a kind that an actor makes, or of one after it: `skip` of them go well."""

    call: Call
    fault: Fault
    skip: int = 0


_MASK: Final = "execution reverted: ERC20: transfer amount exceeds balance"


class LedgerRouter(Router):
    """The router of the wallet. Every call is a gate before it takes effect, and one before its answer is read.

    `sends` is told of every approval before it goes out; `closes` of every session that is to be closed.
    """

    def __init__(
        self, ledger: Ledger, sends: Callable[[Approval, int], Awaitable[None]], closes: Callable[[str], None]
    ) -> None:
        # no connection: nothing of the base class's own is made
        self.name = "r1"
        self.wallet = WALLET
        self.chain = CHAIN_ID
        self.is_away = False
        self._ledger = ledger
        self._sends = sends
        self._closes = closes
        self._approvals: dict[str, Bid] = {}
        self._last_approval: dict[str, Approval] = {}

    async def aclose(self) -> None:
        """Nothing is open."""

    async def _call(self, name: str, call: Call) -> Fault:
        """Wait at the call's gate; return what goes wrong with it."""
        await gate(name)
        fault = _befalls(call)
        if self.is_away or fault is Fault.AWAY:
            raise RouterUnreachable("no connection")
        if fault is Fault.DROP:
            raise RouterUnclear("connection lost")
        if fault is Fault.ERROR:
            raise RouterRefused(500, "failed to get nonce: request error")
        return fault

    async def _read(self, name: str) -> int:
        """Return the height of the node that answers."""
        fault = await self._call(name, Call.READ)
        return self._ledger.height - {Fault.LAG: 6, Fault.SHORT_LAG: 1}.get(fault, 0)

    # reading

    async def identify(self) -> None:
        """It is known."""

    @property
    def in_wallet(self) -> int:
        """Its MOR, in wei, without asking."""
        return self._ledger.balance

    async def balance(self) -> int:
        await self._read("router.balance")
        return self._ledger.balance

    async def latest_block(self) -> int:
        return await self._read("router.latest_block")

    async def supply_and_budget(self) -> tuple[int, int]:
        await self._read("router.supply_and_budget")
        return SUPPLY, self._ledger.budget

    async def models(self) -> list[ChainModel]:
        await self._read("router.models")
        return [
            ChainModel(id=id_, name=name, owner=WALLET, tags=("LLM",), type="LLM", created_at=0, is_deleted=False)
            for name, id_ in MODELS.items()
        ]

    async def providers(self) -> dict[str, Provider]:
        await self._read("router.providers")
        return {address: Provider(address, f"{address}.example:3333") for address in PROVIDERS}

    async def active_bids_of(self, provider: str) -> list[Bid]:
        await self._read("router.active_bids_of")
        return [bid for bid in BIDS.values() if bid.provider == provider]

    async def rated_bids(self, model_id: str) -> list[Bid]:
        await self._read("router.rated_bids")
        return [bid for bid in BIDS.values() if bid.model_id == model_id]

    async def bid(self, bid_id: str) -> Bid | None:
        await self._read("router.bid")
        return next((bid for bid in BIDS.values() if bid.id == bid_id), None)

    async def session(self, session_id: str) -> ChainSession | None:
        height = await self._read("router.session")
        return next((session for session in self._ledger.at(height) if session.id == session_id), None)

    async def sessions_of_wallet(self, *, offset: int, limit: int = 100) -> list[ChainSession]:
        height = await self._read("router.sessions_of_wallet")
        return list(self._ledger.at(height))[offset : offset + limit]

    # acting

    async def initiate(self, *, provider: Provider, bid_id: str, **_: float) -> Approval:
        fault = await self._call("router.initiate", Call.HANDSHAKE)
        if fault is Fault.SILENT:
            raise RouterUnclear("timed out")
        if fault is Fault.FULL:
            raise RouterRefused(500, "failed to initiate session: response error: error: no capacity, result: {1 0x00}")
        bid = next(bid for bid in BIDS.values() if bid.id == bid_id)
        assert bid.provider == provider.address
        twin = self._last_approval.get(bid_id)
        if fault is Fault.TWIN and twin is not None:
            approval = twin
        else:
            number = len(self._approvals) + 1
            approval = Approval(f"{bid_id}{number:04d}", f"0xcc{number:04d}")
        self._approvals[approval.data] = bid
        self._last_approval[bid_id] = approval
        await gate("router.initiate answered")
        return approval

    async def open(self, approval: Approval, stake: int, **_: float) -> str:
        fault = await self._call("router.open", Call.OPEN)
        await self._sends(approval, stake)
        if fault is Fault.FORBIDDEN:
            raise RouterRefused(403, "method not allowed")
        bid = self._approvals[approval.data]
        sent = self._ledger.send_open(approval.data, bid, stake, _fate(fault))
        await self._carried_out("router.open answered", sent, fault, "open session failed")
        return sent.session

    async def close(self, session_id: str, **_: float) -> None:
        fault = await self._call("router.close", Call.CLOSE)
        self._closes(session_id)
        sent = self._ledger.send_close(session_id, _fate(fault))
        await self._carried_out("router.close answered", sent, fault, "close session failed")

    async def _carried_out(self, name: str, sent: Transaction, fault: Fault, what: str) -> None:
        """Mine what was sent, if it is to be mined now, and answer as the fault says."""
        if fault is Fault.SLOW:
            await gate(name)
            raise RouterUnclear("connection lost")
        if fault in {Fault.LATE, Fault.LATE_DROP, Fault.REVERT}:
            if fault is Fault.REVERT:
                self._ledger.transactions.remove(sent)
                self._ledger.mine()
            await gate(name)
            self._fail(fault, what)
        refusal = self._ledger.refusal(sent)
        if refusal is not None:
            # found when the gas is estimated: nothing goes out
            self._ledger.transactions.remove(sent)
            await gate(name)
            raise RouterRefused(500, f"failed to send transaction: {what}: failed to build transaction: {refusal}")
        self._ledger.mine(2)
        await gate(name)
        if not sent.succeeded:
            fault = Fault.REVERT
        if fault is not Fault.NONE:
            self._fail(fault, what)

    @staticmethod
    def _fail(fault: Fault, what: str) -> NoReturn:
        if fault in {Fault.GHOST_DROP, Fault.LATE_DROP}:
            raise RouterUnclear("connection lost")
        texts = {
            Fault.REVERT: "parse session receipt failed: Transaction failed with status 0",
            Fault.LATE: f"{what}: transaction not mined after all escalation attempts: last tx 0x01",
            Fault.MASKED: f"{what}: failed to build transaction: {_MASK}",
        }
        raise RouterRefused(500, "failed to send transaction: " + texts.get(fault, "failed to get session: not found"))


def _befalls(call: Call) -> Fault:
    """What goes wrong with a call of the actor that runs."""
    actor = current()
    trouble: Trouble | None = None if actor is None else actor.trouble
    if actor is None or trouble is None or trouble.call is not call:
        return Fault.NONE
    if trouble.skip:
        actor.trouble = Trouble(trouble.call, trouble.fault, trouble.skip - 1)
        return Fault.NONE
    actor.trouble = None
    return trouble.fault


def _fate(fault: Fault) -> Fate:
    return Fate.HELD if fault in {Fault.LATE, Fault.LATE_DROP} else Fate.NEXT
