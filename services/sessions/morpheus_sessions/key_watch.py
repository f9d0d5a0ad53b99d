"""Asks auth whether the keys of all sessions that are not closed still count.

An event tells of a revocation at once; this is for what no event tells: a key that has expired, an event that was lost
with a bus, a back-up of our records restored.
"""

import asyncio

from morpheus_common.bus.rpc import RpcClient
from morpheus_common.contracts.auth import ENDED_KEYS, KeyChanged, KeyIds
from morpheus_common.errors import ApiError
from morpheus_common.logs import get_logger
from morpheus_common.steps import Step, reached
from morpheus_common.store.leases import Leases
from pymongo.errors import PyMongoError

from morpheus_sessions.journal import Journal

log = get_logger(__name__)

KEYS_AT_ONCE = 500
LEASE = "key-watch"


async def digest_key_event(journal: Journal, payload: bytes | str) -> None:
    """Close what a key has left open that an event says has ended. Repeatable."""
    key = KeyChanged.model_validate_json(payload)
    await reached(Step.CLOSE_TRIGGERED, key.key_id)
    await journal.revoke(key.key_id, key.user_id)


class KeyWatch:
    """Closes what ended keys have left open. `seconds` between two rounds; one worker at a time makes them."""

    def __init__(self, rpc: RpcClient, journal: Journal, leases: Leases, *, seconds: float) -> None:
        self._rpc = rpc
        self._journal = journal
        self._leases = leases
        self._seconds = seconds

    async def run(self) -> None:
        """Make rounds until cancelled."""
        while True:
            await asyncio.sleep(self._seconds)
            try:
                if await self._leases.acquire(LEASE) is not None:
                    await self.look()
            except (PyMongoError, ApiError) as error:
                # no answer says nothing about a key
                log.warning("keys of sessions not looked at", problem=str(error)[:200])

    async def look(self) -> int:
        """Make one round; return how many keys had ended."""
        ended = 0
        after = ""
        while users := await self._journal.keys_in_use(after=after, limit=KEYS_AT_ONCE):
            answer = await self._rpc.call(ENDED_KEYS, KeyIds(key_ids=list(users)))
            for key_id in answer.key_ids:
                log.info("key has ended; its sessions are closed", key_id=key_id)
                await self._journal.revoke(key_id, users[key_id])
                ended += 1
            after = max(users)
        return ended
