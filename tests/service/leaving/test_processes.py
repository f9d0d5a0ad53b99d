"""Processes that are told to go, while prompts come: nothing is cut, and nobody is refused."""

import asyncio
from functools import partial

from morpheus_devstack.waiting import poll

from tests.load.canary import PATH
from tests.load.client import Client
from tests.service.gateway.conftest import running_gateway
from tests.service.leaving.conftest import BothEnds
from tests.service.leaving.test_disconnects import body, until, whole


async def test_a_worker_that_leaves_hands_each_key_over_when_the_last_of_its_line_is_done(relay: BothEnds) -> None:
    """B24, C44"""
    simulator = relay.sessions.simulator
    idle, busy = relay.auth.add_key(), relay.auth.add_key()
    async with relay.sessions.process("w0") as leaver:
        for key in (idle, busy):
            await whole(relay, key)
            await relay.move_to(key, "w0")
            await whole(relay, key)
            assert await relay.owner(key) == "w0"
        await simulator.arm("chat", "stall", at=2)
        asked = [asyncio.create_task(whole(relay, busy, stream=True))]
        await until(lambda: simulator.struck("chat"))
        asked.append(asyncio.create_task(whole(relay, busy, stream=True)))
        await until(partial(are_credited, relay, 2))

        leaver.terminate()
        await until(partial(is_free, relay, idle))
        await whole(relay, idle)
        # it comes to the one that leaves, and waits for the last that was there before
        asked.append(asyncio.create_task(whole(relay, busy, stream=True)))
        await until(partial(are_credited, relay, 3))
        assert await relay.owner(busy) == "w0"
        await simulator.disarm()
        for task in asked:
            assert (await task).body.endswith(b"data: [DONE]\n\n")
        assert await relay.owner(busy) == "w1"
        await until(leaver.has_ended)
    assert (await simulator.state())["max_unfinished_prompts_of_a_session"] == 1


def are_credited(relay: BothEnds, count: int) -> bool:
    passages = relay.gateway.context.relay._passages
    return len(passages) == count and all(passage._credited for passage in passages)


async def is_free(relay: BothEnds, key: str) -> bool:
    return await relay.owner(key) is None


async def test_a_gateway_that_leaves_is_first_not_ready_and_finishes_its_streams(relay: BothEnds) -> None:
    """B24, C44"""
    key = relay.auth.add_key()
    await whole(relay, key)
    simulator = relay.sessions.simulator
    async with running_gateway(relay.sessions.account, worker_id="gw-leaving", drain_notice=1.0) as gateway:
        await simulator.arm("chat", "stall", at=2)
        client = Client(gateway.port)
        stream = asyncio.create_task(client.post(PATH, key, body(stream=True)))
        await until(lambda: client.received > 0)
        gateway.server.stop()

        async def is_unready() -> bool:
            answer = await gateway.http.get("/ready")
            return (answer.status_code, answer.headers.get("connection")) == (503, "close")

        assert await poll(is_unready, seconds=5), "it refuses connections before it says so"
        # who has not looked yet is served
        assert (await gateway.http.get("/api/v1/models")).status_code == 200
        await simulator.disarm()
        assert (await stream).body.endswith(b"data: [DONE]\n\n")
