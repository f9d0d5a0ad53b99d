"""`morpheus sessions` against a worker: what operators are shown, what they may do, and what is refused."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from bson import Decimal128
from morpheus_common.bus.names import User
from morpheus_common.bus.rpc import RpcClient
from morpheus_common.contracts.audit import AuditAction
from morpheus_common.contracts.base import Empty
from morpheus_common.contracts.operator import (
    ADOPT_LOST,
    CLOSE_OURS,
    LIST_SESSIONS,
    MAKE_PASS,
    MODEL_NAME_CHARS,
    READ_CHAIN,
    WALLETS,
    AdoptLost,
    CloseOurs,
    ListSessions,
    MakePass,
    ReadChain,
)
from morpheus_common.contracts.sessions import SessionRow, SessionState
from morpheus_common.errors import ApiError
from morpheus_common.ids import uuid7

from tests.service.command import Said, morpheus
from tests.service.sessions.house import House, until

STILL: dict[str, Any] = {"reconcile_seconds": 3600.0}
"""A worker whose loops make a pass at start, and then only when they are asked to."""
COLUMNS = ["STATE", "SLOT", "MOR", "WEI", "ROUTER", "WALLET", "AGE", "LEFT", "KEY", "MODEL", "SESSION"]
NO_SESSION = "0x" + "1" * 64


async def sessions(house: House, *arguments: str, user: User = User.OPS, typed: str = "") -> Said:
    """Run `morpheus sessions …` as an operator would."""
    return await morpheus(house.account, "sessions", *arguments, user=user, typed=typed)


async def audit(house: House, *more: str) -> Said:
    return await sessions(house, "audit", "--apart", "0", "--json", *more)


@asynccontextmanager
async def asking(house: House) -> AsyncIterator[RpcClient]:
    connection = await house.account.connect(User.OPS)
    try:
        yield RpcClient(connection)
    finally:
        await connection.close()


async def forget(house: House, row: SessionRow) -> str:
    """Lose all records of a session, as a restored back-up would; return its id on chain."""
    await house.database["sessions"].delete_one({"chain_session": row.session_id})
    await house.database["operations"].delete_one({"_id": row.operation_id})
    return str(row.session_id)


async def at_rest(house: House) -> None:
    """Wait until the pass at the start of a worker is over; the next is made when an operator asks for it."""
    async with asking(house) as rpc:
        assert (await rpc.call(MAKE_PASS, MakePass(router="r1"))).made


# list


async def test_list_shows_what_is_at_stake(house: House) -> None:
    async with house.worker():
        row = await house.gateway.open("k1")
        await house.gateway.open("k2", model_id=house.gateway.model("qwen3-235b"))
        assert (await house.gateway.close("k2")).confirmed

        shown = await sessions(house, "list", "--json")
        table = await sessions(house, "list")
        closed = await sessions(house, "list", "--state", "closed", "--json")
        of_nobody = await sessions(house, "list", "--state", "all", "--router", "r9", "--json")
        await house.database["sessions"].update_one({"key_id": "k2"}, {"$set": {"router": "r8"}})
        taken_out = await sessions(house, "list", "--router", "r8", "--json")
        of_r1 = await sessions(house, "list", "--router", "r1", "--json")

    (line,) = shown.lines
    assert (line["state"], line["slot"], line["session_id"]) == ("active", "current", row.session_id)
    assert (line["stake"], line["key_id"], line["model"]) == (str(row.stake), "k1", "llama-3.3-70b")
    assert line["router"] == "r1"
    assert line["ours"] is True
    assert line["mor"].startswith("11.4")
    assert table.out.splitlines()[0].split() == COLUMNS
    assert str(row.session_id) in table.out
    assert "59 min" in table.out
    assert table.out.splitlines()[-1] == f"1 session, {line['mor']} MOR."
    assert [item["key_id"] for item in closed.lines] == ["k2"]
    assert (of_nobody.code, of_nobody.err) == (1, "morpheus: No router is called r9; there are: r1.\n")
    assert (taken_out.code, taken_out.lines) == (0, [])
    assert of_r1.lines == [line]


async def test_list_shows_the_stake_of_an_open_that_was_sent(house: House) -> None:
    async with house.worker(**STILL):
        await at_rest(house)
        await house.simulator.arm("open", "hang", when="after")
        opening = asyncio.create_task(house.gateway.ask_open("k1", wait=60.0))
        await until(lambda: house.simulator.struck("open"))
        as_json = await sessions(house, "list", "--json")
        table = await sessions(house, "list")
        (on_chain,) = await house.simulator.open_sessions()
        await house.simulator.disarm()
        assert (await opening).session is not None
        (opened,) = (await sessions(house, "list", "--json")).lines

    (line,) = as_json.lines
    assert (line["state"], line["stake"], line["mor"]) == ("opening", None, "")
    assert (line["reserved"], line["reserved_mor"]) == (on_chain["Stake"], opened["mor"])
    assert f"{opened['mor']} (reserved)" in table.out
    assert f" {on_chain['Stake']} " in table.out
    total = f"1 session, {opened['mor']} MOR ({opened['mor']} of it for opens under way)."
    assert table.out.splitlines()[-1] == total
    assert (opened["reserved"], opened["reserved_mor"], opened["stake"]) == (None, "", on_chain["Stake"])


async def test_a_state_that_does_not_exist_is_refused_with_those_that_do(house: House) -> None:
    said = await sessions(house, "list", "--state", "asleep")
    assert said.code == 1
    assert "No such state: asleep. There are: all, opening, active" in said.err


async def test_without_a_worker_or_without_the_right_seed_one_sentence_says_so(house: House) -> None:
    said = await sessions(house, "list")
    assert (said.code, said.err) == (1, "morpheus: No session worker answers on the bus.\n")
    async with house.worker():
        said = await sessions(house, "list", user=User.SUBSCRIBER)
    assert said.code == 1
    assert "NATS_SEED is not the seed of the user `ops`" in said.err


async def test_pages_follow_each_other_and_stay_small_whatever_a_model_is_called(house: House) -> None:
    async with house.worker(**STILL), asking(house) as rpc:
        rows = [await house.gateway.open(f"k{number}") for number in range(3)]
        await house.database["sessions"].update_many({}, {"$set": {"model_name": "x" * 1_000_000}})

        states = [SessionState.ACTIVE]
        first = await rpc.call(LIST_SESSIONS, ListSessions(states=states, limit=2))
        rest = await rpc.call(LIST_SESSIONS, ListSessions(states=states, limit=2, after=first.sessions[-1].id))
        newest = await rpc.call(READ_CHAIN, ReadChain(router="r1", limit=2))
        oldest = await rpc.call(READ_CHAIN, ReadChain(router="r1", offset=2, limit=2))
        (wallet,) = (await rpc.call(WALLETS, Empty())).wallets

    assert [len(first.sessions), first.more, len(rest.sessions), rest.more] == [2, True, 1, False]
    listed = [*first.sessions, *rest.sessions]
    assert [item.session_id for item in listed] == [row.session_id for row in rows]
    assert {len(item.model) for item in listed} == {MODEL_NAME_CHARS}
    on_chain = [*newest.sessions, *oldest.sessions]
    assert [item.session_id for item in on_chain] == [row.session_id for row in reversed(rows)]
    assert [newest.more, oldest.more] == [True, False]
    assert {item.records[0].id for item in on_chain} == {item.id for item in listed}
    assert (wallet.deployment, wallet.problem) == (7, None)
    assert wallet.height is not None
    assert wallet.height >= newest.height


# audit


async def test_an_audit_without_a_difference_says_what_is_at_stake(house: House) -> None:
    async with house.worker(**STILL):
        row = await house.gateway.open("k1")
        said = await sessions(house, "audit")
        as_json = await audit(house)

    assert said.code == 0
    line = as_json.lines[0]
    assert said.out == f"1 session, {line['mor']} MOR at stake: no difference.\n"
    assert line == {
        "sessions": 1,
        "stake": str(row.stake),
        "mor": line["mor"],
        "differences": 0,
        "in_flight": 0,
    }


async def test_an_audit_names_what_is_foreign_lost_closed_or_different_and_fails(house: House) -> None:
    async with house.worker(**STILL):
        rows = {key: await house.gateway.open(key) for key in ("ok", "lost", "closed", "stake", "ended", "gone")}
        await at_rest(house)
        foreign = await house.simulator.open_past_us()
        lost = await forget(house, rows["lost"])
        await house.simulator.close(str(rows["closed"].session_id))
        records = house.database["sessions"]
        stake = Decimal128(str((rows["stake"].stake or 0) + 1))
        await records.update_one({"key_id": "stake"}, {"$set": {"stake": stake}})
        await records.update_one({"key_id": "ended"}, {"$set": {"state": "failed", "slot": None}})
        await records.update_one({"key_id": "gone"}, {"$set": {"wallet": "0x" + "9" * 40}})
        absent = {**await house.only_session(key_id="ok"), "_id": uuid7(), "key_id": "absent"}
        await records.insert_one({**absent, "chain_session": NO_SESSION, "operation_id": uuid7()})

        said = await audit(house)
        table = await sessions(house, "audit", "--apart", "0")

    assert said.code == table.code == 3
    assert said.kinds() == {
        foreign: "foreign",
        lost: "lost",
        rows["closed"].session_id: "recorded as open, closed on chain",
        rows["stake"].session_id: "stake differs",
        rows["ended"].session_id: "recorded as ended, open on chain",
        rows["gone"].session_id: "no router for its wallet",
        NO_SESSION: "recorded as open, not on chain",
    }
    summary = said.lines[-1]
    assert (summary["differences"], summary["sessions"]) == (7, 5)
    assert table.out.splitlines()[-1].endswith("at stake: 7 differences.")
    for session_id in said.kinds():
        assert session_id in table.out


async def test_a_wallet_may_be_shared_with_others_if_the_operator_says_so(house: House) -> None:
    await house.simulator.open_past_us()
    async with house.worker(**STILL):
        refused = await sessions(house, "audit", "--apart", "0")
        shared = await sessions(house, "audit", "--apart", "0", "--allow-foreign")

    assert (refused.code, shared.code) == (3, 0)
    assert shared.out.splitlines()[-1] == ("0 sessions, 0 MOR at stake: no difference (1 foreign session, not ours).")


async def test_an_audit_names_every_rule_that_records_can_break(house: House) -> None:
    async with house.worker(**STILL):
        row = await house.gateway.open("k1")
        given_up = await house.gateway.open("k2")
        nobody_closes = await house.gateway.open("k3")
        await at_rest(house)
        for name in ("sessions", "operations"):
            await house.database[name].drop_indexes()
        records, operations = house.database["sessions"], house.database["operations"]
        twin = {**await house.only_session(key_id="k1"), "_id": uuid7()}
        await records.insert_one(twin)
        same_approval = {**await house.only_operation(key_id="k1"), "_id": uuid7(), "state": "failed"}
        await operations.insert_one(same_approval)
        change = {"state": "abandoned", "slot": None, "chain_session": None, "wallet": None}
        await records.update_one({"key_id": "k2"}, {"$set": change})
        await operations.update_one({"key_id": "k2"}, {"$set": {"state": "abandoned"}})
        await records.update_one({"key_id": "k3"}, {"$set": {"state": "closing", "slot": None}})
        said = await audit(house)

    approvals = ", ".join(sorted([row.operation_id, same_approval["_id"]]))
    found = {", ".join(sorted(what.split(", "))): kind for what, kind in said.kinds().items()}
    assert said.code == 3
    assert found == {
        "k1 current": "one key, two sessions in a slot",
        row.session_id: "one session on chain, two records",
        row.operation_id: "one open, two records",
        approvals: "one approval, two opens",
        given_up.session_id: "given up, open on chain",
        nobody_closes.session_id: "closing, and nobody closes it",
    }
    assert "0x" not in json.dumps([line for line in said.lines if line.get("kind") == "one approval, two opens"])


async def test_an_audit_that_cannot_read_a_wallet_says_so_instead_of_guessing(house: House) -> None:
    async with house.worker(**STILL):
        await house.gateway.open()
        await house.simulator.arm("latest_block", "error_before", count=None, status=500, text="no node")
        said = await audit(house)

    assert said.code == 1
    assert said.err.startswith("morpheus: Nothing can be said of router r1")


# reconcile


async def test_a_dry_run_says_what_a_pass_would_do_and_changes_nothing(house: House) -> None:
    async with house.worker(**STILL):
        rows = {key: await house.gateway.open(key) for key in ("k1", "lost", "closed")}
        await at_rest(house)
        foreign = await house.simulator.open_past_us()
        lost = await forget(house, rows["lost"])
        await house.simulator.close(str(rows["closed"].session_id))
        await house.simulator.arm("close", "error_before", count=None)
        assert not (await house.gateway.close("k1", wait=0.1)).confirmed
        before = await house.sessions()
        said = await sessions(house, "reconcile", "--dry-run", "--json")
        table = await sessions(house, "reconcile", "--dry-run")
        assert await house.sessions() == before
        made = await sessions(house, "reconcile")

    acts = {line["session_id"]: line["act"] for line in said.lines}
    assert acts == {
        foreign: "foreign",
        lost: "lost",
        rows["closed"].session_id: "settle as closed",
        rows["k1"].session_id: "close",
    }
    assert all(line["reason"] for line in said.lines)
    # a close that is tried again by itself is nothing that a pass has found
    assert {line["session_id"] for line in said.lines if line["under_way"]} == {rows["k1"].session_id}
    found, _, going_on = table.out.partition("3 things to do.\n")
    assert str(rows["k1"].session_id) not in found
    assert str(rows["k1"].session_id) in going_on
    assert going_on.endswith("\n1 operation under way.\n")
    assert made.out.startswith("r1: pass made: ")
    assert made.out.endswith("; 1 operation under way\n")
    assert "carries our tag, and no record stands for it" in table.out


async def test_without_dry_run_the_loop_makes_a_pass_now(house: House) -> None:
    async with house.worker(**STILL):
        row = await house.gateway.open()
        await at_rest(house)
        await house.simulator.close(str(row.session_id))
        said = await sessions(house, "reconcile", "--json")
        (session,) = await house.sessions()
        nothing = await sessions(house, "reconcile")

    assert said.lines == [{"router": "r1", "made": True, "done": {"settle_closed": 1}, "under_way": 0}]
    assert session["state"] == "closed"
    assert nothing.out == "r1: pass made: nothing to do\n"


async def test_a_pass_is_made_by_the_worker_that_holds_the_wallet(house: House) -> None:
    async with house.process("w1", **STILL), house.process("w2", **STILL):
        made = [await sessions(house, "reconcile") for _ in range(4)]

    assert {said.out for said in made} == {"r1: pass made: nothing to do\n"}


# adopt


async def test_a_lost_session_gets_a_record_and_serves_its_key_again(house: House) -> None:
    async with house.worker(**STILL):
        lost = await forget(house, await house.gateway.open("k1"))
        no = await sessions(house, "adopt", lost, "--key", "k1", typed="n\n")
        assert await house.sessions() == []
        yes = await sessions(house, "adopt", lost, "--key", "k1", typed="y\n")
        again = await sessions(house, "adopt", lost, "--key", "k1", "--yes", "--json")
        adopted = await house.only_session()
        assert (await audit(house)).code == 0
        # its key has it back without another stake
        answer = await house.gateway.chat("hello")

    assert no.code == 1
    assert "11.4" in no.err
    assert yes.code == 0
    assert adopted["_id"] in yes.out
    assert again.lines[0]["id"] == adopted["_id"]
    assert (adopted["state"], adopted["chain_session"], adopted["user_id"]) == ("parked", lost, "u1")
    assert answer.ended
    assert len(await house.simulator.sessions()) == 1
    events = [item async for item in house.database["outbox"].find({"entity": adopted["_id"]}).sort("version", 1)]
    assert [(item["version"], item["subject"].split(".")[3]) for item in events] == [(1, "opened"), (2, "resumed")]


async def test_a_lost_session_of_a_revoked_key_is_recorded_and_closed(house: House) -> None:
    async with house.worker(**STILL):
        lost = await forget(house, await house.gateway.open("k1"))
        await house.database["key_guards"].update_one({"_id": "k1"}, {"$set": {"wanted": False}})
        assert (await sessions(house, "adopt", lost, "--key", "k1", "--yes")).code == 0
        closed = await house.session_is("closed")

    assert (closed["chain_session"], closed["reason"]) == (lost, "key_revoked")
    assert await house.simulator.open_sessions() == []


async def test_what_is_foreign_or_known_or_closed_or_nobodys_is_not_adopted(house: House) -> None:
    foreign = await house.simulator.open_past_us()
    async with house.worker(**STILL):
        known = await house.gateway.open("k1")
        gone = await house.gateway.open("k2")
        closed = await forget(house, gone)
        await house.simulator.close(closed)
        lost = await forget(house, await house.gateway.open("k3"))
        await house.database["key_guards"].delete_one({"_id": "k3"})

        said = {
            "foreign": await sessions(house, "adopt", foreign, "--key", "k1", "--yes"),
            "forced": await sessions(house, "adopt", foreign, "--key", "k1", "--yes", "--force-foreign"),
            "known": await sessions(house, "adopt", str(known.session_id), "--key", "k9", "--yes"),
            "closed": await sessions(house, "adopt", closed, "--key", "k1", "--yes"),
            "unknown": await sessions(house, "adopt", NO_SESSION, "--key", "k1", "--yes"),
            "no id": await sessions(house, "adopt", "0x1", "--key", "k1", "--yes"),
            "whose": await sessions(house, "adopt", lost, "--key", "k3", "--yes"),
            "another's": await sessions(house, "adopt", lost, "--key", "k1", "--user", "u9", "--yes"),
        }
        assert len(await house.sessions()) == 1
        named = await sessions(house, "adopt", lost, "--key", "k3", "--user", "u3", "--yes", "--json")

    assert {what: item.code for what, item in said.items()} == dict.fromkeys(said, 1) | {"forced": 2}
    words = {
        "foreign": "a foreign session is never touched",
        "forced": "No such option: --force-foreign",
        "known": "already stands for that session",
        "closed": "closed on chain: nothing is at stake",
        "unknown": "No wallet of ours has that session",
        "no id": "0x and 64 small hex digits",
        "whose": "No record says whose key that is",
        "another's": "belongs to another user",
    }
    assert {what: word in said[what].err for what, word in words.items()} == dict.fromkeys(words, True)
    assert (named.lines[0]["user_id"], named.lines[0]["key_id"]) == ("u3", "k3")


async def test_a_foreign_session_is_refused_by_the_worker_too(house: House) -> None:
    foreign = await house.simulator.open_past_us()
    async with house.worker(**STILL), asking(house) as rpc:
        with pytest.raises(ApiError, match="foreign_session"):
            await rpc.call(ADOPT_LOST, AdoptLost(session_id=foreign, key_id="k1", user_id="u1"))
        with pytest.raises(ApiError, match="foreign_session"):
            await rpc.call(CLOSE_OURS, CloseOurs(session_id=foreign))
    assert [item["Id"] for item in await house.simulator.open_sessions()] == [foreign]


async def test_what_has_a_record_is_not_adopted_and_what_has_none_is_not_closed(house: House) -> None:
    async with house.worker(**STILL), asking(house) as rpc:
        known = str((await house.gateway.open("k1")).session_id)
        lost = await forget(house, await house.gateway.open("k2"))
        with pytest.raises(ApiError, match="session_known"):
            await rpc.call(ADOPT_LOST, AdoptLost(session_id=known, key_id="k9", user_id="u9"))
        with pytest.raises(ApiError, match="session_unrecorded"):
            await rpc.call(CLOSE_OURS, CloseOurs(session_id=lost))
    assert {item["Id"] for item in await house.simulator.open_sessions()} == {known, lost}


# close


async def test_a_session_of_ours_is_closed_by_either_of_its_ids(house: House) -> None:
    async with house.worker(**STILL):
        first, second = await house.gateway.open("k1"), await house.gateway.open("k2")
        record = await house.only_session(key_id="k2")
        said = [await sessions(house, "close", what) for what in (str(first.session_id), record["_id"])]

        async def all_closed() -> bool:
            return not await house.simulator.open_sessions() and not await house.sessions(state="closing")

        await until(all_closed)
        again = await sessions(house, "close", str(second.session_id))

    assert [item.code for item in said] == [0, 0]
    assert {item["reason"] for item in await house.sessions()} == {"operator"}
    assert (again.code, again.err) == (1, "morpheus: That session is closed: there is nothing to close.\n")


async def test_what_is_not_ours_is_not_closed(house: House) -> None:
    foreign = await house.simulator.open_past_us()
    async with house.worker(**STILL):
        lost = await forget(house, await house.gateway.open("k1"))
        retagged = await house.gateway.open("k2")
        await house.database["sessions"].update_one({}, {"$set": {"stake": Decimal128(str(10**19))}})
        said = [await sessions(house, "close", what) for what in (foreign, lost, str(retagged.session_id), NO_SESSION)]

    assert [item.code for item in said] == [1, 1, 1, 1]
    told = [item.err for item in said]
    assert "does not carry our tag" in told[0]
    assert "Adopt it first" in told[1]
    assert "does not carry our tag" in told[2]
    assert "No wallet of ours has that session" in told[3]
    assert len(await house.simulator.open_sessions()) == 3
    assert await house.operations(kind="close") == []


async def test_what_an_operator_has_done_is_entered_into_the_audit_log_before_it_is_done(house: House) -> None:
    """C50."""
    async with house.worker(**STILL), asking(house) as rpc:
        row = await house.gateway.open()
        assert row.session_id is not None
        await rpc.call(CLOSE_OURS, CloseOurs(session_id=row.session_id))
    assert [(act.action, act.session) for act in house.acts] == [(AuditAction.SESSION_CLOSED, row.session_id)]


async def test_while_auth_is_away_a_close_has_to_be_asked_for_as_one_that_no_log_tells_of(house: House) -> None:
    async with house.worker(**STILL), asking(house) as rpc:
        row = await house.gateway.open()
        assert row.session_id is not None
        await house.auth.close()
        with pytest.raises(ApiError, match="service_unavailable"):
            await rpc.call(CLOSE_OURS, CloseOurs(session_id=row.session_id))
        assert await house.operations(kind="close") == []
        await rpc.call(CLOSE_OURS, CloseOurs(session_id=row.session_id, unrecorded=True))
        await house.session_is("closed")
