"""Automation workers and session workers together: sessions in use never end, idle ones do, and nobody pays twice."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial

import pytest
from morpheus_common.contracts.automation import Decision, DecisionRow
from morpheus_common.steps import RENEWAL_STEPS
from morpheus_sessions.limits import at_risk
from proxy_router_sim.clock import SystemClock
from proxy_router_sim.simulator import Settings

from tests.faults.controller import Arrival, Controller
from tests.service.sessions.automating import Automating, automating
from tests.service.sessions.conftest import ANSWER_SECONDS, BLOCK_SECONDS
from tests.service.sessions.house import Answer, House, Simulator, until
from tests.unit.proxy_router_sim.harness import USERS, running

BEHIND = 215.0
"""The chain's clock is so late that a session of 330 s has less than two minutes left when it is opened: a session in use
is renewed as soon as it is seen.
"""
GAP_SECONDS = 18.0
"""A lease lasts three passes, 0.3 s here. Who is struck in a transaction is in the others' way until the database gives it up,
after five seconds here; the rest is for a machine with much to do.
"""
ROUNDS = int(os.environ.get("RENEWAL_ROUNDS", "1"))
PATIENCE = 40.0


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    settings = Settings(users=USERS, block_seconds=BLOCK_SECONDS, answer_seconds=ANSWER_SECONDS)
    async with running(settings, SystemClock(start=time.time() - BEHIND)) as router:
        yield Simulator(router)


class Prompting:
    """Sends prompts of a key, one after the other, until told to stop."""

    def __init__(self, house: House, key: str = "k1") -> None:
        self.answers: list[Answer] = []
        self._house = house
        self._key = key
        self._stops = asyncio.Event()
        self._task = asyncio.create_task(self._prompt())

    async def _prompt(self) -> None:
        while not self._stops.is_set():
            self.answers.append(await self._house.gateway.chat(key=self._key, stream=len(self.answers) % 2 == 0))

    async def at_least(self, more: int) -> None:
        """Wait until so many more were answered."""
        wanted = len(self.answers) + more

        async def answered() -> bool:
            if self._task.done():
                self._task.result()
            return len(self.answers) >= wanted

        await until(answered)

    async def end(self) -> None:
        self._stops.set()
        await self._task


async def successors(house: House) -> Counter[str]:
    """How many opens were written to take the place of each session."""
    return Counter(item["replaces"]["session"] for item in await house.operations(kind="open") if item["replaces"])


async def count_renewals(house: House, **query: str) -> int:
    known = {f"{name}_id": value for name, value in query.items()}
    return len(await house.operations(kind="open", state="done", replaces={"$ne": None}, **known))


async def renewals(house: House, *, done: int, **query: str) -> bool:
    return await count_renewals(house, **query) >= done


async def is_at_rest(house: House) -> bool:
    return not await house.operations(state={"$nin": ["done", "failed"]})


async def anybody(_: Arrival) -> bool:
    return True


async def nothing_is_doubled(house: House, *users: str) -> None:
    """Every session has one successor at most, and every stake is that of one session."""
    assert set((await successors(house)).values()) <= {1}
    state = await house.simulator.state()
    assert state["opens_total"] == len(await house.sessions())
    staked = sum(int(session["Stake"]) for session in await house.simulator.open_sessions())
    now = await house.database_time()
    risks = [(await at_risk(now, user_id=user)).user for user in users or ("u1",)]
    assert staked == sum(risks)


async def test_under_prompts_without_end_a_session_is_renewed_again_and_again_and_none_waits_or_fails(
    house: House,
) -> None:
    """F2: no request meets a cold start."""
    async with automating(house, "a1") as automation, house.worker(reconcile_seconds=0.2):
        await automation.switch(on=True)
        await house.gateway.open(duration=330)
        prompting = Prompting(house)
        for number in range(1, 4):
            # while its successor is being opened, prompts are answered as always
            await house.simulator.arm("open", "hang")
            await until(lambda: house.simulator.struck("open"))
            await prompting.at_least(5)
            await house.simulator.disarm()
            await until(partial(renewals, house, done=number))
        await automation.switch(on=False)
        await prompting.at_least(5)
        await prompting.end()

        assert {answer.code for answer in prompting.answers} == {None}
        for answer in prompting.answers:
            answer.assert_whole()
        # no prompt was without a session
        assert house.automation.asked == []
        used = {answer.head.session_id for answer in prompting.answers if answer.head is not None}
        assert len(used) >= 3
        # one more may have been decided on before automation was switched off
        await until(partial(is_at_rest, house))
        await nothing_is_doubled(house)
        assert not await house.operations(kind="close")
        states = Counter(session["state"] for session in await house.sessions())
        assert states["active"] == 1
        assert states["parked"] == len(await house.sessions()) - 1

        # and when nobody asks any more, all of them run out, with nothing staked
        await house.simulator.advance(BEHIND + 330)
        await house.simulator.close_expired()

        async def all_closed() -> bool:
            return {session["state"] for session in await house.sessions()} == {"closed"}

        await until(all_closed)
        assert await house.simulator.open_sessions() == []
        assert (await at_risk(await house.database_time(), user_id="u1")).user == 0
        told = await automation.decisions()
        assert {row.decision for row in told} == {Decision.RENEW, Decision.LEAVE}
        by_renewal = {row.operation_id for row in told if row.decision is Decision.RENEW}
        assert by_renewal == {item["_id"] for item in await house.operations(replaces={"$ne": None})}


async def test_an_idle_session_runs_out_and_it_is_written_once_why(house: House) -> None:
    async with automating(house, "a1") as automation, house.worker():
        await automation.switch(on=True)
        row = await house.gateway.open(duration=330)

        async def decided() -> bool:
            return bool(await automation.decisions())

        await until(decided)
        # seen again and again, and decided once; when it is used it is renewed
        await until(partial(passes, automation, 5))
        (left,) = await automation.decisions()
        assert (left.decision, left.reason, left.times) == (Decision.LEAVE, "never_used", 1)
        assert (left.session_id, left.model_id, left.key_prefix) == (row.session_id, row.model_id, "sk-abc")
        assert 90 < int(left.facts["seconds_left"]) < 120
        assert (await house.simulator.state())["opens_total"] == 1
        assert (await house.gateway.chat()).ended
        await until(partial(renewals, house, done=1))
        await automation.switch(on=False)
        await nothing_is_doubled(house)


async def passes(automation: Automating, number: int) -> bool:
    """Whether so many passes were seen: with each the end of the lease moves on."""
    lease = await automation.database["leases"].find_one({"_id": "renewals"})
    assert lease is not None
    automation.seen.add(lease["until"])
    return len(automation.seen) >= number


async def test_a_renewal_over_the_stake_limit_is_refused_recorded_and_counted_and_the_session_stays(
    house: House,
) -> None:
    """C31"""
    async with automating(house, "a1") as automation, house.worker(stake_limit_per_user=str(2 * 10**18)):
        await automation.switch(on=True)
        row = await house.gateway.open(duration=330)
        assert (await house.gateway.chat()).ended

        async def refused() -> DecisionRow | None:
            return next((item for item in await automation.decisions() if item.decision is Decision.REFUSE), None)

        told = await until(refused)
        assert (told.reason, told.session_id, told.operation_id) == ("stake_limit_reached", row.session_id, None)
        assert told.facts["user_limit"] == str(2 * 10**18)
        assert told.facts["user_at_risk"] == str(row.stake)
        assert not {"wallet_room", "in_all_room"} & told.facts.keys()
        assert len(await house.operations()) == 1
        answer = await house.gateway.chat()
        assert answer.head is not None
        assert answer.head.session_id == row.session_id


@pytest.mark.usefixtures("short_transactions")
async def test_a_worker_killed_at_a_step_of_a_renewal_leaves_one_open_and_one_stake(
    house: House, controller: Controller
) -> None:
    """O27, P7: between decision and command, too."""
    steps = [step.number for step in RENEWAL_STEPS]
    first: dict[str, str | None] = {}
    async with automating(house, "b") as automation, house.worker():
        for user in steps:
            await automation.switch(on=True, user=user)
        for step in steps:
            other = automation.workers["b"]
            worker = automation.add(f"a-{step}", STEP_PROBE=str(controller.path))
            other.signal(signal.SIGSTOP)
            row = await house.gateway.open(step, user=step, duration=330)
            first[step] = row.session_id
            used = [{"$set": {"last_used_at": "$$NOW"}}]
            await house.database["sessions"].update_one({"chain_session": row.session_id}, used)
            trap = controller.set_trap(step, anybody)
            await asyncio.wait_for(trap.caught, PATIENCE)
            worker.kill()
            controller.remove(trap)
            other.signal(signal.SIGCONT)
            await until(partial(renewals, house, key=step, done=1))
            await automation.is_up()
            await automation.switch(on=False, user=step)
        await until(partial(is_at_rest, house))
        for step in steps:
            asked = await house.operations(key_id=step, replaces={"$ne": None})
            # what was decided of it, by whichever worker, is what was opened; of its successor nothing may have been any more
            decided = automation.database["decisions"].find({"session_id": first[step], "decision": "renew"})
            operations = {item["operation_id"] async for item in decided}
            assert operations
            assert operations <= {item["_id"] for item in asked}
        await nothing_is_doubled(house, *steps)


@pytest.mark.timeout(60 + 60 * ROUNDS)
@pytest.mark.usefixtures("short_transactions")
async def test_workers_that_are_killed_or_paused_past_their_lease_cost_no_second_stake_and_no_gap(
    house: House,
) -> None:
    """F2, F6"""
    keys = [f"k{number}" for number in range(3)]
    async with automating(house, "a1", "a2") as automation, house.worker():
        await automation.switch(on=True)
        for key in keys:
            await house.gateway.open(key, duration=330)
        prompting = [Prompting(house, key) for key in keys]
        for _ in range(ROUNDS):
            for number in (signal.SIGSTOP, signal.SIGKILL):
                name = await until(automation.holder)
                done = await count_renewals(house)
                automation.workers[name].signal(number)
                # the other goes on
                struck_at = time.monotonic()
                await until(partial(renewals, house, done=done + 3))
                assert time.monotonic() - struck_at < GAP_SECONDS
                if number is signal.SIGKILL:
                    automation.workers[name].kill()
                    automation.add(name)
                else:
                    automation.workers[name].signal(signal.SIGCONT)
                    await asyncio.gather(*(one.at_least(3) for one in prompting))
        await automation.is_up()
        await automation.switch(on=False)
        for one in prompting:
            await one.end()
        await until(partial(is_at_rest, house))
        assert {answer.code for one in prompting for answer in one.answers} == {None}
        assert house.automation.asked == []
        await nothing_is_doubled(house)
