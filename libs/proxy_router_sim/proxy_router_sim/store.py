"""The node's own storage (Badger in the real router): which providers it has spoken to."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KnownProvider:
    """What the handshake left behind; without it prompts answer ``provider not found``."""

    public_key: str
    endpoint: str


class NodeStore:
    """Lost when the storage is wiped; the chain is not."""

    def __init__(self) -> None:
        self.providers: dict[str, KnownProvider] = {}

    def wipe(self) -> None:
        """Forget everything."""
        self.providers.clear()

    def dump(self) -> dict[str, list[str]]:
        """As JSON values."""
        return {address: [known.public_key, known.endpoint] for address, known in self.providers.items()}

    def restore(self, dumped: dict[str, list[str]]) -> None:
        """Take over what ``dump`` gave."""
        self.providers = {address: KnownProvider(*known) for address, known in dumped.items()}
