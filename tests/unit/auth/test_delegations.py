"""What a delegation has to be, and what its signature says."""

import importlib
import json
import subprocess
import sys
from typing import Any

import pytest
from eth_utils.crypto import keccak
from hypothesis import given, settings
from hypothesis import strategies as st
from morpheus_auth.signed_delegations import (
    MAX_BYTES,
    MAX_CAVEATS,
    OPEN_DELEGATE,
    ROOT_AUTHORITY,
    CheckedDelegation,
    DelegationRules,
    import_eth_account,
    may_be_of_a_key,
)
from morpheus_common.contracts.delegations import Verification
from morpheus_common.errors import ApiError

Account = import_eth_account().Account
encode_typed_data = importlib.import_module("eth_account.messages").encode_typed_data

GATEWAY = "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A"
DELEGATOR = Account.from_key("0x" + "22" * 32)
MANAGER = "0xdb9B1e94B5b69Df7e401DDbedE43491141047dB3"
RULES = DelegationRules(delegate=GATEWAY, chain_id=8453, manager=MANAGER, allow_unrestricted=False)
CAVEAT = {"enforcer": "0x" + "ab" * 20, "terms": "0x0102", "args": "0x"}
CURVE_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def unsigned(**fields: Any) -> dict[str, Any]:
    delegation = {
        "delegate": GATEWAY,
        "delegator": DELEGATOR.address,
        "authority": ROOT_AUTHORITY,
        "caveats": [CAVEAT],
        "salt": "0x7",
    }
    return delegation | fields


def struct_hash(delegation: dict[str, Any]) -> bytes:
    """EIP-712 by hand, as the contract's `getDelegationHash` does it: the test's own opinion of what is signed."""

    def address(text: str) -> bytes:
        return bytes(12) + bytes.fromhex(text[2:])

    caveat_type = keccak(text="Caveat(address enforcer,bytes terms)")
    caveats = b"".join(
        keccak(caveat_type + address(caveat["enforcer"]) + keccak(bytes.fromhex(caveat["terms"][2:])))
        for caveat in delegation["caveats"]
    )
    typed = "Delegation(address delegate,address delegator,bytes32 authority,Caveat[] caveats,uint256 salt)"
    salt = delegation["salt"]
    return keccak(
        keccak(text=typed + "Caveat(address enforcer,bytes terms)")
        + address(delegation["delegate"])
        + address(delegation["delegator"])
        + bytes.fromhex(delegation["authority"][2:])
        + keccak(caveats)
        + (salt if isinstance(salt, int) else int(salt[2:] or "0", 16)).to_bytes(32)
    )


def signed(*, by: Any = DELEGATOR, chain_id: int = 8453, manager: str = MANAGER, **fields: Any) -> dict[str, Any]:
    delegation = unsigned(**fields)
    domain_type = "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
    domain = keccak(
        keccak(text=domain_type)
        + keccak(text="DelegationManager")
        + keccak(text="1")
        + chain_id.to_bytes(32)
        + bytes(12)
        + bytes.fromhex(manager[2:])
    )
    digest = keccak(b"\x19\x01" + domain + struct_hash(delegation))
    signature = by.unsafe_sign_hash(digest).signature
    return delegation | {"signature": "0x" + bytes(signature).hex()}


GOOD = signed()


def check(delegation: Any, delegate: str = GATEWAY, rules: DelegationRules = RULES) -> CheckedDelegation:
    text = delegation if isinstance(delegation, str) else json.dumps(delegation)
    return rules.check(text, delegate)


def refused(delegation: Any, delegate: str = GATEWAY) -> ApiError:
    with pytest.raises(ApiError) as caught:
        check(delegation, delegate)
    assert caught.value.kind.status == 422
    return caught.value


@pytest.mark.parametrize("caveats", [[CAVEAT], [CAVEAT, {"enforcer": "0x" + "cd" * 20, "terms": "0x"}]])
@pytest.mark.parametrize("salt", ["0x", "0x00", "0x" + "ff" * 32, 0, 2**256 - 1])
def test_what_its_delegator_signed_is_verified(caveats: list[Any], salt: Any) -> None:
    delegation = signed(caveats=caveats, salt=salt)
    assert check(delegation) == CheckedDelegation(
        delegate=GATEWAY,
        delegator=DELEGATOR.address,
        hash="0x" + struct_hash(delegation).hex(),
        verification=Verification.VERIFIED,
    )


def test_a_decimal_salt_is_the_same_number() -> None:
    assert check(signed(salt="0x10") | {"salt": "16"}) == check(signed(salt=16))


def test_the_args_of_a_caveat_are_not_signed() -> None:
    delegation = signed()
    delegation["caveats"] = [CAVEAT | {"args": "0xffff"}]
    assert check(delegation) == check(signed())


@pytest.mark.parametrize(
    "delegation",
    [
        signed(by=Account.from_key("0x" + "33" * 32)),
        signed(chain_id=1),
        signed(manager="0x" + "12" * 20),
        signed() | {"salt": "0x8"},
        signed() | {"caveats": [CAVEAT | {"terms": "0x0103"}]},
        signed() | {"signature": "0x" + "00" * 65},
        signed() | {"signature": "0x" + "11" * 700},
        signed() | {"signature": "0x01"},
    ],
)
def test_what_no_key_of_the_delegator_signed_is_unverified(delegation: dict[str, Any]) -> None:
    assert check(delegation).verification is Verification.UNVERIFIED


def test_the_mirror_of_a_signature_is_unverified() -> None:
    raw = bytes.fromhex(signed()["signature"][2:])
    mirrored = raw[:32] + (CURVE_ORDER - int.from_bytes(raw[32:64])).to_bytes(32) + bytes([27 + 28 - raw[64]])
    # it is a signature of the same key, for those who do not look at s
    signable = encode_typed_data(full_message=_typed_data(signed()))
    assert Account.recover_message(signable, signature=mirrored) == DELEGATOR.address
    assert check(signed() | {"signature": "0x" + mirrored.hex()}).verification is Verification.UNVERIFIED


def test_a_v_that_the_contract_does_not_take_is_unverified() -> None:
    raw = bytes.fromhex(signed()["signature"][2:])
    without_offset = raw[:64] + bytes([raw[64] - 27])
    assert check(signed() | {"signature": "0x" + without_offset.hex()}).verification is Verification.UNVERIFIED


def _typed_data(delegation: dict[str, Any]) -> dict[str, Any]:
    from morpheus_auth.signed_delegations import _TYPES

    return {
        "types": _TYPES,
        "primaryType": "Delegation",
        "domain": {"name": "DelegationManager", "version": "1", "chainId": 8453, "verifyingContract": MANAGER},
        "message": {
            **delegation,
            "authority": bytes.fromhex(delegation["authority"][2:]),
            "salt": int(delegation["salt"], 16),
            "caveats": [{"enforcer": CAVEAT["enforcer"], "terms": b"\x01\x02"}],
        },
    }


@pytest.mark.parametrize(
    ("delegation", "param"),
    [
        ("", "signed_delegation_data"),
        ("not JSON", "signed_delegation_data"),
        ("[]", "signed_delegation_data"),
        ("null", "signed_delegation_data"),
        ('"{}"', "signed_delegation_data"),
        ("[" * 20_000, "signed_delegation_data"),
        ("9" * 20_000, "signed_delegation_data"),
        ([signed()], "signed_delegation_data"),
        ({"delegation": signed()}, "signed_delegation_data"),
        (unsigned(), "signed_delegation_data"),
        (signed() | {"signature": "0x"}, "signed_delegation_data"),
        (signed() | {"signature": "0x123"}, "signed_delegation_data"),
        (signed() | {"signature": 5}, "signed_delegation_data"),
        (signed() | {"salt": True}, "signed_delegation_data"),
        (signed() | {"salt": -1}, "signed_delegation_data"),
        (signed() | {"salt": 2**256}, "signed_delegation_data"),
        (signed() | {"salt": 1.0}, "signed_delegation_data"),
        (signed() | {"salt": "0x" + "f" * 65}, "signed_delegation_data"),
        (signed() | {"salt": "٣"}, "signed_delegation_data"),
        (signed() | {"salt": None}, "signed_delegation_data"),
        (signed() | {"delegator": "0x1"}, "signed_delegation_data"),
        (signed() | {"delegator": DELEGATOR.address + "\n"}, "signed_delegation_data"),
        (signed() | {"caveats": None}, "signed_delegation_data"),
        (signed() | {"caveats": [{"enforcer": CAVEAT["enforcer"]}]}, "signed_delegation_data"),
        (signed() | {"extra": 1}, "signed_delegation_data"),
        (json.dumps(signed())[:-1] + ', "salt": "0x9"}', "signed_delegation_data"),
        (json.dumps(signed()).replace('"0x7"', "NaN"), "signed_delegation_data"),
        (signed(caveats=[CAVEAT] * (MAX_CAVEATS + 1)), "signed_delegation_data"),
        (" " * MAX_BYTES + json.dumps(signed()), "signed_delegation_data"),
        (signed(delegate=DELEGATOR.address), "signed_delegation_data.delegate"),
        (signed(delegate=OPEN_DELEGATE), "signed_delegation_data.delegate"),
        (signed() | {"delegate": GATEWAY.swapcase().replace("X", "x")}, "signed_delegation_data.delegate"),
        (signed() | {"delegator": DELEGATOR.address.swapcase().replace("X", "x")}, "signed_delegation_data.delegator"),
        (signed(authority="0x" + "00" * 32), "signed_delegation_data.authority"),
    ],
)
def test_a_delegation_of_another_shape_or_for_another_is_refused(delegation: Any, param: str) -> None:
    assert refused(delegation).param == param


@pytest.mark.parametrize(
    "delegate", ["", "0x", GATEWAY[2:], GATEWAY + "0", DELEGATOR.address, OPEN_DELEGATE, GATEWAY.replace("E", "e", 1)]
)
def test_the_delegate_address_has_to_be_the_gateway_s(delegate: str) -> None:
    assert refused(signed(), delegate).param == "delegate_address"


@pytest.mark.parametrize("spell", [str.lower, lambda text: "0x" + text[2:].upper()])
def test_an_address_in_one_case_is_as_good(spell: Any) -> None:
    delegation = signed() | {"delegate": spell(GATEWAY), "delegator": spell(DELEGATOR.address)}
    assert check(delegation, spell(GATEWAY)) == check(signed())


def test_a_gateway_without_an_address_takes_none() -> None:
    with pytest.raises(ApiError, match="DELEGATE_ADDRESS"):
        check(signed(), rules=DelegationRules(delegate=None, chain_id=1, manager=MANAGER, allow_unrestricted=True))


def test_a_delegation_without_limits_is_refused_unless_the_operator_takes_it() -> None:
    assert refused(signed(caveats=[])).code == "delegation_unrestricted"
    lenient = DelegationRules(delegate=GATEWAY, chain_id=8453, manager=MANAGER, allow_unrestricted=True)
    assert check(signed(caveats=[]), rules=lenient).verification is Verification.VERIFIED


def test_as_many_caveats_and_bytes_as_are_allowed_are_taken() -> None:
    delegation = signed(caveats=[CAVEAT] * MAX_CAVEATS)
    text = json.dumps(delegation)
    assert check(text + " " * (MAX_BYTES - len(text))).verification is Verification.VERIFIED


def test_a_refusal_quotes_nothing_that_was_sent() -> None:
    """C54"""
    for delegation in (signed() | {"my-secret": 1}, signed() | {"salt": "my-secret"}, '{"my-secret"'):
        assert "my-secret" not in refused(delegation).message


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=70) | st.binary(min_size=64, max_size=64).map(lambda raw: raw + b"\x1b"))
def test_random_bytes_are_no_signature_and_raise_nothing(signature: bytes) -> None:
    delegation = unsigned() | {"signature": "0x" + signature.hex()}
    if signature:
        assert check(delegation).verification is Verification.UNVERIFIED
    else:
        refused(delegation)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 64),
    st.integers(1, 255),
    st.sampled_from([b"", b"\x00", b"\x1b"]),
)
def test_a_signature_with_a_byte_changed_never_verifies(position: int, change: int, tail: bytes) -> None:
    raw = bytearray.fromhex(GOOD["signature"][2:])
    raw[position] ^= change
    assert check(GOOD | {"signature": "0x" + (raw + tail).hex()}).verification is Verification.UNVERIFIED


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*GOOD, "x"]), inner),
        max_leaves=8,
    ),
    st.sampled_from([*GOOD]),
)
def test_whatever_stands_in_a_field_is_a_refusal_at_worst(value: Any, field: str) -> None:
    for text in (json.dumps(value), json.dumps(GOOD | {field: value})):
        try:
            check(text)
        except ApiError as error:
            assert error.kind.status == 422  # noqa: PT017 - a good value is no failure


def test_only_what_can_be_of_a_key_is_looked_at() -> None:
    good = bytes.fromhex(signed()["signature"][2:])
    assert may_be_of_a_key(good)
    for bad in (
        good[:-1],
        good + b"\x00",
        bytes(32) + good[32:],
        CURVE_ORDER.to_bytes(32) + good[32:],
        good[:32] + bytes(32) + good[64:],
        good[:32] + (CURVE_ORDER // 2 + 1).to_bytes(32) + good[64:],
        good[:64] + b"\x1d",
    ):
        assert not may_be_of_a_key(bad)


def test_a_worker_that_is_asked_for_no_delegation_never_imports_what_takes_long() -> None:
    code = (
        "import sys, morpheus_auth.worker; print([name for name in sys.modules if name.split('.')[0] == 'eth_account'])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_what_knows_ethereum_leaves_the_limit_of_recursion_as_it_was() -> None:
    """C16: or a list nested deeply enough would end the process."""
    code = (
        "import sys; before = sys.getrecursionlimit();"
        " from morpheus_auth.signed_delegations import import_eth_account;"
        " import_eth_account(); from eth_account import Account; from eth_account.messages import encode_typed_data;"
        " print(sys.getrecursionlimit() - before)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "0\n"
