"""Our records held beside the chain: finding what an operation opened, and seeing what has ended."""

import time

from morpheus_common.contracts.sessions import SessionState
from morpheus_common.logs import get_logger

from morpheus_sessions.documents import OperationDocument, SessionDocument
from morpheus_sessions.journal import Journal
from morpheus_sessions.router import PAGE, ChainSession, Router

log = get_logger(__name__)

MAX_PAGES = 50
"""A listing is read newest first and stops when it has seen what it looks for, or after so many pages."""
SLACK_SECONDS = 3_600
"""An open is not older on chain than its submission, but clocks may differ."""


async def find_session(router: Router, operation: OperationDocument) -> ChainSession | None:
    """Return the chain session an operation opened: same bid, same stake to the wei. None if the node shows none."""
    if operation.stake is None or operation.bid_id is None or operation.sent_at is None:
        return None
    stake = int(operation.stake)
    not_before = int(operation.sent_at.timestamp()) - SLACK_SECONDS
    for page in range(MAX_PAGES):
        sessions = await router.sessions_of_wallet(offset=page * PAGE)
        for session in sessions:
            if session.bid_id == operation.bid_id and session.stake == stake:
                return session
        if len(sessions) < PAGE or sessions[-1].opened_at < not_before:
            return None
    return None


async def settle_from_chain(
    router: Router, journal: Journal, ours: list[SessionDocument], *, own_close_after: float
) -> None:
    """Hold `ours` (active or parked) beside the chain.

    Closed there: closed here. Its time over: out of its slot, for the router's own closer to close; if that has not
    happened `own_close_after` seconds later, we close it.
    """
    if not ours:
        return
    now = time.time()
    on_chain = await _listed(router, {session.chain_session for session in ours if session.chain_session})
    for session in ours:
        found = on_chain.get(session.chain_session or "")
        if found is None:
            continue
        if not found.is_open:
            log.info("session was closed on chain", session=found.id)
            await journal.settle_close(session.id, found.closed_at, operation=None)
        elif found.ends_at + own_close_after < now:
            log.warning("expired session still open on chain; closing it", session=found.id)
            await journal.request_close(session, "expired")
        elif found.ends_at < now and session.state is SessionState.ACTIVE:
            await journal.park(session.id, "expired")


async def _listed(router: Router, wanted: set[str]) -> dict[str, ChainSession]:
    found: dict[str, ChainSession] = {}
    for page in range(MAX_PAGES):
        sessions = await router.sessions_of_wallet(offset=page * PAGE)
        found.update((session.id, session) for session in sessions if session.id in wanted)
        if len(found) == len(wanted) or len(sessions) < PAGE:
            break
    return found
