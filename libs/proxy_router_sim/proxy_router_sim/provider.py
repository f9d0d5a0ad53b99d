"""The providers as the node meets them over the network: handshake, ping, closing report, and the prompt's door."""

import asyncio
from typing import Final

from proxy_router_sim.behaviour import Behaviour
from proxy_router_sim.chain import CHAIN_ID, Session
from proxy_router_sim.errors import RouterError
from proxy_router_sim.ethereum import Approval, checksum, hash_id, sign
from proxy_router_sim.marketplace import Marketplace, Provider

HUNG_UP: Final = "provider request failed: code: 400, msg: <nil>, error: failed to decode response: EOF"
"""What a handshake says of a provider that ends the connection."""


def no_capacity(milliseconds: int) -> str:
    """What a handshake says of a provider that is full, with the unix time at which it said so."""
    return f"response error: error: no capacity, result: {{{milliseconds} 0x00}}"


class HandshakeError(RouterError):
    """A provider did not agree to a session; open-by-model goes on with the next bid."""


class ProviderNetwork:
    """All providers, each with its behaviour."""

    def __init__(self, marketplace: Marketplace, seed: int) -> None:
        self._marketplace = marketplace
        self._seed = seed
        self._behaviours = {address: Behaviour() for address in marketplace.providers}

    def behaviour(self, provider: str) -> Behaviour:
        """How a provider behaves. KeyError for an address that is no provider's."""
        return self._behaviours[provider]

    @property
    def offline(self) -> list[str]:
        """The providers that cannot be reached."""
        return sorted(address for address, behaviour in self._behaviours.items() if not behaviour.online)

    async def handshake(
        self, *, user: str, provider: str, bid_id: str, endpoint: str, now: float
    ) -> tuple[Provider, Approval, str]:
        """``session.request``: the provider that answered, its approval and signature. Repeatable, moves no money.

        There is no read deadline: a provider that is late keeps its caller waiting (section 2.6b). Two requests
        within one millisecond get the same approval, because nothing else distinguishes them.
        """
        answering = self._dial(endpoint)
        behaviour = self._behaviours[answering.address]
        await behaviour.answer_handshake()
        if behaviour.hangs_up:
            raise HandshakeError(HUNG_UP)
        if answering.address != provider:
            raise HandshakeError("received invalid signature from provider")
        milliseconds = int(now * 1000)
        if behaviour.full:
            raise HandshakeError(no_capacity(milliseconds))
        bid = self._marketplace.bids.get(bid_id)
        if bid is None or not bid.active or bid.provider != provider:
            raise HandshakeError(f"response error: error: bid not found, result: {{{milliseconds} 0x00}}")
        approval = Approval(bid_id, CHAIN_ID, user, milliseconds)
        return answering, approval, sign(provider, approval.encode())

    def ping(self, *, provider: str, endpoint: str) -> int:
        """Milliseconds a ping took; fixed for a provider and seed."""
        answering = self._dial(endpoint)
        if answering.address != provider:
            raise RouterError(f"provider request failed: invalid provider address {checksum(provider)}")
        return 20 + int(hash_id("ping", self._seed, provider)[2:6], 16) % 40

    def closing_report(self, session: Session) -> str | None:
        """The provider's signed report as hex without 0x; None if the provider cannot be reached."""
        if not self._behaviours[session.provider].online:
            return None
        return sign(session.provider, f"report/{session.id}").removeprefix("0x")

    async def admit_prompt(self, session: Session, endpoint: str, now: float) -> None:
        """What a provider checks before a prompt: that the time is not over. Not whether the session was closed."""
        behaviour = self._behaviours[session.provider]
        if not behaviour.online:
            raise RouterError(f"provider request failed: {self._refused(endpoint)}")
        if behaviour.hangs_up:
            raise RouterError("provider request failed: provider closed connection without sending any data")
        if session.ends_at * 1000 < int(now * 1000):
            raise RouterError("provider request failed: provider error: session expired")
        await asyncio.sleep(behaviour.slow_seconds)

    def _dial(self, endpoint: str) -> Provider:
        for provider in self._marketplace.providers.values():
            if provider.endpoint == endpoint and self._behaviours[provider.address].online:
                return provider
        raise HandshakeError(f"provider request failed: code: 500, msg: <nil>, error: {self._refused(endpoint)}")

    @staticmethod
    def _refused(endpoint: str) -> str:
        return f"failed to connect to provider: dial tcp {endpoint}: connect: connection refused"
