import asyncio

from proxy_router_sim.clock import SystemClock, VirtualClock


async def test_a_virtual_clock_wakes_sleepers_in_the_order_of_their_time() -> None:
    clock = VirtualClock(100)
    woken: list[float] = []

    async def sleeper(seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append(seconds)

    tasks = [asyncio.create_task(sleeper(seconds)) for seconds in (30, 10, 20)]
    await asyncio.sleep(0)
    clock.advance(15)
    await tasks[1]
    assert woken == [10]
    clock.advance(15)
    await asyncio.gather(*tasks)
    assert woken == [10, 20, 30]


async def test_an_automatic_clock_makes_every_wait_short() -> None:
    clock = VirtualClock(100, automatic=True)
    await asyncio.gather(clock.sleep(3600), clock.sleep(7200))
    assert clock.now() == 7300


async def test_a_system_clock_that_jumps_wakes_who_was_waiting() -> None:
    clock = SystemClock(start=1000)
    sleeper = asyncio.create_task(clock.sleep_until(5000))
    await asyncio.sleep(0)
    clock.advance(4500)
    await asyncio.wait_for(sleeper, 5)
    assert clock.now() >= 5500


async def test_a_fast_system_clock_waits_less() -> None:
    clock = SystemClock(speed=100_000, start=0)
    await asyncio.wait_for(clock.sleep(3600), 5)
    assert clock.now() >= 3600


async def test_a_cancelled_sleeper_disturbs_nobody() -> None:
    clock = VirtualClock(0)
    first, second = asyncio.create_task(clock.sleep(1)), asyncio.create_task(clock.sleep(2))
    await asyncio.sleep(0)
    first.cancel()
    clock.advance(2)
    await second
