import pytest
from morpheus_auth.keyed_hashes import KeyedHashes
from morpheus_auth.login_throttle import network_of
from morpheus_auth.versioned_secrets import VersionedSecrets


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        (None, ""),
        ("unix socket", ""),
    ],
)
def test_what_one_customer_has_is_one_address(address: str | None, network: str) -> None:
    assert network_of(address) == network


def test_a_hash_needs_the_pepper_and_is_of_one_purpose_and_one_list_of_texts() -> None:
    hashes = KeyedHashes(VersionedSecrets({1: bytes(32)}))
    others = [
        KeyedHashes(VersionedSecrets({1: bytes(31) + b"x"})).new("a", "b", "c"),
        hashes.new("b", "b", "c"),
        hashes.new("a", "bc"),
        hashes.new("a", "b", "c", ""),
    ]
    assert hashes.new("a", "b", "c") not in others
    assert len(set(others)) == 4


def test_what_was_hashed_under_an_old_pepper_is_found_under_a_new_one() -> None:
    old, both = VersionedSecrets({1: bytes(32)}), VersionedSecrets({1: bytes(32), 2: b"x" * 32})
    assert KeyedHashes(old).new("invite", "code") in KeyedHashes(both).every("invite", "code")
    assert KeyedHashes(both).new("invite", "code") not in KeyedHashes(old).every("invite", "code")
