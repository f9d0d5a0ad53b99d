"""The line of a key's prompts: bounded, first come first served, and left by who hangs up."""

import asyncio
from functools import partial

from tests.load.canary import PATH
from tests.load.client import Answer, Client
from tests.service.leaving.conftest import BothEnds
from tests.service.leaving.test_disconnects import body, in_line_now, until, whole

LONGEST = 32
"""Prompts of a key that may wait."""


def is_in_line(relay: BothEnds, count: int) -> bool:
    return in_line_now(relay) == count


async def test_the_line_is_bounded_and_who_leaves_it_keeps_the_order_of_the_others(relay: BothEnds) -> None:
    """F16, C33"""
    key = relay.auth.add_key()
    await whole(relay, key)
    simulator = relay.sessions.simulator
    await simulator.arm("chat", "stall")
    running = asyncio.create_task(whole(relay, key))
    await until(lambda: simulator.struck("chat"))
    served: list[int] = []

    async def ask(client: Client, number: int) -> Answer:
        answer = await client.post(PATH, key, body(stream=number % 2 == 0, text=f"number {number}"))
        if answer.status == 200:
            served.append(number)
        return answer

    clients = [relay.client() for _ in range(LONGEST)]
    asked = []
    for number, client in enumerate(clients):
        asked.append(asyncio.create_task(ask(client, number)))
        await until(partial(is_in_line, relay, number + 2))
    refused = await relay.client().post(PATH, key, body(stream=False))
    assert (refused.status, b"session_busy" in refused.body) == (429, True)

    for client in clients[1::2]:
        client.close()
    await until(lambda: in_line_now(relay) == 1 + LONGEST // 2)
    await simulator.disarm()
    await running
    answers = await asyncio.gather(*asked)
    assert served == list(range(0, LONGEST, 2))
    assert all(answer.left for answer in answers[1::2])
    assert (await simulator.state())["max_unfinished_prompts_of_a_session"] == 1
