"""What a pass and a wallet's loop would do next, in operators' words. Pure: nothing here reads or writes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from morpheus_common.contracts.operator import Planned, PlannedAct

from morpheus_sessions.documents import OperationDocument, OperationKind, OperationState, SessionDocument, wei
from morpheus_sessions.opening import COUNTED_ABSENCES
from morpheus_sessions.reconcile import Act, Finding

ACTS: Final[Mapping[Act, PlannedAct]] = {
    Act.ADOPT: PlannedAct.ADOPT,
    Act.MOVE: PlannedAct.MOVE,
    Act.DISPLACE: PlannedAct.DISPLACE,
    Act.SETTLE_CLOSED: PlannedAct.SETTLE_CLOSED,
    Act.PARK_EXPIRED: PlannedAct.PARK_EXPIRED,
    Act.CLOSE_EXPIRED: PlannedAct.CLOSE,
    Act.CLOSE_AGAIN: PlannedAct.CLOSE,
    Act.SUSPECT: PlannedAct.SUSPECT,
    Act.SEEN_AGAIN: PlannedAct.SEEN_AGAIN,
    Act.ABANDON: PlannedAct.ABANDON,
    Act.REPORT_FOREIGN: PlannedAct.FOREIGN,
    Act.REPORT_LOST: PlannedAct.LOST,
}
"""What operators are told of each act of a pass."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """An operation that has not ended, or an open that was given up; `wanted` as the journal sees it now."""

    operation: OperationDocument
    session: SessionDocument | None
    wanted: bool


def plan_of(
    findings: Iterable[Finding], waiting: Iterable[Waiting], *, now: datetime, abandon_after: float
) -> list[Planned]:
    """Return what is next, what a pass finds first. `abandon_after` in seconds."""
    planned = [_of_finding(finding) for finding in findings]
    adopted = {item.operation_id for item in planned if item.act is PlannedAct.ADOPT}
    planned += [
        _of_operation(item, now, timedelta(seconds=abandon_after))
        for item in waiting
        if item.operation.id not in adopted
    ]
    return planned


def _of_finding(finding: Finding) -> Planned:
    session, chain, operation = finding.session, finding.chain, finding.operation
    key_id = session.key_id if session is not None else operation.key_id if operation is not None else None
    stake = chain.stake if chain is not None else wei(session.stake) if session is not None else None
    return Planned(
        act=ACTS[finding.act],
        reason=finding.reason,
        id=session.id if session is not None else operation.session if operation is not None else None,
        session_id=chain.id if chain is not None else session.chain_session if session is not None else None,
        operation_id=None if operation is None else operation.id,
        key_id=key_id,
        stake=stake,
    )


def _of_operation(item: Waiting, now: datetime, abandon_after: timedelta) -> Planned:
    operation, session = item.operation, item.session
    act, reason = _next_step(item, now, abandon_after)
    if operation.not_before is not None and operation.not_before > now and act is not PlannedAct.WATCH:
        reason += f"; not before {(operation.not_before - now).total_seconds():.0f} s from now"
    return Planned(
        act=act,
        reason=reason,
        id=operation.session,
        session_id=None if session is None else session.chain_session,
        operation_id=operation.id,
        key_id=operation.key_id,
        stake=wei(operation.stake) if session is None or session.stake is None else wei(session.stake),
        under_way=True,
    )


def _next_step(item: Waiting, now: datetime, abandon_after: timedelta) -> tuple[PlannedAct, str]:
    operation = item.operation
    if operation.kind is OperationKind.CLOSE:
        if operation.stuck:
            return PlannedAct.CLOSE, f"its provider gives no closing report; tried {operation.attempts} times"
        return PlannedAct.CLOSE, f"asked for, tried {operation.attempts} times"
    if operation.state is OperationState.ABANDONED:
        return PlannedAct.WATCH, "given up; what appears of it on chain is adopted and closed"
    if operation.state is OperationState.PENDING:
        if not item.wanted:
            return PlannedAct.ABANDON, "nothing was sent, and nobody wants it any more"
        if operation.wallet is None:
            return PlannedAct.OPEN, "queued: the first wallet that is free takes it"
        return PlannedAct.OPEN, "a provider is to approve; nothing was sent"
    if not item.wanted:
        return PlannedAct.ABANDON, "sent, and nobody wants it any more; unless the chain shows it by then"
    overdue = operation.sent_at is not None and now - operation.sent_at > abandon_after
    if overdue and operation.absences >= COUNTED_ABSENCES:
        return PlannedAct.ABANDON, f"not on chain, seen {operation.absences} times, and sent too long ago"
    if overdue:
        counted = f"{operation.absences} of {COUNTED_ABSENCES} looks at the chain"
        return PlannedAct.WATCH, f"sent too long ago; given up after {counted}"
    if operation.state is OperationState.SENT:
        return PlannedAct.WATCH, "sent; the chain is looked at before anything is sent again"
    return PlannedAct.RESEND, "sent, not on chain yet; the same approval opens one session at most"
