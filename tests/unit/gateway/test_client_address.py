"""Where a request comes from, and who may say so."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from morpheus_gateway.client_address import resolve_address
from morpheus_gateway.settings import GatewaySettings
from pydantic import SecretStr, ValidationError

PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
STRANGER = "203.0.113.7"


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        (STRANGER, [], STRANGER),
        # nobody trusts a stranger's word
        (STRANGER, ["198.51.100.1"], STRANGER),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        # what stands left of the first stranger was written by him
        ("10.0.0.1", ["192.0.2.1, 198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["10.9.9.9, 198.51.100.1, 10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", ["192.0.2.1", "198.51.100.1 ,10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("fd00::1", ["198.51.100.1"], "198.51.100.1"),
        ("::ffff:10.0.0.1", ["::ffff:198.51.100.1"], "198.51.100.1"),
        # some proxies add the port
        ("10.0.0.1", ["198.51.100.1:4711"], "198.51.100.1"),
        ("10.0.0.1", ["[2001:db8::1]:4711"], "2001:db8::/64"),
        # what is no address names nobody: the last who is known counts
        ("10.0.0.1", ["198.51.100.1, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1, "], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1, unknown, 10.0.0.2"], "10.0.0.2"),
        ("", ["198.51.100.1"], "unknown"),
        ("/run/gateway.sock", ["198.51.100.1"], "unknown"),
    ],
)
def test_the_right_most_hop_that_is_not_trusted_is_the_client(peer: str, forwarded: list[str], expected: str) -> None:
    """C15"""
    assert resolve_address(peer, forwarded, PROXIES) == expected


def test_without_trusted_proxies_no_header_says_anything() -> None:
    """C15"""
    assert resolve_address("127.0.0.1", ["198.51.100.1"], ()) == "127.0.0.1"


@pytest.mark.parametrize("address", ["2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:DB8:1:2::2%eth0"])
def test_addresses_of_one_ipv6_network_are_one(address: str) -> None:
    assert resolve_address(address, [], ()) == "2001:db8:1:2::/64"


def test_addresses_of_two_ipv6_networks_are_two() -> None:
    assert resolve_address("2001:db8:1:3::1", [], ()) != resolve_address("2001:db8:1:2::1", [], ())


@given(st.lists(st.text()))
def test_no_header_breaks_it(forwarded: list[str]) -> None:
    assert resolve_address(STRANGER, forwarded, PROXIES) == STRANGER
    assert resolve_address("10.0.0.1", forwarded, PROXIES)


@given(st.lists(st.sampled_from(["10.0.0.2", "198.51.100.1", "x"])))
def test_a_client_cannot_choose_what_it_counts_as(forged: list[str]) -> None:
    assert resolve_address("10.0.0.1", [*forged, f"{STRANGER}, 10.0.0.2"], PROXIES) == STRANGER


def test_the_trusted_proxies_are_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUSTED_PROXIES", '["10.0.0.0/8", "fd00::/8", "192.0.2.1"]')
    settings = GatewaySettings(nats_seed=SecretStr("SU"))
    assert settings.trusted_proxies == (*PROXIES, ip_network("192.0.2.1/32"))
    monkeypatch.setenv("TRUSTED_PROXIES", '["10.0.0.1/8"]')
    with pytest.raises(ValidationError):
        GatewaySettings(nats_seed=SecretStr("SU"))
