"""Our records held beside the chain: what a pass finds, and what it does about it.

`plan` is pure: from what the chain and the journal say it makes findings, each with its reason. A dry run shows them; a
pass carries them out.
"""

from collections import Counter
from collections.abc import Awaitable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from morpheus_common.contracts.sessions import SessionState
from morpheus_common.logs import get_logger
from pymongo.errors import ConnectionFailure

from morpheus_sessions.documents import FindingKind, OperationDocument, SessionDocument
from morpheus_sessions.journal import OPEN_STATES, SETTLED_BLOCKS, Journal, StateChanged
from morpheus_sessions.listing import SLACK_SECONDS, Fingerprint, Listing, fingerprint, read_listing
from morpheus_sessions.opening import COUNTED_ABSENCES, Opening
from morpheus_sessions.router import ROUTER_ERRORS, ChainSession, Router
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
    MOVE = "move"
    DISPLACE = "displace"
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
    """What the journal knows of a wallet: sessions that were opened, oldest first, and opens that were sent and not
    settled. `standing`: ids of sessions that the chain has, though the listing does not show them.
    """

    sessions: Sequence[SessionDocument]
    sent: Sequence[OperationDocument]
    standing: frozenset[str] = frozenset()

    def by_id(self) -> dict[str, SessionDocument]:
        """Return the sessions by their ids on chain."""
        return {session.chain_session: session for session in self.sessions if session.chain_session is not None}

    def opened(self) -> dict[Fingerprint, SessionDocument]:
        """Return the sessions by what their opens sent."""
        return {fingerprint(session): session for session in self.sessions if session.stake is not None}


def plan(
    listing: Listing, records: Records, *, now: datetime, deployment: int, own_close_after: float
) -> list[Finding]:
    """Return what is to be done about the sessions in a listing, and about those that should be in it.

    `records` must have been read after the listing: what was sent before a session could be listed is then in them.
    `own_close_after`: seconds after its end at which we close a session that the router's closer has not.
    """
    ours, opened = records.by_id(), records.opened()
    sent = {fingerprint(operation): operation for operation in records.sent}
    matching = {
        seen.id for seen in listing.sessions if _is_its_own(seen, ours.get(seen.id), {*opened, *sent}, deployment)
    }
    moved: dict[str, Finding] = {}
    findings: list[Finding | None] = []
    for seen in listing.sessions:
        owner = opened.get(fingerprint(seen))
        if seen.id in matching:
            findings.append(_known(seen, ours[seen.id], now, own_close_after))
        elif (operation := sent.get(fingerprint(seen))) is not None and not _was_before(seen, operation):
            findings.append(Finding(Act.ADOPT, f"opened by operation {operation.id}", seen, operation=operation))
        elif owner is None or owner.id in moved or owner.chain_session in matching | records.standing:
            findings.append(_unknown(seen, deployment))
        elif owner.state in OPEN_STATES or (seen.is_open and not _just_closed(owner, now)):
            moved[owner.id] = Finding(Act.MOVE, "its block was undone, and it was mined again", seen, owner)
    listed = {seen.id for seen in listing.sessions}
    displaced = [
        Finding(Act.DISPLACE, "its id on chain is another open's by now", session=session)
        for chain_id, session in ours.items()
        if chain_id in listed - matching and session.id not in moved
    ]
    missing = [session for session in _missing(records.sessions, listed, listing) if session.id not in moved]
    # first of all, because an id has to be free before another session can have it
    return [*displaced, *moved.values(), *filter(None, findings), *map(_absent, missing)]


def in_question(listing: Listing, sessions: Sequence[SessionDocument]) -> list[SessionDocument]:
    """Return the sessions that seem to have another id on chain: the listing shows what their opens sent under another,
    and the one we know not at all.
    """
    records = Records(sessions, ())
    listed = {seen.id for seen in listing.sessions}
    ours, opened = records.by_id(), records.opened()
    owners = {seen.id: opened.get(fingerprint(seen)) for seen in listing.sessions}
    found = {
        owner.id: owner for chain_id, owner in owners.items() if owner is not None and ours.get(chain_id) is not owner
    }
    return [owner for owner in found.values() if owner.chain_session not in {None, *listed}]


def _is_its_own(
    seen: ChainSession, session: SessionDocument | None, opens: AbstractSet[Fingerprint], deployment: int
) -> bool:
    """Tell whether the session that we know by an id is what the chain has under it. Ids hang on the order of all opens
    on chain, so that a reorganisation can give one's id to another.
    """
    if session is None or fingerprint(session) == fingerprint(seen):
        return session is not None
    # with our tag, and of none of our opens: a record does not lose its session because of what else stands in it
    return fingerprint(seen) not in opens and deployment_of(seen.stake) == deployment


def _known(seen: ChainSession, session: SessionDocument, now: datetime, own_close_after: float) -> Finding | None:
    if not seen.is_open:
        if session.state in OPEN_STATES:
            return Finding(Act.SETTLE_CLOSED, "closed on chain", seen, session)
        return None
    if session.state not in OPEN_STATES:
        if _just_closed(session, now):
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


def _was_before(seen: ChainSession, operation: OperationDocument) -> bool:
    """Tell whether a session was on chain before an open was sent: its own open is one that no record tells of."""
    return operation.sent_at is not None and seen.opened_at < operation.sent_at.timestamp() - SLACK_SECONDS


def _just_closed(session: SessionDocument, now: datetime) -> bool:
    return session.closed_at is not None and (now - session.updated_at).total_seconds() < LAG_SECONDS


def _suspected(seen: ChainSession, session: SessionDocument) -> Finding | None:
    return Finding(Act.SEEN_AGAIN, "was missing, and is on chain", seen, session) if session.absences else None


def _unknown(seen: ChainSession, deployment: int) -> Finding | None:
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
        """Read chain and journal and return what a pass would do. `complete`: back to the oldest that may be open."""
        wallet = self._router.wallet
        since = await self._journal.read_to(wallet)
        if complete and since:
            since = min(since, await self._journal.oldest_watched(wallet) or since)
        listing = await read_listing(self._router, max(0, since - SLACK_SECONDS))
        # in this order: what is settled meanwhile is in both, not in neither
        sent = await self._journal.sent_opens(wallet, seen=listing.sessions)
        marks = {fingerprint(operation) for operation in sent}
        sessions = await self._journal.sessions_on_chain(
            wallet, OPEN_STATES, also=[item for item in listing.sessions if item.is_open or fingerprint(item) in marks]
        )
        records = Records(sessions, sent, await self._standing(listing, sessions))
        findings = plan(
            listing,
            records,
            # a worker's clock that jumps must not end every session
            now=await self._journal.now(),
            deployment=self._settings.deployment_number,
            own_close_after=self._settings.own_close_after,
        )
        return listing, findings

    async def run_pass(self, *, complete: bool = False) -> list[Finding]:
        """Make one pass and return what it found. What it could not do, the next one finds again."""
        complete = complete or self._passes % COMPLETE_EVERY == 0
        self._passes += 1
        wallet = self._router.wallet
        listing, findings = await self.find(complete=complete)
        moves = [finding for finding in findings if finding.act in (Act.MOVE, Act.DISPLACE)]
        done = [await self._is_done(self._move(moves, listing), Act.MOVE)]
        done += [await self._is_done(self._carry_out(finding), finding.act) for finding in findings]
        reported = [item for item in findings if item.act in (Act.REPORT_FOREIGN, Act.REPORT_LOST)]
        await self._journal.keep_findings(
            wallet,
            self._router.name,
            [
                (FindingKind.LOST if item.act is Act.REPORT_LOST else FindingKind.FOREIGN, item.chain)
                for item in reported
                if item.chain is not None
            ],
            listing,
        )
        if complete and listing.complete:
            found = Counter(finding.act.value for finding in findings)
            await self._journal.note_complete_pass(wallet, self._router.name, found, undone=done.count(False))
        if listing.complete and listing.sessions and all(done):
            await self._journal.mark_read_to(wallet, max(item.opened_at for item in listing.sessions))
        return findings

    async def _is_done(self, work: Awaitable[None], act: Act) -> bool:
        """Carry a finding out; False if it failed in a way that does not concern the others."""
        try:
            await work
        except StateChanged:
            log.info("changed meanwhile", act=act)
        except (ConnectionFailure, *ROUTER_ERRORS):
            raise
        except Exception:
            # one session that cannot be dealt with must not keep the others from it
            log.exception("not carried out; the next pass tries again", act=act)
            return False
        return True

    async def _standing(self, listing: Listing, sessions: Sequence[SessionDocument]) -> frozenset[str]:
        """Return the ids that the chain has after all, of sessions that seem to have another by now."""
        found = [await self._router.session(session.chain_session or "") for session in in_question(listing, sessions)]
        return frozenset(seen.id for seen in found if seen is not None)

    async def _move(self, findings: Sequence[Finding], listing: Listing) -> None:
        """Give sessions the ids that they have on chain by now, all at once: one may have had another's."""
        if not findings:
            return
        for finding in findings:
            log.error(
                "a session of ours has another id on chain",
                before=finding.session and finding.session.chain_session,
                now=finding.chain and finding.chain.id,
                reason=finding.reason,
            )
        moves = [(finding.session, finding.chain) for finding in findings if finding.session is not None]
        await self._journal.move(moves, block=listing.height)

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
