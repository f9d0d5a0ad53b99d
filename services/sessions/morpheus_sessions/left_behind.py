"""Routers that were taken out of PROXY_ROUTERS while sessions stood on their wallets: said aloud, and followed on chain.

Without its router nothing of a wallet can be closed; but any router reads what the chain says of a session. So what has
ended is settled, and stops counting as stake at risk; what is still open is named until its router is back.
"""

import asyncio

from morpheus_common.logs import get_logger
from morpheus_common.store.leases import Leases
from pymongo.errors import PyMongoError

from morpheus_sessions.documents import LIVE_STATES, RouterDocument
from morpheus_sessions.fleet import Fleet
from morpheus_sessions.journal import OPEN_STATES, Journal, StateChanged
from morpheus_sessions.listing import fingerprint
from morpheus_sessions.router import ROUTER_ERRORS

log = get_logger(__name__)

LEASE = "left-behind"
AT_ONCE = 500
"""Sessions of a wallet that are looked at in one round; the oldest first."""


class LeftBehind:
    """Looks after what stands on wallets without a router. Every worker says so; one at a time reads the chain."""

    def __init__(self, fleet: Fleet, journal: Journal, leases: Leases, *, seconds: float) -> None:
        self._fleet = fleet
        self._journal = journal
        self._leases = leases
        self._seconds = seconds

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                await self.look()
            except (PyMongoError, StateChanged, *ROUTER_ERRORS) as error:
                log.warning("wallets without a router not looked at", problem=str(error)[:200])
            await asyncio.sleep(self._seconds)

    async def look(self) -> None:
        """Make one round."""
        configured = [member.router.name for member in self._fleet.members]
        gone = await RouterDocument.find({"_id": {"$nin": configured}}).to_list()
        standing: dict[str, str] = {}
        for router in gone:
            count = await self._journal.count_on(router.wallet, LIVE_STATES)
            if count and await self._leases.acquire(LEASE) is not None:
                await self._settle(router.wallet)
                count = await self._journal.count_on(router.wallet, LIVE_STATES)
            if count:
                standing[router.id] = (
                    f"It is not in PROXY_ROUTERS, and {count} sessions stand on its wallet {router.wallet}: put it back until"
                    " they are closed."
                )
        for name in standing.keys() - self._fleet.left_behind.keys():
            log.critical("a router was taken out too early", router=name, problem=standing[name])
        self._fleet.left_behind = standing

    async def _settle(self, wallet: str) -> None:
        """Record as closed what the chain has closed."""
        for session in await self._journal.oldest_on(wallet, OPEN_STATES, limit=AT_ONCE):
            seen = await self._fleet.reader.session(session.chain_session or "")
            if seen is not None and not seen.is_open and fingerprint(seen) == fingerprint(session):
                log.info("closed on chain, without its router", session=session.chain_session, wallet=wallet)
                await self._journal.settle_close(session.id, seen.closed_at, operation=None)
