"""Delegations of MetaMask's Delegation Framework (ERC-7710): read strictly, hashed and checked as its contracts do it.

eth-account is imported where it is used: it takes most of a second (measured), and most processes of auth are never asked
for a delegation.
"""

import importlib
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Annotated, Any, Never

from eth_utils.address import is_checksum_address, to_checksum_address
from morpheus_common.contracts.delegations import Verification
from morpheus_common.errors import ApiError
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from morpheus_auth.private_keys import ORDER
from morpheus_auth.settings import ADDRESS_PATTERN, Address

MAX_BYTES = 32 * 1024
MAX_CAVEATS = 32
ROOT_AUTHORITY = "0x" + "ff" * 32
"""`ROOT_AUTHORITY` of the contract DelegationManager: the delegator gives what is his own."""
OPEN_DELEGATE = "0x0000000000000000000000000000000000000a11"
"""`ANY_DELEGATE` of the same contract: whoever holds the delegation may use it."""
_SIGNATURE_BYTES = 65
_FIELD = "signed_delegation_data"
_SALT = re.compile(r"0x[0-9a-fA-F]{0,64}|[0-9]{1,78}")
_TYPES = {
    "EIP712Domain": [
        {"name": "name", "type": "string"},
        {"name": "version", "type": "string"},
        {"name": "chainId", "type": "uint256"},
        {"name": "verifyingContract", "type": "address"},
    ],
    "Caveat": [{"name": "enforcer", "type": "address"}, {"name": "terms", "type": "bytes"}],
    "Delegation": [
        {"name": "delegate", "type": "address"},
        {"name": "delegator", "type": "address"},
        {"name": "authority", "type": "bytes32"},
        {"name": "caveats", "type": "Caveat[]"},
        {"name": "salt", "type": "uint256"},
    ],
}
"""A caveat's `args` are not signed: whoever redeems the delegation fills them in."""


def _read_salt(value: Any) -> int:
    """Return the salt as a number; MetaMask's kit writes it as hex, and zero as `0x` too."""
    salt = value
    if isinstance(value, str) and _SALT.fullmatch(value):
        salt = int(value[2:] or "0", 16) if value.startswith("0x") else int(value)
    if type(salt) is not int or not 0 <= salt < 2**256:
        msg = "a number of 256 bits is needed, as an integer or as 0x and hex digits"
        raise ValueError(msg)
    return salt


_Hash = Annotated[str, StringConstraints(pattern=r"^0x[0-9a-fA-F]{64}$")]
_Bytes = Annotated[str, StringConstraints(pattern=r"^0x(?:[0-9a-fA-F]{2})*$")]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Caveat(_Strict):
    """One limit of a delegation: the contract that enforces it, and its terms."""

    enforcer: Address
    terms: _Bytes
    args: _Bytes = "0x"


class SignedDelegation(_Strict):
    """A delegation as MetaMask's kit makes it."""

    delegate: Address
    delegator: Address
    authority: _Hash
    caveats: list[Caveat] = Field(max_length=MAX_CAVEATS)
    salt: Annotated[int, BeforeValidator(_read_salt)]
    signature: Annotated[str, StringConstraints(pattern=r"^0x(?:[0-9a-fA-F]{2})+$")]


@dataclass(frozen=True, slots=True)
class CheckedDelegation:
    """What a delegation says, for those who store it. Addresses as EIP-55 writes them, the hash as `0x` and hex."""

    delegate: str
    delegator: str
    hash: str
    verification: Verification


@dataclass(frozen=True, slots=True)
class DelegationRules:
    """What delegations have to be here: for `delegate` (none: there are no delegations), on one chain and manager."""

    delegate: str | None
    chain_id: int
    manager: str
    allow_unrestricted: bool

    def check(self, text: str, delegate_address: str) -> CheckedDelegation:
        """Read the JSON text of a delegation and tell what it says. It takes 10 ms of a CPU (measured).

        Raises `ApiError`: validation_error, delegation_unrestricted.
        """
        self._check_delegate(delegate_address, "delegate_address")
        delegation = read_delegation(text)
        delegate = self._check_delegate(delegation.delegate, f"{_FIELD}.delegate")
        delegator = checksummed(delegation.delegator, f"{_FIELD}.delegator")
        for caveat in delegation.caveats:
            checksummed(caveat.enforcer, f"{_FIELD}.caveats.enforcer")
        if delegation.authority.lower() != ROOT_AUTHORITY:
            raise _refusal(f"{_FIELD}.authority", "only a root delegation is taken, none that passes another one on")
        if not delegation.caveats and not self.allow_unrestricted:
            raise ApiError("delegation_unrestricted", param=_FIELD)
        delegation_hash, is_signed = self._judge(delegation, delegator)
        return CheckedDelegation(
            delegate, delegator, delegation_hash, Verification.VERIFIED if is_signed else Verification.UNVERIFIED
        )

    def _check_delegate(self, address: str, field: str) -> str:
        right = checksummed(address, field)
        if right.lower() == OPEN_DELEGATE:
            raise _refusal(field, "an open delegation could be used by everybody; name this gateway's address")
        if self.delegate is None:
            raise _refusal(field, "this gateway has no address to delegate to; its operator sets DELEGATE_ADDRESS")
        if right.lower() != self.delegate.lower():
            raise _refusal(field, "another address than this gateway's; delegate to the one its operator names")
        return right

    def _judge(self, delegation: SignedDelegation, delegator: str) -> tuple[str, bool]:
        """Return the hash by which the contract knows the delegation, and whether its delegator's own key signed it."""
        import_eth_account()
        from eth_account import Account
        from eth_account.messages import encode_typed_data
        from eth_keys.exceptions import BadSignature

        signable = encode_typed_data(
            full_message={
                "types": _TYPES,
                "primaryType": "Delegation",
                "domain": {
                    "name": "DelegationManager",
                    "version": "1",
                    "chainId": self.chain_id,
                    "verifyingContract": self.manager.lower(),
                },
                "message": {
                    "delegate": delegation.delegate.lower(),
                    "delegator": delegation.delegator.lower(),
                    "authority": _bytes(delegation.authority),
                    "caveats": [
                        {"enforcer": caveat.enforcer.lower(), "terms": _bytes(caveat.terms)}
                        for caveat in delegation.caveats
                    ],
                    "salt": delegation.salt,
                },
            }
        )
        signature, is_signed = _bytes(delegation.signature), False
        if may_be_of_a_key(signature):
            try:
                is_signed = Account.recover_message(signable, signature=signature) == delegator
            except BadSignature:
                # r is of no point on the curve
                is_signed = False
        return f"0x{signable.body.hex()}", is_signed


def read_delegation(text: str) -> SignedDelegation:
    """Read one delegation from JSON. Raises `ApiError` (validation_error), which quotes nothing of it."""
    if len(text.encode()) > MAX_BYTES:
        raise _refusal(_FIELD, f"it has more than {MAX_BYTES} bytes")
    try:
        value = json.loads(text, object_pairs_hook=_no_key_twice, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        # ValueError: also a key that stands twice, NaN, and a number of thousands of digits
        raise _refusal(_FIELD, "it is not valid JSON") from None
    try:
        return SignedDelegation.model_validate(value)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        raise _refusal(_FIELD, "; ".join(_told(problem) for problem in problems[:3])) from None


def may_be_of_a_key(signature: bytes) -> bool:
    """Tell whether the contract would ask which key made this signature: 65 bytes, v of 27 or 28, low s.

    Of two signatures that are each other's mirror the contract takes the one with the low s. What else has the form of
    no signature makes eth-account raise one of four exceptions (measured), so that it never gets there.
    """
    if len(signature) != _SIGNATURE_BYTES:
        return False
    r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:64])
    return signature[64] in {27, 28} and 0 < r < ORDER and 0 < s <= ORDER // 2


def import_eth_account() -> ModuleType:
    """Import eth-account without what a part of it does to the whole process: py_ecc raises the limit of recursion a
    hundredfold, and lists nested as deep then overflow the stack of a parser that is written in C, which ends the process.
    """
    limit = sys.getrecursionlimit()
    try:
        return importlib.import_module("eth_account")
    finally:
        sys.setrecursionlimit(limit)


def checksummed(address: str, field: str) -> str:
    """Return an address as EIP-55 writes it. Raises `ApiError` (validation_error) if its mixed case says a typo."""
    digits = address[2:]
    if not re.fullmatch(ADDRESS_PATTERN, address):
        raise _refusal(field, "an address is 0x and 40 hex digits")
    if digits not in {digits.lower(), digits.upper()} and not is_checksum_address(address):
        raise _refusal(field, "the address is mistyped: its capital letters are not those of EIP-55")
    return to_checksum_address(address.lower())


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text[2:])


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        msg = "a key stands twice"
        raise ValueError(msg)
    return members


def _refuse_constant(_: str) -> Never:
    msg = "JSON has no such number"
    raise ValueError(msg)


def _told(problem: Mapping[str, Any]) -> str:
    if problem["type"] == "extra_forbidden":
        # its place is its name, which somebody made up
        return "a field that a delegation does not have"
    return f"{'.'.join(map(str, problem['loc'])) or 'the delegation'}: {problem['msg']}"


def _refusal(field: str, reason: str) -> ApiError:
    return ApiError("validation_error", f"{field}: {reason}.", param=field)
