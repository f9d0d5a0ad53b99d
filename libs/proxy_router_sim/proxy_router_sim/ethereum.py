"""The few Ethereum encodings the simulator needs: ids, addresses, checksums and the provider's approval."""

import functools
import hashlib
from dataclasses import dataclass

from proxy_router_sim.keccak import keccak256

ZERO_ADDRESS = "0x" + "0" * 40
ZERO_HASH = "0x" + "0" * 64


@functools.lru_cache(maxsize=1024)
def hash_id(*parts: str | int) -> str:
    """A deterministic 32-byte id, lowercase hex with 0x, made from what identifies the thing."""
    return "0x" + keccak256("/".join(str(part) for part in parts).encode()).hex()


def address(*parts: str | int) -> str:
    """A deterministic 20-byte address, lowercase hex with 0x."""
    return "0x" + hash_id("address", *parts)[-40:]


@functools.lru_cache(maxsize=256)
def checksum(lowercase: str) -> str:
    """EIP-55 spelling, which the router uses inside error texts (proxy-router contract section 0)."""
    digits = lowercase.removeprefix("0x").lower()
    digest = keccak256(digits.encode()).hex()
    return "0x" + "".join(c.upper() if int(d, 16) >= 8 else c for c, d in zip(digits, digest, strict=False))


class MalformedApprovalError(ValueError):
    """The bytes are not an ABI-encoded approval."""


@dataclass(frozen=True, slots=True)
class Approval:
    """What a provider signs so that a user may open one session (proxy-router contract section 2.6b)."""

    bid_id: str
    chain_id: int
    user: str
    timestamp_ms: int
    """Milliseconds, although the contract compares seconds; so an approval never runs out in practice."""

    def encode(self) -> str:
        """abi.encode(bytes32 bid, uint256 chainId, address user, uint128 timestamp) as 0x hex."""
        return (
            "0x"
            + self.bid_id.removeprefix("0x")
            + f"{self.chain_id:064x}"
            + self.user.removeprefix("0x").rjust(64, "0")
            + f"{self.timestamp_ms:064x}"
        )

    @classmethod
    def decode(cls, encoded: str) -> "Approval":
        """Raises MalformedApprovalError unless ``encoded`` is exactly the four words."""
        digits = encoded.removeprefix("0x").lower()
        try:
            words = [bytes.fromhex(digits[i : i + 64]) for i in range(0, len(digits), 64)]
        except ValueError as error:
            raise MalformedApprovalError(str(error)) from error
        if len(words) != 4 or any(len(word) != 32 for word in words) or any(words[2][:12]):
            raise MalformedApprovalError("an approval is four words of 32 bytes")
        return cls(
            bid_id="0x" + words[0].hex(),
            chain_id=int.from_bytes(words[1], "big"),
            user="0x" + words[2][12:].hex(),
            timestamp_ms=int.from_bytes(words[3], "big"),
        )


def sign(signer: str, payload: str) -> str:
    """A stand-in for a 65-byte signature: only the simulator checks it, so a fast hash is enough."""
    first = hashlib.sha3_256(f"signature/{signer}/{payload.lower()}".encode()).digest()
    return "0x" + (first + hashlib.sha3_256(first).digest() + b"\x1b").hex()
