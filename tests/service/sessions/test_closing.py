"""Closing a session: the chain says when it is closed, and a revoked key keeps nothing."""

import asyncio
from typing import Any

import pytest
from morpheus_common.bus.names import session_changed
from morpheus_common.errors import ApiError
from morpheus_common.ids import uuid7
from morpheus_sessions.documents import SessionDocument
from morpheus_sessions.figures import FiguresReader
from morpheus_sessions.journal import Journal
from morpheus_sessions.worker import Parts

from tests.service.sessions.house import House, until


async def test_a_close_is_confirmed_by_the_chain(house: House) -> None:
    async with house.worker():
        row = await house.gateway.open()
        closed = await house.gateway.close()

        assert (closed.session_id, closed.confirmed) == (row.session_id, True)
        assert await house.simulator.open_sessions() == []
        assert await house.gateway.current() is None
        stored = await house.only_session()
    (on_chain,) = await house.simulator.sessions()
    assert stored["state"] == "closed"
    assert int(stored["closed_at"].timestamp()) == on_chain["ClosedAt"]


async def test_a_key_without_a_session_has_nothing_to_close(house: House) -> None:
    async with house.worker():
        closed = await house.gateway.close()

    assert (closed.session_id, closed.confirmed) == (None, True)


async def test_closing_takes_the_parked_sessions_too(house: House) -> None:
    async with house.worker():
        await house.gateway.chat()
        await house.gateway.chat(model_id=house.gateway.model("qwen3-235b"))
        closed = await house.gateway.close()

    assert closed.confirmed
    assert await house.simulator.open_sessions() == []


async def test_closing_touches_no_other_key(house: House) -> None:
    async with house.worker():
        await house.gateway.open("k1")
        other = await house.gateway.open("k2")
        await house.gateway.close("k1")

    assert [session["Id"] for session in await house.simulator.open_sessions()] == [other.session_id]


async def test_nothing_is_confirmed_before_the_chain_has_confirmed_it_also_when_asked_again(house: House) -> None:
    operation_id = uuid7()
    async with house.worker():
        row = await house.gateway.open()
        await house.simulator.arm("close", "hang")
        first = await house.gateway.close(wait=0.3, operation_id=operation_id)
        repeated = await house.gateway.close(wait=0.3, operation_id=operation_id)
        another = await house.gateway.close(wait=0.3)
        assert [first.confirmed, repeated.confirmed, another.confirmed] == [False, False, False]
        assert first.session_id == repeated.session_id == row.session_id
        assert first.operations == repeated.operations == another.operations == [operation_id]

        await house.simulator.disarm()
        assert (await house.gateway.close(operation_id=operation_id)).confirmed
    assert await house.simulator.open_sessions() == []
    assert len(await house.operations(kind="close")) == 1


@pytest.mark.parametrize(
    ("action", "params"), [("error_after", {}), ("drop", {"when": "after"}), ("drop", {}), ("error_before", {})]
)
async def test_a_close_goes_on_until_the_chain_confirms_it(house: House, action: str, params: dict[str, Any]) -> None:
    async with house.worker():
        await house.gateway.open()
        await house.simulator.arm("close", action, **params)
        closed = await house.gateway.close()

    assert closed.confirmed
    assert await house.simulator.open_sessions() == []
    assert (await house.only_session())["state"] == "closed"


async def test_a_session_that_somebody_else_closed_counts_as_closed(house: House) -> None:
    """F7"""
    async with house.worker(reconcile_seconds=3600):
        row = await house.gateway.open()
        await house.simulator.close(row.session_id or "")
        closed = await house.gateway.close()

        assert closed.confirmed
        stored = await house.only_session()
        operation = await house.only_operation(kind="close")
    (on_chain,) = await house.simulator.sessions()
    assert (stored["state"], operation["state"]) == ("closed", "done")
    assert int(stored["closed_at"].timestamp()) == on_chain["ClosedAt"]


async def test_a_close_waits_for_the_running_prompt_and_no_new_one_begins(house: House) -> None:
    async with house.worker():
        await house.gateway.open()
        await house.simulator.arm("chat", "stall", at=2)
        running = asyncio.create_task(house.gateway.chat("running"))
        await until(lambda: house.simulator.struck("chat"))
        closing = asyncio.create_task(house.gateway.close())
        session = await house.session_is("closing")
        await until(lambda: was_put_off(house))

        late = asyncio.create_task(house.gateway.chat("late", session_id=session["chain_session"]))
        assert len(await house.simulator.open_sessions()) == 1
        assert not closing.done()

        await house.simulator.disarm()
        (await running).assert_whole()
        assert (await closing).confirmed
        assert (await late).code == "session_not_found"
    assert await house.simulator.open_sessions() == []
    assert await house.simulator.prompts() == 1


async def test_a_close_needs_no_word_to_the_worker_that_owns_the_session_and_still_waits_for_its_prompt(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bus may be gone for that worker alone, while the database hears from it."""
    nobodys = session_changed("nobody", "*")
    # for the owner, which is in this process
    monkeypatch.setattr("morpheus_common.bus.names.session_changed", lambda *_: nobodys)
    monkeypatch.setattr("morpheus_sessions.release.BEAT_SECONDS", 0.2)
    async with house.process("w1"):
        for key in ("idle", "busy"):
            await house.gateway.open(key)
        async with house.worker("w2") as owner:
            assert (await house.gateway.chat(key="idle", first="w2")).worker == "w2"
            await house.simulator.arm("chat", "stall", at=2)
            running = asyncio.create_task(house.gateway.chat("running", key="busy", first="w2"))
            await until(lambda: house.simulator.struck("chat"))
            assert {session["owner"]["worker"] for session in await house.sessions()} == {"w2"}

            closing = asyncio.create_task(house.gateway.close("busy", wait=10.0))
            assert (await house.gateway.close("idle", wait=10.0)).confirmed
            await until(lambda: is_forgotten(owner, "busy"))
            await owner.release.look_again()
            assert (await house.only_session(key_id="busy"))["owner"]["worker"] == "w2"
            assert not closing.done()

            await house.simulator.disarm()
            (await running).assert_whole()
            assert (await closing).confirmed
    assert await house.simulator.open_sessions() == []


async def is_forgotten(owner: Parts, key: str) -> bool:
    return owner.chat._ownership.owned(key) is None


async def test_a_session_that_is_still_opening_is_closed_once_it_is_open(house: House) -> None:
    async with house.worker():
        await house.simulator.arm("open", "hang")
        opening = asyncio.create_task(house.gateway.open())
        await until(lambda: house.simulator.struck("open"))
        closed = await house.gateway.close(wait=0.2)
        assert not closed.confirmed

        await house.simulator.disarm()
        with pytest.raises(ApiError):
            await opening
        await house.session_is("closed")
        assert await house.gateway.current() is None
    state = await house.simulator.state()
    assert (state["opens_total"], state["open_count"]) == (1, 0)


async def test_opening_another_model_closes_the_old_session_when_the_new_one_is_open(house: House) -> None:
    """F9"""
    async with house.worker():
        old = await house.gateway.open()
        new = await house.gateway.open(model_id=house.gateway.model("qwen3-235b"))
        closed = await house.session_is("closed")

    assert closed["chain_session"] == old.session_id
    assert [session["Id"] for session in await house.simulator.open_sessions()] == [new.session_id]


async def test_a_failed_switch_leaves_the_old_session_in_use(house: House) -> None:
    async with house.worker():
        old = await house.gateway.open()
        await house.simulator.arm("open", "error_before", status=403, text="method not allowed")
        with pytest.raises(ApiError):
            await house.gateway.open(model_id=house.gateway.model("qwen3-235b"))
        answer = await house.gateway.chat()

    assert answer.head is not None
    assert answer.head.session_id == old.session_id


# time


async def test_a_session_that_ran_out_and_was_closed_by_the_router_is_closed_here_too(house: House) -> None:
    async with house.worker(reconcile_seconds=0.2):
        await house.gateway.open()
        await house.simulator.advance(3700)
        await house.simulator.close_expired()
        await house.session_is("closed")

    assert await house.operations(kind="close") == []


# revoked keys


async def test_the_sessions_of_a_revoked_key_are_closed_and_it_opens_no_more(house: House) -> None:
    """F9"""
    async with house.worker():
        await house.gateway.chat()
        await house.gateway.chat(model_id=house.gateway.model("qwen3-235b"))
        await house.gateway.open("k2")
        await house.deactivate("k1")
        await until(lambda: all_closed(house, "k1"))

        with pytest.raises(ApiError) as caught:
            await house.gateway.open("k1")
        assert caught.value.code == "invalid_api_key"
        assert (await house.gateway.chat(key="k1")).code == "invalid_api_key"
        assert (await house.gateway.chat(key="k2")).ended
    state = await house.simulator.state()
    assert (state["opens_total"], state["open_count"]) == (3, 1)


async def test_an_open_that_a_revocation_overtakes_is_closed_as_soon_as_it_is_on_chain(house: House) -> None:
    async with house.worker():
        await house.simulator.arm("open", "hang")
        opening = asyncio.create_task(house.gateway.open())
        await until(lambda: house.simulator.struck("open"))
        await house.deactivate()
        await until(lambda: is_unwanted(house, "k1"))

        await house.simulator.disarm()
        await opening
        await house.session_is("closed", reason="key_revoked")
    assert (await house.simulator.state())["open_count"] == 0


async def test_a_revocation_that_comes_twice_does_no_harm(house: House) -> None:
    async with house.worker():
        await house.gateway.open()
        await house.deactivate()
        await house.deactivate()
        await house.session_is("closed")

    assert len(await house.operations(kind="close")) == 1


async def test_no_invariant_is_broken_between_the_end_of_a_key_and_the_closes_of_its_sessions(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I6"""
    reader = FiguresReader(house.database, routers=["r1"], deployment=7)
    request_close = Journal.request_close
    seen = []

    async def read_before(self: Journal, session: SessionDocument, reason: str) -> str | None:
        assert await is_unwanted(house, session.key_id)
        figures = await reader.read()
        seen.append((reason, figures.sessions["active"], figures.violations["I6"]))
        return await request_close(self, session, reason)

    async with house.worker() as parts:
        for key in ("k1", "k2", "k3"):
            await house.gateway.open(key)
        monkeypatch.setattr(Journal, "request_close", read_before)
        await parts.journal.revoke("k1", "u1")
        await parts.erasing.close_all("u1")

    assert seen == [("key_revoked", 3, 0), ("account_deleted", 2, 0), ("account_deleted", 1, 0)]


async def test_a_key_that_is_revoked_again_is_unwanted_since_the_first_time(house: House) -> None:
    """I6: what is repeated for ever must not put off for ever that it is told."""
    guards = house.database["key_guards"]
    await guards.insert_one({"_id": "long ago", "user_id": "u1", "wanted": False, "changes": 1})
    async with house.worker() as parts:
        await house.gateway.open("k1")
        for key in ("k1", "k1", "long ago", "never used"):
            await parts.journal.revoke(key, "$u1")
        first = await guards.find_one({"_id": "k1"})
        await parts.journal.revoke("k1", "u1")
        await parts.erasing.close_all("u1")

    assert first is not None
    changed = {guard["_id"]: guard async for guard in guards.find()}
    assert changed["k1"] == {**first, "changes": first["changes"] + 1}
    assert changed["long ago"].get("unwanted_at") is None
    assert changed["never used"]["user_id"] == "$u1"
    assert changed["never used"]["unwanted_at"] >= first["unwanted_at"]


async def all_closed(house: House, key: str) -> bool:
    return {session["state"] for session in await house.sessions(key_id=key)} == {"closed"}


async def was_put_off(house: House) -> bool:
    return (await house.only_operation(kind="close"))["not_before"] is not None


async def is_unwanted(house: House, key: str) -> bool:
    guard = await house.database["key_guards"].find_one({"_id": key})
    return guard is not None and guard["wanted"] is False


async def test_closes_that_the_chain_refuses_are_no_fault_of_their_provider(house: House) -> None:
    async with house.worker(retry_seconds=0.1, reconcile_seconds=3600) as parts:
        row = await house.gateway.open()
        await house.simulator.arm("close", "revert", count=3)
        await house.gateway.close(wait=0)

        async def refused() -> bool:
            facts = (await house.only_operation(kind="close"))["facts"]
            return [fact["what"] for fact in facts].count("refused") == 3

        await until(refused)

        async def is_put_off() -> bool:
            return bool(await house.operations(kind="close", not_before={"$gt": await house.database_time(60)}))

        await until(is_put_off)
        wallet = (await house.only_session())["wallet"]
        assert row.provider not in await parts.journal.stuck_providers(wallet)
        assert not (await house.only_operation(kind="close"))["stuck"]


async def test_an_open_that_waits_for_its_turn_is_not_sent_when_its_key_is_revoked(house: House) -> None:
    async with house.worker(reconcile_seconds=3600):
        await house.gateway.open("k1")
        await house.simulator.arm("close", "hang")
        await house.gateway.close("k1", wait=0)
        await until(lambda: house.simulator.struck("close"))
        opening = asyncio.create_task(house.gateway.attempt_open("k2"))
        await until(lambda: house.operations(key_id="k2", state="sent"))
        await house.deactivate("k2")

        async def unwanted() -> Any:
            return await house.database["key_guards"].find_one({"_id": "k2", "wanted": False})

        await until(unwanted)
        await house.simulator.disarm()
        await opening
    assert (await house.simulator.state())["opens_total"] == 1
    assert (await house.only_session(key_id="k2"))["state"] == "failed"
