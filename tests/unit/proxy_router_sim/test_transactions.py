"""Nonces, a mempool, lagging nodes and reorganised blocks."""

import asyncio
from typing import Any

import pytest
from proxy_router_sim import marketplace
from proxy_router_sim.chain import CHAIN_ID, Chain
from proxy_router_sim.clock import VirtualClock
from proxy_router_sim.ethereum import Approval, address, sign
from proxy_router_sim.faults import Faults, Strikes
from proxy_router_sim.marketplace import WEI
from proxy_router_sim.mempool import Mempool
from proxy_router_sim.simulator import Settings
from proxy_router_sim.transactions import (
    Approve,
    Call,
    CloseSession,
    IncreaseAllowance,
    NonceError,
    OpenSession,
    Transaction,
)

from tests.unit.proxy_router_sim.harness import HOUR_STAKE, NOON, USERS, Router, running, until

OPEN = "/blockchain/sessions"
USER = address("user")
SPENDER = address("spender")


@pytest.fixture
def chain() -> Chain:
    """A chain on which USER has allowed everything."""
    made = Chain(marketplace.seeded(), now=NOON, block_seconds=2)
    made.fund(USER, mor=1000 * WEI, eth=WEI)
    send(made, Approve(made.diamond, 100 * HOUR_STAKE), NOON)
    made.mine_until(NOON + 2)
    return made


def send(chain: Chain, call: Call, now: float, nonce: int | None = None) -> Transaction:
    return chain.submit(USER, call, now, nonce)


def an_open(chain: Chain, timestamp_ms: int = 1) -> OpenSession:
    bid = next(bid for bid in chain.marketplace.bids.values() if bid.price_per_second == 10**13)
    encoded = Approval(bid.id, CHAIN_ID, USER, timestamp_ms).encode()
    return OpenSession(encoded, sign(bid.provider, encoded), HOUR_STAKE, direct_payment=False)


# -- nonces ---------------------------------------------------------------------------------------------------------


def test_transactions_take_the_pending_nonce_and_are_mined_in_its_order(chain: Chain) -> None:
    assert chain.pending_nonce(USER) == 1
    sent = [send(chain, IncreaseAllowance(SPENDER, amount), NOON + 3) for amount in (1, 2, 3)]
    assert [transaction.nonce for transaction in sent] == [1, 2, 3]
    assert chain.pending_nonce(USER) == 4
    chain.mine_until(NOON + 4)
    assert chain.ledger.account(USER).nonce == 4
    assert len({transaction.hash for transaction in sent}) == 3


def test_a_used_nonce_is_refused_in_the_words_of_a_node(chain: Chain) -> None:
    waiting = send(chain, Approve(SPENDER, 1), NOON + 3)
    with pytest.raises(NonceError, match="nonce too low"):
        send(chain, Approve(SPENDER, 2), NOON + 3, nonce=0)
    with pytest.raises(NonceError, match="replacement transaction underpriced"):
        send(chain, Approve(SPENDER, 2), NOON + 3, nonce=waiting.nonce)
    with pytest.raises(NonceError, match="already known"):
        send(chain, Approve(SPENDER, 1), NOON + 3, nonce=waiting.nonce)
    assert len(chain.mempool) == 1


def test_a_transaction_that_is_lost_or_held_leaves_its_nonce_to_the_next(chain: Chain) -> None:
    lost, held, behind = (send(chain, IncreaseAllowance(SPENDER, amount), NOON + 3) for amount in (1, 10, 100))
    chain.drop(lost)
    chain.hold(held)
    assert behind.nonce == 1
    chain.mine_until(NOON + 10)
    assert chain.ledger.allowance(USER, SPENDER) == 100
    chain.release(held, NOON + 10)
    assert held.nonce == 2
    chain.mine_until(NOON + 12)
    assert chain.ledger.allowance(USER, SPENDER) == 110
    assert not lost.mined


def test_a_late_transaction_shifts_the_nonces_of_those_that_wait(chain: Chain) -> None:
    late = send(chain, IncreaseAllowance(SPENDER, 1), NOON + 3)
    chain.postpone(late, NOON + 9)
    held = send(chain, IncreaseAllowance(SPENDER, 10), NOON + 3)
    held.due = NOON + 100
    assert held.nonce == 1
    chain.mine_until(NOON + 11)
    assert late.mined
    assert held.nonce == chain.ledger.account(USER).nonce == 2
    assert chain.pending_nonce(USER) == 3


def test_an_unknown_transaction_cannot_be_released() -> None:
    pool = Mempool()
    stranger = Transaction(hash="0x1", sender=USER, nonce=0, call=Approve(SPENDER, 1), due=0)
    pool.release(stranger, 5, 0)
    assert len(pool) == 0
    assert pool.due(10) == []


async def both(router: Router, clock: VirtualClock) -> list[tuple[int, Any]]:
    """Two opens of the same wallet at once."""
    agreements = []
    for _ in range(2):
        agreements.append(await router.agreement(router.bid()))
        clock.advance(0.001)
    clock.automatic = False
    opening = [asyncio.create_task(router.post(OPEN, agreement)) for agreement in agreements]
    await until(lambda: router.simulator.node.sender.counters["max_transactions_in_flight"] == 2)
    clock.automatic = True
    clock.advance(0.001)
    return list(await asyncio.gather(*opening))


async def allow_much(router: Router) -> None:
    await router.post(f"/blockchain/approve?spender={router.simulator.chain.diamond}&amount={100 * HOUR_STAKE}")


async def test_without_races_overlaps_are_counted_and_nothing_collides() -> None:
    clock = VirtualClock(NOON, automatic=True)
    async with running(clock=clock) as router:
        await allow_much(router)
        await router.open()
        state = await router.get("/sim/state")
        assert (state["nonces"]["overlaps"], state["nonces"]["max_in_flight"]) == (0, 1)
        clock.advance(1)
        assert [status for status, _ in await both(router, clock)] == [200, 200]
        nonces = (await router.get("/sim/state"))["nonces"]
        assert (nonces["conflicts"], nonces["overlaps"], nonces["max_in_flight"]) == (0, 1, 2)


@pytest.mark.parametrize(("attempts", "statuses"), [(1, [200, 500]), (2, [200, 200])])
async def test_with_races_overlapping_opens_collide_unless_they_are_sent_again(
    attempts: int, statuses: list[int]
) -> None:
    clock = VirtualClock(NOON, automatic=True)
    async with running(clock=clock) as router:
        await allow_much(router)
        assert (await router.post("/sim/nonces", {"races": True, "seconds": 0.5, "attempts": attempts}))[0] == 200
        answers = await both(router, clock)
        assert sorted(status for status, _ in answers) == statuses
        refused = [body["error"] for status, body in answers if status == 500]
        assert all(
            error == "failed to send transaction: open session failed: failed to send transaction: "
            "replacement transaction underpriced"
            for error in refused
        )
        state = await router.get("/sim/state")
        assert state["nonces"]["conflicts"] == 1
        assert len(state["sessions"]) == statuses.count(200)


async def test_with_races_and_no_overlap_there_is_no_conflict() -> None:
    settings = Settings(users=USERS, answer_seconds=0, nonce_races=True)
    async with running(settings) as router:
        for _ in range(3):
            opened = await router.open()
            router.simulator.clock.advance(1)
            assert (await router.post(f"{OPEN}/{opened}/close"))[0] == 200
        nonces = (await router.get("/sim/state"))["nonces"]
        assert nonces["races"]
        assert (nonces["conflicts"], nonces["overlaps"]) == (0, 0)
        assert nonces["mined"] == nonces["next"] == 9  # each open tops up the allowance before


async def test_an_open_that_is_built_while_another_is_mined_finds_its_nonce_too_low() -> None:
    clock = VirtualClock(NOON)
    async with running(clock=clock) as router:
        sender = router.simulator.node.sender
        sender.races.enabled, sender.races.seconds = True, 3.0
        slow = asyncio.create_task(router.post(f"/blockchain/approve?spender={SPENDER}&amount=1"))
        await until(lambda: sender.counters["max_transactions_in_flight"])
        sender.races.enabled = False
        quick = asyncio.create_task(router.post(f"/blockchain/approve?spender={SPENDER}&amount=2"))
        await until(lambda: len(router.simulator.chain.mempool))
        clock.advance(2)
        assert (await quick)[0] == 200
        clock.advance(1)
        status, body = await slow
        assert status == 500
        assert body["error"].startswith("failed to send transaction: nonce too low")


@pytest.mark.parametrize("wish", [{"races": 1}, {"races": True, "seconds": -1}, {"races": True, "attempts": 0}])
async def test_races_that_make_no_sense_are_refused(router: Router, wish: dict[str, Any]) -> None:
    assert (await router.post("/sim/nonces", wish))[0] == 400


# -- lag ------------------------------------------------------------------------------------------------------------


async def test_a_lagging_node_shows_an_older_chain_and_sends_to_the_newest(router: Router) -> None:
    await allow_much(router)
    first = await router.open()
    await router.post("/sim/advance", {"seconds": 20})
    tip = (await router.get("/blockchain/latestBlock"))["block"]
    balance = await router.get("/blockchain/balance")
    assert (await router.post("/sim/lag", {"blocks": 5}))[1] == {"lag": 5, "block": tip - 5}
    assert (await router.get("/blockchain/latestBlock"))["block"] == tip - 5
    status, body = await router.post(OPEN, await router.agreement(router.bid()))
    assert (status, body) == (500, {"error": "failed to get session: session not found"})
    state = await router.get("/sim/state")
    assert (state["lag"], len(state["sessions"])) == (5, 2)
    listed = await router.get("/blockchain/sessions/user", user=router.wallet)
    assert [session["Id"] for session in listed["sessions"]] == [first]
    assert await router.get("/blockchain/balance") == balance
    second = state["sessions"][-1]["Id"]
    async with router.http.get(f"{OPEN}/{second}") as response:
        assert (response.status, await response.json()) == (500, {"error": "session not found"})
    status, body = await router.post(f"{OPEN}/{second}/close")
    assert body == {"error": "failed to get session report from user: session not found"}
    await router.post("/sim/advance", {"seconds": 10})  # five blocks later it has seen them
    listed = await router.get("/blockchain/sessions/user", user=router.wallet)
    assert [session["Id"] for session in listed["sessions"]] == [second, first]


async def test_a_closed_session_is_still_open_on_a_lagging_node(router: Router) -> None:
    opened = await router.open()
    await router.post("/sim/advance", {"seconds": 20})
    await router.post("/sim/lag", {"blocks": 3})
    assert (await router.post(f"{OPEN}/{opened}/close"))[0] == 200
    assert (await router.get(f"{OPEN}/{opened}"))["session"]["ClosedAt"] == 0
    status, body = await router.post(f"{OPEN}/{opened}/close")
    assert status == 500
    assert "SessionAlreadyClosed()" in body["error"]
    await router.post("/sim/lag", {"blocks": 0})
    assert (await router.get(f"{OPEN}/{opened}"))["session"]["ClosedAt"] > 0


async def test_a_lag_of_one_block_is_covered_by_the_extra_block_of_an_open(router: Router) -> None:
    await router.post("/sim/lag", {"blocks": 1})
    assert await router.open()


async def test_a_session_that_the_router_opened_takes_prompts_whatever_its_node_has_seen(router: Router) -> None:
    opened = await router.open()
    await router.post("/sim/lag", {"blocks": 100})
    assert (await router.chat(opened))[0] == 200
    await router.arm("open", "error_after")
    await router.post("/sim/lag", {"blocks": 0})
    router.simulator.clock.advance(1)
    assert (await router.post(OPEN, await router.agreement(router.bid())))[0] == 500
    ghost = (await router.get("/sim/state"))["sessions"][-1]["Id"]
    assert (await router.chat(ghost))[0] == 200


@pytest.mark.parametrize("blocks", [None, -1, 1.5, True, 257])
async def test_a_lag_that_makes_no_sense_is_refused(router: Router, blocks: object) -> None:
    assert (await router.post("/sim/lag", {"blocks": blocks}))[0] == 400


# -- reorganisation -------------------------------------------------------------------------------------------------


def test_a_reorganisation_takes_everything_of_its_blocks_back(chain: Chain) -> None:
    before = {name: dict(table) for name, table in chain.ledger.tables.items()}
    opened = send(chain, an_open(chain), NOON + 3)
    chain.mine_until(NOON + 4)
    assert opened.session_id is not None
    closed = send(chain, CloseSession(opened.session_id, "ab", signed_by_provider=True), NOON + 6)
    chain.mine_until(NOON + 8)
    assert closed.mined
    assert chain.ledger.session(opened.session_id).closed_at
    assert chain.reorganise(3, NOON + 8, drop=True) == [opened, closed]
    assert {name: dict(table) for name, table in chain.ledger.tables.items()} == before
    assert not opened.mined
    assert len(chain.mempool) == 0
    assert chain.height(NOON + 8) - chain.height(NOON) == 4  # empty blocks took their place


def test_only_the_last_blocks_are_taken_back(chain: Chain) -> None:
    early = send(chain, IncreaseAllowance(SPENDER, 1), NOON + 3)
    chain.mine_until(NOON + 4)
    late = send(chain, IncreaseAllowance(SPENDER, 10), NOON + 9)
    chain.mine_until(NOON + 10)
    assert chain.reorganise(1, NOON + 10) == [late]
    assert early.mined
    assert chain.ledger.allowance(USER, SPENDER) == 1
    chain.mine_until(NOON + 12)
    assert chain.ledger.allowance(USER, SPENDER) == 11


def test_what_returns_to_the_mempool_may_be_mined_in_another_order() -> None:
    ends = set()
    for seed in range(8):
        chain = Chain(marketplace.seeded(), now=NOON, block_seconds=2, seed=seed)
        chain.fund(USER, mor=WEI, eth=WEI)
        for amount in (1, 2, 3):
            send(chain, Approve(SPENDER, amount), NOON + 1)
        chain.mine_until(NOON + 2)
        assert chain.ledger.allowance(USER, SPENDER) == 3
        chain.reorganise(1, NOON + 2)
        chain.mine_until(NOON + 4)
        assert chain.ledger.account(USER).nonce == 3
        ends.add(chain.ledger.allowance(USER, SPENDER))
    assert ends == {1, 2, 3}


def test_an_approval_opens_one_session_though_its_block_was_taken_back(chain: Chain) -> None:
    first = send(chain, an_open(chain), NOON + 3)
    chain.mine_until(NOON + 4)
    session_id = first.session_id
    chain.reorganise(1, NOON + 4)
    second = send(chain, an_open(chain), NOON + 5)
    chain.mine_until(NOON + 6)
    assert [bool(t.revert) for t in (first, second)].count(True) == 1
    assert list(chain.ledger.sessions) == [session_id]


def test_a_session_that_is_mined_again_after_those_of_others_has_another_id(chain: Chain) -> None:
    opened = send(chain, an_open(chain), NOON + 3)
    chain.mine_until(NOON + 4)
    before = opened.session_id
    chain.reorganise(1, NOON + 4)
    chain.mine_until(NOON + 6)
    assert opened.session_id == before
    chain.reorganise(1, NOON + 6, others=3)
    chain.mine_until(NOON + 8)
    assert opened.session_id not in {None, before}
    [session] = chain.ledger.sessions.values()
    assert (session.id, session.stake) == (opened.session_id, HOUR_STAKE)


def test_sessions_that_are_mined_again_in_another_order_have_each_others_ids() -> None:
    swapped = 0
    for seed in range(8):
        chain = Chain(marketplace.seeded(), now=NOON, block_seconds=2, seed=seed)
        chain.fund(USER, mor=1000 * WEI, eth=WEI)
        send(chain, Approve(chain.diamond, 100 * HOUR_STAKE), NOON)
        chain.mine_until(NOON + 2)
        opens = [send(chain, an_open(chain, number), NOON + 3) for number in (1, 2)]
        chain.mine_until(NOON + 4)
        before = [transaction.session_id for transaction in opens]
        chain.reorganise(1, NOON + 4)
        chain.mine_until(NOON + 6)
        after = [transaction.session_id for transaction in opens]
        assert set(after) == set(before)
        swapped += after != before
    assert 0 < swapped < 8


def test_what_was_funded_by_hand_stays_and_ends_the_history(chain: Chain) -> None:
    send(chain, Approve(SPENDER, 5), NOON + 3)
    chain.mine_until(NOON + 4)
    chain.fund(USER, mor=7, eth=WEI)
    assert chain.reorganise(4, NOON + 4) == []
    assert chain.ledger.mor_balance(USER) == 7
    assert chain.ledger.allowance(USER, SPENDER) == 5


async def test_a_reorganised_open_is_gone_and_comes_back_or_does_not(router: Router) -> None:
    await allow_much(router)
    await router.post("/sim/advance", {"seconds": 20})
    opened = await router.open()
    status, taken_back = await router.post("/sim/reorg", {"blocks": 5})
    assert (status, len(taken_back["transactions"]), taken_back["dropped"]) == (200, 1, False)
    state = await router.get("/sim/state")
    assert (state["sessions"], state["pending_transactions"], state["reorganisations"]) == ([], 1, 1)
    assert state["mor"] == str(10**24)
    assert (await router.get("/blockchain/sessions/user", user=router.wallet)) == {"sessions": []}
    await router.post("/sim/advance", {"seconds": 2})
    assert [session["Id"] for session in (await router.get("/sim/state"))["sessions"]] == [opened]
    await router.post("/sim/reorg", {"blocks": 5, "drop": True})
    await router.post("/sim/advance", {"seconds": 60})
    assert (await router.get("/sim/state"))["sessions"] == []


async def test_an_open_whose_block_is_taken_back_before_its_answer_is_not_found(router: Router) -> None:
    await router.arm("open", "hang", stage="mined")
    asking = asyncio.create_task(router.post(OPEN, await router.agreement(router.bid())))
    await until(lambda: router.faults.view()["waiting"])
    await router.post("/sim/reorg", {"blocks": 1, "drop": True})
    async with router.http.delete("/sim/faults"):
        assert await asking == (500, {"error": "failed to get session: session not found"})


async def test_a_transaction_that_was_lost_in_a_reorganisation_is_given_up_after_a_while() -> None:
    clock = VirtualClock(NOON)
    async with running(clock=clock) as router:
        chain, sender = router.simulator.chain, router.simulator.node.sender
        sending = asyncio.create_task(router.simulator.node.approve(SPENDER, 5, Strikes(Faults(), "approve", "")))
        await until(lambda: len(chain.mempool))
        [transaction] = chain.mempool
        chain.drop(transaction)
        clock.automatic = True
        clock.advance(2)
        with pytest.raises(Exception, match="tx not mined within timeout period"):
            await sending
        assert clock.now() - NOON > 60
        assert sender.counters["nonce_conflicts"] == 0


@pytest.mark.parametrize("wish", [{}, {"blocks": 0}, {"blocks": 2, "drop": "yes"}, {"blocks": 2, "others": -1}])
async def test_a_reorganisation_that_makes_no_sense_is_refused(router: Router, wish: dict[str, Any]) -> None:
    assert (await router.post("/sim/reorg", wish))[0] == 400


# -- what a close needs from the protocol ---------------------------------------------------------------------------


async def test_without_funding_staked_closes_fail_until_there_is_some(router: Router) -> None:
    opened = await router.open()
    await router.post("/sim/advance", {"seconds": 600})
    assert (await router.post("/sim/funding", {"mor": "5"})) == (200, {"mor": "5"})
    status, body = await router.post(f"{OPEN}/{opened}/close")
    assert status == 500
    assert body["error"].endswith(
        "close session failed: failed to build transaction: execution reverted: ERC20: transfer amount exceeds balance"
    )
    assert (await router.get("/sim/state"))["open_count"] == 1
    await router.post("/sim/funding", {"mor": str(10**18)})
    assert (await router.post(f"{OPEN}/{opened}/close"))[0] == 200
    assert int((await router.get("/sim/state"))["funding"]) < 10**18
    assert (await router.post("/sim/funding", {"mor": None}))[1] == {"mor": None}
    assert (await router.post("/sim/funding", {}))[0] == 400
