"""What a private key is, its address, and those that everybody knows."""

import subprocess
import sys

import pytest
from morpheus_auth.private_keys import (
    DEVELOPMENT_ADDRESSES,
    ORDER,
    SMALLEST,
    address_of,
    is_development_key,
    read_private_key,
)
from morpheus_auth.signed_delegations import import_eth_account
from morpheus_common.errors import ApiError

Account = import_eth_account().Account

KEY = bytes.fromhex("4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318")
ADDRESS = "0x2c7536E3605D9C16a7a3D7b1898e529396a65c23"
IN_A_PROCESS = """
import ctypes, resource, morpheus_auth.__main__ as main
main.forbid_core_dumps()
PR_GET_DUMPABLE = 3
print(ctypes.CDLL(None).prctl(PR_GET_DUMPABLE), *resource.getrlimit(resource.RLIMIT_CORE))
"""
MNEMONICS = {
    "test test test test test test test test test test test junk": 20,
    "myth like bonus scare over problem client lizard pioneer submit female collect": 10,
}


def hexed(scalar: int) -> bytes:
    return f"{scalar:064x}".encode()


@pytest.mark.parametrize("text", [KEY.hex(), "0x" + KEY.hex(), KEY.hex().upper(), "0x" + KEY.hex().upper()])
def test_sixty_four_hex_digits_are_a_key_with_or_without_0x(text: str) -> None:
    assert read_private_key(text.encode()) == KEY


@pytest.mark.parametrize("scalar", [1, ORDER - 1])
def test_the_whole_range_of_the_curve_is_allowed(scalar: int) -> None:
    key = read_private_key(hexed(scalar))
    assert address_of(key) == Account.from_key(key).address


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"0x",
        KEY.hex()[1:].encode(),
        KEY.hex().encode() + b"0",
        b" " + KEY.hex().encode(),
        KEY.hex().encode() + b"\n",
        KEY.hex()[:32].encode() + b" " + KEY.hex()[32:].encode(),
        KEY.hex()[:31].encode() + b"_" + KEY.hex()[32:].encode(),
        b"0X" + KEY.hex().encode(),
        b"0x0x" + KEY.hex()[2:].encode(),
        KEY.hex()[:63].encode() + b"g",
        KEY.hex()[:62].encode() + "\N{ARABIC-INDIC DIGIT ONE}".encode(),
        KEY,
        hexed(0),
        hexed(ORDER),
        hexed(ORDER + 1),
        b"f" * 64,
    ],
)
def test_nothing_else_is_taken_or_mended_or_quoted(text: bytes) -> None:
    """C39."""
    with pytest.raises(ApiError) as refused:
        read_private_key(text)
    assert (refused.value.code, refused.value.param) == ("validation_error", "private_key")
    assert "64 hex digits" in refused.value.message
    assert KEY.hex()[:8] not in str(refused.value).lower()
    assert refused.value.__cause__ is refused.value.__context__ is None


def test_an_address_is_that_of_other_tools() -> None:
    assert address_of(KEY) == ADDRESS == Account.from_key(KEY).address


def test_the_accounts_of_development_chains_are_known() -> None:
    Account.enable_unaudited_hdwallet_features()
    accounts = [
        Account.from_mnemonic(mnemonic, account_path=f"m/44'/60'/0'/0/{number}")
        for mnemonic, count in MNEMONICS.items()
        for number in range(count)
    ]
    assert {account.address for account in accounts} == DEVELOPMENT_ADDRESSES
    assert all(is_development_key(bytes(account.key), account.address) for account in accounts)


@pytest.mark.parametrize("scalar", [1, 2, 3, 1_000_000, SMALLEST - 1, int("11" * 32, 16)])
def test_a_number_that_was_counted_is_known(scalar: int) -> None:
    key = scalar.to_bytes(32, "big")
    assert is_development_key(key, address_of(key))


def test_a_key_that_was_drawn_is_not_known() -> None:
    assert not is_development_key(KEY, ADDRESS)


def test_a_crash_of_auth_writes_no_memory_to_a_disk() -> None:
    """C39."""
    shown = subprocess.run([sys.executable, "-c", IN_A_PROCESS], capture_output=True, check=True, timeout=60)
    assert shown.stdout.split() == [b"0", b"0", b"0"]
