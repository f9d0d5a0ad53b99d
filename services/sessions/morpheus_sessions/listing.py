"""Reading a wallet's sessions from the chain: newest first, down to where nothing can concern us any more.

Nodes lag and blocks are reorganised, so what a listing does not show is worth something only together with the height
of the node that gave it: the lower of the heights before and after.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from morpheus_sessions.documents import OperationDocument, SessionDocument, wei
from morpheus_sessions.router import PAGE, ChainSession, Router

MAX_PAGES = 1_000
"""A listing of 100,000 sessions; more than a wallet opens in the week that a session lasts at most."""
SLACK_SECONDS = 3_600
"""An open is not older on chain than its submission, but clocks differ."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look for one open found: its session, or None in the chain of `height` blocks."""

    session: ChainSession | None
    height: int


@dataclass(frozen=True, slots=True)
class Listing:
    """The sessions of a wallet opened since `since` (Unix seconds), newest first, in the chain of `height` blocks.

    `complete`: it goes back to `since`. Else there were more than can be read.
    """

    sessions: tuple[ChainSession, ...]
    since: int
    height: int
    complete: bool


Fingerprint = tuple[str | None, int | None]


def fingerprint(found: OperationDocument | SessionDocument | ChainSession) -> Fingerprint:
    """Return what an open and its one session have in common, whatever id the chain gives it: bid, and stake to the wei
    (with its tag).
    """
    stake = found.stake
    return found.bid_id, stake if isinstance(stake, int) else wei(stake)


def opened_by(operation: OperationDocument, session: ChainSession) -> bool:
    """Tell whether an operation opened a session."""
    return fingerprint(session) == fingerprint(operation)


async def _newest_first(router: Router, since: int) -> AsyncIterator[ChainSession]:
    """Yield the wallet's sessions opened at `since` or later. Raises `StopAsyncIteration` early at the bound."""
    for page in range(MAX_PAGES):
        sessions = await router.sessions_of_wallet(offset=page * PAGE)
        for session in sessions:
            if session.opened_at < since:
                return
            yield session
        if len(sessions) < PAGE:
            return


async def look_for(router: Router, operation: OperationDocument) -> Seen:
    """Look for the session that an operation opened."""
    before = await router.latest_block()
    since = 0 if operation.sent_at is None else int(operation.sent_at.timestamp()) - SLACK_SECONDS
    async for session in _newest_first(router, since):
        if opened_by(operation, session):
            return Seen(session, before)
    return Seen(None, min(before, await router.latest_block()))


async def read_listing(router: Router, since: int) -> Listing:
    """Read the wallet's sessions opened at `since` (Unix seconds) or later."""
    before = await router.latest_block()
    found: dict[str, ChainSession] = {}
    read = 0
    async for session in _newest_first(router, since):
        # what is opened while we read moves the pages: a session can come twice
        found[session.id] = session
        read += 1
    height = min(before, await router.latest_block())
    return Listing(tuple(found.values()), since, height, complete=read < MAX_PAGES * PAGE)
