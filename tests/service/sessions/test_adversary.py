"""Attacks on stakes: orders of events in which one was lost, doubled, forgotten or closed for nothing."""

import asyncio
import sys
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from morpheus_common.bus.names import User
from morpheus_common.bus.rpc import RpcClient
from morpheus_common.clock import utc_now
from morpheus_common.contracts.operator import CLOSE_OURS, CloseOurs
from morpheus_common.contracts.sessions import SessionRow, Slot
from morpheus_common.errors import ApiError
from morpheus_sessions.documents import OperationDocument, SessionDocument
from morpheus_sessions.router import Approval, Router
from morpheus_sessions.worker import Parts
from proxy_router_sim.chain import CHAIN_ID
from proxy_router_sim.ethereum import Approval as ChainApproval
from proxy_router_sim.ethereum import sign

from tests.service.sessions.house import House, until
from tests.service.sessions.test_operator import at_rest

PATIENT: dict[str, Any] = {"reconcile_seconds": 0.1, "own_close_after": 10.0**6}
"""Passes at once, and no close because a session's time is over: the tests move the chain's time."""


async def abandoned(house: House, parts: Parts, **query: Any) -> OperationDocument:
    """Give up an open that was sent, as the loop does after ten minutes."""
    operation: OperationDocument = OperationDocument.model_validate(await house.only_operation(kind="open", **query))
    await parts.journal.abandon_open(operation, ApiError("open_failed"))
    return operation


async def test_a_switch_that_comes_late_leaves_the_session_that_is_used_alone(house: House) -> None:
    async with house.worker(reconcile_seconds=3600) as parts:
        used = await house.gateway.open()
        # the first pass would find what this is not to see yet
        await at_rest(house)
        other = house.gateway.model("qwen3-235b")
        await house.simulator.arm("open", "hang", when="after")
        switching = asyncio.create_task(house.gateway.ask_open(model_id=other, wait=0.5))
        await until(lambda: house.simulator.struck("open"))
        await switching
        await abandoned(house, parts, model_id=other)
        await house.simulator.disarm()
        await house.session_is("closed", model_id=other)
        current = await house.gateway.current()
        assert current is not None
        assert current.session_id == used.session_id
        assert [item["Id"] for item in await house.simulator.open_sessions()] == [used.session_id]


async def test_a_session_that_ends_while_its_successor_opens_is_not_replaced_twice(house: House) -> None:
    async with house.worker(reconcile_seconds=3600):
        await house.gateway.open()
        other = house.gateway.model("qwen3-235b")
        await house.simulator.arm("open", "hang")
        first = asyncio.create_task(house.gateway.open(model_id=other))
        await until(lambda: house.simulator.struck("open"))
        await house.database["sessions"].update_one(
            {"slot": "current"}, {"$set": {"ends_at": await house.database_time(-1)}}
        )
        second = asyncio.create_task(house.gateway.open(model_id=other))
        await until(lambda: house.sessions(state="parked"))
        await house.simulator.disarm()
        rows = await asyncio.gather(first, second)
        assert rows[0].session_id == rows[1].session_id
    assert (await house.simulator.state())["opens_total"] == 2


async def test_an_open_decided_before_the_current_session_ended_is_decided_anew(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house.worker(reconcile_seconds=3600) as parts:
        read, stale = parts.journal.session_in, dict[Slot, SessionDocument | None]()

        async def too_early(key_id: str, slot: Slot) -> SessionDocument | None:
            return stale.pop(slot) if slot in stale else await read(key_id, slot)

        monkeypatch.setattr(parts.journal, "session_in", too_early)
        await house.gateway.open()
        stale[Slot.CURRENT] = ended = SessionDocument.model_validate(await house.only_session())
        await parts.journal.park(ended.id, "expired")
        other = house.gateway.model("qwen3-235b")
        assert (await house.gateway.open(model_id=other)).slot == "current"
        # its successor opens when it ends
        await house.simulator.arm("initiate", "hang")
        third = house.gateway.model("mistral-31-24b")
        switching = asyncio.create_task(house.gateway.open(model_id=third))
        await until(lambda: house.sessions(slot="next"))
        await parts.journal.park((await house.only_session(slot="current"))["_id"], "expired")
        stale[Slot.NEXT] = None
        joining = asyncio.create_task(house.gateway.open(model_id=third))
        await until(lambda: _read(stale))
        await house.simulator.disarm()
        assert (await switching).session_id == (await joining).session_id
    assert (await house.simulator.state())["opens_total"] == 3


async def _read(stale: dict[Slot, SessionDocument | None]) -> bool:
    return not stale


async def read_past(house: House, row: SessionRow) -> None:
    """Wait until the passes have read the wallet's sessions up to this one."""

    async def read() -> bool:
        wallet = await house.database["wallets"].find_one() or {}
        return row.opened_at is not None and (wallet.get("read_to") or 0) >= row.opened_at.timestamp()

    await until(read)


async def test_what_a_node_did_not_show_long_after_it_was_opened_is_watched(house: House) -> None:
    async with house.worker(**PATIENT) as parts:
        old = await house.gateway.open(duration=6 * 3600)
        await house.simulator.advance(2 * 3600)
        await read_past(house, await house.gateway.open("k2"))
        session = SessionDocument.model_validate(await house.only_session(key_id="k1"))
        for _ in range(2):
            await parts.journal.note_session_absence(session, spacing=0.0, enough=2)
    async with house.worker(**PATIENT):
        closed = await house.session_is("closed", key_id="k1")
    assert (closed["chain_session"], closed["reason"]) == (old.session_id, "came_back")


async def test_a_close_that_is_undone_long_after_the_session_was_opened_is_made_again(house: House) -> None:
    async with house.worker(**PATIENT):
        await house.gateway.open(duration=6 * 3600)
        await house.simulator.advance(2 * 3600)
        kept = await house.gateway.open("k2")
        await read_past(house, kept)
        height = (await house.simulator.state())["block"]
        assert (await house.gateway.close()).confirmed
        blocks = (await house.simulator.state())["block"] - height + 3
        await house.simulator.post("/sim/reorg", {"blocks": blocks, "drop": True})
        assert len(await house.simulator.open_sessions()) == 2
    # long enough ago for no node to lag
    await house.database["sessions"].update_many(
        {"state": "closed"}, {"$set": {"updated_at": await house.database_time(-600)}}
    )
    async with house.worker(**PATIENT):

        async def only_the_other_is_open() -> bool:
            return [item["Id"] for item in await house.simulator.open_sessions()] == [kept.session_id]

        await until(only_the_other_is_open)


async def test_a_workers_clock_that_jumps_neither_closes_nor_replaces_a_session(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C47."""
    async with house.worker(reconcile_seconds=0.1):
        row = await house.gateway.open()
        for name, module in list(sys.modules.items()):
            if name.startswith("morpheus_sessions.") and hasattr(module, "utc_now"):
                monkeypatch.setattr(module, "utc_now", lambda: utc_now() + timedelta(hours=3))
        await house.database["wallets"].update_one({}, {"$inc": {"passes_asked": 1}})

        async def looked() -> bool:
            wallet = await house.database["wallets"].find_one() or {}
            return bool(wallet.get("passes_made"))

        await until(looked)
        assert (await house.gateway.open()).session_id == row.session_id
        assert await house.gateway.current() is not None
    assert [item["Id"] for item in await house.simulator.open_sessions()] == [row.session_id]
    assert (await house.only_session())["state"] == "active"


async def test_an_answer_that_names_another_opens_session_is_not_believed(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house.worker(reconcile_seconds=0.2):
        first = await house.gateway.open("k1")
        really = Router.open

        async def misled(router: Router, approval: Approval, stake: int, *, timeout: float) -> str:
            await really(router, approval, stake, timeout=timeout)
            return first.session_id or ""

        monkeypatch.setattr(Router, "open", misled)
        second = await house.gateway.open("k2")
        assert second.session_id != first.session_id
    assert {item["Id"] for item in await house.simulator.open_sessions()} == {first.session_id, second.session_id}


async def test_an_operators_close_is_not_lost_when_the_session_opens_at_this_moment(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house.worker(reconcile_seconds=3600) as parts:
        await house.simulator.arm("open", "hang")
        opening = asyncio.create_task(house.gateway.open())
        await until(lambda: house.simulator.struck("open"))
        unwant = parts.journal.unwant

        async def late(session: SessionDocument) -> bool:
            await house.simulator.disarm()
            await opening
            return await unwant(session)

        monkeypatch.setattr(parts.journal, "unwant", late)
        connection = await house.account.connect(User.OPS)
        try:
            command = CloseOurs(session_id=(await house.only_session())["_id"])
            assert (await RpcClient(connection).call(CLOSE_OURS, command)).operation_id is not None
        finally:
            await connection.close()
        await house.session_is("closed")
    assert await house.simulator.open_sessions() == []


async def test_a_command_that_names_anothers_operation_learns_and_does_nothing(house: House) -> None:
    async with house.worker(reconcile_seconds=3600):
        row = await house.gateway.open("k1")
        for named in ({"operation_id": row.operation_id}, {"joins": row.operation_id}):
            with pytest.raises(ApiError) as told:
                await house.gateway.ask_open("k2", user="u2", **named)
            assert told.value.code == "operation_not_found"
        closed = await house.gateway.close("k2", operation_id=row.operation_id)
        assert (closed.session_id, closed.operations) == (None, [])
        closed = await house.gateway.close("k2", joins=[row.operation_id])
        assert (closed.session_id, closed.operations) == (None, [])
    assert len(await house.simulator.open_sessions()) == 1
    assert len(await house.sessions()) == 1


async def test_one_session_that_cannot_be_dealt_with_holds_up_no_other(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house.worker(reconcile_seconds=0.2) as parts:
        first, second = await house.gateway.open("k1"), await house.gateway.open("k2")
        cursed = (await house.only_session(key_id="k1"))["_id"]
        settle = parts.journal.settle_close

        async def fails(session_id: str, closed_at: int, *, operation: OperationDocument | None) -> None:
            if session_id == cursed:
                raise ValueError(session_id)
            await settle(session_id, closed_at, operation=operation)

        monkeypatch.setattr(parts.journal, "settle_close", fails)
        for row in (first, second):
            await house.simulator.close(row.session_id or "")
        await house.session_is("closed", key_id="k2")
        monkeypatch.undo()
        await house.session_is("closed", key_id="k1")


async def test_a_pass_that_fails_ends_no_loop(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async with house.worker(reconcile_seconds=0.2) as parts:
        row = await house.gateway.open()
        failed = asyncio.Event()

        async def fails(wallet: str, **_: Any) -> list[OperationDocument]:
            failed.set()
            raise ValueError(wallet)

        monkeypatch.setattr(parts.journal, "sent_opens", fails)
        await failed.wait()
        monkeypatch.undo()
        await house.simulator.close(row.session_id or "")
        await house.session_is("closed")


async def test_a_provider_that_knows_no_session_does_not_get_a_stake_with_each_prompt(house: House) -> None:
    async with house.worker(reconcile_seconds=3600):
        text = "provider request failed: provider error: session expired"
        await house.simulator.arm("chat", "error_before", status=500, text=text, count=None)
        answers = [await house.gateway.chat() for _ in range(8)]
        assert answers[-1].code == "no_provider_available"
        stakes = Counter(item["Provider"] for item in await house.simulator.open_sessions())
        assert set(stakes.values()) == {3}
        # another key has not made that experience
        await house.simulator.disarm()
        assert (await house.gateway.chat(key="k2")).ended


async def test_after_a_loss_of_records_no_stake_is_tagged_as_one_on_chain_is(house: House) -> None:
    async with house.worker(reconcile_seconds=3600):
        lost = await house.gateway.open("k1")
    for name in ("sessions", "operations", "wallets", "key_guards"):
        await house.database[name].delete_many({})
    async with house.worker(reconcile_seconds=0.1):
        found = await house.gateway.open("k2", bid_id=lost.bid_id)
        assert found.session_id != lost.session_id
        assert found.stake != lost.stake
        assert {item["Id"] for item in await house.simulator.open_sessions()} == {lost.session_id, found.session_id}

        async def named() -> bool:
            return [item["_id"] async for item in house.database["findings"].find()] == [lost.session_id]

        await until(named)


async def test_a_provider_that_approves_another_bid_than_it_was_asked_for_gets_no_stake(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = house.simulator._router.simulator.node
    honest = node.providers.handshake

    async def of_another_bid(*, user: str, provider: str, bid_id: str, endpoint: str, now: float) -> Any:
        answering, _, _ = await honest(user=user, provider=provider, bid_id=bid_id, endpoint=endpoint, now=now)
        offered = node.marketplace.provider_bids(provider, active_only=True)
        other = next(bid.id for bid in offered if bid.id != bid_id)
        approval = ChainApproval(other, CHAIN_ID, user, int(now * 1000))
        return answering, approval, sign(provider, approval.encode())

    monkeypatch.setattr(node.providers, "handshake", of_another_bid)
    async with house.worker(reconcile_seconds=0.2, abandon_after=1.0):
        with pytest.raises(ApiError) as caught:
            await house.gateway.open()
        monkeypatch.undo()
        await house.gateway.open("k2")

    assert caught.value.code == "no_provider_available"
    assert {item["reason"] for item in (caught.value.details or {})["reasons"]} == {"rejected"}
    assert (await house.simulator.state())["opens_total"] == 1
    assert await house.database["findings"].count_documents({}) == 0


async def test_a_stake_that_a_settled_session_has_is_not_sent_again(house: House) -> None:
    async with house.worker(reconcile_seconds=0.2):
        first = await house.gateway.open("k1")
        wallet = (await house.only_session(key_id="k1"))["wallet"]
        # the number comes round: what a process begins with is chance
        await house.database["wallets"].update_one({"_id": wallet}, {"$inc": {"counter": -1}})
        await house.simulator.arm("open", "never_mined", count=1)
        # its outcome is looked for by bid and stake: a twin would be taken for it for ever
        second = await house.gateway.open("k2", wait=15)

    assert second.stake != first.stake
    assert second.session_id != first.session_id
