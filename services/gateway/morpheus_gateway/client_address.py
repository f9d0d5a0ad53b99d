"""Where a request comes from, as limits count it.

`X-Forwarded-For` is believed as far as it was written by proxies that the operator trusts, and no other header that says
who or where a client is (`Forwarded`, `X-Real-IP`, `X-User-…`) is read at all.
"""

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from starlette.requests import Request

from morpheus_gateway.context import context_of

UNKNOWN = "unknown"
"""Of a connection without an address; all of these are one caller."""
IPV6_PREFIX = 64
"""A household or a server is given this much: any two addresses in it can be the same client's."""
_MOST_HOPS = 32

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def client_address(request: Request) -> str:
    """Return the address that a request came from; an IPv6 address as the network of 64 bits that it is in."""
    peer = request.client.host if request.client is not None else ""
    forwarded = request.headers.getlist("x-forwarded-for")
    if not forwarded:
        return address_of_peer(peer)
    return resolve_address(peer, forwarded, context_of(request).settings.trusted_proxies)


@lru_cache(maxsize=4_096)
def address_of_peer(peer: str) -> str:
    """Return the address that a connection comes from. Remembered: most requests of a connection or a proxy have the same one."""
    return resolve_address(peer, (), ())


def resolve_address(peer: str, forwarded: Iterable[str], trusted: Iterable[Network]) -> str:
    """Return the right-most address that no trusted proxy has, of the hops in `forwarded` headers and then the peer.

    What stands left of it was written by a stranger. What is no address ends the search: it names nobody.
    """
    address = _read_address(peer)
    if address is None:
        return UNKNOWN
    hops = ",".join(forwarded).split(",")[-_MOST_HOPS:]
    networks = tuple(trusted)
    while hops and _is_in(address, networks):
        before = _read_address(hops.pop())
        if before is None:
            break
        address = before
    return _counted(address)


def is_trusted(peer: str, trusted: Iterable[Network]) -> bool:
    """Tell whether a connection comes from a proxy that the operator trusts."""
    address = _read_address(peer)
    return address is not None and _is_in(address, trusted)


def _is_in(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)


def _read_address(text: str) -> Address | None:
    """Read an address; some proxies add the port."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    # a socket for both kinds shows IPv4 so
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _counted(address: Address) -> str:
    if isinstance(address, IPv4Address):
        return str(address)
    return str(IPv6Network((int(address), IPV6_PREFIX), strict=False))
