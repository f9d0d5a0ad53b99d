"""Those in this process who wait for operations that a loop, here or elsewhere, carries out.

One look at the database for all of them, however many there are; and the word, while somebody waits, that somebody does.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from morpheus_common.logs import get_logger
from pymongo.errors import PyMongoError

from morpheus_sessions.documents import ENDED, OperationDocument, OperationState

log = get_logger(__name__)

LOOK_SECONDS = 0.25
"""How often it is looked at what other processes have ended."""
PATIENCE_SECONDS = 10.0
"""An open that began by itself is not begun any more so long after its last waiter has left."""


class Waiting:
    """Who waits for which operation. `patience` in seconds."""

    def __init__(self, *, patience: float = PATIENCE_SECONDS) -> None:
        self.patience = patience
        self._waiters: Counter[str] = Counter()
        self._events: dict[str, asyncio.Event] = {}
        self._looking: asyncio.Task[None] | None = None

    @contextmanager
    def for_end_of(self, operation_id: str) -> Iterator[asyncio.Event]:
        """Wait in the block for the event, which is set when the operation may have ended (clear it to wait on)."""
        event = self._events.setdefault(operation_id, asyncio.Event())
        self._waiters[operation_id] += 1
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        try:
            yield event
        finally:
            self._waiters[operation_id] -= 1
            if not self._waiters[operation_id]:
                del self._waiters[operation_id]
                del self._events[operation_id]

    def tell(self, operation_id: str) -> None:
        """Wake those who wait for an operation: it has ended."""
        event = self._events.get(operation_id)
        if event is not None:
            event.set()

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        said_at = float("-inf")
        known: set[str] = set()
        while self._waiters:
            waited_for = set(self._waiters)
            if loop.time() - said_at > self.patience / 3:
                said_at, known = loop.time(), set()
            try:
                if not waited_for <= known:
                    await self._say_that_somebody_waits(waited_for - known)
                known = waited_for
                await self._find_ended(waited_for)
            except PyMongoError as error:
                log.warning("what others have ended is not known", problem=type(error).__name__)
            await asyncio.sleep(LOOK_SECONDS)

    async def _say_that_somebody_waits(self, operations: set[str]) -> None:
        until = {"$dateAdd": {"startDate": "$$NOW", "unit": "millisecond", "amount": int(self.patience * 1000)}}
        await OperationDocument.get_pymongo_collection().update_many(
            {
                "_id": {"$in": list(operations)},
                "state": OperationState.PENDING.value,
                "patience_until": {"$type": "date"},
            },
            [{"$set": {"patience_until": until}}],
        )

    async def _find_ended(self, operations: set[str]) -> None:
        cursor = OperationDocument.get_pymongo_collection().find(
            {"_id": {"$in": list(operations)}, "state": {"$in": [state.value for state in ENDED]}}, {"_id": 1}
        )
        async for item in cursor:
            self.tell(item["_id"])
