import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from proxy_router_sim.clock import VirtualClock
from proxy_router_sim.ethereum import ZERO_ADDRESS
from proxy_router_sim.marketplace import Bid
from proxy_router_sim.simulator import Settings, build

from tests.unit.proxy_router_sim.harness import HOUR_STAKE, NOON, USERS, Router, running, until


async def session(router: Router, session_id: str) -> Any:
    return (await router.get(f"/blockchain/sessions/{session_id}"))["session"]


async def test_two_steps_open_a_session_with_the_exact_stake(router: Router) -> None:
    stake = HOUR_STAKE + 123_457
    bid = router.bid()
    status, agreed = await router.initiate(bid, stake)
    assert status == 200
    assert set(agreed) == {"message", "approval", "approvalSig", "user", "timestamp"}
    assert agreed["timestamp"] == NOON * 1000
    status, opened = await router.post(
        "/blockchain/sessions",
        {"approval": agreed["approval"], "approvalSig": agreed["approvalSig"], "stake": str(stake)},
    )
    assert (status, list(opened)) == (200, ["sessionID"])
    found = await session(router, opened["sessionID"])
    assert list(found) == [
        "Id", "User", "Provider", "ModelAgentId", "BidID", "Stake", "PricePerSecond", "CloseoutReceipt",
        "CloseoutType", "ProviderWithdrawnAmount", "OpenedAt", "EndsAt", "ClosedAt",
    ]  # fmt: skip
    assert found["Stake"] == stake
    assert found["EndsAt"] - found["OpenedAt"] == 3600
    assert (found["BidID"], found["User"], found["ClosedAt"]) == (bid.id, router.wallet, 0)


async def test_the_handshake_moves_no_money_and_can_be_repeated(router: Router) -> None:
    answers = [await router.initiate(router.bid()) for _ in range(3)]
    assert [status for status, _ in answers] == [200, 200, 200]
    assert len({json.dumps(answer) for _, answer in answers}) == 1  # one and the same millisecond
    router.simulator.clock.advance(0.001)
    assert (await router.initiate(router.bid()))[1]["approval"] != answers[0][1]["approval"]
    assert (await router.get("/blockchain/balance"))["mor"] == str(10**24)


async def test_an_approval_is_refused_the_second_time(router: Router) -> None:
    agreement = await router.agreement(router.bid())
    assert (await router.post("/blockchain/sessions", agreement))[0] == 200
    status, body = await router.post("/blockchain/sessions", {**agreement, "stake": str(HOUR_STAKE * 2)})
    assert status == 500
    assert body == {
        "error": "failed to send transaction: open session failed: failed to build transaction: "
        "EVM error: SessionDuplicateApproval() []"
    }


async def test_an_open_tops_up_the_allowance_only_below_three_stakes(router: Router) -> None:
    diamond = router.simulator.chain.diamond
    async with router.http.post("/blockchain/approve", params={"spender": diamond, "amount": str(3 * HOUR_STAKE)}):
        await router.open()
    assert await router.get("/blockchain/allowance", spender=diamond) == {"allowance": str(2 * HOUR_STAKE)}
    await router.open()
    assert await router.get("/blockchain/allowance", spender=diamond) == {"allowance": str(2 * HOUR_STAKE)}


async def test_an_open_takes_one_block_for_each_transaction_and_one_more(router: Router) -> None:
    before = router.simulator.clock.now()
    await router.open()
    assert router.simulator.clock.now() - before == 3 * 2.0
    async with router.http.post(
        "/blockchain/approve", params={"spender": router.simulator.chain.diamond, "amount": str(10 * HOUR_STAKE)}
    ):
        before = router.simulator.clock.now()
    await router.open()
    assert router.simulator.clock.now() - before == 2 * 2.0


async def test_opening_by_bid_and_by_model_uses_the_routers_arithmetic(router: Router) -> None:
    bid = router.bid()
    for path in (f"/blockchain/bids/{bid.id}/session", f"/blockchain/models/{bid.model_id}/session"):
        status, opened = await router.post(path, {"sessionDuration": "3600", "failover": True})
        assert status == 200
        found = await session(router, opened["sessionID"])
        assert (found["Stake"], found["BidID"]) == (HOUR_STAKE, bid.id)


async def test_opening_by_model_goes_on_to_the_next_provider_that_answers(router: Router) -> None:
    best = router.bid()
    await router.post("/sim/providers", {"address": best.provider, "online": False})
    path = f"/blockchain/models/{best.model_id}/session"
    status, opened = await router.post(path, {"sessionDuration": 3600})
    assert status == 200
    assert (await session(router, opened["sessionID"]))["BidID"] != best.id
    for provider in router.simulator.node.marketplace.providers:
        await router.post("/sim/providers", {"address": provider, "online": False})
    status, body = await router.post(path, {"sessionDuration": 3600})
    assert status == 500
    refusals = json.loads(body["error"].removeprefix("no provider accepting session: "))
    assert len(refusals) == 3
    assert refusals[0]["provider"].lower() == best.provider
    assert refusals[0]["provider"] != best.provider  # checksummed in error texts


async def test_opening_says_why_it_cannot(router: Router) -> None:
    unknown = "ab" * 32
    status, body = await router.post(f"/blockchain/models/{unknown}/session", {"sessionDuration": 3600})
    assert (status, body) == (500, {"error": "no bids available"})
    path = f"/blockchain/models/{router.bid().model_id}/session"
    assert "SessionTooShort()" in (await router.post(path, {"sessionDuration": 60}))[1]["error"]
    direct = {"sessionDuration": 3600, "directPayment": True}
    assert "SessionTooShort()" in (await router.post(path, direct))[1]["error"]
    await router.post("/sim/balance", {"mor": "1"})
    assert "ERC20: transfer amount exceeds balance" in (await router.post(path, {"sessionDuration": 3600}))[1]["error"]
    await router.post("/sim/balance", {"eth": "1"})
    assert "insufficient funds for gas" in (await router.post(path, {"sessionDuration": 3600}))[1]["error"]


def make_own(router: Router, bid: Bid) -> None:
    """Let the wallet be the provider of a bid."""
    router.simulator.node.marketplace.bids[bid.id] = dataclasses.replace(bid, provider=router.wallet)


async def test_own_bids_are_refused_by_bid_and_skipped_by_model(
    router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    market = router.simulator.node.marketplace
    rated = [bid for bid, _ in market.rated_bids(router.bid().model_id)]
    own = dataclasses.replace(market.providers[rated[0].provider], address=router.wallet)
    monkeypatch.setitem(market.providers, router.wallet, own)
    make_own(router, rated[0])
    body = {"sessionDuration": 3600}
    refused = await router.post(f"/blockchain/bids/{rated[0].id}/session", body)
    assert refused == (500, {"error": "cannot open session with own bid"})
    path = f"/blockchain/models/{rated[0].model_id}/session"
    session = await router.get(f"/blockchain/sessions/{(await router.post(path, body))[1]['sessionID']}")
    assert session["session"]["BidID"] == rated[1].id
    for bid in rated[1:]:
        make_own(router, bid)
    assert await router.post(path, body) == (500, {"error": "no provider accepting session: null"})


async def test_an_open_by_model_that_fails_in_its_transaction_tries_no_other_bid(router: Router) -> None:
    await router.arm("open", "revert")
    path = f"/blockchain/models/{router.bid().model_id}/session"
    status, body = await router.post(path, {"sessionDuration": 3600})
    assert (status, "parse session receipt failed" in body["error"]) == (500, True)
    state = await router.get("/sim/state")
    assert (state["counters"]["initiated"], state["opens_total"]) == (1, 0)


async def test_a_missing_duration_drops_the_connection(router: Router) -> None:
    with pytest.raises(aiohttp.ClientError):
        await router.post(f"/blockchain/bids/{router.bid().id}/session", {})


@pytest.mark.parametrize(
    ("body", "error"),
    [(b"", "EOF"), (b"x", "invalid character 'x' looking for beginning of value"), (b'{"stake":"-1"}', "invalid big")],
)
async def test_a_body_that_cannot_be_read_is_400(router: Router, body: bytes, error: str) -> None:
    async with router.http.post("/blockchain/sessions", data=body) as response:
        assert response.status == 400
        assert error in (await response.json())["error"]


async def test_a_handshake_with_the_wrong_address_or_a_deleted_bid_fails(router: Router) -> None:
    bid = router.bid()
    request = {"user": router.wallet, "provider": bid.provider, "spend": "1", "bidId": bid.id}
    status, body = await router.post("/proxy/sessions/initiate", {**request, "providerUrl": "10.9.9.9:1"})
    assert status == 500
    assert body["error"].endswith("failed to connect to provider: dial tcp 10.9.9.9:1: connect: connection refused")
    status, body = await router.post("/proxy/sessions/initiate", {**request, "providerUrl": "10.77.0.12:3333"})
    assert body == {"error": "received invalid signature from provider"}
    await router.post("/sim/bids", {"id": bid.id, "deleted": True})
    assert (await router.initiate(bid))[0] == 500


async def test_sessions_are_listed_newest_first_and_ids_as_a_bare_array(router: Router) -> None:
    opened = [await router.open() for _ in range(3)]
    user = router.wallet
    listed = (await router.get("/blockchain/sessions/user", user=user))["sessions"]
    assert [found["Id"] for found in listed] == opened[::-1]
    assert await router.get("/blockchain/sessions/user/ids", user=user, order="ASC", limit="2") == opened[:2]
    assert await router.get("/blockchain/sessions/user") == {"sessions": []}
    assert await router.get("/blockchain/sessions/user", user=ZERO_ADDRESS) == {"sessions": []}


async def test_an_unknown_session_is_500_everywhere(router: Router) -> None:
    unknown = "0x" + "ab" * 32
    async with router.http.get(f"/blockchain/sessions/{unknown}") as response:
        assert (response.status, await response.json()) == (500, {"error": "session not found"})
    status, body = await router.post(f"/blockchain/sessions/{unknown}/close")
    assert (status, body) == (500, {"error": "failed to get session report from user: session not found"})
    assert await router.chat(unknown) == (500, {"error": "session not found"})


async def test_closing_early_holds_a_part_and_closing_again_says_already_closed(router: Router) -> None:
    opened = await router.open()
    router.simulator.clock.advance(600)
    status, closed = await router.post(f"/blockchain/sessions/{opened}/close")
    assert (status, list(closed)) == (200, ["tx"])
    found = await session(router, opened)
    assert found["ClosedAt"] > found["OpenedAt"]
    assert found["CloseoutReceipt"]
    assert not found["CloseoutReceipt"].startswith("0x")
    state = await router.get("/sim/state")
    [hold] = state["held"]
    assert 0 < int(hold["amount"]) < HOUR_STAKE
    assert int(state["mor"]) == 10**24 - int(hold["amount"])
    status, body = await router.post(f"/blockchain/sessions/{opened}/close")
    assert status == 500
    assert body["error"].endswith(
        "close session failed: failed to build transaction: EVM error: SessionAlreadyClosed() []"
    )
    router.simulator.clock.advance(86_400)
    assert (await router.post("/sim/withdraw"))[0] == 200
    assert (await router.get("/blockchain/balance"))["mor"] == str(10**24)


async def test_a_provider_that_is_away_makes_a_close_a_dispute(router: Router) -> None:
    opened = await router.open()
    await router.post("/sim/providers", {"address": router.bid().provider, "online": False})
    assert (await router.post(f"/blockchain/sessions/{opened}/close"))[0] == 200
    assert (await session(router, opened))["CloseoutType"] == 1


async def test_the_router_closes_what_has_run_out_every_minute() -> None:
    clock = VirtualClock(NOON, automatic=True)
    async with running(clock=clock) as router:
        opened = [await router.open(), await router.open()]
        node = router.simulator.node
        assert await node.close_expired() == 0
        clock.advance(3700)
        clock.automatic = False
        closer = asyncio.create_task(node.closer.run())
        await asyncio.sleep(0)
        assert (await session(router, opened[0]))["ClosedAt"] == 0
        clock.automatic = True
        clock.advance(60)
        await until(lambda: node.counters["closed_by_router"] == 2)
        closer.cancel()
        assert (await router.get("/sim/state"))["held"] == []
        assert (await router.get("/blockchain/balance"))["mor"] == str(10**24)


async def test_everything_survives_a_restart_but_not_a_wiped_storage(tmp_path: Path) -> None:
    settings = Settings(users=USERS, answer_seconds=0, state_file=tmp_path / "state.json")
    async with running(settings) as router:
        opened = await router.open()
        await router.arm("open", "drop", when="after")
        ghost = await router.agreement(router.bid())
        with pytest.raises(aiohttp.ClientError):
            await router.post("/blockchain/sessions", ghost)
        before = await router.get("/blockchain/sessions/user", user=router.wallet)
        clock = VirtualClock(router.simulator.clock.now(), automatic=True)
    async with running(settings, clock) as router:
        assert await router.get("/blockchain/sessions/user", user=router.wallet) == before
        assert len(before["sessions"]) == 2
        assert "SessionDuplicateApproval" in (await router.post("/blockchain/sessions", ghost))[1]["error"]
        assert (await router.chat(opened))[0] == 200
        await router.post("/sim/wipe")
        assert await router.chat(opened) == (500, {"error": "provider not found"})


def test_what_was_sent_before_a_crash_is_mined_after_it(tmp_path: Path) -> None:
    settings = Settings(users=USERS, state_file=tmp_path / "state.json")

    async def crash() -> None:
        async with running(settings, VirtualClock(NOON)) as router:
            agreement = await router.agreement(router.bid())
            asking = asyncio.create_task(router.post("/blockchain/sessions", agreement))
            await until(lambda: router.simulator.chain.mempool)
            asking.cancel()

    asyncio.run(crash())
    restarted = build(settings, VirtualClock(NOON + 60))
    assert restarted.chain.ledger.allowance(restarted.node.wallet, restarted.chain.diamond) == HOUR_STAKE
    assert not restarted.chain.mempool
    asyncio.run(restarted.close())


def test_a_state_of_another_kind_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    file.write_text('{"format": 99}')
    with pytest.raises(ValueError, match="not a state of this simulator"):
        build(Settings(users=USERS, state_file=file))


async def test_simulators_with_different_wallet_seeds_are_different_wallets_whose_sessions_never_meet() -> None:
    wallets, sessions = [], []
    for wallet_seed in (None, 1, 2, 3):
        async with running(Settings(users=USERS, wallet_seed=wallet_seed)) as router:
            wallets.append(router.wallet)
            sessions.append(await router.open())  # the same bid in the same millisecond
            assert (await router.get("/config"))["DerivedConfig"]["ChainID"] == 8453
    assert wallets[0] == wallets[1]
    assert sessions[0] == sessions[1]
    assert len(set(wallets)) == len(set(sessions)) == 3
