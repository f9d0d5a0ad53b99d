"""An `Idempotency-Key` at the worker: one session, one stake, the same answer again and again."""

import asyncio
import hashlib
from typing import Any

import pytest
from morpheus_common.contracts.sessions import CloseResult, Idempotency, OpenOutcome
from morpheus_common.errors import ApiError
from morpheus_common.ids import uuid7

from tests.service.sessions.house import House, until


def wish(name: str = "a", request: str = "r") -> Idempotency:
    return Idempotency(
        digest=hashlib.sha256(name.encode()).hexdigest(), fingerprint=hashlib.sha256(request.encode()).hexdigest()
    )


def told(outcome: OpenOutcome) -> dict[str, Any]:
    """What the client reads of an open."""
    assert outcome.session is not None
    return outcome.session.model_dump(exclude={"state", "slot", "last_used_at"})


async def test_a_hundred_parallel_opens_with_one_key_are_one_session_one_stake_and_one_answer(house: House) -> None:
    """C27: at the same time."""
    async with house.process("w1"), house.process("w2"):
        outcomes = await asyncio.gather(*(house.gateway.ask_open(idempotency=wish()) for _ in range(100)))

    answers = [told(outcome) for outcome in outcomes]
    assert all(answer == answers[0] for answer in answers)
    assert [outcome.replayed for outcome in outcomes].count(False) == 1
    state = await house.simulator.state()
    assert (state["opens_total"], state["open_count"]) == (1, 1)
    assert len(await house.operations()) == len(await house.sessions()) == 1


async def test_a_repeat_after_the_session_was_closed_gets_the_first_answer(house: House) -> None:
    async with house.worker():
        first = await house.gateway.ask_open(idempotency=wish())
        await house.gateway.close()
        again = await house.gateway.ask_open(idempotency=wish())

    assert (first.replayed, again.replayed) == (False, True)
    assert told(again) == told(first)
    assert (await house.simulator.state())["opens_total"] == 1


async def test_a_repeat_joins_the_operation_and_goes_when_its_own_wait_is_over(house: House) -> None:
    await house.simulator.arm("open", "hang")
    async with house.worker():
        first = asyncio.create_task(house.gateway.ask_open(idempotency=wish()))
        await until(lambda: house.simulator.struck("open"))
        impatient = await house.gateway.ask_open(idempotency=wish(), wait=0.1)
        patient = asyncio.create_task(house.gateway.ask_open(idempotency=wish()))
        await house.simulator.disarm()
        outcomes = await asyncio.gather(first, patient)

    assert (impatient.session, impatient.error, impatient.replayed) == (None, None, True)
    assert impatient.operation_id == outcomes[0].operation_id
    assert told(outcomes[0]) == told(outcomes[1])
    assert (await house.simulator.state())["opens_total"] == 1


async def test_another_request_under_the_same_key_is_refused(house: House) -> None:
    """C27: another body."""
    async with house.worker():
        await house.gateway.ask_open(idempotency=wish())
        with pytest.raises(ApiError) as caught:
            await house.gateway.ask_open(idempotency=wish(request="another"))
        with pytest.raises(ApiError) as closing:
            await house.gateway.close(idempotency=wish(request="another"))

    assert caught.value.code == closing.value.code == "idempotency_key_reused"
    assert (await house.simulator.state())["open_count"] == 1


async def test_what_was_refused_before_the_chain_was_touched_leaves_no_record(house: House) -> None:
    async with house.worker():
        with pytest.raises(ApiError):
            await house.gateway.ask_open(idempotency=wish(), model_id="0x" + "0" * 64)
        await house.simulator.fund(0)
        poor = await house.gateway.ask_open(idempotency=wish())
        assert poor.error is not None
        assert poor.error.code == "insufficient_balance"
        await house.simulator.fund(10**24)
        # under the same key, even another request is free to go
        rich = await house.gateway.ask_open(idempotency=wish(request="another"))

    assert rich.session is not None
    assert rich.replayed is False


async def test_an_open_that_was_answered_with_the_session_that_was_there_is_answered_so_again(house: House) -> None:
    async with house.worker():
        there = await house.gateway.open()
        first = await house.gateway.ask_open(idempotency=wish())
        await house.gateway.close()
        again = await house.gateway.ask_open(idempotency=wish())

    assert first.session is not None
    assert first.session.session_id == there.session_id
    assert (first.replayed, again.replayed) == (False, True)
    assert told(again) == told(first)
    assert (await house.simulator.state())["opens_total"] == 1


async def test_the_same_command_in_pieces_is_not_a_repeat(house: House) -> None:
    operation_id = uuid7()
    async with house.worker():
        outcomes = [await house.gateway.ask_open(idempotency=wish(), operation_id=operation_id) for _ in range(2)]

    assert [outcome.replayed for outcome in outcomes] == [False, False]


async def test_a_close_is_carried_out_once_and_answered_twice(house: House) -> None:
    async with house.worker():
        first = await house.gateway.open()
        closed = await house.gateway.close(idempotency=wish("close"))
        second = await house.gateway.open()
        again = await house.gateway.close(idempotency=wish("close"))

    assert closed == CloseResult(session_id=first.session_id, confirmed=True, operations=closed.operations)
    assert again == closed.model_copy(update={"replayed": True})
    # what was opened since is not what the first request was about
    assert [item["Id"] for item in await house.simulator.open_sessions()] == [second.session_id]


async def test_a_close_of_nothing_is_answered_so_again(house: House) -> None:
    async with house.worker():
        nothing = await house.gateway.close(idempotency=wish("close"))
        await house.gateway.open()
        again = await house.gateway.close(idempotency=wish("close"))

    assert nothing == CloseResult(session_id=None, confirmed=True, operations=[])
    assert again == nothing.model_copy(update={"replayed": True})
    assert (await house.simulator.state())["open_count"] == 1


async def test_parallel_closes_with_one_key_are_one_close(house: House) -> None:
    async with house.process("w1"), house.process("w2"):
        session = await house.gateway.open()
        results = await asyncio.gather(*(house.gateway.close(idempotency=wish("close")) for _ in range(20)))

    assert {result.session_id for result in results} == {session.session_id}
    assert [result.replayed for result in results].count(False) == 1
    assert len(await house.operations(kind="close")) == 1


async def test_the_record_survives_the_worker(house: House) -> None:
    """C27: after a restart."""
    async with house.worker("w1"):
        first = await house.gateway.ask_open(idempotency=wish())
    async with house.worker("w2"):
        again = await house.gateway.ask_open(idempotency=wish())

    assert (told(again), again.replayed) == (told(first), True)


async def test_nothing_of_what_the_client_sent_is_kept(house: House) -> None:
    async with house.worker():
        await house.gateway.ask_open(idempotency=wish("order-4711"))

    kept = [item async for item in house.database["idempotency"].find()]
    assert [item["_id"] for item in kept] == [wish("order-4711").digest]
    assert kept[0].keys() == {"_id", "user_id", "fingerprint", "first", "operations", "session", "at"}
    expiry = (await house.database["idempotency"].index_information())["expiry"]
    assert expiry["expireAfterSeconds"] == 86_400
