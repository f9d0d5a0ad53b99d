"""The calls that the simulated contracts know, and the transactions that carry them."""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any


class RevertError(Exception):
    """The contract refuses; ``str()`` is the text the router decodes from it (contract section 6)."""


class NonceError(Exception):
    """The node refuses a transaction for its nonce; ``str()`` is the node's text (contract section 6)."""


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
    nonce: int
    call: Call
    due: float
    """Time (unix seconds) of the block that contains it, unless it is held."""
    held: bool = False
    """Not mined until it is released."""
    late: bool = False
    """Its sender gave it up, and it may be mined long after."""
    reverts: bool = False
    """It will be mined without effect, whatever the contract would say."""
    mined_at: float | None = None
    """Time (unix seconds) of the block that has it."""
    revert: str | None = None
    session_id: str | None = None
    """The session that it opened."""

    @property
    def mined(self) -> bool:
        """Whether a block has it. A reorganisation may take that back."""
        return self.mined_at is not None

    def unmine(self) -> None:
        """Forget the block that had it."""
        self.mined_at = self.revert = self.session_id = None

    def encode(self) -> dict[str, Any]:
        """A pending one as a JSON value. What a call of this process holds back is mined when the process is gone."""
        return {
            "hash": self.hash,
            "sender": self.sender,
            "nonce": self.nonce,
            "due": self.due,
            "held": self.held and self.late,
            "late": self.late,
            "reverts": self.reverts,
            "call": type(self.call).__name__,
            "arguments": asdict(self.call),
        }

    @classmethod
    def decode(cls, row: dict[str, Any]) -> "Transaction":
        """What ``encode`` gave."""
        stored = dict(row)
        call = _CALLS[stored.pop("call")](**stored.pop("arguments"))
        return cls(call=call, **stored)


def transaction_hash(*parts: str | int) -> str:
    """A 32-byte hash, lowercase hex with 0x. Nobody can check it against the real one, so the fast hash will do."""
    return "0x" + hashlib.sha3_256("/".join(str(part) for part in parts).encode()).hexdigest()
