"""The router's own closer of sessions whose time is over (contract sections 2.6b, 2.8 and 3)."""

import logging
from collections.abc import Awaitable, Callable
from typing import Final

from proxy_router_sim.chain import Chain, Session
from proxy_router_sim.clock import Clock
from proxy_router_sim.errors import ConnectionCutError, RouterError
from proxy_router_sim.store import NodeStore

PERIOD_SECONDS: Final = 60
"""How often it looks."""
_PAGE: Final = 255
_PAGES_WITHOUT_AN_OPEN_SESSION: Final = 3

logger = logging.getLogger(__name__)


class AutoCloser:
    """Closes one session after the other, each with its provider's report, for which it waits without a limit.

    It knows the sessions of the node's storage: those that the node opened with success, and those that were open on
    chain when it started. A session whose open ended in an error is found at the next start.
    """

    def __init__(
        self, wallet: str, chain: Chain, store: NodeStore, clock: Clock, close: Callable[[Session], Awaitable[str]]
    ) -> None:
        self.closing: str | None = None
        """Id of the session that it is busy with."""
        self._wallet = wallet
        self._chain = chain
        self._store = store
        self._clock = clock
        self._close = close

    def rehydrate(self) -> None:
        """Take the open sessions of the wallet from the chain into the storage, as the node does when it starts.

        Newest first, until three pages in a row had none.
        """
        sessions = self._chain.seen_ledger(self._clock.now()).sessions_of(self._wallet)[::-1]
        without = 0
        for start in range(0, len(sessions), _PAGE):
            found = [session for session in sessions[start : start + _PAGE] if not session.closed_at]
            for session in found:
                self._store.sessions.put(session.id, True)
            without = 0 if found else without + 1
            if without == _PAGES_WITHOUT_AN_OPEN_SESSION:
                return

    async def close_expired(self) -> int:
        """One round. Returns how many sessions were closed."""
        began = self._clock.now()
        known = self._chain.seen_ledger(began).sessions
        closed = 0
        for session in [known[session_id] for session_id in self._store.sessions if session_id in known]:
            if session.closed_at:
                # The router drops it when it sees the event.
                self._store.sessions.remove(session.id)
                continue
            if session.ends_at >= began:
                continue
            self.closing = session.id
            try:
                await self._close(session)
            except RouterError as error:
                logger.warning("session %s could not be closed: %s", session.id, error.text)
            except ConnectionCutError:
                logger.warning("closing session %s ended early", session.id)
            else:
                closed += 1
            finally:
                self.closing = None
        return closed

    async def run(self) -> None:
        """Make a round every minute of the clock, for ever."""
        while True:
            await self._clock.sleep(PERIOD_SECONDS)
            await self.close_expired()
