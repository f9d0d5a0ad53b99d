"""The marketplace the simulator starts with: providers, models and bids with fixed ids, and the rating of bids.

Nothing here depends on the seed of a simulator, so several of them (one wallet each) offer the same models.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from proxy_router_sim.ethereum import ZERO_ADDRESS, ZERO_HASH, address, hash_id
from proxy_router_sim.table import Table, as_is

WEI = 10**18
SEEDED_AT = 1_748_000_000
"""Unix seconds at which the first seeded thing was registered; the others follow a minute apart."""

_TAGS_OF_TYPE = {
    "STT": {"stt", "transcribe", "s2t", "speech", "speech-to-text", "speech2text"},
    "TTS": {"tts", "text-to-speech", "text2speech", "t2s"},
    "EMBEDDING": {"embedding", "embeddings"},
    "LLM": {"llm", "textgeneration", "text2text", "text-to-text", "t2t"},
}


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider node: its address signs approvals, its endpoint answers the handshake and prompts."""

    address: str
    endpoint: str
    stake: int
    """wei"""
    created_at: int
    """unix seconds"""
    tokens_per_second: float
    """z-score, as the rating uses it"""
    first_token: float
    """z-score of the time to the first token, higher is better"""

    @property
    def public_key(self) -> str:
        """Stands for the 65-byte key that the real handshake returns as ``message``."""
        return "0x04" + hash_id("public-key-x", self.address)[2:] + hash_id("public-key-y", self.address)[2:]


@dataclass(frozen=True, slots=True)
class Model:
    """A model of the marketplace."""

    id: str
    name: str
    tags: tuple[str, ...]
    owner: str
    stake: int
    """wei"""
    created_at: int
    """unix seconds"""

    @property
    def type(self) -> str:
        """Derived from the first tag that matches, in any case (proxy-router contract section 2.4)."""
        for tag in self.tags:
            for kind, names in _TAGS_OF_TYPE.items():
                if tag.lower() in names:
                    return kind
        return "UNKNOWN"


@dataclass(frozen=True, slots=True)
class Bid:
    """A provider's offer to serve a model."""

    id: str
    provider: str
    model_id: str
    price_per_second: int
    """wei per second"""
    nonce: int
    created_at: int
    """unix seconds"""
    deleted_at: int = 0
    """unix seconds, 0 while the bid is active"""

    @property
    def active(self) -> bool:
        return self.created_at != 0 and self.deleted_at == 0


NO_BID = Bid(ZERO_HASH, ZERO_ADDRESS, ZERO_HASH, 0, 0, 0)
"""What the contract returns for an unknown bid id."""


class Marketplace:
    """Providers, models and bids, each in the order of registration."""

    def __init__(self, providers: Iterable[Provider], models: Iterable[Model], bids: Iterable[Bid]) -> None:
        self.providers = {provider.address: provider for provider in providers}
        self.models = {model.id: model for model in models}
        self.bids = {bid.id: bid for bid in bids}
        self.deletions: Table[int] = Table(as_is, as_is)
        """Unix seconds at which bids were deleted since the start; 0 for one that was brought back."""

    def model_bids(self, model_id: str, *, active_only: bool) -> list[Bid]:
        """The bids of a model, oldest first; none for an unknown model."""
        return [b for b in self.bids.values() if b.model_id == model_id and (b.active or not active_only)]

    def provider_bids(self, provider: str, *, active_only: bool) -> list[Bid]:
        """The bids of a provider, oldest first."""
        return [b for b in self.bids.values() if b.provider == provider and (b.active or not active_only)]

    def rated_bids(self, model_id: str) -> list[tuple[Bid, float]]:
        """Active bids with their score, best first: the order in which open-by-model tries them.

        Weights and the division by the price in MOR are those of proxy-router contract section 2.4; the session
        duration, success and stake terms are the same for all seeded providers.
        """
        rated = []
        for bid in self.model_bids(model_id, active_only=True):
            provider = self.providers[bid.provider]
            quality = (
                0.24 * provider.tokens_per_second + 0.08 * provider.first_token + 0.24 * 0.5 + 0.32 * 1.0 + 0.12 * 0.5
            )
            rated.append((bid, quality / (bid.price_per_second / WEI)))
        return sorted(rated, key=lambda pair: -pair[1])

    def set_bid_deleted_at(self, bid_id: str, deleted_at: int) -> None:
        """Delete a bid at a moment (unix seconds), or bring it back with 0. KeyError for an unknown id."""
        self.bids[bid_id] = dataclasses.replace(self.bids[bid_id], deleted_at=deleted_at)
        self.deletions.put(bid_id, deleted_at)


def seeded() -> Marketplace:
    """Three providers; four LLM models with two or three bids each; one EMBEDDING, one TTS and one STT model with two
    bids each; and one more TTS model, whose only bid is deleted.
    """
    providers = [
        Provider(address("provider", name), endpoint, WEI // 5, SEEDED_AT + 60 * i, speed, first)
        for i, (name, endpoint, speed, first) in enumerate(
            [
                ("north", "10.77.0.11:3333", 0.55, 0.60),
                ("south", "10.77.0.12:3333", 0.50, 0.50),
                ("east", "10.77.0.13:3333", 0.45, 0.40),
            ]
        )
    ]
    # name, tags, (provider, price in 1e12 wei per second)
    catalogue: list[tuple[str, tuple[str, ...], list[tuple[int, int]]]] = [
        ("llama-3.3-70b", ("LLM",), [(0, 10), (1, 12), (2, 15)]),
        ("qwen3-235b", ("LLM", "reasoning"), [(1, 20), (2, 24)]),
        ("mistral-31-24b", ("llm",), [(2, 10), (0, 11)]),
        ("hermes-4-14b", ("Text2Text",), [(0, 13), (1, 10), (2, 14)]),
        ("text-embedding-bge-m3", ("Embeddings",), [(0, 10), (2, 12)]),
        ("tts-kokoro", ("TTS",), []),
        ("tts-chatterbox", ("tts",), [(1, 10), (2, 11)]),
        ("whisper-large-v3", ("speech2text",), [(0, 10), (1, 13)]),
    ]
    models, bids = [], []
    for i, (name, tags, offers) in enumerate(catalogue):
        created = SEEDED_AT + 3600 * (i + 1)
        model = Model(hash_id("model", name), name, tags, address("owner", name), WEI // 10, created)
        models.append(model)
        for j, (provider_index, price) in enumerate(offers):
            provider = providers[provider_index].address
            bids.append(Bid(hash_id("bid", name, j), provider, model.id, price * 10**12, 0, created + 60 * (j + 1)))
        if name in ("llama-3.3-70b", "tts-kokoro"):
            withdrawn = hash_id("bid", name, "withdrawn")
            bids.append(
                Bid(withdrawn, providers[1].address, model.id, 30 * 10**12, 1, created + 600, deleted_at=created + 1200)
            )
    return Marketplace(providers, models, sorted(bids, key=lambda bid: bid.created_at))
