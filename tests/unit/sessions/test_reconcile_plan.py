"""What a pass makes of a listing and the records: no server, every case."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from morpheus_common.contracts.sessions import SessionState, Slot
from morpheus_sessions.documents import OperationDocument, OperationKind, OperationState, SessionDocument
from morpheus_sessions.listing import Listing
from morpheus_sessions.reconcile import Act, Finding, Records, in_question, plan
from morpheus_sessions.router import ChainSession
from morpheus_sessions.stake import tagged

DEPLOYMENT = 7
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
STAKE = tagged(11_400_000_000_000_000_000, deployment=DEPLOYMENT, counter=1)
HEIGHT = 1_000
ID = "0x" + "1" * 64
OTHER = "0x" + "2" * 64


def on_chain(**fields: Any) -> ChainSession:
    opened_at = int(NOW.timestamp()) - 600
    known: dict[str, Any] = {
        "id": ID,
        "user": "0xw",
        "provider": "0xp",
        "model_id": "0xm",
        "bid_id": "0xb",
        "stake": STAKE,
        "price": 1,
        "opened_at": opened_at,
        "ends_at": opened_at + 3_600,
        "closed_at": 0,
    }
    return ChainSession(**{**known, **fields})


def recorded(state: SessionState = SessionState.ACTIVE, **fields: Any) -> SessionDocument:
    known: dict[str, Any] = {
        "id": "s1",
        "state": state,
        "slot": Slot.CURRENT if state is SessionState.ACTIVE else None,
        "user_id": "u1",
        "key_id": "k1",
        "key_prefix": "sk-abc",
        "model_id": "0x" + "a" * 64,
        "model_name": "m",
        "duration": 3_600,
        "operation_id": "o1",
        "chain_session": ID,
        "bid_id": "0xb",
        "stake": Decimal(STAKE),
        "opened_at": NOW - timedelta(seconds=600),
        "ends_at": NOW + timedelta(seconds=3_000),
        "seen_block": HEIGHT - 100,
        "created_at": NOW - timedelta(seconds=600),
        "updated_at": NOW - timedelta(seconds=600),
    }
    document: SessionDocument = SessionDocument.model_construct(**{**known, **fields})
    return document


def sent(state: OperationState, **fields: Any) -> OperationDocument:
    known: dict[str, Any] = {"id": "o1", "kind": OperationKind.OPEN, "state": state, "bid_id": "0xb", "stake": STAKE}
    document: OperationDocument = OperationDocument.model_construct(**{**known, **fields})
    return document


def planned(
    *sessions: ChainSession,
    records: list[SessionDocument] | None = None,
    operations: list[OperationDocument] | None = None,
    height: int = HEIGHT,
    complete: bool = True,
    since: int = 0,
    standing: frozenset[str] = frozenset(),
) -> list[Finding]:
    listing = Listing(sessions, since=since, height=height, complete=complete)
    known = Records(records or [], operations or [], standing)
    return plan(listing, known, now=NOW, deployment=DEPLOYMENT, own_close_after=600)


def acts(*sessions: ChainSession, **more: Any) -> list[Act]:
    return [finding.act for finding in planned(*sessions, **more)]


def test_what_agrees_needs_nothing() -> None:
    for state in (SessionState.ACTIVE, SessionState.PARKED, SessionState.CLOSING):
        assert acts(on_chain(), records=[recorded(state)]) == []


@pytest.mark.parametrize("state", [OperationState.SENT, OperationState.UNKNOWN, OperationState.ABANDONED])
@pytest.mark.parametrize("closed_at", [0, 1])
def test_what_an_open_of_ours_opened_is_adopted_also_when_it_was_given_up_or_has_ended(
    state: OperationState, closed_at: int
) -> None:
    (finding,) = planned(on_chain(closed_at=closed_at), operations=[sent(state)])
    assert finding.act is Act.ADOPT
    assert finding.operation is not None


@pytest.mark.parametrize("field", [{"stake": STAKE + 1}, {"bid_id": "0xother"}])
def test_another_stake_or_bid_is_not_what_an_open_of_ours_opened(field: dict[str, Any]) -> None:
    assert acts(on_chain(**field), operations=[sent(OperationState.UNKNOWN)]) == [Act.REPORT_LOST]


def test_what_was_on_chain_before_an_open_was_sent_is_not_its_session() -> None:
    operation = sent(OperationState.SENT, sent_at=NOW)
    (finding,) = planned(on_chain(opened_at=int(NOW.timestamp()) - 2 * 3_600), operations=[operation])
    assert finding.act is Act.REPORT_LOST


@pytest.mark.parametrize("stake", [11_400_000_000_000_000_000, tagged(10**18, deployment=8, counter=1)])
def test_without_our_tag_it_is_foreign(stake: int) -> None:
    assert acts(on_chain(stake=stake)) == [Act.REPORT_FOREIGN]
    assert acts(on_chain(stake=stake, closed_at=1)) == []


def test_closed_on_chain_is_closed_here() -> None:
    for state in (SessionState.ACTIVE, SessionState.PARKED, SessionState.CLOSING):
        assert acts(on_chain(closed_at=1), records=[recorded(state)]) == [Act.SETTLE_CLOSED]
    assert acts(on_chain(closed_at=1), records=[recorded(SessionState.CLOSED)]) == []


@pytest.mark.parametrize(
    ("over_for", "state", "wanted"),
    [
        (-1, SessionState.ACTIVE, []),
        (1, SessionState.ACTIVE, [Act.PARK_EXPIRED]),
        (1, SessionState.PARKED, []),
        (601, SessionState.ACTIVE, [Act.CLOSE_EXPIRED]),
        (601, SessionState.PARKED, [Act.CLOSE_EXPIRED]),
        (601, SessionState.CLOSING, []),
    ],
)
def test_an_expired_session_leaves_its_slot_and_is_closed_by_us_only_if_the_router_does_not(
    over_for: int, state: SessionState, wanted: list[Act]
) -> None:
    session = on_chain(ends_at=int(NOW.timestamp()) - over_for)
    assert acts(session, records=[recorded(state)]) == wanted


def test_open_on_chain_and_ended_here_is_closed_again_unless_a_node_may_lag() -> None:
    ended = {"closed_at": NOW - timedelta(seconds=300), "updated_at": NOW - timedelta(seconds=300)}
    assert acts(on_chain(), records=[recorded(SessionState.CLOSED, **ended)]) == [Act.CLOSE_AGAIN]
    just = {"closed_at": NOW, "updated_at": NOW - timedelta(seconds=5)}
    assert acts(on_chain(), records=[recorded(SessionState.CLOSED, **just)]) == []
    assert acts(on_chain(), records=[recorded(SessionState.ABANDONED, closed_at=None)]) == [Act.CLOSE_AGAIN]


def test_a_missing_session_is_suspected_and_given_up_at_the_second_look() -> None:
    assert acts(records=[recorded()]) == [Act.SUSPECT]
    assert acts(records=[recorded(absences=1)]) == [Act.ABANDON]
    assert acts(on_chain(), records=[recorded(absences=1)]) == [Act.SEEN_AGAIN]


def test_an_absence_counts_only_well_past_where_it_was_seen_and_within_what_was_read() -> None:
    assert acts(records=[recorded(seen_block=HEIGHT - 4)]) == []
    assert acts(records=[recorded()], complete=False) == []
    opened_later_than_read = int(NOW.timestamp()) - 10
    assert acts(records=[recorded()], since=opened_later_than_read) == []
    assert acts(records=[recorded(SessionState.CLOSED)]) == []


LIVE = (SessionState.ACTIVE, SessionState.PARKED, SessionState.CLOSING)
ENDED = (SessionState.CLOSED, SessionState.ABANDONED)


@pytest.mark.parametrize("state", [*LIVE, *ENDED])
def test_what_a_settled_open_sent_is_ours_under_any_id(state: SessionState) -> None:
    seen, known = on_chain(id=OTHER), recorded(state)
    (finding,) = planned(seen, records=[known])
    assert (finding.act, finding.chain, finding.session) == (Act.MOVE, seen, known)


@pytest.mark.parametrize("state", LIVE)
def test_a_session_that_moved_and_was_closed_there_is_followed_and_one_that_had_ended_is_let_be(
    state: SessionState,
) -> None:
    assert acts(on_chain(id=OTHER, closed_at=1), records=[recorded(state)]) == [Act.MOVE]
    for ended in ENDED:
        assert acts(on_chain(id=OTHER, closed_at=1), records=[recorded(ended)]) == []


def test_what_was_closed_just_now_does_not_move_because_a_node_may_lag() -> None:
    just = {"closed_at": NOW, "updated_at": NOW - timedelta(seconds=5)}
    assert acts(on_chain(id=OTHER), records=[recorded(SessionState.CLOSED, **just)]) == []


@pytest.mark.parametrize("state", [*LIVE, SessionState.ABANDONED])
def test_a_record_has_one_chain_session_at_a_time(state: SessionState) -> None:
    """Both at once cannot be: the first stays ours, the other is for an operator."""
    known = [recorded(state)]
    in_listing = planned(on_chain(id=OTHER), on_chain(), records=known)
    assert Act.REPORT_LOST in [finding.act for finding in in_listing]
    assert Act.MOVE not in [finding.act for finding in in_listing]
    assert acts(on_chain(id=OTHER), records=known, standing=frozenset({ID}))[0] is Act.REPORT_LOST
    twice = acts(on_chain(id=OTHER), on_chain(id="0x3"), records=known)
    assert twice == [Act.MOVE, Act.REPORT_LOST]


def test_an_id_that_is_another_opens_by_now_is_freed_before_the_other_takes_it() -> None:
    stake = tagged(11_400_000_000_000_000_000, deployment=DEPLOYMENT, counter=2)
    first = recorded()
    second = recorded(id="s2", chain_session=OTHER, stake=Decimal(stake))
    exchanged = planned(on_chain(stake=stake), on_chain(id=OTHER), records=[first, second])
    assert {(finding.act, finding.session and finding.session.id) for finding in exchanged} == {
        (Act.MOVE, "s1"),
        (Act.MOVE, "s2"),
    }
    assert [(f.act, f.session and f.session.id) for f in planned(on_chain(stake=stake), records=[first, second])] == [
        (Act.DISPLACE, "s1"),
        (Act.MOVE, "s2"),
    ]
    unsettled = sent(OperationState.UNKNOWN, id="o2", stake=stake)
    assert acts(on_chain(stake=stake), records=[first], operations=[unsettled]) == [Act.DISPLACE, Act.ADOPT]


def test_an_id_of_ours_that_somebody_elses_session_has_is_not_ours_to_close() -> None:
    ended = recorded(SessionState.ABANDONED)
    assert acts(on_chain(stake=10**18), records=[ended]) == [Act.DISPLACE, Act.REPORT_FOREIGN]


def test_whether_the_first_id_is_gone_is_asked_only_of_what_seems_to_have_moved() -> None:
    known = recorded()

    def asked(*sessions: ChainSession) -> list[SessionDocument]:
        return in_question(Listing(sessions, since=0, height=HEIGHT, complete=True), [known])

    assert asked(on_chain(id=OTHER)) == [known]
    assert asked(on_chain()) == []
    assert asked(on_chain(id=OTHER), on_chain()) == []
    assert asked(on_chain(id=OTHER, stake=STAKE + 1)) == []


def test_a_record_keeps_the_id_that_nobody_else_claims() -> None:
    assert acts(on_chain(stake=STAKE + 5), records=[recorded()]) == []
