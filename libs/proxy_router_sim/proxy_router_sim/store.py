"""The node's own storage (Badger in the real router): the providers it has spoken to, and its sessions."""

from dataclasses import asdict, dataclass
from typing import Any

from proxy_router_sim.table import Table, as_is


@dataclass(frozen=True, slots=True)
class KnownProvider:
    """What the handshake left behind; without it prompts answer ``provider not found``."""

    public_key: str
    endpoint: str


class NodeStore:
    """Lost when the storage is wiped; the chain is not."""

    def __init__(self) -> None:
        self.providers: Table[KnownProvider] = Table(asdict, lambda row: KnownProvider(**row))
        self.sessions: Table[bool] = Table(as_is, as_is)
        """Ids of the sessions that the node opened itself, or found on chain when it started."""
        self.failure: str | None = None
        """What the health check says of a storage that fails."""

    def wipe(self) -> None:
        """Forget everything."""
        for table in self.tables().values():
            table.empty()

    def tables(self) -> dict[str, Table[Any]]:
        """What survives a restart."""
        return {"known_providers": self.providers, "known_sessions": self.sessions}
