"""How much of the process's memory the bodies of requests may take, in all and of one address."""

from collections import Counter


class BodyMemory:
    """Bytes of bodies held now. One address has at most half, so that nobody alone can take it from all others."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: Counter[str] = Counter()
        self._in_all = 0

    def take(self, address: str, size: int) -> bool:
        """Hold `size` bytes more for an address; tell whether there was room."""
        if self._in_all + size > self._limit or self._held[address] + size > self._limit // 2:
            return False
        self._held[address] += size
        self._in_all += size
        return True

    def give_back(self, address: str, size: int) -> None:
        """Hold `size` bytes less."""
        self._held[address] -= size
        self._in_all -= size
        if not self._held[address]:
            del self._held[address]
