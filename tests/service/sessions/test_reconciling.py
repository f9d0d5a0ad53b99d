"""Our records held beside the chain, and opens whose outcome nobody was told."""

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from bson import Decimal128
from morpheus_common.contracts.auth import ENDED_KEYS
from morpheus_common.ids import uuid7
from morpheus_sessions.router import ChainSession
from nats.aio.msg import Msg

from tests.service.sessions.house import House, until

QUICK: dict[str, Any] = {"reconcile_seconds": 0.2, "abandon_after": 1.0}
"""Passes and patience of tests in which an open is given up."""


async def finding(house: House) -> dict[str, Any] | None:
    return await house.database["findings"].find_one()


async def released(house: House) -> None:
    """Let transactions that were held back be mined."""
    await house.simulator.post("/sim/release", {})


async def sent(house: House) -> list[str]:
    """What the journal's only open notes of each sending and its answer."""
    return [fact["what"] for fact in (await house.only_operation(kind="open"))["facts"]]


async def test_a_session_of_somebody_else_is_named_and_never_touched(house: House) -> None:
    foreign = await house.simulator.open_past_us()
    async with house.worker(reconcile_seconds=0.2, own_close_after=0.1):
        found = await until(lambda: finding(house))
        assert (found["_id"], found["kind"]) == (foreign, "foreign")
        await house.gateway.open()
        await house.simulator.advance(60)
        assert (await house.gateway.close()).confirmed
        assert [item["Id"] for item in await house.simulator.open_sessions()] == [foreign]
        await house.simulator.close(foreign)

        async def gone() -> bool:
            return await finding(house) is None

        await until(gone)


async def test_a_session_with_our_tag_and_no_record_is_named_as_lost_and_left_alone(house: House) -> None:
    async with house.worker(reconcile_seconds=3600):
        row = await house.gateway.open()
    for name in ("sessions", "operations"):
        await house.database[name].delete_many({})
    async with house.worker(reconcile_seconds=0.2):
        found = await until(lambda: finding(house))
        assert (found["_id"], found["kind"]) == (row.session_id, "lost")
        assert int(found["stake"].to_decimal()) == row.stake
    assert len(await house.simulator.open_sessions()) == 1


async def block(house: House) -> int:
    return int((await house.simulator.state())["block"])


async def approved(house: House) -> int:
    """Allow plenty, so that no open needs another transaction before it; return the height after that."""
    spender = (await house.simulator.config())["Marketplace"]["DiamondContractAddress"]
    await house.simulator.post(f"/blockchain/approve?spender={spender}&amount={10**24}", {})
    await house.simulator.advance(60)
    return await block(house)


async def undo(house: House, since: int, **how: Any) -> None:
    """Take back all blocks after a height; a few are empty, and may be made meanwhile."""
    await house.simulator.post("/sim/reorg", {"blocks": await block(house) - since + 10, **how})


async def reorganised(house: House, since: int, **how: Any) -> None:
    """Take back all blocks after a height, and wait until what was in them is mined again."""
    before = len(await house.simulator.open_sessions())
    await undo(house, since, **how)

    async def again() -> bool:
        return len(await house.simulator.open_sessions()) == before

    await until(again)


async def reconciled(house: House) -> None:
    """Ask for a pass, and wait until it is made. One that came while the blocks were away would find other things."""
    wallets = house.database["wallets"]
    asked: Any = await wallets.find_one_and_update({}, {"$inc": {"passes_asked": 1}}, return_document=True)

    async def made() -> bool:
        return bool(await wallets.find_one({"passes_made": {"$gte": asked["passes_asked"]}}))

    await until(made)


async def test_a_session_that_is_mined_again_under_another_id_goes_on_under_it(house: House) -> None:
    """C30"""
    async with house.worker(reconcile_seconds=3600):
        since = await approved(house)
        row = await house.gateway.open()
        assert (await house.gateway.chat("hello")).ended
        await reorganised(house, since, others=1)
        (on_chain,) = await house.simulator.open_sessions()
        assert on_chain["Id"] != row.session_id

        async def moved() -> bool:
            # a pass that could not read everything moves nothing; the next does
            await reconciled(house)
            return bool(await house.sessions(state="active", chain_session=on_chain["Id"], slot="current"))

        await until(moved)
        assert await finding(house) is None
        answer = await house.gateway.chat("hello")
        assert answer.ended
        assert answer.head is not None
        assert answer.head.session_id == on_chain["Id"]
        (operation,) = await house.operations(kind="open")
        fact = operation["facts"][-1]
        assert (fact["what"], fact["session"], fact["before"]) == ("moved on chain", on_chain["Id"], row.session_id)
        assert (await house.gateway.close()).confirmed
    assert await house.simulator.open_sessions() == []


async def test_a_session_that_had_ended_and_is_open_again_under_another_id_is_closed(house: House) -> None:
    async with house.worker(reconcile_seconds=3600):
        since = await approved(house)
        row = await house.gateway.open()
        assert (await house.gateway.close()).confirmed
    # long enough ago for no node to lag
    await house.database["sessions"].update_one({}, {"$set": {"updated_at": await house.database_time(-600)}})
    # its close is mined again as well, and is of an id that nothing has any more
    await undo(house, since, others=1)
    async with house.worker(reconcile_seconds=0.2):
        closed = await house.session_is("closed", chain_session={"$ne": row.session_id})
        assert closed["reason"] == "came_back"
    assert await house.simulator.open_sessions() == []
    assert len(await house.sessions()) == 1


async def test_sessions_that_exchange_their_ids_keep_their_keys(house: House) -> None:
    """C30"""
    async with house.worker(reconcile_seconds=3600):
        since = await approved(house)
        keys = [f"k{number}" for number in range(6)]
        bid = (await house.gateway.open(keys[0])).bid_id
        for key in keys[1:]:
            await house.gateway.open(key, bid_id=bid)
        stakes = {item["key_id"]: item["stake"] for item in await house.sessions()}
        before = {item["key_id"]: item["chain_session"] for item in await house.sessions()}
        await reorganised(house, since)
        await reconciled(house)
        on_chain = {item["Id"]: int(item["Stake"]) for item in await house.simulator.open_sessions()}
        sessions = await house.sessions(state="active")
        assert {item["key_id"]: item["stake"] for item in sessions} == stakes
        assert {item["chain_session"]: int(item["stake"].to_decimal()) for item in sessions} == on_chain
        after = {item["key_id"]: item["chain_session"] for item in sessions}
        assert set(before.values()) == set(after.values())
        assert before != after
        for key in keys:
            assert (await house.gateway.close(key)).confirmed
    assert await house.simulator.open_sessions() == []


async def test_a_close_does_not_close_what_another_keys_open_opened(house: House) -> None:
    async with house.worker(reconcile_seconds=3600):
        rows = {key: await house.gateway.open(key) for key in ("k1", "k2")}
        sessions = house.database["sessions"]
        # as after a reorganisation that no pass has seen yet
        await sessions.update_many({}, {"$set": {"chain_session": None}})
        for key, other in (("k1", "k2"), ("k2", "k1")):
            await sessions.update_one({"key_id": key}, {"$set": {"chain_session": rows[other].session_id}})
        await house.simulator.arm("sessions", "error_before", count=None)
        assert not (await house.gateway.close("k1", wait=1.0)).confirmed
        assert len(await house.simulator.open_sessions()) == 2
        await house.simulator.disarm()
    async with house.worker(reconcile_seconds=0.2):
        closed = await house.session_is("closed")
        assert (closed["key_id"], closed["chain_session"]) == ("k1", rows["k1"].session_id)
        kept = await house.session_is("active")
        assert (kept["key_id"], kept["chain_session"]) == ("k2", rows["k2"].session_id)
    assert [item["Id"] for item in await house.simulator.open_sessions()] == [rows["k2"].session_id]


async def test_what_does_not_carry_our_tag_is_not_closed_whatever_our_records_say(house: House) -> None:
    async with house.worker(reconcile_seconds=3600):
        await house.gateway.open()
        await house.database["sessions"].update_one({}, {"$set": {"stake": Decimal128("11400000000000000000")}})
        closed = await house.gateway.close(wait=1.0)
        assert not closed.confirmed
        assert (await house.only_operation(kind="close"))["stuck"]
    assert len(await house.simulator.open_sessions()) == 1


@pytest.mark.parametrize(
    ("action", "params"),
    [
        ("revert", {}),
        ("never_mined", {}),
        ("escalated", {"text": "EVM error: SessionDuplicateApproval() []"}),
        ("escalated", {"text": "execution reverted: ERC20: transfer amount exceeds balance"}),
        ("drop", {"stage": "mined"}),
        ("drop", {"stage": "in_mempool"}),
        ("drop", {"stage": "before_allowance"}),
        ("drop", {"stage": "after_allowance"}),
        ("error_after", {"status": 500, "text": "failed to get session: session not found"}),
        ("mined_late", {"seconds": 0.3}),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value.get("stage", value.get("text", "")))[:40],
)
async def test_an_open_whose_answer_hides_what_happened_ends_as_one_session(
    house: House, action: str, params: dict[str, Any]
) -> None:
    """F17, F18: one of them is a node that does not know yet what it has just mined."""
    async with house.worker(reconcile_seconds=0.2):
        await house.simulator.arm("open", action, **params)
        row = await house.gateway.open()
        assert row.state == "active"
        (on_chain,) = await house.simulator.sessions()
        assert (on_chain["Id"], int(on_chain["Stake"])) == (row.session_id, row.stake)
        assert (await house.gateway.chat("hello")).ended


async def test_the_same_approval_is_sent_again_and_nothing_else(house: House) -> None:
    """F17"""
    async with house.worker(reconcile_seconds=0.2):
        await house.simulator.arm("open", "never_mined", count=2)
        await house.gateway.open()
    facts = await sent(house)
    assert facts.count("sending") == 1
    assert facts.count("sending again") == 2
    assert (await house.simulator.state())["counters"]["initiated"] == 1


async def test_an_open_that_is_mined_after_it_was_given_up_is_closed(house: House) -> None:
    async with house.worker(**QUICK):
        await house.simulator.arm("open", "mined_late", count=None)
        opening = asyncio.create_task(house.gateway.attempt_open())
        assert await opening == "open_failed"
        assert (await house.only_operation(kind="open"))["state"] == "abandoned"
        assert (await house.only_session())["slot"] is None

        await house.simulator.disarm()
        await released(house)
        closed = await house.session_is("closed")
        assert closed["reason"] == "came_late"
        (on_chain,) = await house.simulator.sessions()
        assert on_chain["Id"] == closed["chain_session"]
        assert on_chain["ClosedAt"]


async def test_an_open_is_given_up_only_when_the_chain_went_on_without_it_twice(house: House) -> None:
    async with house.worker(**QUICK, absence_spacing=1.0):
        await house.simulator.arm("open", "never_mined", count=None)
        assert await house.gateway.attempt_open() == "open_failed"
        operation = await house.only_operation(kind="open")
        assert operation["absences"] == 2
        taken = (operation["updated_at"] - operation["sent_at"]).total_seconds()
        assert taken > 1.9


async def test_nobody_is_sent_for_again_what_nobody_wants(house: House) -> None:
    async with house.worker(reconcile_seconds=0.2):
        await house.simulator.arm("open", "mined_late", count=None)
        opening = asyncio.create_task(house.gateway.attempt_open())
        # what is not wanted before the call is not sent at all
        await until(lambda: house.operations(**{"facts.what": {"$in": ["refused", "no clear answer"]}}))
        await house.deactivate()
        assert await opening == "open_cancelled"
        await house.simulator.disarm()
        await released(house)
        await house.session_is("closed")
        assert await house.simulator.open_sessions() == []


async def test_what_comes_late_serves_whoever_waits_for_another_of_the_model(house: House) -> None:
    async with house.worker(**QUICK):
        await house.simulator.arm("open", "mined_late", count=None)
        assert await house.gateway.attempt_open() == "open_failed"
        await house.simulator.disarm()
        await house.simulator.arm("initiate", "hang")
        opening = asyncio.create_task(house.gateway.open())
        await until(lambda: house.simulator.struck("initiate"))
        await released(house)
        row = await opening
        (on_chain,) = await house.simulator.open_sessions()
        assert row.session_id == on_chain["Id"]
        await house.simulator.disarm()
        assert (await house.gateway.current()) is not None
        assert (await house.gateway.chat("hello")).ended
    assert len(await house.simulator.sessions()) == 1


async def test_a_close_without_a_report_is_named_and_holds_nobody_up_for_ever(house: House) -> None:
    async with house.worker(chain_timeout=0.5, retry_seconds=0.1, reconcile_seconds=0.5):
        row = await house.gateway.open()
        await house.simulator.arm("closing_report", "hang", count=None)
        assert not (await house.gateway.close(wait=0.2)).confirmed

        async def stuck() -> bool:
            return bool((await house.only_operation(kind="close"))["stuck"])

        await until(stuck)
        # its provider gets no more of our stake, and everybody else goes on
        other = await house.gateway.open("k2")
        assert other.provider != row.provider
        await house.simulator.disarm()
        closed = await house.session_is("closed")
        assert closed["chain_session"] == row.session_id


async def test_sessions_of_keys_that_auth_does_not_know_any_more_are_closed(house: House) -> None:
    ended: set[str] = set()

    async def answer(msg: Msg) -> None:
        asked = json.loads(msg.data)["key_ids"]
        await msg.respond(json.dumps({"ok": {"key_ids": [key for key in asked if key in ended]}}).encode())

    await house.auth.subscribe(ENDED_KEYS.subject, cb=answer)
    async with house.worker(key_check_seconds=0.3):
        await house.gateway.open("k1")
        kept = await house.gateway.open("k2")
        ended.add("k1")
        closed = await house.session_is("closed")
        assert (closed["key_id"], closed["reason"]) == ("k1", "key_revoked")
        assert [item["Id"] for item in await house.simulator.open_sessions()] == [kept.session_id]


async def test_a_silent_auth_ends_no_key(house: House) -> None:
    async with house.worker(key_check_seconds=0.1):
        await house.gateway.open("k1")
        await asyncio.sleep(0.5)  # several rounds, each unanswered
        current = await house.gateway.current("k1")
    assert current is not None


async def test_only_one_process_calls_the_chain_of_a_wallet(house: House) -> None:
    """F15: a mark tells the next holder of a call of the last: a living one's is waited for, a dead one's overlapped."""
    async with house.worker():
        await house.gateway.open()
    wallets = house.database["wallets"]
    assert await wallets.count_documents({"calling": None, "overlaps": 0}) == 1
    mark = {"worker": "w9", "boot": 3, "operation": "x", "until": (await house.database_time(3600))}
    await wallets.update_one({}, {"$set": {"calling": mark}})
    await house.database["workers"].insert_one({"_id": "w9", "boot": 3, "beat_at": await house.database_time(3600)})
    async with house.worker():
        opening = asyncio.create_task(house.gateway.open("k2"))
        await until(lambda: house.operations(key_id="k2", state={"$in": ["sent", "unknown"]}))
        assert len(await house.simulator.sessions()) == 1
        await house.database["workers"].update_one({"_id": "w9"}, {"$set": {"boot": 4}})
        await opening
    assert await wallets.count_documents({"overlaps": 1}) == 1


async def test_what_is_watched_is_found_without_reading_all_that_was_ever_closed(house: House) -> None:
    async with house.worker() as parts:
        await house.gateway.open()
        one = await house.only_session()
        long_ago = datetime(2025, 1, 1, tzinfo=UTC)
        times = dict.fromkeys(("opened_at", "ends_at", "closed_at", "updated_at"), long_ago)
        over = [
            one
            | {"_id": uuid7(), "operation_id": uuid7(), "state": "closed", "slot": None, "chain_session": f"0x{n:064x}"}
            | times
            for n in range(2_000)
        ]
        await house.database["sessions"].insert_many(over)
        await house.database.command("profile", 2)
        assert await parts.journal.oldest_watched(one["wallet"]) == int(one["opened_at"].timestamp())
        await house.database.command("profile", 0)
        asked = {"command.find": "sessions", "command.sort.opened_at": 1}
        examined = [item["docsExamined"] async for item in house.database["system.profile"].find(asked)]
    assert examined
    assert max(examined) < 100


async def test_a_finding_goes_when_its_session_is_closed_however_old_it_is(house: House) -> None:
    foreign = await house.simulator.open_past_us()
    async with house.worker(reconcile_seconds=0.1):
        await until(lambda: finding(house))
        # a newer session of ours: what is read of the chain begins after the foreign one
        await house.simulator.advance(2 * 3600)
        await house.gateway.open(duration=7200)
        passes = await house.database["wallets"].find_one({})
        await house.simulator.advance(3000)
        await house.simulator.close_expired()

        async def is_gone() -> bool:
            return await finding(house) is None

        await until(is_gone)
    assert passes is not None
    assert foreign not in {item["Id"] for item in await house.simulator.open_sessions()}


async def test_a_given_up_open_is_read_only_if_its_stake_is_seen(house: House) -> None:
    async with house.worker(**QUICK) as parts:
        await house.simulator.arm("open", "never_mined", count=None)
        assert await house.gateway.attempt_open() == "open_failed"
        given_up = await house.only_operation(kind="open")
        assert await parts.journal.sent_opens(given_up["wallet"], seen=()) == []
        seen = ChainSession("0x1", "0x2", "0x3", "0x4", "0x5", int(given_up["stake"].to_decimal()), 1, 1, 2, 0)
        (found,) = await parts.journal.sent_opens(given_up["wallet"], seen=(seen,))
    assert found.id == given_up["_id"]
