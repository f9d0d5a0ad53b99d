"""Our records held beside the chain: what a pass finds, and what it does about it.

`plan` is pure: from what the chain and the journal say it makes findings, each with its reason. A dry run shows them; a
pass carries them out.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from morpheus_common.clock import utc_now
from morpheus_common.contracts.sessions import SessionState
from morpheus_common.logs import get_logger

from morpheus_sessions.documents import FindingKind, OperationDocument, SessionDocument
from morpheus_sessions.journal import OPEN_STATES, SETTLED_BLOCKS, Journal, StateChanged
from morpheus_sessions.listing import SLACK_SECONDS, Listing, fingerprint, read_listing
from morpheus_sessions.opening import COUNTED_ABSENCES, Opening
from morpheus_sessions.router import ChainSession, Router
from morpheus_sessions.settings import SessionsSettings
from morpheus_sessions.stake import deployment_of

log = get_logger(__name__)

LAG_SECONDS = 60.0
"""A node that lags may show a session open for so long after another has shown it closed."""
COMPLETE_EVERY = 20
"""A pass reads down to the last one's newest session; every so many passes it reads everything that is open."""


class Act(StrEnum):
    """What is to be done about a session."""

    ADOPT = "adopt"
    SETTLE_CLOSED = "settle_closed"
    PARK_EXPIRED = "park_expired"
    CLOSE_EXPIRED = "close_expired"
    CLOSE_AGAIN = "close_again"
    SUSPECT = "suspect"
    SEEN_AGAIN = "seen_again"
    ABANDON = "abandon"
    REPORT_FOREIGN = "report_foreign"
    REPORT_LOST = "report_lost"


@dataclass(frozen=True, slots=True)
class Finding:
    """A difference between chain and records. `reason` is for operators."""

    act: Act
    reason: str
    chain: ChainSession | None = None
    session: SessionDocument | None = None
    operation: OperationDocument | None = None


@dataclass(frozen=True, slots=True)
class Records:
    """What the journal knows of a wallet: sessions with an id on chain, and opens that were sent and not settled."""

    sessions: Sequence[SessionDocument]
    sent: Sequence[OperationDocument]


def plan(
    listing: Listing, records: Records, *, now: datetime, deployment: int, own_close_after: float
) -> list[Finding]:
    """Return what is to be done about the sessions in a listing, and about those that should be in it.

    `records` must have been read after the listing: what was sent before a session could be listed is then in them.
    `own_close_after`: seconds after its end at which we close a session that the router's closer has not.
    """
    ours = {session.chain_session: session for session in records.sessions}
    sent = {fingerprint(operation): operation for operation in records.sent}
    findings = []
    for seen in listing.sessions:
        session = ours.get(seen.id)
        if session is not None:
            finding = _known(seen, session, now, own_close_after)
        else:
            finding = _unknown(seen, sent.get((seen.bid_id, seen.stake)), deployment)
        if finding is not None:
            findings.append(finding)
    listed = {seen.id for seen in listing.sessions}
    findings += [_absent(session) for session in _missing(records.sessions, listed, listing)]
    return findings


def _known(seen: ChainSession, session: SessionDocument, now: datetime, own_close_after: float) -> Finding | None:
    if not seen.is_open:
        if session.state in OPEN_STATES:
            return Finding(Act.SETTLE_CLOSED, "closed on chain", seen, session)
        return None
    if session.state not in OPEN_STATES:
        if session.closed_at is not None and (now - session.updated_at).total_seconds() < LAG_SECONDS:
            return None
        return Finding(Act.CLOSE_AGAIN, f"recorded as {session.state}, open on chain", seen, session)
    over_for = now.timestamp() - seen.ends_at
    if session.state is SessionState.CLOSING or over_for <= 0:
        return _suspected(seen, session)
    if over_for > own_close_after:
        return Finding(Act.CLOSE_EXPIRED, "its time is over and the router's closer has not closed it", seen, session)
    if session.state is SessionState.ACTIVE:
        return Finding(Act.PARK_EXPIRED, "its time is over", seen, session)
    return None


def _suspected(seen: ChainSession, session: SessionDocument) -> Finding | None:
    return Finding(Act.SEEN_AGAIN, "was missing, and is on chain", seen, session) if session.absences else None


def _unknown(seen: ChainSession, operation: OperationDocument | None, deployment: int) -> Finding | None:
    if operation is not None:
        return Finding(Act.ADOPT, f"opened by operation {operation.id}", seen, operation=operation)
    if not seen.is_open:
        return None
    if deployment_of(seen.stake) == deployment:
        return Finding(Act.REPORT_LOST, "carries our tag, and no record stands for it", seen)
    return Finding(Act.REPORT_FOREIGN, "does not carry our tag", seen)


def _missing(sessions: Iterable[SessionDocument], listed: set[str], listing: Listing) -> list[SessionDocument]:
    return [
        session
        for session in sessions
        if session.state in OPEN_STATES
        and session.chain_session not in listed
        and listing.complete
        and session.opened_at is not None
        and session.opened_at.timestamp() >= listing.since
        and listing.height >= session.seen_block + SETTLED_BLOCKS
    ]


def _absent(session: SessionDocument) -> Finding:
    if session.absences + 1 >= COUNTED_ABSENCES:
        return Finding(Act.ABANDON, f"not on chain, seen {session.absences} times before", session=session)
    return Finding(Act.SUSPECT, "not on chain", session=session)


class Reconciler:
    """Holds the records of one wallet beside the chain."""

    def __init__(self, router: Router, journal: Journal, settings: SessionsSettings, opening: Opening) -> None:
        self._router = router
        self._journal = journal
        self._settings = settings
        self._opening = opening
        self._passes = 0

    async def find(self, *, complete: bool) -> tuple[Listing, list[Finding]]:
        """Read chain and journal and return what a pass would do. `complete`: back to our oldest open session."""
        wallet = self._router.wallet
        since = await self._journal.read_to(wallet)
        if complete and since:
            since = min([since, *await self._oldest(wallet)])
        listing = await read_listing(self._router, max(0, since - SLACK_SECONDS))
        records = Records(
            await self._journal.sessions_on_chain(
                wallet, OPEN_STATES, also=[session.id for session in listing.sessions if session.is_open]
            ),
            await self._journal.sent_opens(wallet),
        )
        findings = plan(
            listing,
            records,
            now=utc_now(),
            deployment=self._settings.deployment_number,
            own_close_after=self._settings.own_close_after,
        )
        return listing, findings

    async def run_pass(self, *, complete: bool = False) -> list[Finding]:
        """Make one pass and return what it found. What it could not do, the next one finds again."""
        complete = complete or self._passes % COMPLETE_EVERY == 0
        self._passes += 1
        listing, findings = await self.find(complete=complete)
        for finding in findings:
            try:
                await self._carry_out(finding)
            except StateChanged:
                log.info("changed meanwhile", act=finding.act, reason=finding.reason)
        reported = [item for item in findings if item.act in (Act.REPORT_FOREIGN, Act.REPORT_LOST)]
        await self._journal.keep_findings(
            self._router.wallet,
            self._router.name,
            [
                (FindingKind.LOST if item.act is Act.REPORT_LOST else FindingKind.FOREIGN, item.chain)
                for item in reported
                if item.chain is not None
            ],
            listing,
        )
        if listing.complete and listing.sessions:
            await self._journal.mark_read_to(self._router.wallet, max(item.opened_at for item in listing.sessions))
        return findings

    async def _oldest(self, wallet: str) -> list[int]:
        """When what must be seen was opened, at the earliest (Unix seconds)."""
        sessions = await self._journal.sessions_on(wallet, OPEN_STATES)
        return [int(session.opened_at.timestamp()) for session in sessions if session.opened_at is not None]

    async def _carry_out(self, finding: Finding) -> None:
        session, chain = finding.session, finding.chain
        if finding.act is Act.ADOPT and finding.operation is not None and chain is not None:
            log.warning("found on chain", session=chain.id, reason=finding.reason)
            await self._opening.adopt(finding.operation, chain)
        if session is None:
            return
        log.info("reconciled", act=finding.act, reason=finding.reason, session=session.chain_session)
        if finding.act is Act.SETTLE_CLOSED and chain is not None:
            await self._journal.settle_close(session.id, chain.closed_at, operation=None)
        elif finding.act is Act.PARK_EXPIRED:
            await self._journal.park(session.id, "expired")
        elif finding.act is Act.CLOSE_EXPIRED:
            await self._journal.request_close(session, "expired")
        elif finding.act is Act.SEEN_AGAIN:
            await self._journal.note_session_seen(session)
        elif finding.act is Act.CLOSE_AGAIN:
            await self._journal.close_again(session)
        elif finding.act in (Act.SUSPECT, Act.ABANDON):
            log.error("a session of ours is not on chain", session=session.chain_session)
            await self._journal.note_session_absence(
                session, spacing=self._settings.absence_spacing, enough=COUNTED_ABSENCES
            )
