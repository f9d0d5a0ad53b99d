"""Renewals: a successor is opened once, the old one is parked, and no prompt notices."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from morpheus_common.bus.names import User
from morpheus_common.bus.rpc import RpcClient
from morpheus_common.clock import utc_now
from morpheus_common.contracts.renewal import (
    GET_OPEN_FACTS,
    LIST_ENDING,
    RENEW_SESSION,
    EndingAfter,
    EndingSession,
    GetOpenFacts,
    ListEnding,
    Renewal,
    RenewalProgress,
    RenewSession,
)
from morpheus_common.contracts.sessions import AutomationWord, SessionState, Slot
from morpheus_common.errors import ApiError
from morpheus_common.ids import uuid7
from morpheus_sessions.limits import at_risk
from proxy_router_sim.clock import SystemClock
from proxy_router_sim.simulator import Settings

from tests.service.sessions.conftest import ANSWER_SECONDS, BLOCK_SECONDS
from tests.service.sessions.house import House, Simulator, until
from tests.unit.proxy_router_sim.harness import USERS, running

BEHIND = 215.0
"""The chain's clock is so late that a session of 330 s has less than two minutes left when it is opened."""
NEAR = ListEnding(share=0.1, least=120)


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    settings = Settings(users=USERS, block_seconds=BLOCK_SECONDS, answer_seconds=ANSWER_SECONDS)
    async with running(settings, SystemClock(start=time.time() - BEHIND)) as router:
        yield Simulator(router)


@pytest.fixture
async def automation(house: House) -> AsyncIterator[RpcClient]:
    connection = await house.account.connect(User.AUTOMATION)
    yield RpcClient(connection)
    await connection.close()


async def ending(automation: RpcClient, question: ListEnding = NEAR) -> list[EndingSession]:
    return (await automation.call(LIST_ENDING, question)).sessions


async def command(house: House, key: str = "k1", **more: Any) -> RenewSession:
    """What automation asks to renew a key's current session."""
    current = await house.only_session(key_id=key, slot="current")
    known = {
        "operation_id": uuid7(),
        "session": current["_id"],
        "user_id": current["user_id"],
        "key_id": key,
        "key_prefix": "sk-abc",
        "model_id": current["model_id"],
        "duration": 330,
        "word": AutomationWord(decision="renew", reason="ends_soon", at=utc_now()),
    }
    return RenewSession(**known | more)


async def renewed(house: House, automation: RpcClient, asked: RenewSession) -> dict[str, Any]:
    """Renew, wait until the successor has taken over, and return it."""
    await automation.call(RENEW_SESSION, asked)

    async def over() -> dict[str, Any] | None:
        found = await house.sessions(key_id=asked.key_id, slot="current")
        return found[0] if found and found[0]["_id"] != asked.session else None

    return await until(over)


async def staked(house: House) -> int:
    return sum(int(session["Stake"]) for session in await house.simulator.open_sessions())


# once


async def test_ten_parallel_renewals_at_two_workers_open_one_successor_with_one_stake_and_park_the_old_one(
    house: House, automation: RpcClient
) -> None:
    """F2, F6, O27"""
    async with house.process("w1"), house.process("w2"):
        first = await house.gateway.open(duration=330)
        successor: dict[str, Any] = {}
        for owner, other in (("w2", "w1"), ("w2", "w1")):
            assert (await house.gateway.chat(first=owner)).worker == owner
            commands = [await command(house) for _ in range(10)]
            answers = await asyncio.gather(*(automation.call(RENEW_SESSION, asked) for asked in commands))
            assert {answer.progress for answer in answers} <= {RenewalProgress.RUNNING, RenewalProgress.NOT_CURRENT}
            successor = await renewed(house, automation, commands[0])
            assert successor["operation_id"] in {answer.operation_id for answer in answers}
            # whoever runs a key's prompts keeps them, whichever worker opened the successor
            assert successor["owner"]["worker"] == owner
            answer = await house.gateway.chat(first=other)
            assert (answer.worker, answer.ended) == (owner, True)
        state = await house.simulator.state()
        assert state["opens_total"] == state["open_count"] == 3
        assert await staked(house) == (await at_risk(await house.database_time(), user_id="u1")).user
        old = await house.only_session(chain_session=first.session_id)
        assert (old["state"], old["slot"]) == ("parked", None)
        assert (successor["automation"]["decision"], successor["automation"]["reason"]) == ("renew", "ends_soon")
        assert not await house.operations(kind="close")


async def test_a_renewal_whose_answer_was_lost_is_asked_again_and_opens_nothing_more(
    house: House, automation: RpcClient
) -> None:
    async with house.worker():
        await house.gateway.open(duration=330)
        asked = await command(house)
        assert (await renewed(house, automation, asked))["operation_id"] == asked.operation_id
        again = await automation.call(RENEW_SESSION, asked)
        other = await automation.call(RENEW_SESSION, asked.model_copy(update={"operation_id": uuid7()}))
        assert again == Renewal(progress=RenewalProgress.RENEWED, operation_id=asked.operation_id)
        assert other.progress is RenewalProgress.NOT_CURRENT
        assert (await house.simulator.state())["opens_total"] == 2


async def test_a_session_that_its_user_closes_is_not_opened_again(house: House, automation: RpcClient) -> None:
    async with house.worker():
        await house.gateway.open(duration=330)
        late = await command(house)
        await house.simulator.arm("open", "hang")
        await automation.call(RENEW_SESSION, late)
        await until(lambda: house.simulator.struck("open"))
        closing = asyncio.create_task(house.gateway.close())

        async def is_unwanted() -> bool:
            return bool(await house.sessions(slot="next", wanted=False))

        await until(is_unwanted)
        await house.simulator.disarm()
        assert (await closing).confirmed
        assert await house.simulator.open_sessions() == []
        late = late.model_copy(update={"operation_id": uuid7()})
        assert (await automation.call(RENEW_SESSION, late)).progress is RenewalProgress.NOT_CURRENT
        assert (await house.simulator.state())["opens_total"] == 2


async def test_the_renewal_of_a_revoked_key_is_refused(house: House, automation: RpcClient) -> None:
    """C26"""
    async with house.worker():
        await house.gateway.open(duration=330)
        asked = await command(house)
        await house.database["key_guards"].update_one({"_id": "k1"}, {"$set": {"wanted": False}})
        with pytest.raises(ApiError, match="invalid_api_key"):
            await automation.call(RENEW_SESSION, asked)
        assert (await house.simulator.state())["opens_total"] == 1


# what fails


async def test_a_renewal_that_fails_leaves_the_old_session_in_use_and_can_be_tried_again(
    house: House, automation: RpcClient
) -> None:
    async with house.worker():
        first = await house.gateway.open(duration=330)
        await house.simulator.arm("open", "error_before", status=403, text="method not allowed")
        asked = await command(house)
        await automation.call(RENEW_SESSION, asked)
        await house.session_is("failed")
        failed = await automation.call(RENEW_SESSION, asked)
        assert failed.progress is RenewalProgress.FAILED
        assert failed.error is not None
        assert failed.error.code == "open_failed"
        answer = await house.gateway.chat()
        assert answer.head is not None
        assert answer.head.session_id == first.session_id
        again = await command(house)
        assert (await renewed(house, automation, again))["operation_id"] == again.operation_id


async def test_a_renewal_over_a_limit_is_refused_and_nothing_is_written(house: House, automation: RpcClient) -> None:
    """C31"""
    async with house.worker(stake_limit_per_user="2000000000000000000"):
        first = await house.gateway.open(duration=330)
        with pytest.raises(ApiError) as refused:
            await automation.call(RENEW_SESSION, await command(house))
        assert refused.value.code == "stake_limit_reached"
        assert len(await house.operations()) == 1
        current = await house.gateway.current()
        assert current is not None
        assert current.session_id == first.session_id


async def test_automation_renews_for_no_longer_than_the_operator_allows(house: House, automation: RpcClient) -> None:
    async with house.worker(automatic_duration_limit=400):
        await house.gateway.open(duration=330)
        successor = await renewed(house, automation, await command(house, duration=3_600))
        assert successor["duration"] == 400


async def test_a_renewal_waits_in_line_as_long_as_the_old_session_lasts_and_no_longer(
    house: House, automation: RpcClient
) -> None:
    async with house.worker(handshakes_at_once=1):
        await house.gateway.open(duration=330)
        await house.simulator.arm("open", "hang")
        busy = asyncio.create_task(house.gateway.attempt_open("k2"))
        await until(lambda: house.simulator.struck("open"))
        asked = await command(house)
        await automation.call(RENEW_SESSION, asked)
        waiting = await house.only_operation(_id=asked.operation_id)
        old = await house.only_session(_id=asked.session)
        assert abs(waiting["patience_until"] - old["ends_at"]) < timedelta(seconds=5)
        await house.simulator.disarm()
        await busy
        await renewed(house, automation, asked)


# prompts meanwhile


async def test_prompts_go_on_in_the_old_session_until_the_new_one_is_there_and_then_in_that(
    house: House, automation: RpcClient
) -> None:
    async with house.worker():
        first = await house.gateway.open(duration=330)
        assert (await house.gateway.chat()).ended
        await house.simulator.arm("open", "hang")
        asked = await command(house)
        await automation.call(RENEW_SESSION, asked)
        await until(lambda: house.simulator.struck("open"))
        meanwhile = [await house.gateway.chat(stream=number % 2 == 0) for number in range(4)]
        await house.simulator.disarm()
        successor = await renewed(house, automation, asked)

        async def is_handed_over() -> bool:
            return (await house.only_session(_id=asked.session))["owner"] is None

        await until(is_handed_over, within=4.0)
        after = await house.gateway.chat()
        assert [answer.head.session_id for answer in meanwhile if answer.head] == [first.session_id] * 4
        assert after.head is not None
        assert after.head.session_id == successor["chain_session"]
        assert house.automation.asked == []


async def test_a_prompt_that_runs_when_its_session_is_renewed_ends_where_it_began(
    house: House, automation: RpcClient
) -> None:
    async with house.worker() as worker:
        first = await house.gateway.open(duration=330)
        await house.simulator.arm("chat", "stall", at=2)
        running_prompt = asyncio.create_task(house.gateway.chat("long"))
        await until(lambda: house.simulator.struck("chat"))
        following = asyncio.create_task(house.gateway.chat("next"))
        await renewed(house, automation, await command(house))
        # until then it goes on in the old one, which is no mistake
        await worker.release.look_again("k1")
        await house.simulator.disarm()
        answer, second = await running_prompt, await following
        answer.assert_whole()
        second.assert_whole()
        assert answer.head is not None
        assert answer.head.session_id == first.session_id
        assert second.head is not None
        assert second.head.session_id != first.session_id
        assert (await house.simulator.state())["max_unfinished_prompts_of_a_session"] == 1


async def test_a_prompt_for_another_model_waits_for_the_renewal_in_place_of_being_sent_away(
    house: House, automation: RpcClient
) -> None:
    """F3"""
    async with house.worker():
        await house.gateway.open(duration=330)
        await house.simulator.arm("open", "hang")
        await automation.call(RENEW_SESSION, await command(house))
        await until(lambda: house.simulator.struck("open"))
        other = asyncio.create_task(house.gateway.chat(model_id=house.gateway.model("qwen3-235b")))
        await until(lambda: _asked(house))
        await house.simulator.disarm()
        answer = await other
        answer.assert_whole()
        assert answer.head is not None
        assert answer.head.model == "qwen3-235b"
        assert (await house.simulator.state())["opens_total"] == 3


async def _asked(house: House) -> bool:
    return bool(house.automation.asked)


async def test_of_two_parked_sessions_for_a_model_that_which_lasts_longer_is_taken_back(
    house: House, automation: RpcClient
) -> None:
    """F3: the one that was renewed is parked too."""
    async with house.worker():
        await house.gateway.open(duration=330)
        successor = await renewed(house, automation, await command(house, duration=600))
        assert (await house.gateway.chat(model_id=house.gateway.model("qwen3-235b"))).ended
        back = await house.gateway.chat()
        assert back.head is not None
        assert back.head.session_id == successor["chain_session"]


async def test_a_session_beside_which_its_successor_is_parked_is_not_renewed(
    house: House, automation: RpcClient
) -> None:
    async with house.worker():
        first = await house.gateway.open(duration=330)
        successor = await renewed(house, automation, await command(house, duration=600))
        # a client that insists on the old one has it back
        assert (await house.gateway.chat(session_id=first.session_id, model_id=None)).ended
        answer = await automation.call(RENEW_SESSION, await command(house))
        assert answer == Renewal(progress=RenewalProgress.RENEWED, operation_id=successor["operation_id"])
        assert (await house.simulator.state())["opens_total"] == 2


# what comes to its end


async def test_sessions_near_their_end_are_told_with_what_is_decided_by(house: House, automation: RpcClient) -> None:
    async with house.worker():
        await house.gateway.open(duration=330)
        (row,) = await ending(automation)
        stored = await house.only_session()
        assert (row.id, row.key_id, row.model_id) == (stored["_id"], "k1", stored["model_id"])
        assert 90 < row.left < 120
        assert abs(row.duration - 330) < 5
        assert (row.idle, row.coming) == (None, False)
        await house.simulator.arm("chat", "hang")
        prompting = asyncio.create_task(house.gateway.chat())

        async def is_running() -> bool:
            return (await ending(automation))[0].idle == 0

        await until(is_running)
        await house.simulator.disarm()
        assert (await prompting).ended

        async def is_idle() -> bool:
            return ((await ending(automation))[0].idle or 0) > 0.2

        await until(is_idle)
        await house.simulator.arm("open", "hang")
        await automation.call(RENEW_SESSION, await command(house))
        assert [row.coming for row in await ending(automation)] == [True]
        await house.simulator.disarm()
        await house.session_is("parked")
        (successor,) = await ending(automation)
        # whether its key is in use is not forgotten with the old session
        assert successor.id != row.id
        assert successor.idle is not None


async def test_near_its_end_is_a_tenth_of_its_time_or_two_minutes(house: House, automation: RpcClient) -> None:
    cases = {(330, 119): True, (330, 121): False, (3_600, 359): True, (3_600, 361): False, (3_600, 4): False}
    cases[330, -1] = False
    async with house.worker():
        await house.gateway.open()
        for (duration, left), is_near in cases.items():
            ends_at = await house.database_time(left)
            times = {"opened_at": ends_at - timedelta(seconds=duration), "ends_at": ends_at}
            await house.database["sessions"].update_one({}, {"$set": times})
            assert bool(await ending(automation)) == is_near, (duration, left)


async def test_pages_show_every_session_once_in_the_order_of_their_ends(house: House, automation: RpcClient) -> None:
    async with house.worker():
        await house.gateway.open(duration=330)
        model = await house.only_session()
        now = await house.database_time()
        rows = [
            {
                **model,
                "_id": f"{number:02}",
                "key_id": f"key-{number}",
                "chain_session": f"0x{number:064x}",
                "operation_id": uuid7(),
                # several end at the same moment
                "ends_at": now + timedelta(seconds=100 - number // 3),
            }
            for number in range(25)
        ]
        parked = [
            {**row, "_id": f"parked-{row['_id']}", "slot": None, "state": "parked", "chain_session": None}
            for row in rows
        ]
        await house.database["sessions"].delete_many({})
        await house.database["sessions"].insert_many([*rows, *parked])
        seen: list[EndingSession] = []
        question = NEAR.model_copy(update={"limit": 10})
        while True:
            page = await automation.call(LIST_ENDING, question)
            seen += page.sessions
            if not page.more:
                break
            after = EndingAfter(ends_at=seen[-1].ends_at, id=seen[-1].id)
            question = question.model_copy(update={"after": after})
        assert [row.id for row in seen] == [
            row["_id"] for row in sorted(rows, key=lambda row: (row["ends_at"], row["_id"]))
        ]


async def test_facts_say_what_a_session_takes_and_what_there_is_room_for(house: House, automation: RpcClient) -> None:
    limit = 3 * 10**18
    async with house.worker(stake_limit_per_user=str(limit), automatic_duration_limit=1_800):
        question = GetOpenFacts(user_id="u1", model_id=house.gateway.model())
        before = await automation.call(GET_OPEN_FACTS, question)
        row = await house.gateway.open(duration=600)
        after = await automation.call(GET_OPEN_FACTS, question)
        full = await house.gateway.open("k2", duration=330)
        without_room = await automation.call(GET_OPEN_FACTS, question)
    assert row.stake is not None
    assert 0 <= 600 * before.stake_per_second + before.stake_extra - row.stake < 2 * 10**9 + 600
    assert (before.user_limit, before.user_at_risk, before.frees_at) == (limit, 0, None)
    assert (before.shortest, before.longest) == (330, 1_800)
    assert after.user_at_risk == row.stake
    assert after.in_all_room == before.in_all_room - row.stake
    assert limit - row.stake - before.stake_extra >= 330 * before.stake_per_second
    assert after.frees_at is None
    assert without_room.frees_at == full.expires_at


async def test_a_renewed_session_runs_out_without_a_call_of_ours(house: House, automation: RpcClient) -> None:
    async with house.worker(reconcile_seconds=0.2):
        first = await house.gateway.open(duration=330)
        await renewed(house, automation, await command(house, duration=3_600))
        await house.simulator.advance(BEHIND + 150)
        await house.simulator.close_expired()
        closed = await house.session_is("closed")
        assert closed["chain_session"] == first.session_id
        assert not await house.operations(kind="close")
        current = await house.gateway.current()
        assert current is not None
        assert (current.state, current.slot) == (SessionState.ACTIVE, Slot.CURRENT)
        assert await staked(house) == current.stake
