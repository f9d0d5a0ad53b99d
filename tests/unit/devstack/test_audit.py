"""Records and chain compared: what counts as a difference, and why one reading is not enough."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from morpheus_common.bus.rpc import RpcClient
from morpheus_common.contracts.base import Message
from morpheus_common.contracts.operator import (
    ChainPage,
    Doubled,
    DoubledRecords,
    LinkedOpen,
    LinkedRecord,
    ListSessions,
    OnChain,
    OperatedSession,
    OperatedSessions,
    OperatedWallet,
    OperatedWallets,
    ReadChain,
    Rule,
)
from morpheus_common.contracts.sessions import SessionState
from morpheus_devstack import audit
from morpheus_devstack.audit import Difference, Kind, Reading, compare
from morpheus_devstack.errors import StackError

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
WALLET = "0x" + "a" * 40
STAKE = 11_400_000_000_007_000_001


def chain_id(number: int) -> str:
    return f"0x{number:064x}"


def wallet(**more: Any) -> OperatedWallet:
    known = {"router": "r1", "wallet": WALLET, "chain": 1, "height": 100, "deployment": 7, "pass_seconds": 15.0}
    return OperatedWallet.model_validate(known | more)


def record(number: int = 1, **more: Any) -> OperatedSession:
    known = {
        "id": f"s{number}",
        "state": "active",
        "slot": None,
        "session_id": chain_id(number),
        "router": "r1",
        "wallet": WALLET,
        "key_id": f"k{number}",
        "key_prefix": "sk-abc",
        "user_id": "u1",
        "model_id": chain_id(0),
        "model": "m",
        "bid_id": chain_id(0),
        "provider": None,
        "stake": STAKE,
        "ours": True,
        "wanted": True,
        "reason": None,
        "operation_id": f"o{number}",
        "operation": None,
        "stuck": False,
        "created_at": NOW,
        "opened_at": NOW,
        "ends_at": NOW + timedelta(hours=1),
    }
    return OperatedSession.model_validate(known | more)


def linked(number: int = 1, **more: Any) -> LinkedRecord:
    known = {"id": f"s{number}", "state": "active", "key_id": f"k{number}", "stake": STAKE, "wallet": WALLET}
    return LinkedRecord.model_validate(known | more)


def seen(number: int = 1, **more: Any) -> OnChain:
    known = {
        "session_id": chain_id(number),
        "router": "r1",
        "wallet": WALLET,
        "chain": 1,
        "bid_id": chain_id(100 + number),
        "provider": "0xp",
        "model_id": chain_id(0),
        "stake": STAKE,
        "ours": True,
        "opened_at": NOW,
        "ends_at": NOW + timedelta(hours=1),
        "closed_at": None,
        "records": [linked(number)],
        "opens": [],
    }
    return OnChain.model_validate(known | more)


def opened_by(state: str) -> list[LinkedOpen]:
    return [LinkedOpen(id="o1", state=state, session="s1")]


def reading(
    chain: list[OnChain] | None = None,
    records: list[OperatedSession] | None = None,
    doubled: list[Doubled] | None = None,
) -> Reading:
    return Reading([wallet()], chain or [], records or [], doubled or [], {"r1": 100})


def kinds(found: list[Difference]) -> list[Kind]:
    return [item.kind for item in found]


@pytest.mark.parametrize("state", ["active", "parked", "closing"])
def test_a_session_linked_to_one_open_record_is_as_it_should_be(state: str) -> None:
    working = record(state=state, operation="close" if state == "closing" else None)
    assert compare(reading([seen(records=[linked(state=state)])], [working])) == []


@pytest.mark.parametrize(
    ("on_chain", "kind"),
    [
        (seen(records=[], ours=False), Kind.FOREIGN),
        (seen(records=[]), Kind.LOST),
        (seen(records=[], opens=opened_by("done")), Kind.LOST),
        (seen(records=[], opens=opened_by("failed")), Kind.LOST),
        (seen(records=[], opens=opened_by("abandoned")), Kind.GIVEN_UP),
        (seen(records=[linked(), linked(2)]), Kind.RECORDED_TWICE),
        (seen(records=[linked(state="closed")]), Kind.ENDED),
        (seen(records=[linked(state="failed")]), Kind.ENDED),
        (seen(records=[linked(state="abandoned")]), Kind.ENDED),
        (seen(records=[linked(stake=STAKE + 1)]), Kind.STAKE),
        (seen(records=[linked(stake=None)]), Kind.STAKE),
        (seen(ours=False), Kind.TAG),
    ],
)
def test_an_open_session_on_chain_has_exactly_one_open_record_with_its_stake(on_chain: OnChain, kind: Kind) -> None:
    (found,) = compare(reading([on_chain], [record()]))
    assert (found.kind, found.what, found.stake, found.router) == (kind, chain_id(1), STAKE, "r1")
    assert found.why


@pytest.mark.parametrize("state", ["sent", "unknown"])
def test_an_open_that_was_sent_and_not_settled_yet_accounts_for_its_session(state: str) -> None:
    opening = record(state="opening", session_id=None, stake=None, operation="open")
    assert compare(reading([seen(records=[], opens=opened_by(state))], [opening])) == []


@pytest.mark.parametrize(
    ("on_chain", "recorded", "kind"),
    [
        ([], record(), Kind.ABSENT),
        ([seen(closed_at=NOW, records=[])], record(), Kind.CLOSED),
        ([seen()], record(wallet="0x" + "b" * 40), Kind.NO_ROUTER),
        ([seen()], record(wallet=None), Kind.NO_ROUTER),
        ([seen(records=[linked(state="closing")])], record(state="closing"), Kind.NO_CLOSE),
        ([], record(state="opening", session_id=None, operation=None), Kind.NO_OPEN),
    ],
)
def test_an_open_record_stands_for_an_open_session_of_a_wallet_we_can_reach(
    on_chain: list[OnChain], recorded: OperatedSession, kind: Kind
) -> None:
    (found,) = compare(reading(on_chain, [recorded]))
    assert (found.kind, found.key_id) == (kind, "k1")
    assert found.what in {chain_id(1), "s1"}


def test_a_tagged_stake_at_one_bid_is_on_chain_once() -> None:
    twins = [seen(1, bid_id=chain_id(9)), seen(2, bid_id=chain_id(9), closed_at=NOW)]
    (found,) = compare(reading(twins, [record(1)]))
    assert (found.kind, found.what) == (Kind.OPENED_TWICE, chain_id(1))
    assert chain_id(2) in found.why
    # a counter that came round, years later, is none
    both_closed = [item.model_copy(update={"closed_at": NOW}) for item in twins]
    assert compare(reading(both_closed)) == []
    # others may stake the same amount as often as they like
    foreign = [item.model_copy(update={"ours": False, "records": []}) for item in twins]
    assert kinds(compare(reading(foreign))) == [Kind.FOREIGN]


@pytest.mark.parametrize(
    ("doubled", "kind", "what"),
    [
        (Doubled(rule=Rule.SLOT, key="k1 current", ids=["s1", "s2"]), Kind.SLOT_TWICE, "k1 current"),
        (Doubled(rule=Rule.CHAIN_SESSION, key=f"1 {chain_id(1)}", ids=["s1", "s2"]), Kind.RECORDED_TWICE, chain_id(1)),
        (Doubled(rule=Rule.OPERATION, key="o1", ids=["s1", "s2"]), Kind.OPERATION_TWICE, "o1"),
        (Doubled(rule=Rule.APPROVAL, key="", ids=["o1", "o2"]), Kind.APPROVAL_TWICE, "o1, o2"),
    ],
)
def test_what_only_one_record_may_have_is_named_if_two_have_it(doubled: Doubled, kind: Kind, what: str) -> None:
    (found,) = compare(reading(doubled=[doubled]))
    assert (found.kind, found.what) == (kind, what)


def test_what_is_seen_from_both_sides_is_told_once() -> None:
    twice = Doubled(rule=Rule.CHAIN_SESSION, key=f"1 {chain_id(1)}", ids=["s1", "s2"])
    assert kinds(compare(reading([seen(records=[linked(), linked(2)])], [record()], [twice]))) == [Kind.RECORDED_TWICE]


class Bus:
    """Answers an audit: each reading of the chain is the next of `listings`, each of the records the next of `records`."""

    def __init__(
        self, listings: list[list[OnChain]], records: list[list[OperatedSession]], *, problem: str | None = None
    ) -> None:
        self._listings, self._records = iter(listings), iter(records)
        self._listing: list[OnChain] = []
        self._heights: Iterator[int] = iter([100, 101, 103, *range(105, 1_000)])
        self._problem = problem
        self.asked: list[str] = []

    async def call(self, rpc: Any, question: Message) -> Message:
        self.asked.append(rpc.verb)
        if rpc.verb == "operator_wallets":
            height = next(self._heights)
            return OperatedWallets(wallets=[wallet(height=height, problem=self._problem)], now=NOW)
        if isinstance(question, ReadChain):
            if question.offset == 0:
                self._listing = next(self._listings)
            page = self._listing[question.offset : question.offset + question.limit]
            return ChainPage(sessions=page, more=len(page) == question.limit, height=100)
        if isinstance(question, ListSessions):
            assert set(question.states) == set(audit.LIVE)
            return OperatedSessions(sessions=next(self._records), more=False, now=NOW)
        return DoubledRecords(doubled=[])


async def audited(bus: Bus) -> audit.Audit:
    return await audit.audit(cast("RpcClient", bus), lambda _: None, apart=0)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_time(_: float) -> None:
        return

    monkeypatch.setattr("morpheus_devstack.audit.asyncio.sleep", no_time)


async def test_without_a_difference_one_reading_is_enough() -> None:
    bus = Bus([[seen(1), seen(2), seen(3, records=[], ours=False, closed_at=NOW)]], [[record(1), record(2)]])
    made = await audited(bus)
    assert (made.sessions, made.stake, made.differences, made.in_flight) == (2, 2 * STAKE, [], 0)
    assert bus.asked.count("operator_chain") == 1


async def test_a_session_that_opens_while_we_read_is_in_flight_and_no_difference() -> None:
    # adopted after the chain was listed and before the records were
    made = await audited(Bus([[], [seen()]], [[record()], [record()]]))
    assert (made.sessions, made.differences, made.in_flight) == (1, [], 1)


async def test_a_session_that_closes_while_we_read_is_in_flight_and_no_difference() -> None:
    closed = seen(closed_at=NOW, records=[])
    made = await audited(Bus([[closed], [closed]], [[record()], []]))
    assert (made.sessions, made.differences, made.in_flight) == (0, [], 1)


async def test_what_both_readings_show_counts_and_what_only_the_second_shows_does_not() -> None:
    lost = seen(1, records=[])
    made = await audited(Bus([[lost], [lost]], [[], [record(2)]]))
    assert [(item.kind, item.what) for item in made.differences] == [(Kind.LOST, chain_id(1))]


async def test_the_second_reading_waits_until_the_chain_is_five_blocks_on() -> None:
    bus = Bus([[], []], [[record()], [record()]])
    assert len((await audited(bus)).differences) == 1
    first, second = (place for place, verb in enumerate(bus.asked) if verb == "operator_chain")
    # read at 100; asked at 101, 103 and 105, then the second reading asks once more
    assert bus.asked[first:second].count("operator_wallets") == 4


async def test_all_pages_are_read() -> None:
    many = [seen(number) for number in range(1, 251)]
    bus = Bus([many], [[record(number) for number in range(1, 251)]])
    assert (await audited(bus)).sessions == 250
    assert bus.asked.count("operator_chain") == 3


async def test_a_wallet_with_too_many_sessions_is_refused_not_half_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "_MAX_PAGES", 2)
    with pytest.raises(StackError, match="more than 200 sessions"):
        await audited(Bus([[seen(number) for number in range(1, 202)]], [[]]))


async def test_a_router_that_does_not_answer_is_named() -> None:
    with pytest.raises(StackError, match="Nothing can be said of router r1: it is away"):
        await audited(Bus([], [], problem="it is away"))


def test_the_states_an_audit_asks_for_are_those_in_which_stake_may_be_locked() -> None:
    assert set(audit.LIVE) == set(SessionState) - {SessionState.CLOSED, SessionState.FAILED, SessionState.ABANDONED}
