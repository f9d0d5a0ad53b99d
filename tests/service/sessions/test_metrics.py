"""What a session worker measures moves when the thing happens."""

import asyncio
import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from morpheus_common.bus import names
from morpheus_common.contracts.operator import MAKE_PASS, MakePass
from morpheus_common.metrics import REGISTRY
from morpheus_devstack.ports import free_ports
from morpheus_sessions.invariants import TOLD
from morpheus_sessions.router_calls import OTHER
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tests.service.sessions.fleet import coming_and_going
from tests.service.sessions.house import House, tap, until
from tests.service.sessions.test_operator import STILL, asking, forget

QUICK: dict[str, Any] = {"gauges_seconds": 0.2}
MOR = 10**18


def value(name: str, **labels: str) -> float:
    """A sample of this process, 0 if there is none."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


def shown(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


def rise(name: str, **labels: str) -> Callable[[], float]:
    """By how much a sample has risen since now: other tests count in the same process."""
    before = value(name, **labels)
    return lambda: value(name, **labels) - before


async def comes(name: str, wanted: float | None, **labels: str) -> None:
    """Wait until a sample has this value; None: until it is not there."""

    async def is_there() -> bool:
        return shown(name, **labels) == wanted

    try:
        await until(is_there)
    except TimeoutError:
        raise AssertionError(f"{name} {labels} is {shown(name, **labels)}, not {wanted}") from None


async def test_prompts_are_counted_by_what_became_of_them_with_their_tokens_and_their_waits(
    house: House,
) -> None:
    streams, jsons, failed, left = (
        rise("morpheus_prompts_total", mode=mode, outcome=outcome)
        for mode, outcome in (("stream", "ok"), ("json", "ok"), ("json", "provider_error"), ("stream", "client_gone"))
    )
    seconds = {
        outcome: rise(
            "gen_ai_client_operation_duration_seconds_count",
            gen_ai_operation_name="chat",
            outcome=outcome,
            router="r1",
        )
        for outcome in ("ok", "error", "left")
    }
    tokens = {kind: rise("gen_ai_client_token_usage_total", gen_ai_token_type=kind) for kind in ("input", "output")}
    waits = {stage: rise("morpheus_prompt_wait_seconds_count", stage=stage) for stage in ("queue", "claim", "open")}
    body, credit = (rise("morpheus_frames_refused_total", frame=frame) for frame in ("body", "credit"))
    taken_over = rise("morpheus_sessions_taken_over_total", mark="none")

    async with house.worker():
        # the first has its session opened
        (await house.gateway.chat()).assert_whole()
        assert (waits["queue"](), waits["open"]()) == (1, 1)
        assert waits["claim"]() >= 2
        (await house.gateway.chat(stream=False)).assert_whole()
        await house.simulator.arm("chat", "raw_error", text="gone")
        assert (await house.gateway.chat(stream=False)).code == "provider_error"
        async with house.gateway.prompting() as prompting:
            await prompting.accepted()
            await prompting.credit(1)
            await prompting.next()
            await prompting.cancel()
            (await house.gateway.chat()).assert_whole()
        assert value("morpheus_sessions_owned") == 1

        for subject in (names.chat_credit("w1", "stranger"), names.chat_body("w1", "stranger")):
            await house.gateway.connection.publish(subject, b"1")
        await until(lambda: _is(lambda: body() >= 1 and credit() >= 1))

        await house.gateway.open("k2")
        await house.database["sessions"].update_one(
            {"key_id": "k2"}, {"$set": {"owner": {"worker": "dead", "boot": 1}}}
        )
        (await house.gateway.chat(key="k2")).assert_whole()

        async def written() -> list[Any] | None:
            used = [item async for item in house.database["usage"].find()]
            return used if len(used) == 6 else None

        used = await until(written)
    assert (streams(), jsons(), failed(), left()) == (3, 1, 1, 1)
    assert {outcome: count() for outcome, count in seconds.items()} == {"ok": 4, "error": 1, "left": 1}
    assert tokens["input"]() == sum(item["prompt_tokens"] for item in used) > 0
    assert tokens["output"]() == sum(item["completion_tokens"] for item in used) > 0
    assert waits["queue"]() == 6
    assert taken_over() == 1


async def _is(condition: Callable[[], bool]) -> bool:
    return condition()


async def test_prompts_that_run_and_wait_are_shown_and_a_full_line_is_counted(
    house: House,
) -> None:
    busy = rise("morpheus_prompts_total", mode="stream", outcome="session_busy")
    async with house.worker(queue_per_key=1):
        await house.gateway.open()
        await house.simulator.arm("chat", "hang")
        async with AsyncExitStack() as stack:
            running = asyncio.create_task(house.gateway.chat())
            await until(lambda: house.simulator.struck("chat"))
            stack.callback(running.cancel)
            waiting = asyncio.create_task(house.gateway.chat())
            await comes("morpheus_prompts_waiting", 1)
            assert value("morpheus_prompts_running") == 1
            assert (await house.gateway.chat()).code == "session_busy"
            await house.simulator.disarm()
            (await running).assert_whole()
            (await waiting).assert_whole()
        await comes("morpheus_prompts_running", 0)
        assert value("morpheus_prompts_waiting") == 0
    assert busy() == 1


async def test_calls_to_a_router_are_told_by_what_they_do_and_by_how_they_fail(
    house: House,
) -> None:
    """C49: whatever ids are in their paths."""
    wanted = ("identity", "funds", "height", "supply", "market", "rated_bids", "session", "sessions", "open", "close")
    calls = {call: rise("morpheus_router_seconds_count", router="r1", call=call) for call in (*wanted, OTHER)}
    errors = {
        kind: rise("morpheus_router_errors_total", router="r1", kind=kind) for kind in ("chain", "refused", "timeout")
    }
    async with house.worker(**QUICK, reconcile_seconds=0.2, router_read_timeout=1.0) as parts:
        await house.gateway.open()
        await house.gateway.close()
        assert errors["refused"]() == 0
        await house.simulator.arm("initiate", "error_before", status=500, text="no")
        await house.gateway.attempt_open()
        assert errors["refused"]() >= 1
        assert errors["timeout"]() == 0
        await house.simulator.arm("supply", "hang")
        with pytest.raises(Exception, match="Timeout"):
            await parts.catalogue._router.supply_and_budget()
        await house.simulator.disarm()

        # a node that is not there: the router answers, and has nothing to say of the chain
        await comes("morpheus_chain_up", 1, router="r1")
        assert value("morpheus_block_height", router="r1") > 0
        lookup = 'Post "https://node.example": dial tcp: lookup node.example: no such host'
        await house.simulator.arm("latest_block", "error_before", count=None, text=lookup)
        await comes("morpheus_chain_up", 0, router="r1")
        assert shown("morpheus_block_height", router="r1") is None
        assert value("morpheus_router_up", router="r1") == 1
        age = value("morpheus_block_age_seconds", router="r1")
        await until(lambda: _is(lambda: value("morpheus_block_age_seconds", router="r1") > age))
        await house.simulator.disarm()
        await comes("morpheus_chain_up", 1, router="r1")
    counted = {call: count() for call, count in calls.items()}
    assert counted.pop(OTHER) == 0
    assert min(counted.values()) > 0, counted
    assert errors["chain"]() >= 1
    assert errors["timeout"]() == 1


async def test_a_router_that_goes_is_shown_down_and_says_nothing_of_its_chain(
    house: House,
) -> None:
    unreachable = rise("morpheus_router_errors_total", router="r2", kind="unreachable")
    async with coming_and_going(wallet_seed=200) as gone:
        routers = json.loads(house.settings().proxy_routers.get_secret_value())
        routers.append({"name": "r2", "url": gone.url, "user": "admin", "password": "correct"})
        async with house.worker(**QUICK, proxy_routers=json.dumps(routers)):
            for router in ("r1", "r2"):
                await comes("morpheus_router_up", 1, router=router)
                await comes("morpheus_chain_up", 1, router=router)
                await comes("morpheus_wallet_wei", 10**6 * MOR, router=router, token="MOR")
                assert value("morpheus_wallet_wei", router=router, token="ETH") > 0

            await gone.go()

            await comes("morpheus_router_up", 0, router="r2")
            await comes("morpheus_chain_up", None, router="r2")
            assert value("morpheus_router_up", router="r1") == value("morpheus_chain_up", router="r1") == 1
            assert unreachable() > 0


async def test_stake_operations_and_passes_are_shown_as_they_are(house: House) -> None:
    limits = {"stake_limit_in_all": str(100 * MOR)}
    async with house.worker(**QUICK, **STILL, **limits):
        row = await house.gateway.open()
        assert row.stake is not None
        await comes("morpheus_sessions", 1, state="active")
        assert value("morpheus_stake_wei", kind="open") == row.stake
        assert value("morpheus_stake_limit_wei") == 100 * MOR
        assert value("morpheus_operations", kind="open", state="pending") == 0

        await house.simulator.arm("open", "hang", stage="in_mempool")
        outcome = await house.gateway.ask_open("k2", wait=0)
        await comes("morpheus_operations", 1, kind="open", state="sent")
        assert 0 < value("morpheus_operation_oldest_seconds", kind="open", state="sent") < 60
        assert value("morpheus_stake_wei", kind="opening") > 0
        at_risk = value("morpheus_stake_wei", kind="at_risk")
        assert at_risk == value("morpheus_stake_wei", kind="open") + value("morpheus_stake_wei", kind="opening")
        await house.simulator.disarm()
        await house.session_is("active", operation_id=outcome.operation_id)

        assert (await house.gateway.close()).confirmed
        await comes("morpheus_stake_wei", row.stake, kind="held")
        await comes("morpheus_sessions", 1, state="active")


async def test_a_stake_that_is_lost_or_doubled_on_chain_is_shown_after_a_complete_pass(house: House) -> None:
    async with house.worker(**QUICK, **STILL), asking(house) as rpc:
        lost, kept = await house.gateway.open("k1"), await house.gateway.open("k2")
        await _make_pass(rpc)
        await comes("morpheus_pass_findings", 0, router="r1", finding="lost")
        assert 0 <= value("morpheus_pass_age_seconds", router="r1") < 60
        assert value("morpheus_invariant_violations", invariant="I2") == 0

        await forget(house, lost)
        await _open_again(house, kept.bid_id, kept.stake)
        await house.simulator.open_past_us()
        await _make_pass(rpc)

        await comes("morpheus_invariant_violations", 2, invariant="I2")
        await comes("morpheus_invariant_violations", 1, invariant="I3")
        assert value("morpheus_pass_findings", router="r1", finding="lost") == 2
        assert value("morpheus_pass_findings", router="r1", finding="foreign") == 1


async def _make_pass(rpc: Any) -> None:
    assert (await rpc.call(MAKE_PASS, MakePass(router="r1"))).made


async def _open_again(house: House, bid_id: str | None, stake: int | None) -> None:
    """Open a second session with bid and stake of one of ours: what must never be."""
    assert stake is not None
    router = house.simulator._router
    bid = next(bid for bid in router.simulator.node.marketplace.bids.values() if bid.id == bid_id)
    status, answer = await router.post("/blockchain/sessions", await router.agreement(bid, stake))
    assert status == 200, answer


async def test_two_workers_show_the_same_of_the_deployment(house: House) -> None:
    (port,) = free_ports(1)
    more = {**QUICK, "stake_limit_in_all": str(100 * MOR), "reconcile_seconds": 0.5}
    # one of them as a process: two in one would share their documents' database
    async with house.worker("w1", **more), house.process("w2", metrics_port=port, **more):
        await house.gateway.open()
        await house.gateway.open("k2")
        await house.gateway.close("k2")

        async def agree() -> dict[str, float] | None:
            one, other = _deployment(generate_latest(REGISTRY).decode()), _deployment(await _metrics_at(port))
            is_settled = one.get("morpheus_sessions{'state': 'active'}") == 1
            return one if is_settled and one == other else None

        figures = await until(agree)
    assert figures["morpheus_stake_wei{'kind': 'held'}"] > 0
    assert figures["morpheus_stake_limit_wei{}"] == 100 * MOR
    violations = {name: count for name, count in figures.items() if name.startswith("morpheus_invariant_violations")}
    assert len(violations) == len(TOLD)
    assert set(violations.values()) == {0}


OF_THE_DEPLOYMENT = (
    "morpheus_sessions",
    "morpheus_sessions_quarantined",
    "morpheus_operations",
    "morpheus_stake_wei",
    "morpheus_stake_limit_wei",
    "morpheus_wallet_queue",
    "morpheus_close_stuck",
    "morpheus_close_stuck_providers",
    "morpheus_pass_findings",
    "morpheus_invariant_violations",
    "morpheus_chain_call_overlaps",
)
"""All but ages, which grow while they are compared."""


async def _metrics_at(port: int) -> str:
    async with httpx2.AsyncClient(trust_env=False) as http:
        return (await http.get(f"http://127.0.0.1:{port}/metrics")).text


def _deployment(metrics: str) -> dict[str, float]:
    return {
        f"{sample.name}{sample.labels}": sample.value
        for family in text_string_to_metric_families(metrics)
        for sample in family.samples
        if sample.name in OF_THE_DEPLOYMENT
    }


async def test_gauges_grow_old_while_the_database_is_away_and_are_read_again_when_it_is_back(house: House) -> None:
    """C43."""
    async with tap(house.mongo_url) as database:
        url = f"mongodb://{database.address}/?directConnection=true"
        async with house.worker(**QUICK, mongo_url=url, mongo_timeout_ms=500):
            await house.gateway.open()
            await comes("morpheus_sessions", 1, state="active")
            database.fall_silent()
            await until(lambda: _is(lambda: value("morpheus_gauges_age_seconds") > 1.5))
            # the last reading stands for a while
            assert value("morpheus_sessions", state="active") == 1
            database.speak_again()
            await house.database["sessions"].update_one({}, {"$set": {"quarantined_until": await _later(house)}})
            await comes("morpheus_sessions_quarantined", 1)
            await until(lambda: _is(lambda: value("morpheus_gauges_age_seconds") < 1))


async def _later(house: House) -> Any:
    return await house.database_time() + timedelta(hours=1)
