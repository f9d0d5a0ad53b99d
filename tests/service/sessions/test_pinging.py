"""Pings: a real completion of one token, in the turn of the key's prompts; what is dead is closed."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from morpheus_common.contracts.chat import PingAnswer, PingStatus
from morpheus_common.errors import ApiError

from tests.service.sessions.house import House, tap, until

SHORT = 0.4


async def closed(house: House) -> bool:
    return not await house.simulator.open_sessions()


async def test_a_session_that_answers_is_alive(house: House) -> None:
    async with house.worker():
        session = await house.gateway.open()
        answer = await house.gateway.ping()
        assert (await house.gateway.chat()).ended

    assert (answer.status, answer.session_id) == (PingStatus.ALIVE, session.session_id)
    assert answer.latency_ms is not None
    assert 0 <= answer.latency_ms < 5_000
    assert await house.simulator.prompts() == 2
    assert (await house.simulator.state())["opens_total"] == 1


async def test_a_ping_does_not_count_as_use(house: House) -> None:
    async with house.worker():
        await house.gateway.open()
        assert (await house.gateway.ping()).status is PingStatus.ALIVE
    # a worker that stopped in order has written all of its marks
    assert (await house.only_session())["last_used_at"] is None

    async with house.worker():
        assert (await house.gateway.chat()).ended
    assert (await house.only_session())["last_used_at"] is not None


async def test_a_key_without_a_session_has_none_and_gets_none(house: House) -> None:
    async with house.worker():
        assert await house.gateway.ping() == PingAnswer(status=PingStatus.NO_SESSION)
        await house.gateway.open()
        await house.gateway.close()
        assert (await house.gateway.ping()).status is PingStatus.NO_SESSION

    assert house.automation.asked == []
    assert (await house.simulator.state())["opens_total"] == 1


async def test_a_session_that_is_being_opened_is_not_there_yet(house: House) -> None:
    await house.simulator.arm("open", "hang")
    async with house.worker():
        opening = asyncio.create_task(house.gateway.open())
        await until(lambda: house.simulator.struck("open"))
        with pytest.raises(ApiError) as caught:
            await house.gateway.ping()
        await house.simulator.disarm()
        await opening
        # what the first ping saw is not held against the second
        assert (await house.gateway.ping()).status is PingStatus.ALIVE
    assert caught.value.code == "session_opening"


async def test_a_session_that_is_busy_is_alive_without_being_asked(house: House) -> None:
    async with house.worker():
        session = await house.gateway.open()
        await house.simulator.arm("chat", "hang")
        chat = asyncio.create_task(house.gateway.chat())
        await until(lambda: house.simulator.struck("chat"))
        answer = await house.gateway.ping()
        await house.simulator.disarm()
        assert (await chat).ended

    assert answer == PingAnswer(status=PingStatus.ALIVE, session_id=session.session_id)
    assert await house.simulator.prompts() == 1


async def test_a_session_whose_time_is_over_has_expired(house: House) -> None:
    async with house.worker(reconcile_seconds=3600):
        session = await house.gateway.open()
        past = await house.database_time(-1)
        await house.database["sessions"].update_one({}, {"$set": {"ends_at": past}})
        first = await house.gateway.ping()
        again = await house.gateway.ping()

    assert first == again == PingAnswer(status=PingStatus.EXPIRED, session_id=session.session_id)
    assert await house.simulator.prompts() == 0


async def test_a_provider_that_cannot_be_reached_means_dead_and_its_session_is_closed(house: House) -> None:
    async with house.worker():
        session = await house.gateway.open()
        assert session.provider is not None
        await house.simulator.offline(session.provider)
        answer = await house.gateway.ping()
        await until(lambda: closed(house))
        assert (await house.gateway.ping()).status is PingStatus.NO_SESSION
        # the next prompt gets another
        assert (await house.gateway.chat()).ended

    assert answer == PingAnswer(status=PingStatus.DEAD, session_id=session.session_id)
    stored = await house.only_session(chain_session=session.session_id)
    assert (stored["state"], stored["reason"]) == ("closed", "dead")


@pytest.mark.parametrize("action", ["raw_error", "model_error", "cut", "truncate"])
async def test_a_first_byte_that_is_an_error_is_not_alive(house: House, action: str) -> None:
    async with house.worker():
        await house.gateway.open()
        params: dict[str, Any] = {"at": 0}
        if action == "raw_error":
            params["text"] = "provider request failed: invalid response: connection reset by peer"
        await house.simulator.arm("chat", action, **params)
        assert (await house.gateway.ping()).status is PingStatus.DEAD
        await until(lambda: closed(house))


async def test_one_time_out_at_the_router_is_asked_again_and_two_are_dead(house: House) -> None:
    text = "provider request failed: read timed out after 3 retries: read tcp 10.77.0.1:5: i/o timeout"
    async with house.worker():
        await house.gateway.open()
        await house.simulator.arm("chat", "error_before", text=text)
        assert (await house.gateway.ping()).status is PingStatus.ALIVE

        await house.simulator.arm("chat", "error_before", count=2, text=text)
        assert (await house.gateway.ping()).status is PingStatus.DEAD
        await until(lambda: closed(house))


async def test_a_provider_that_is_silent_for_one_time_out_may_still_answer(house: House) -> None:
    async with house.worker(ping_timeout=1.0):
        await house.gateway.open()
        await house.simulator.arm("chat", "delay", seconds=1.2)
        answer = await house.gateway.ping()

    assert answer.status is PingStatus.ALIVE
    assert answer.latency_ms is not None
    assert answer.latency_ms >= 1_200
    assert await house.simulator.prompts() == 1


@pytest.mark.parametrize("action", ["hang", "stall"])
async def test_a_provider_that_is_silent_for_two_time_outs_is_dead_and_no_prompt_stands_behind_another(
    house: House, action: str
) -> None:
    async with house.worker(ping_timeout=SHORT):
        await house.gateway.open()
        await house.simulator.arm("chat", action, at=0)
        assert (await house.gateway.ping()).status is PingStatus.DEAD
        await until(lambda: closed(house))
        await house.simulator.disarm()

    assert (await house.simulator.state())["max_unfinished_prompts_of_a_session"] <= 1


async def test_a_router_that_is_away_says_nothing_of_the_session(house: House) -> None:
    async with tap(house.simulator.url) as router, house.worker(router_url=f"http://{router.address}"):
        await house.gateway.open()
        await router.vanish()
        with pytest.raises(ApiError) as caught:
            await house.gateway.ping()

    assert caught.value.code == "service_unavailable"
    assert len(await house.simulator.open_sessions()) == 1
    assert (await house.only_session())["state"] == "active"


async def test_a_router_that_is_silent_says_nothing_of_the_session_and_closes_nothing(house: House) -> None:
    """F10"""
    silent: dict[str, Any] = {"ping_timeout": SHORT, "router_read_timeout": SHORT}
    async with tap(house.simulator.url) as router, house.worker(router_url=f"http://{router.address}", **silent):
        await house.gateway.open()
        router.fall_silent()
        with pytest.raises(ApiError) as caught:
            await house.gateway.ping()
        stored = await house.only_session()
        router.speak_again()

    assert caught.value.code == "service_unavailable"
    assert stored["state"] == "active"
    assert [item["kind"] for item in await house.operations()] == ["open"]
    assert len(await house.simulator.open_sessions()) == 1


async def test_a_session_that_its_provider_calls_expired_is_so_only_when_its_time_is_over(house: House) -> None:
    text = "provider request failed: provider error: session expired"
    async with house.worker(reconcile_seconds=3600):
        session = await house.gateway.open()
        # the worker still holds it for its own when its time is over
        assert (await house.gateway.ping()).status is PingStatus.ALIVE
        await house.simulator.arm("chat", "error_before", text=text)
        over = asyncio.create_task(house.gateway.ping())
        assert (await over).status is PingStatus.DEAD
        await until(lambda: closed(house))
    assert (await house.only_session(chain_session=session.session_id))["reason"] == "dead"


async def test_pings_that_come_together_ask_once(house: House) -> None:
    async with house.worker():
        await house.gateway.open()
        await house.simulator.arm("chat", "delay", seconds=0.3)
        answers = await asyncio.gather(*(house.gateway.ping() for _ in range(5)))

    assert {answer.status for answer in answers} == {PingStatus.ALIVE}
    assert len({answer.latency_ms for answer in answers}) == 1
    assert await house.simulator.prompts() == 1


async def test_a_ping_goes_to_the_worker_that_owns_the_session(house: House) -> None:
    async with house.process("w1"), house.process("w2"):
        await house.gateway.open()
        assert (await house.gateway.chat(first="w1")).worker == "w1"
        assert (await house.gateway.ping(worker="w2")).status is PingStatus.ALIVE


async def test_a_client_that_leaves_does_not_stop_what_a_ping_found_out(house: House) -> None:
    async with house.worker(ping_timeout=SHORT):
        await house.gateway.open()
        await house.simulator.arm("chat", "hang")
        ping = asyncio.create_task(house.gateway.ping())
        await until(lambda: house.simulator.struck("chat"))
        ping.cancel()
        await asyncio.gather(ping, return_exceptions=True)
        await until(lambda: closed(house))
        await house.simulator.disarm()


async def test_an_embedding_session_is_asked_for_an_embedding(house: House) -> None:
    async with house.worker():
        await house.gateway.open(model_id=house.gateway.model("text-embedding-bge-m3"))
        assert (await house.gateway.ping()).status is PingStatus.ALIVE


async def test_a_session_that_answers_no_chat_is_not_pinged_to_death(house: House) -> None:
    async with house.worker():
        llama = house.gateway.model("llama-3.3-70b")
        await house.gateway.open(model_id=llama)
    # its owner says now that it is something else
    model = house.simulator.market.models[llama]
    house.simulator.market.models[llama] = replace(model, tags=("speech2text",))
    async with house.worker():
        with pytest.raises(ApiError) as caught:
            await house.gateway.ping()

    assert caught.value.code == "model_type_mismatch"
    assert len(await house.simulator.open_sessions()) == 1
