"""The line in which opens wait for a wallet: fair, bound late, and no longer than its callers wait."""

import asyncio
from typing import Any

import httpx2
import pytest
from morpheus_common.errors import ApiError
from morpheus_sessions.queueing import opens_a_second
from morpheus_sessions.worker import serve

from tests.service.sessions.fleet import Fleet, all_ended, coming_and_going, fleet
from tests.service.sessions.house import House, until


def users_of(order: list[dict[str, Any]]) -> list[str]:
    return [item["user_id"] for item in order]


async def hang_chain(fleet: Fleet, *, count: int = 1) -> None:
    """Let the next opens of every wallet wait until the fault is taken away."""
    for simulator in fleet.simulators:
        await simulator.arm("open", "hang", when="before", count=count)


async def busy(fleet: Fleet, keys: list[str]) -> None:
    """Give every wallet an open that hangs, so that what comes then waits in line."""
    await hang_chain(fleet)
    await fleet.queue(keys, user="first")
    for simulator in fleet.simulators:

        async def struck(simulator: Any = simulator) -> bool:
            return bool(await simulator.struck("open"))

        await until(struck)


async def test_who_queues_fifty_opens_makes_nobody_else_wait_for_them(house: House) -> None:
    async with fleet(house, 1) as one, house.worker(**one.settings(), handshakes_at_once=1):
        await busy(one, ["b0"])
        many = await one.queue([f"a{number}" for number in range(50)], user="greedy")
        few = await one.queue([f"m{number}" for number in range(4)], user="modest")
        await one.simulators[0].disarm()
        await all_ended(house, [*many, *few], within=60)

        users = users_of(await one.order())[1:]
    # each of the four gets every other turn: its wait is twice that of having the line alone
    last = max(place for place, user in enumerate(users, 1) if user == "modest")
    assert last <= 2 * len(few) + 1
    assert users.count("greedy") == 50


async def test_opens_of_one_user_keep_their_order(house: House) -> None:
    async with fleet(house, 1) as one, house.worker(**one.settings(), handshakes_at_once=1):
        await busy(one, ["b0"])
        asked = await one.queue([f"k{number}" for number in range(6)])
        await one.simulators[0].disarm()
        await all_ended(house, asked, within=30)
        assert [item["_id"] for item in await one.order()][1:] == asked


async def test_an_open_is_bound_to_no_wallet_before_one_has_time_for_it(house: House) -> None:
    async with fleet(house, 2) as two, house.worker(**two.settings(), handshakes_at_once=1):
        await busy(two, ["b0", "b1"])
        (waiting,) = await two.queue(["k1"])
        # passes of the loops; nobody takes it
        await asyncio.sleep(0.7)
        assert (await house.only_operation(_id=waiting))["wallet"] is None

        await two.simulators[1].disarm()
        await all_ended(house, [waiting], within=20)
        taken = await house.only_operation(_id=waiting)
        await two.simulators[0].disarm()
    assert taken["router"] == "r2"
    assert taken["state"] == "done"


async def test_opens_that_come_together_are_spread_over_the_wallets(house: House) -> None:
    async with fleet(house, 4) as four, house.worker(**four.settings()):

        async def all_serve() -> bool:
            return await house.database["leases"].count_documents({"_id": {"$regex": "^wallet:"}}) == 4

        await until(all_serve)
        outcomes = await asyncio.gather(*(four.ask(f"k{number}", user=f"u{number}") for number in range(4)))
        assert all(outcome.session is not None for outcome in outcomes)
        assert max(await four.opened()) <= 2
        assert sum(await four.opened()) == 4


async def test_what_a_wallet_cannot_afford_it_leaves_to_another(house: House) -> None:
    async with fleet(house, 2, mor=[1, 1_000]) as two, house.worker(**two.settings(), stake_limit_per_user="90%"):
        for number in range(3):
            outcome = await two.ask(f"k{number}")
            assert outcome.session is not None, outcome.error
        assert await two.opened() == [0, 3]
        wallets = {item["wallet"] for item in await house.operations(kind="open")}
    assert len(wallets) == 1


async def test_a_wallet_without_gas_is_given_no_opens(house: House) -> None:
    async with fleet(house, 2) as two, house.worker(**two.settings()):
        await two.simulators[0].post("/sim/balance", {"eth": "1"})
        # what was read before it
        await asyncio.sleep(3.1)
        for number in range(3):
            assert (await two.ask(f"k{number}")).session is not None
        assert (await two.opened())[1] == 3


async def test_when_no_wallet_can_the_caller_learns_what_it_would_take(house: House) -> None:
    async with fleet(house, 2, mor=[1_000, 1_000]) as two, house.worker(**two.settings(), stake_limit_per_user="90%"):
        assert (await two.ask("k0")).session is not None
        for simulator in two.simulators:
            await simulator.fund(3 * 10**18)

        async def poor() -> Any:
            outcome = await two.ask("k1")
            return outcome if outcome.session is None else None

        # what was read of the purses before it is three seconds old at most
        outcome = await poor()
        assert outcome.error is not None
        assert outcome.error.code == "insufficient_balance"
        assert int(outcome.error.details["required_stake"]) > 3 * 10**18
        (refused,) = await house.operations(key_id="k1", kind="open")
    assert refused["state"] == "failed"
    assert refused["approval"] is None


async def test_two_opens_that_a_wallet_can_pay_one_of_are_not_both_sent(house: House) -> None:
    async with (
        fleet(house, 1, mor=[20]) as one,
        house.worker(**one.settings(), stake_limit_per_user=str(10**24), stake_limit_in_all=str(10**24)),
    ):
        first = (await one.ask("k0")).session
        assert first is not None
        assert first.stake is not None
        assert first.stake * 2 > 20 * 10**18, "the test wants a wallet with MOR for one"
        state = await one.simulators[0].state()
        assert state["opens_total"] == 1

        await one.simulators[0].fund(int(first.stake) * 3 // 2)
        outcomes = await asyncio.gather(*(one.ask(f"k{number}", wait=8) for number in (1, 2)))
        opened = [outcome for outcome in outcomes if outcome.session is not None]
        assert len(opened) == 1
        (other,) = [outcome for outcome in outcomes if outcome.session is None]
        assert other.error is not None
        assert other.error.code in {"insufficient_balance", "stake_capacity"}
        sent = await house.operations(kind="open", approval={"$type": "string"})
    # no transaction was made that could only be reverted
    assert len(sent) == 2


# admission


def test_wallets_make_opens_side_by_side_and_a_new_one_is_taken_for_an_average_one() -> None:
    assert opens_a_second([2.0, 2.0]) == pytest.approx(1.0)
    assert opens_a_second([2.0, None]) == pytest.approx(1.0)
    assert opens_a_second([None, None]) == 0.0
    assert opens_a_second([]) == 0.0


async def test_whose_turn_would_come_after_he_has_left_is_told_when_to_come_again(house: House) -> None:
    async with fleet(house, 1) as one, house.worker(**one.settings(), handshakes_at_once=1):
        await busy(one, ["b0"])
        waiting = await one.queue([f"k{number}" for number in range(9)])
        await house.database["wallets"].update_many({}, [{"$set": {"seconds_per_open": 10.0}}])
        serving = {"$dateAdd": {"startDate": "$$NOW", "unit": "second", "amount": 60}}
        await house.database["wallets"].update_many({}, [{"$set": {"serving_until": serving}}])

        # nine before it, one in hand, and itself
        with pytest.raises(ApiError) as caught:
            await one.ask("late", patience=100.0, wait=0)
        assert caught.value.code == "session_queue_full"
        assert caught.value.retry_after is not None
        assert 5 <= caught.value.retry_after <= 15
        assert await house.operations(key_id="late") == []
        # another user's turn comes second
        assert (await one.ask("other", user="u2", patience=100.0, wait=0)).error is None
        # and who waits longer is taken in
        assert (await one.ask("late", patience=300.0, wait=0)).error is None
        await one.simulators[0].disarm()
        await all_ended(house, waiting, within=30)


async def test_nobody_is_sent_away_from_an_empty_line_however_slow_the_chain(house: House) -> None:
    async with fleet(house, 1) as one, house.worker(**one.settings()):
        assert (await one.ask("k0")).session is not None
        await house.database["wallets"].update_many({}, {"$set": {"seconds_per_open": 300.0}})
        assert (await one.ask("k1", patience=1.0)).session is not None


# the last waiter


async def automatic(house: House, key: str) -> str:
    """Have a prompt make automation open a session, and leave at once."""
    answer = await house.gateway.attempt(key=key, open_wait=0.5)
    assert answer.code == "session_opening"
    return str((await house.only_operation(key_id=key, kind="open"))["_id"])


async def test_an_open_that_automation_began_is_dropped_when_its_last_waiter_has_left(house: House) -> None:
    async with fleet(house, 1) as one, house.worker(**one.settings(), handshakes_at_once=1):
        await busy(one, ["b0"])
        operation_id = await automatic(house, "k1")
        manual = await one.queue(["k2"])
        waiting = await house.only_operation(_id=operation_id)
        assert waiting["patience_until"] is not None
        # its time is over
        await house.database["operations"].update_one(
            {"_id": operation_id}, [{"$set": {"patience_until": {"$subtract": ["$$NOW", 1]}}}]
        )
        await one.simulators[0].disarm()
        await all_ended(house, [operation_id, *manual], within=20)
        (dropped,) = await house.operations(_id=operation_id)
        assert dropped["state"] == "failed"
        assert dropped["approval"] is None
        assert (await house.only_session(key_id="k1"))["state"] == "failed"
        # what a user asked for is opened whoever waits
        assert (await house.only_operation(_id=manual[0]))["state"] == "done"
        assert await one.opened() == [2]


async def test_an_open_that_automation_began_is_carried_out_while_somebody_waits(house: House) -> None:
    async with fleet(house, 1) as one, house.worker(**one.settings(), handshakes_at_once=1):
        await busy(one, ["b0"])
        chatting = asyncio.create_task(house.gateway.chat(key="k1", open_wait=20))

        async def written() -> Any:
            return await house.operations(key_id="k1", kind="open")

        (operation,) = await until(written)
        await house.database["operations"].update_one(
            {"_id": operation["_id"]}, [{"$set": {"patience_until": {"$subtract": ["$$NOW", 1]}}}]
        )

        async def patient_again() -> bool:
            query = {"_id": operation["_id"], "$expr": {"$gt": ["$patience_until", "$$NOW"]}}
            return await house.database["operations"].count_documents(query) == 1

        # who waits says so again and again
        await until(patient_again)
        await one.simulators[0].disarm()
        assert (await chatting).ended


async def test_what_a_wallet_took_goes_back_to_the_line_when_its_router_is_taken_out(house: House) -> None:
    async with fleet(house, 2) as two:
        # the first is away: the second takes the open, and its provider says nothing
        only = two.settings(r1={"url": "http://127.0.0.1:9"})
        await two.simulators[1].arm("initiate", "hang", count=None)
        async with house.worker(**only, handshake_timeout=60):
            (operation,) = await two.queue(["k1"])
            await until(lambda: two.simulators[1].struck("initiate"))
        await two.simulators[1].disarm()
        two.simulators = two.simulators[:1]
        async with house.worker(**two.settings(), reconcile_seconds=0.3):
            (ended,) = await all_ended(house, [operation], within=15)
            assert (await house.gateway.chat()).ended
        assert ended["state"] == "done"
        assert await two.opened() == [1]


async def test_a_line_is_refused_though_no_router_was_there_since_the_worker_began(house: House) -> None:
    async with coming_and_going(wallet_seed=201) as gone:
        routers = house.settings(router_url=gone.url).proxy_routers.get_secret_value()
        async with house.worker(proxy_routers=routers, handshakes_at_once=1):
            async with httpx2.AsyncClient(base_url=gone.url) as http:
                fault = {"kind": "initiate", "action": "hang", "count": None}
                (await http.post("/sim/faults", json=fault)).raise_for_status()
            asked = [(await house.gateway.ask_open(f"k{number}", wait=0)).operation_id for number in range(4)]
        await gone.go()
        waiting = await house.operations(state="pending", wallet=None)
        assert waiting
        async with serve(house.settings(proxy_routers=routers)):
            ended = await all_ended(house, [item["_id"] for item in waiting], within=20)
    assert {item["state"] for item in ended} == {"failed"}
    assert {item["error"]["code"] for item in ended} == {"service_unavailable"}
    assert {item["_id"] for item in ended} <= set(asked)


async def test_many_closes_keep_no_open_waiting(house: House) -> None:
    async with house.worker(reconcile_seconds=3600):
        for number in range(10):
            await house.gateway.open(f"k{number}")
        # the chain takes its time for each
        await house.simulator.arm("close", "delay", seconds=1.0, count=None)
        for number in range(10):
            await house.gateway.close(f"k{number}", wait=0)
        await house.gateway.open("new")
        closed = await house.operations(kind="close", state="done")
    # those that stood in line for the wallet before it, of ten
    assert len(closed) <= 4
