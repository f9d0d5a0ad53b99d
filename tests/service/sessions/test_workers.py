"""Several workers, and workers that die: one session, one stake, and a key that stays usable."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from morpheus_common.bus.frames import WINDOW_BYTES, Kind
from morpheus_common.bus.names import User
from morpheus_common.contracts.automation import Decision
from morpheus_common.contracts.sessions import CATALOGUE, CatalogueQuestion, SessionState
from morpheus_common.errors import ApiError
from morpheus_common.ids import uuid7
from morpheus_common.store.workers import Heartbeat, boot
from morpheus_sessions.ownership import OwnedElsewhere, OwnedSession, Ownership
from morpheus_sessions.worker import serve

from tests.service.sessions.house import Gateway, House, until


async def test_first_chats_that_reach_two_workers_open_one_session_and_one_worker_runs_them_all(house: House) -> None:
    """F6"""
    prompts = [f"canary-{number:02}" for number in range(20)]
    async with house.process("w1"), house.process("w2"):
        answers = await asyncio.gather(
            *(
                house.gateway.chat(text, stream=number % 2 == 0, first=("w1", "w2")[number % 2])
                for number, text in enumerate(prompts)
            )
        )
        state = await house.simulator.state()

    for text, answer in zip(prompts, answers, strict=True):
        answer.assert_whole()
        assert f"You asked: {text}." in answer.text
    assert state["opens_total"] == 1
    assert state["max_unfinished_prompts_of_a_session"] == 1
    (owner,) = {answer.worker for answer in answers}
    assert {worker for answer in answers for worker in answer.referred} == {owner}


async def test_a_hundred_first_chats_from_two_gateways_that_reach_two_workers_open_one_session(house: House) -> None:
    """F2, F6"""
    connection = await house.account.connect(User.GATEWAY)
    other = Gateway(connection, "g2")
    await other.inbox.start()
    async with house.process("w1", queue_per_key=100), house.process("w2", queue_per_key=100):
        other.models = house.gateway.models
        answers = await asyncio.gather(
            *(
                (house.gateway, other)[number % 2].chat(f"canary-{number:02}", first=("w1", "w2")[number // 2 % 2])
                for number in range(100)
            )
        )
        state = await house.simulator.state()
    await connection.close()

    for number, answer in enumerate(answers):
        answer.assert_whole()
        assert f"You asked: canary-{number:02}." in answer.text
    assert state["opens_total"] == state["open_count"] == 1
    assert state["max_unfinished_prompts_of_a_session"] == 1
    # both may ask before one of them owns the session that is opened
    assert len(house.automation.asked) <= 2


async def test_of_eight_that_claim_an_idle_session_at_once_one_gets_it(house: House) -> None:
    """F6"""
    async with house.worker("w0"):
        await house.gateway.open()
        assert (await house.only_session())["owner"] is None
        holders = [await boot(house.database, f"w{number}") for number in range(1, 9)]
        claimers = [Ownership(house.database, Heartbeat(house.database, holder), quarantine=60.0) for holder in holders]
        claims = await asyncio.gather(*(claimer.claim("k1") for claimer in claimers))
        again = await asyncio.gather(*(claimer.claim("k1") for claimer in claimers))
    (winner,) = [number for number, claim in enumerate(claims, 1) if isinstance(claim, OwnedSession)]
    others = [claim for claim in claims if not isinstance(claim, OwnedSession)]
    assert others == [OwnedElsewhere(f"w{winner}")] * 7
    assert [isinstance(claim, OwnedSession) for claim in again] == [number == winner for number in range(1, 9)]
    assert (await house.only_session())["owner"]["worker"] == f"w{winner}"


async def test_a_worker_refers_prompts_to_the_one_that_owns_the_session(house: House) -> None:
    async with house.process("w1"), house.process("w2"):
        await house.gateway.open()
        assert (await house.gateway.chat(first="w1")).worker == "w1"
        referred = await house.gateway.attempt(worker="w2")
        async with house.gateway.prompting(worker="w2", credit=WINDOW_BYTES) as with_credit:
            assert (await with_credit.next()).kind is Kind.OWNER, "credit does not make it the owner"
        answered = await house.gateway.chat(first="w2")

    assert [frame.kind for frame in referred.frames] == [Kind.OWNER]
    assert referred.referred == ["w1"]
    assert (answered.worker, answered.ended) == ("w1", True)
    assert await house.simulator.prompts() == 2


async def test_the_session_of_a_worker_that_stopped_in_order_is_free_at_once(house: House) -> None:
    async with house.process("w2"):
        async with house.worker("w1"):
            await house.gateway.open()
            assert (await house.gateway.chat(first="w1")).worker == "w1"
        answer = await house.gateway.chat(first="w2")

    assert (answer.worker, answer.ended) == ("w2", True)
    assert (await house.simulator.state())["opens_total"] == 1


async def test_a_draining_worker_finishes_its_stream(house: House) -> None:
    async with AsyncExitStack() as stack:
        worker = house.worker()
        await worker.__aenter__()
        await house.gateway.open()
        await house.simulator.arm("chat", "stall", at=2)
        prompting = await stack.enter_async_context(house.gateway.prompting("last words"))
        await prompting.accepted()
        answering = asyncio.create_task(prompting.finish())
        await until(lambda: house.simulator.struck("chat"))

        leaving = asyncio.create_task(worker.__aexit__(None, None, None))
        await until(lambda: nobody_takes_prompts(house))
        assert not answering.done()
        await house.simulator.disarm()
        (await answering).assert_whole()
        await leaving
    assert (await house.only_session())["owner"] is None


async def test_a_worker_that_leaves_lets_go_of_a_session_that_was_given_to_it_while_it_did_not_look(
    house: House,
) -> None:
    """A renewal, or an open whose prompt left, names it as the owner; until it is gone nobody else could have the key."""
    async with house.worker("w1") as parts:
        await house.gateway.open()
        assert (await house.gateway.chat()).ended
        owned = parts.chat._ownership.owned("k1")
        assert owned is not None
        parts.chat._ownership.forget(owned)
        assert (await house.only_session())["owner"]["worker"] == "w1"
        await parts.chat.hand_over()

        refused = await house.gateway.chat()
        assert refused.error is not None
        assert refused.error.not_sent
        assert (await house.only_session())["owner"] is None


async def test_a_worker_that_leaves_keeps_a_session_that_a_prompt_came_into_line_for_meanwhile(house: House) -> None:
    async with house.worker("w1") as parts:
        await house.gateway.open()
        async with house.gateway.prompting() as late:
            await late.accepted()
            chat = parts.chat
            await chat._ownership.claim("k1")
            async with chat._giving_up:
                giving_up = asyncio.create_task(chat._let_others_have("k1"))
                await house.simulator.arm("chat", "stall")
                await late.credit()
                await until(lambda: house.simulator.struck("chat"))
            await giving_up
            assert (await house.only_session())["owner"]["worker"] == "w1"
            await house.simulator.disarm()
            (await late.finish()).assert_whole()


@pytest.mark.parametrize(("kind", "when"), [("initiate", "before"), ("open", "before"), ("open", "after")])
async def test_a_worker_killed_in_the_middle_of_an_open_leaves_one_session_and_a_usable_key(
    house: House, kind: str, when: str
) -> None:
    operation_id = uuid7()
    async with house.process() as worker:
        await house.simulator.arm(kind, "hang", when=when)
        opening = asyncio.create_task(house.gateway.open(operation_id=operation_id))
        await until(lambda: house.simulator.struck(kind))
        worker.kill()
        await house.simulator.disarm()
        opening.cancel()

        worker.start()
        await house.is_up("w1")
        row = await house.gateway.open(operation_id=operation_id)
        answer = await house.gateway.chat()

    answer.assert_whole()
    state = await house.simulator.state()
    assert row.state is SessionState.ACTIVE
    assert row.session_id == state["sessions"][0]["Id"]
    assert state["opens_total"] == state["open_count"] == 1
    assert state["staked"] == str(row.stake)
    assert (await house.only_operation())["state"] == "done"


async def test_a_worker_killed_in_the_middle_of_a_close_leaves_it_to_its_successor(house: House) -> None:
    async with house.process() as worker:
        await house.gateway.open()
        await house.simulator.arm("close", "hang")
        closing = asyncio.create_task(house.gateway.close())
        await until(lambda: house.simulator.struck("close"))
        worker.kill()
        closing.cancel()
        worker.start()
        await house.simulator.disarm()
        await house.session_is("closed")

    assert await house.simulator.open_sessions() == []


async def test_a_prompt_that_may_still_run_at_the_router_keeps_its_session_resting_after_its_worker_died(
    house: House,
) -> None:
    house.automation.decision = Decision.REFUSE
    async with house.process() as worker:
        await house.gateway.open()
        await house.simulator.arm("chat", "stall")
        async with house.gateway.prompting("unseen", stream=False) as prompting:
            await prompting.accepted()
            await prompting.credit()
            await until(lambda: is_marked_busy(house))
            worker.kill()
        worker.start()
        await house.is_up("w1")
        answer = await house.gateway.chat()

        assert answer.code == "session_busy"
        assert answer.error is not None
        assert answer.error.retry_after is not None
        assert await house.simulator.prompts() == 1


async def test_a_worker_that_died_idle_leaves_its_session_warm_for_its_successor(house: House) -> None:
    async with house.process() as worker:
        await house.gateway.open()
        assert (await house.gateway.chat()).ended
        await until(lambda: is_marked_free(house))
        worker.kill()
        worker.start()
        await house.is_up("w1")
        (await house.gateway.chat()).assert_whole()

    assert (await house.simulator.state())["opens_total"] == 1


async def is_marked_busy(house: House) -> bool:
    return (await house.only_session())["busy"] is not None


async def is_marked_free(house: House) -> bool:
    session = await house.only_session()
    return session["busy"] is None and session["last_used_at"] is not None


async def nobody_takes_prompts(house: House) -> bool:
    with house.gateway.inbox.attempt() as attempt:
        await house.gateway.connection.publish("chat.start.v1", b"", reply=attempt.inbox)
        frame = await attempt.next(0.2)
    return frame is not None and frame.kind is Kind.NOBODY


async def test_a_worker_that_comes_up_takes_no_question_before_it_knows_the_market(house: House) -> None:
    await house.simulator.arm("models", "delay", seconds=1.0)
    async with serve(house.settings("w1")) as parts:
        assert parts.catalogue.copy.models


async def test_a_worker_comes_up_while_its_router_is_away(house: House) -> None:
    async with serve(house.settings("w1", router_url="http://127.0.0.1:9")):
        with pytest.raises(ApiError) as caught:
            await house.gateway.rpc.call(CATALOGUE, CatalogueQuestion())
    assert caught.value.code == "service_unavailable"
