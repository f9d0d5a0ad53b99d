"""The providers as the node meets them over the network: handshake, ping, closing report, and the prompt's door."""

from proxy_router_sim.chain import CHAIN_ID, Session
from proxy_router_sim.errors import RouterError
from proxy_router_sim.ethereum import Approval, checksum, hash_id, sign
from proxy_router_sim.marketplace import Marketplace, Provider


class HandshakeError(RouterError):
    """A provider did not agree to a session; open-by-model goes on with the next bid."""


class ProviderNetwork:
    """All providers; each can be switched off."""

    def __init__(self, marketplace: Marketplace, seed: int) -> None:
        self._marketplace = marketplace
        self._seed = seed
        self.offline: set[str] = set()

    def handshake(
        self, *, user: str, provider: str, bid_id: str, endpoint: str, now: float
    ) -> tuple[Provider, Approval, str]:
        """``session.request``: the provider that answered, its approval and signature. Repeatable, moves no money.

        Two requests within one millisecond get the same approval, because nothing else distinguishes them.
        """
        answering = self._dial(endpoint)
        if answering.address != provider:
            raise HandshakeError("received invalid signature from provider")
        bid = self._marketplace.bids.get(bid_id)
        if bid is None or not bid.active or bid.provider != provider:
            raise HandshakeError(f"response error: error: bid not found, result: {{{int(now * 1000)} 0x00}}")
        approval = Approval(bid_id, CHAIN_ID, user, int(now * 1000))
        return answering, approval, sign(provider, approval.encode())

    def ping(self, *, provider: str, endpoint: str) -> int:
        """Milliseconds a ping took; fixed for a provider and seed."""
        answering = self._dial(endpoint)
        if answering.address != provider:
            raise RouterError(f"provider request failed: invalid provider address {checksum(provider)}")
        return 20 + int(hash_id("ping", self._seed, provider)[2:6], 16) % 40

    def closing_report(self, session: Session) -> str | None:
        """The provider's signed report as hex without 0x; None if the provider cannot be reached."""
        if session.provider in self.offline:
            return None
        return sign(session.provider, f"report/{session.id}").removeprefix("0x")

    def admit_prompt(self, session: Session, endpoint: str, now: float) -> None:
        """What a provider checks before a prompt: that the time is not over. Not whether the session was closed."""
        if session.provider in self.offline:
            raise RouterError(f"provider request failed: {self._refused(endpoint)}")
        if session.ends_at * 1000 < int(now * 1000):
            raise RouterError("provider request failed: provider error: session expired")

    def _dial(self, endpoint: str) -> Provider:
        for provider in self._marketplace.providers.values():
            if provider.endpoint == endpoint and provider.address not in self.offline:
                return provider
        raise HandshakeError(f"provider request failed: code: 500, msg: <nil>, error: {self._refused(endpoint)}")

    @staticmethod
    def _refused(endpoint: str) -> str:
        return f"failed to connect to provider: dial tcp {endpoint}: connect: connection refused"
