"""Many opens of as many keys at once, over several routers and worker processes: one stake each, in a fair order.

`make test` opens 200 with two workers; `make fleet` opens 1,000, with two and with four (C29).
"""

import asyncio
import os
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.service.sessions.fleet import BLOCK_SECONDS, Fleet, all_ended, fleet
from tests.service.sessions.house import House, until
from tests.service.sessions.test_operator import audit

OPENS = int(os.environ.get("FLEET_OPENS", "200"))
WORKERS = [int(number) for number in os.environ.get("FLEET_WORKERS", "2").split(",")]
ROUTERS = 4
AT_ONCE = 64
"""Commands under way at a time, as from a few gateways."""
NO_LIMIT: dict[str, Any] = {"stake_limit_per_user": str(10**30), "stake_limit_in_all": str(10**30)}
PATIENCE = 10.0**6


def wishes() -> dict[str, int]:
    """How many sessions each user opens: one of them half of all, and nineteen the rest."""
    few = OPENS // 2 // 19
    return {"greedy": OPENS - 19 * few} | {f"modest{number}": few for number in range(19)}


async def ask_all(four: Fleet) -> list[str]:
    """Ask for all of them, the greedy user's first."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def ask(key: str, user: str) -> str:
        async with gate:
            outcome = await four.house.gateway.ask_open(key, user=user, wait=0, patience=PATIENCE)
        return outcome.operation_id

    keys = [(f"{user}-{number}", user) for user, count in wishes().items() for number in range(count)]
    return await asyncio.gather(*(ask(key, user) for key, user in keys))


def worst_share(order: list[str]) -> float:
    """Return how much later than by a fair share the last session of a user came, at worst (1: exactly in time)."""
    asked = Counter(order)
    last = {user: place for place, user in enumerate(order, 1)}
    fair = {user: sum(min(count, other) for other in asked.values()) for user, count in asked.items()}
    return max(last[user] / fair[user] for user in asked)


def test_the_measure_of_fairness_tells_a_fair_order_from_another() -> None:
    assert worst_share(["a", "b", "a", "b", "a", "a"]) == 1.0
    assert worst_share(["a"] * 9 + ["b"]) == 5.0


@pytest.mark.timeout(120 + 2 * OPENS)
@pytest.mark.parametrize("workers", WORKERS)
async def test_many_opens_of_many_keys_come_to_one_session_and_one_stake_each(house: House, workers: int) -> None:
    """F14, C29"""
    loop = asyncio.get_running_loop()
    async with fleet(house, ROUTERS) as four, AsyncExitStack() as stack:
        for simulator in four.simulators:
            # as long as it takes to make a transaction: a block, as on Base
            simulator.race(BLOCK_SECONDS)
        settings = {**four.settings(), **NO_LIMIT, "reconcile_seconds": 30.0}
        names = [f"w{number}" for number in range(workers)]
        # together: each has a part of the wallets
        await asyncio.gather(*(stack.enter_async_context(house.process(name, **settings)) for name in names))

        async def all_led() -> bool:
            return await house.database["leases"].count_documents({"_id": {"$regex": "^wallet:"}}) == ROUTERS

        await until(all_led)
        # the chain stands still while they ask: an order is fair or not among those who wait
        for simulator in four.simulators:
            await simulator.arm("open", "hang", when="before", count=1)
        began = loop.time()
        asked = await ask_all(four)
        written = loop.time() - began
        for simulator in four.simulators:
            await simulator.disarm()
        ended = await all_ended(house, asked, within=60 + OPENS / 4)
        took = loop.time() - began - written

        assert Counter(item["state"] for item in ended) == {"done": OPENS}
        states = [await simulator.state() for simulator in four.simulators]
        on_chain = [session for state in states for session in state["sessions"]]
        overlaps = sum([item["overlaps"] async for item in house.database["wallets"].find({})])
        holders = Counter(
            [item["worker"] async for item in house.database["leases"].find({"_id": {"$regex": "^wallet:"}})]
        )
        order = [item["user_id"] for item in await four.order()]
        unfair = worst_share(order)
        said = await audit(house)

    each = [state["opens_total"] for state in states]
    conflicts = sum(state["nonces"]["conflicts"] for state in states)
    crossing = sum(state["nonces"]["overlaps"] for state in states)
    print(  # noqa: T201 - what `make fleet` is for
        f"\n{OPENS} opens, {ROUTERS} routers, {workers} workers: written in {written:.1f} s, on chain in {took:.1f} s"
        f" ({OPENS / took:.1f} a second), by wallet {each}, wallets by"
        f" worker {dict(holders)}; last of a user {unfair:.2f} x its fair share;"
        f" forced overlaps {overlaps}, overlapping transactions {crossing}, nonce conflicts {conflicts}"
    )
    assert sum(each) == len(on_chain) == OPENS
    assert len({session["Id"] for session in on_chain}) == OPENS
    sessions = await house.sessions(state="active")
    assert len(sessions) == len({item["key_id"] for item in sessions}) == OPENS
    assert {item["chain_session"] for item in sessions} == {session["Id"] for session in on_chain}
    stakes = {(item["wallet"], str(item["stake"])) for item in sessions}
    assert len(stakes) == OPENS
    staked = sum(int(str(item["stake"])) for item in sessions)
    assert staked == sum(int(state["staked"]) for state in states)
    # work was shared: none of the wallets did less than half of its part
    assert min(each) >= OPENS / ROUTERS / 2
    assert unfair <= 2.0
    assert (overlaps, crossing, conflicts) == (0, 0, 0)
    assert said.code == 0, said.out + said.err
