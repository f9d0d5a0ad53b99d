"""The router's own closer, and what it knows of."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from proxy_router_sim.clock import VirtualClock
from proxy_router_sim.closer import PERIOD_SECONDS
from proxy_router_sim.ledger import Session
from proxy_router_sim.simulator import Settings

from tests.unit.proxy_router_sim.harness import NOON, USERS, Router, running, until

OPEN = "/blockchain/sessions"


@contextlib.asynccontextmanager
async def closing(router: Router) -> AsyncIterator[None]:
    """The closer at work."""
    at_work = asyncio.create_task(router.simulator.node.closer.run())
    try:
        yield
    finally:
        at_work.cancel()
        await asyncio.gather(at_work, return_exceptions=True)


async def closed(router: Router) -> dict[str, bool]:
    sessions: list[dict[str, Any]] = (await router.get("/sim/state"))["sessions"]
    return {session["Id"]: bool(session["ClosedAt"]) for session in sessions}


async def test_one_silent_provider_stops_the_closer_for_the_wallet() -> None:
    clock = VirtualClock(NOON, automatic=True)
    async with running(clock=clock) as router:
        first, second = await router.open(), await router.open("qwen3-235b")
        silent = router.simulator.chain.ledger.session(first).provider
        assert silent != router.simulator.chain.ledger.session(second).provider
        await router.arm("closing_report", "hang", count=None, match=silent)
        clock.advance(3700)
        async with closing(router):
            await until(lambda: router.faults.view()["waiting"].get("closing_report"))
            clock.advance(86_400)
            assert (await router.get("/sim/state"))["closer"] == {"closing": first, "known_sessions": 2}
            assert await closed(router) == {first: False, second: False}
            # our own close of another session is not in its way
            assert (await router.post(f"{OPEN}/{second}/close"))[0] == 200
            async with router.http.delete("/sim/faults"):
                await until(lambda: router.simulator.node.counters["closed_by_router"] == 1)
        assert await closed(router) == {first: True, second: True}


async def test_the_closers_transaction_overlaps_with_ours_and_can_collide() -> None:
    clock = VirtualClock(NOON, automatic=True)
    async with running(clock=clock) as router:
        opened = await router.open()
        clock.advance(3700)
        clock.automatic = False
        await router.post("/sim/nonces", {"races": True, "seconds": 0.5})
        sender = router.simulator.node.sender
        round_of_closer = asyncio.create_task(router.simulator.node.close_expired())
        await until(lambda: sender.counters["max_transactions_in_flight"] == 1)
        ours = asyncio.create_task(
            router.post(f"/blockchain/approve?spender={router.simulator.chain.diamond}&amount=5")
        )
        await until(lambda: sender.counters["max_transactions_in_flight"] == 2)
        clock.automatic = True
        clock.advance(0.5)
        status, body = await ours
        assert (status, body) == (500, {"error": "failed to send transaction: replacement transaction underpriced"})
        assert await round_of_closer == 1
        assert (await router.get("/sim/state"))["nonces"]["conflicts"] == 1
        assert await closed(router) == {opened: True}


async def test_what_the_closer_could_not_close_it_tries_again_a_minute_later() -> None:
    clock = VirtualClock(NOON, automatic=True)
    async with running(clock=clock) as router:
        opened = await router.open()
        await router.arm("auto_close", "revert", match=opened)
        clock.advance(3700)
        async with closing(router):
            await until(lambda: router.simulator.node.counters["closed_by_router"] == 1)
        session = router.simulator.chain.ledger.session(opened)
        assert session.closed_at >= NOON + 3700 + 2 * PERIOD_SECONDS
        assert session.closed_at < NOON + 3700 + 3 * PERIOD_SECONDS + 20


async def test_the_closer_knows_no_ghost_before_the_next_start(tmp_path: Path) -> None:
    settings = Settings(users=USERS, answer_seconds=0, state_file=tmp_path / "state")
    async with running(settings) as router:
        await router.arm("open", "error_after", stage="mined")
        assert (await router.post(OPEN, await router.agreement(router.bid())))[0] == 500
        await router.post("/sim/advance", {"seconds": 3700})
        assert await router.simulator.node.close_expired() == 0
        assert list((await closed(router)).values()) == [False]
        clock = VirtualClock(router.simulator.clock.now() + 60, automatic=True)
    async with running(settings, clock) as router:
        assert await router.simulator.node.close_expired() == 1
        assert list((await closed(router)).values()) == [True]


async def test_a_late_open_is_a_ghost_too_until_a_wipe_that_starts_the_router_anew(router: Router) -> None:
    await router.arm("open", "mined_late")
    assert (await router.post(OPEN, await router.agreement(router.bid())))[0] == 500
    await router.post("/sim/release")
    await router.post("/sim/advance", {"seconds": 3700})
    assert await router.simulator.node.close_expired() == 0
    await router.post("/sim/wipe")
    assert await router.simulator.node.close_expired() == 1
    assert list((await closed(router)).values()) == [True]


async def test_at_its_start_the_router_stops_looking_after_three_pages_without_an_open_session(router: Router) -> None:
    def exists(number: int, *, is_open: bool) -> None:
        session = Session(
            f"0x{number:064x}", router.wallet, "p", "m", "b", 1, 1, direct_payment=False, opened_at=0, ends_at=1,
            closed_at=0 if is_open else 1,
        )  # fmt: skip
        router.simulator.chain.ledger.sessions.put(session.id, session)

    exists(0, is_open=True)
    for number in range(1, 3 * 255 + 1):
        exists(number, is_open=False)
    store = router.simulator.store
    router.simulator.node.start()
    assert list(store.sessions) == []
    exists(1, is_open=True)  # the last on the third page, so the fourth is read
    router.simulator.node.start()
    assert len(store.sessions) == 2


async def test_the_storage_forgets_a_closed_session(router: Router) -> None:
    opened = await router.open()
    assert (await router.get("/sim/state"))["closer"]["known_sessions"] == 1
    assert (await router.post(f"{OPEN}/{opened}/close"))[0] == 200
    await router.simulator.node.close_expired()
    assert (await router.get("/sim/state"))["closer"]["known_sessions"] == 0
