"""What can befall the transaction of an open, a close or an approve, and where a call to the chain can be struck."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from proxy_router_sim.clock import VirtualClock
from proxy_router_sim.simulator import Settings

from tests.unit.proxy_router_sim.harness import HOUR_STAKE, NOON, USERS, Router, running, until

OPEN = "/blockchain/sessions"
NOT_MINED = "transaction not mined after all escalation attempts: last tx 0x"


async def sessions(router: Router) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await router.get("/sim/state"))["sessions"]
    return found


async def staked(router: Router) -> int:
    return int((await router.get("/sim/state"))["staked"])


def waits_at(router: Router, kind: str, stage: str) -> Callable[[], object]:
    return lambda: router.faults.view()["waiting"].get(kind, {}).get(stage)


async def test_a_reverted_open_is_mined_without_a_session_and_without_a_stake(router: Router) -> None:
    agreement = await router.agreement(router.bid())
    await router.arm("open", "revert")
    status, body = await router.post(OPEN, agreement)
    assert (status, body["error"]) == (
        500,
        "failed to send transaction: parse session receipt failed: Transaction failed with status 0",
    )
    state = await router.get("/sim/state")
    assert (state["sessions"], state["mor"], state["pending_transactions"]) == ([], str(10**24), 0)
    assert (await router.post(OPEN, agreement))[0] == 200  # the approval was not used


async def test_a_reverted_allowance_ends_the_open_before_its_own_transaction(router: Router) -> None:
    await router.arm("open", "revert", transaction="allowance")
    status, body = await router.post(OPEN, await router.agreement(router.bid()))
    assert (status, body["error"]) == (500, "failed to send transaction: approve tx failed with status 0")
    assert await sessions(router) == []


async def test_a_reverted_close_leaves_the_session_open(router: Router) -> None:
    opened = await router.open()
    await router.arm("close", "revert", match=opened)
    status, body = await router.post(f"{OPEN}/{opened}/close")
    assert (status, body["error"]) == (500, "failed to send transaction: close session tx failed with status 0")
    assert await staked(router) == HOUR_STAKE


async def test_an_open_that_is_never_mined_says_so_and_nothing_ever_appears(router: Router) -> None:
    agreement = await router.agreement(router.bid())
    await router.arm("open", "never_mined", seconds=180)
    before = router.simulator.clock.now()
    status, body = await router.post(OPEN, agreement)
    assert status == 500
    assert body["error"].startswith(f"failed to send transaction: open session failed: {NOT_MINED}")
    assert router.simulator.clock.now() - before >= 180
    await router.post("/sim/advance", {"seconds": 86_400})
    assert (await router.post("/sim/release"))[1] == {"released": []}
    assert await sessions(router) == []
    assert (await router.post(OPEN, agreement))[0] == 200


async def test_a_late_open_appears_after_its_time(router: Router) -> None:
    await router.arm("open", "mined_late", seconds=600)
    status, body = await router.post(OPEN, await router.agreement(router.bid()))
    assert status == 500
    assert NOT_MINED in body["error"]
    last = body["error"].rpartition(" ")[2]
    assert (await router.get("/sim/state"))["late_transactions"] == [last]
    await router.post("/sim/advance", {"seconds": 590})
    assert await sessions(router) == []
    await router.post("/sim/advance", {"seconds": 12})
    assert await staked(router) == HOUR_STAKE
    assert (await router.get("/sim/state"))["late_transactions"] == []


async def test_a_late_open_waits_for_its_release_and_may_follow_days_later(router: Router) -> None:
    await router.arm("open", "mined_late", count=2)
    for _ in range(2):
        assert (await router.post(OPEN, await router.agreement(router.bid())))[0] == 500
        router.simulator.clock.advance(1)
    first, second = (await router.get("/sim/state"))["late_transactions"]
    await router.post("/sim/advance", {"seconds": 3 * 86_400})
    assert await sessions(router) == []
    assert (await router.post("/sim/release", {"hash": second}))[1] == {"released": [second]}
    await router.post("/sim/advance", {"seconds": 2})
    assert len(await sessions(router)) == 1
    assert (await router.get("/sim/state"))["late_transactions"] == [first]


async def test_an_approval_sent_again_opens_one_session_and_the_late_one_reverts(router: Router) -> None:
    agreement = await router.agreement(router.bid())
    await router.arm("open", "mined_late")
    assert (await router.post(OPEN, agreement))[0] == 500
    status, opened = await router.post(OPEN, agreement)
    assert status == 200
    [late] = router.simulator.chain.mempool.late()
    await router.post("/sim/release")
    await router.post("/sim/advance", {"seconds": 10})
    assert late.mined
    assert late.revert == "EVM error: SessionDuplicateApproval() []"
    assert [session["Id"] for session in await sessions(router)] == [opened["sessionID"]]
    assert await staked(router) == HOUR_STAKE


@pytest.mark.parametrize(
    ("params", "cause"),
    [
        ({}, "EVM error: SessionDuplicateApproval() []"),
        ({"text": "execution reverted: ERC20: transfer amount exceeds balance"}, "exceeds balance"),
    ],
)
async def test_an_escalated_open_answers_500_while_its_first_transaction_is_mined(
    router: Router, params: dict[str, Any], cause: str
) -> None:
    await router.post("/blockchain/approve?spender=" + router.simulator.chain.diamond + f"&amount={10 * HOUR_STAKE}")
    await router.arm("open", "escalated", **params)
    before = router.simulator.clock.now()
    status, body = await router.post(OPEN, await router.agreement(router.bid()))
    assert router.simulator.clock.now() == before
    assert status == 500
    assert body["error"].startswith("failed to send transaction: open session failed: failed to build transaction: ")
    assert cause in body["error"]
    assert await sessions(router) == []
    await router.post("/sim/advance", {"seconds": 2})
    assert await staked(router) == HOUR_STAKE


async def test_a_close_can_be_escalated_late_or_never_mined(router: Router) -> None:
    first, second, third = [await router.open() for _ in range(3)]
    await router.arm("close", "escalated", match=first)
    await router.arm("close", "mined_late", match=second)
    await router.arm("close", "never_mined", match=third)
    errors = [(await router.post(f"{OPEN}/{one}/close"))[1]["error"] for one in (first, second, third)]
    assert errors[0].endswith("failed to build transaction: EVM error: SessionAlreadyClosed() []")
    assert all(f"close session failed: {NOT_MINED}" in error for error in errors[1:])
    await router.post("/sim/advance", {"seconds": 60})
    assert {s["Id"]: bool(s["ClosedAt"]) for s in await sessions(router)} == {first: True, second: False, third: False}
    await router.post("/sim/release")
    await router.post("/sim/advance", {"seconds": 2})
    assert {s["Id"]: bool(s["ClosedAt"]) for s in await sessions(router)} == {first: True, second: True, third: False}


async def test_an_approve_gives_up_after_its_time_and_may_still_be_mined(router: Router) -> None:
    path = f"/blockchain/approve?spender={router.simulator.chain.diamond}&amount=77"
    await router.arm("approve", "mined_late", seconds=120, patience=60)
    before = router.simulator.clock.now()
    status, body = await router.post(path)
    assert status == 500
    assert body["error"] == (
        "failed to send transaction: transaction timeout: tx not mined within timeout period: context deadline exceeded"
    )
    assert router.simulator.clock.now() - before == 60
    assert (await router.get("/sim/state"))["allowance"] == "0"
    await router.post("/sim/advance", {"seconds": 62})
    assert (await router.get("/sim/state"))["allowance"] == "77"
    await router.arm("approve", "revert")
    assert (await router.post(path))[1]["error"] == "failed to send transaction: transaction failed with status 0"


STAGES_OF_OPEN = [
    ("before_allowance", 0, 0, 0),
    ("after_allowance", HOUR_STAKE, 0, 0),
    ("in_mempool", HOUR_STAKE, 1, 0),
    ("mined", 0, 0, 1),
]
"""Stage, allowance there, transactions pending there, sessions there."""


@pytest.mark.parametrize(("stage", "allowance", "pending", "opened"), STAGES_OF_OPEN)
async def test_a_hanging_open_stands_at_its_stage_and_goes_on_without_its_caller(
    router: Router, stage: str, allowance: int, pending: int, opened: int
) -> None:
    agreement = await router.agreement(router.bid())
    await router.arm("open", "hang", stage=stage, match=router.bid().id)
    asking = asyncio.create_task(router.post(OPEN, agreement))
    await until(waits_at(router, "open", stage))
    await router.post("/sim/advance", {"seconds": 100})  # a held transaction waits however long it takes
    state = await router.get("/sim/state")
    assert state["faults"]["waiting"] == {"open": {stage: 1}}
    assert (int(state["allowance"]), state["pending_transactions"]) == (allowance, pending)
    assert len(state["sessions"]) == opened
    asking.cancel()
    [fault] = state["faults"]["striking"]
    async with router.http.delete(f"/sim/faults/{fault['id']}") as response:
        assert (await response.json())["waiting"] == {}
    await until(lambda: router.simulator.node.counters["opened"] == 1)
    assert await staked(router) == HOUR_STAKE


@pytest.mark.parametrize(("stage", "allowance", "pending", "opened"), STAGES_OF_OPEN)
@pytest.mark.parametrize("action", ["drop", "error_after"])
async def test_an_open_that_ends_at_a_stage_leaves_what_was_sent_by_then(
    router: Router, action: str, stage: str, allowance: int, pending: int, opened: int
) -> None:
    await router.arm("open", action, stage=stage)
    agreement = await router.agreement(router.bid())
    if action == "drop":
        with pytest.raises(aiohttp.ClientError):
            await router.post(OPEN, agreement)
    else:
        status, body = await router.post(OPEN, agreement)
        assert status == 500
        assert ("session not found" in body["error"]) == (stage == "mined")
    state = await router.get("/sim/state")
    assert (int(state["allowance"]), state["pending_transactions"]) == (allowance, pending)
    assert len(state["sessions"]) == opened
    await router.post("/sim/advance", {"seconds": 10})
    assert len(await sessions(router)) == opened + pending


async def test_a_delayed_stage_goes_on_by_itself(router: Router) -> None:
    await router.arm("open", "delay", stage="in_mempool", seconds=0.01)
    assert (await router.post(OPEN, await router.agreement(router.bid())))[0] == 200


@pytest.mark.parametrize(("stage", "pending", "closed"), [("report", 0, 0), ("in_mempool", 1, 0), ("mined", 0, 1)])
async def test_a_hanging_close_stands_at_its_stage(router: Router, stage: str, pending: int, closed: int) -> None:
    opened = await router.open()
    await router.arm("close", "hang", stage=stage)
    asking = asyncio.create_task(router.post(f"{OPEN}/{opened}/close"))
    await until(waits_at(router, "close", stage))
    state = await router.get("/sim/state")
    assert state["pending_transactions"] == pending
    assert bool(state["sessions"][0]["ClosedAt"]) == bool(closed)
    async with router.http.delete("/sim/faults"):
        status, answer = await asking
    assert (status, list(answer)) == (200, ["tx"])


async def test_a_silent_provider_holds_a_close_and_a_failing_one_makes_it_a_dispute(router: Router) -> None:
    silent, failing = await router.open(), await router.open()
    await router.arm("closing_report", "hang", match=silent)
    await router.arm("closing_report", "error_before", match=router.bid().provider)
    asking = asyncio.create_task(router.post(f"{OPEN}/{silent}/close"))
    await until(waits_at(router, "closing_report", "before"))
    assert (await router.post(f"{OPEN}/{failing}/close"))[0] == 200
    async with router.http.delete("/sim/faults"):
        assert (await asking)[0] == 200
    assert {s["Id"]: s["CloseoutType"] for s in await sessions(router)} == {silent: 0, failing: 1}


async def test_a_restart_mines_what_a_hanging_call_held_and_keeps_what_is_late(tmp_path: Path) -> None:
    settings = Settings(users=USERS, state_file=tmp_path / "state")
    async with running(settings) as router:
        await router.arm("open", "mined_late")
        assert (await router.post(OPEN, await router.agreement(router.bid())))[0] == 500
        router.simulator.clock.advance(1)
        await router.arm("open", "hang", stage="in_mempool")
        held = await router.agreement(router.bid())
        asking = asyncio.create_task(router.post(OPEN, held))
        await until(waits_at(router, "open", "in_mempool"))
        crashed = (tmp_path / "state").read_bytes()
        asking.cancel()
    (tmp_path / "state").write_bytes(crashed)
    async with running(settings, VirtualClock(NOON + 600, automatic=True)) as router:
        assert len(await sessions(router)) == 1
        assert "SessionDuplicateApproval" in (await router.post(OPEN, held))[1]["error"]
        await router.post("/sim/release")
        await router.post("/sim/advance", {"seconds": 2})
        assert len(await sessions(router)) == 2


async def test_chance_decides_the_same_way_for_the_same_seed() -> None:
    async def struck(seed: int) -> list[int]:
        async with running(Settings(users=USERS, seed=seed)) as router:
            wish = {"kind": "wallet", "action": "error_before", "probability": 0.5, "params": {"status": 503}}
            assert (await router.post("/sim/faults", wish))[1]["count"] is None
            statuses = []
            for _ in range(40):
                async with router.http.get("/wallet") as response:
                    statuses.append(response.status)
            return statuses

    first, again, other = await struck(1), await struck(1), await struck(2)
    assert set(first) == {200, 503}
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "chat", "action": "revert"},
        {"kind": "approve", "action": "escalated"},
        {"kind": "close", "action": "hang", "params": {"stage": "after_allowance"}},
        {"kind": "open", "action": "revert", "params": {"stage": "mined"}},
        {"kind": "models", "action": "hang", "params": {"stage": "mined"}},
        {"kind": "close", "action": "revert", "params": {"transaction": "allowance"}},
        {"kind": "open", "action": "revert", "params": {"transaction": "other"}},
        {"kind": "open", "action": "drop", "probability": 0},
        {"kind": "open", "action": "drop", "probability": 1.5},
    ],
)
async def test_a_fault_that_fits_no_transaction_is_refused(router: Router, fault: dict[str, Any]) -> None:
    assert (await router.post("/sim/faults", fault))[0] == 400
