import json

import pytest
from proxy_router_sim import marketplace
from proxy_router_sim.chain import CHAIN_ID, GAS_WEI, MAX_UINT256, Chain
from proxy_router_sim.ethereum import Approval, address, sign
from proxy_router_sim.ledger import DAY
from proxy_router_sim.marketplace import WEI, Bid
from proxy_router_sim.transactions import (
    Approve,
    Call,
    CloseSession,
    IncreaseAllowance,
    OpenSession,
    RevertError,
    Transaction,
    WithdrawStakes,
)

from tests.unit.proxy_router_sim.harness import HOUR_STAKE, NOON

USER = address("user")
PRICE = 10**13


class World:
    """A chain, a funded user, and a time of its own."""

    def __init__(self) -> None:
        self.now = NOON
        self.chain = Chain(marketplace.seeded(), now=self.now, block_seconds=2)
        self.chain.fund(USER, mor=1000 * WEI, eth=WEI)
        self.do(Approve(self.chain.diamond, MAX_UINT256))
        self.bid = next(bid for bid in self.chain.marketplace.bids.values() if bid.price_per_second == PRICE)

    def do(self, call: Call, sender: str = USER) -> Transaction:
        """Submit and mine; RevertError as from gas estimation."""
        transaction = self.chain.submit(sender, call, self.now)
        self.now = transaction.due
        self.chain.mine_until(self.now)
        assert transaction.mined
        return transaction

    def agreement(self, *, bid: Bid | None = None, timestamp_ms: int = 1, user: str = USER) -> tuple[str, str]:
        """An approval with its signature."""
        chosen = bid or self.bid
        encoded = Approval(chosen.id, CHAIN_ID, user, timestamp_ms).encode()
        return encoded, sign(chosen.provider, encoded)

    def open(self, stake: int = HOUR_STAKE, *, timestamp_ms: int = 1, direct: bool = False) -> str:
        """The id of a new session."""
        transaction = self.do(OpenSession(*self.agreement(timestamp_ms=timestamp_ms), stake, direct))
        assert transaction.session_id is not None
        return transaction.session_id

    def close(self, session_id: str, *, by_provider: bool = True) -> Transaction:
        return self.do(CloseSession(session_id, "ab", by_provider))


@pytest.fixture
def world() -> World:
    return World()


def test_an_hour_at_the_base_price_costs_the_stake_of_the_contract(world: World) -> None:
    supply, budget = world.chain.ledger.supply(world.now), world.chain.ledger.budget(world.now)
    assert round(supply / budget, 2) == 316.67
    assert world.chain.ledger.stake_for(PRICE, 3600, world.now) == HOUR_STAKE
    assert world.chain.ledger.seconds_for(HOUR_STAKE, PRICE, world.now) == 3600


def test_supply_and_budget_change_at_midnight_only(world: World) -> None:
    midnight = NOON + DAY / 2
    assert world.chain.ledger.supply(NOON) == world.chain.ledger.supply(midnight - 1)
    assert world.chain.ledger.supply(midnight) > world.chain.ledger.supply(midnight - 1)
    assert world.chain.ledger.budget(midnight) > world.chain.ledger.budget(midnight - 1)


def test_the_stake_is_stored_to_the_wei_and_decides_the_duration(world: World) -> None:
    session = world.chain.ledger.session(world.open(HOUR_STAKE + 123_457))
    assert session.stake == HOUR_STAKE + 123_457
    assert session.ends_at - session.opened_at == 3600
    assert world.chain.ledger.mor_balance(USER) == 1000 * WEI - HOUR_STAKE - 123_457


def test_three_hundred_seconds_are_enough_and_one_wei_less_is_not(world: World) -> None:
    least = world.chain.ledger.stake_for(PRICE, 300, world.now)
    with pytest.raises(RevertError, match=r"EVM error: SessionTooShort\(\) \[\]"):
        world.open(least - 1)
    session = world.chain.ledger.session(world.open(least))
    assert session.ends_at - session.opened_at == 300


def test_a_stake_quoted_before_a_provider_was_paid_may_buy_too_little_time(world: World) -> None:
    opened = world.open()
    quoted = world.chain.ledger.stake_for(PRICE, 300, world.now)
    world.now += 3600
    world.close(opened)
    with pytest.raises(RevertError, match="SessionTooShort"):
        world.open(quoted, timestamp_ms=2)
    assert world.open(world.chain.ledger.stake_for(PRICE, 310, world.now), timestamp_ms=2)


def test_seven_days_cap_the_time_but_not_the_stake(world: World) -> None:
    world.chain.fund(USER, mor=10_000 * WEI, eth=WEI)
    month = world.chain.ledger.stake_for(PRICE, 30 * DAY, world.now)
    assert month == 8208 * WEI
    session = world.chain.ledger.session(world.open(month))
    assert session.ends_at - session.opened_at == 7 * DAY
    assert session.stake == month


def test_a_direct_payment_of_an_hour_is_too_short(world: World) -> None:
    with pytest.raises(RevertError, match="SessionTooShort"):
        world.open(PRICE * 3600, direct=True)


def test_an_approval_opens_one_session_ever(world: World) -> None:
    opened = world.open()
    world.close(opened)
    for stake in (HOUR_STAKE, 2 * HOUR_STAKE):
        with pytest.raises(RevertError, match=r"SessionDuplicateApproval\(\)"):
            world.open(stake)
    assert world.open(timestamp_ms=2) != opened


def test_the_same_approval_twice_in_one_block_opens_once_and_reverts_once(world: World) -> None:
    call = OpenSession(*world.agreement(), HOUR_STAKE, direct_payment=False)
    first, second = (world.chain.submit(USER, call, world.now) for _ in range(2))
    world.chain.mine_until(first.due)
    assert first.session_id is not None
    assert second.revert == "EVM error: SessionDuplicateApproval() []"
    assert len(world.chain.ledger.sessions) == 1


def test_money_is_checked_before_the_bid_and_the_bid_before_the_approval(world: World) -> None:
    world.open()
    world.chain.marketplace.set_bid_deleted_at(world.bid.id, int(world.now))
    with pytest.raises(RevertError, match=r"SessionBidNotFound\(\)"):
        world.open()
    world.chain.fund(USER, mor=HOUR_STAKE - 1, eth=WEI)
    with pytest.raises(RevertError, match="ERC20: transfer amount exceeds balance"):
        world.open()
    world.do(Approve(world.chain.diamond, HOUR_STAKE - 1))
    with pytest.raises(RevertError, match="ERC20: insufficient allowance"):
        world.open()


def test_a_signature_of_somebody_else_is_refused(world: World) -> None:
    approval, _ = world.agreement()
    with pytest.raises(RevertError, match=r"SessionProviderSignatureMismatch\(\)"):
        world.do(OpenSession(approval, sign(USER, approval), HOUR_STAKE, direct_payment=False))


@pytest.mark.parametrize("approval", ["0x", "0x12", "nonsense", "0x" + "ff" * 128])
def test_what_is_no_approval_reverts_without_a_reason(world: World, approval: str) -> None:
    with pytest.raises(RevertError, match=r"^execution reverted$"):
        world.do(OpenSession(approval, "0x", HOUR_STAKE, direct_payment=False))


def test_what_cannot_be_read_or_is_for_another_chain_fails_before_the_money_is_looked_at(world: World) -> None:
    encoded = Approval(world.bid.id, CHAIN_ID + 1, USER, 1).encode()
    world.chain.fund(USER, mor=0, eth=WEI)
    for approval in (encoded, "nonsense"):
        with pytest.raises(RevertError, match=r"^execution reverted$"):
            world.do(OpenSession(approval, sign(world.bid.provider, approval), HOUR_STAKE, direct_payment=False))


def test_the_user_of_an_approval_is_not_looked_at(world: World) -> None:
    approval, signature = world.agreement(user=address("other"))
    opened = world.do(OpenSession(approval, signature, HOUR_STAKE, direct_payment=False))
    assert opened.session_id is not None
    assert world.chain.ledger.session(opened.session_id).user == USER


def test_an_allowance_is_set_by_approve_raised_by_increase_and_used_by_an_open(world: World) -> None:
    world.do(Approve(world.chain.diamond, HOUR_STAKE))
    world.do(IncreaseAllowance(world.chain.diamond, 5))
    world.open()
    assert world.chain.ledger.allowance(USER, world.chain.diamond) == 5


def test_an_early_close_holds_what_was_used_today_until_midnight(world: World) -> None:
    opened = world.open()
    before = world.chain.ledger.mor_balance(USER)
    world.now = world.chain.ledger.session(opened).opened_at + 598  # the close is mined in the block after
    world.close(opened)
    session = world.chain.ledger.session(opened)
    assert session.closed_at - session.opened_at == 600
    [hold] = world.chain.ledger.holds(USER)
    assert hold.amount == HOUR_STAKE // 6
    assert hold.release_at == NOON + DAY / 2
    assert world.chain.ledger.mor_balance(USER) == before + HOUR_STAKE - hold.amount
    assert session.ends_at == session.opened_at + 3600
    assert session.provider_withdrawn == 600 * PRICE


def test_seconds_of_yesterday_are_not_held(world: World) -> None:
    world.now = NOON + DAY / 2 - 102
    opened = world.open()
    world.now = NOON + DAY / 2 + 48
    world.close(opened)
    [hold] = world.chain.ledger.holds(USER)
    assert hold.amount == pytest.approx(50 * HOUR_STAKE / 3600, rel=1e-6)
    assert hold.release_at == NOON + 3 * DAY / 2


def test_a_hold_can_be_withdrawn_after_midnight_and_not_before(world: World) -> None:
    world.close(world.open())
    with pytest.raises(RevertError, match="SessionUserAmountToWithdrawIsZero"):
        world.do(WithdrawStakes())
    world.now = NOON + DAY / 2
    world.do(WithdrawStakes())
    assert world.chain.ledger.mor_balance(USER) == 1000 * WEI
    assert world.chain.ledger.holds(USER) == []


def test_a_close_after_the_end_returns_the_whole_stake(world: World) -> None:
    opened = world.open()
    world.now += 3600
    world.close(opened)
    assert world.chain.ledger.mor_balance(USER) == 1000 * WEI
    assert world.chain.ledger.holds(USER) == []


def test_a_session_closes_once(world: World) -> None:
    opened = world.open()
    world.close(opened)
    with pytest.raises(RevertError, match=r"EVM error: SessionAlreadyClosed\(\) \[\]"):
        world.close(opened)


def test_only_the_owner_closes(world: World) -> None:
    opened = world.open()
    stranger = address("stranger")
    world.chain.fund(stranger, mor=0, eth=WEI)
    with pytest.raises(RevertError, match=r"InsufficientRightsForOperation\(address,address\) \[0x\w{40} 0x\w{40}\]"):
        world.do(CloseSession(opened, "ab", signed_by_provider=True), sender=stranger)


def test_a_dispute_pays_the_provider_nothing_of_today(world: World) -> None:
    opened = world.open()
    supply = world.chain.ledger.supply(world.now)
    world.close(opened, by_provider=False)
    session = world.chain.ledger.session(opened)
    assert (session.closeout_type, session.provider_withdrawn) == (1, 0)
    assert world.chain.ledger.supply(world.now) == supply


def test_a_dispute_pays_the_provider_for_yesterday_and_after_the_end_for_all(world: World) -> None:
    world.now = NOON + DAY / 2 - 102
    yesterday = world.open()
    world.now = NOON + DAY / 2 + 48
    world.close(yesterday, by_provider=False)
    assert world.chain.ledger.session(yesterday).provider_withdrawn == 100 * PRICE
    late = world.open(timestamp_ms=2)
    world.now += 4000
    world.close(late, by_provider=False)
    assert world.chain.ledger.session(late).provider_withdrawn == pytest.approx(3600 * PRICE, rel=1e-3)
    assert world.chain.ledger.session(late).closeout_type == 1


def test_what_a_provider_claims_moves_supply_up_and_budget_down(world: World) -> None:
    supply, budget = world.chain.ledger.supply(world.now), world.chain.ledger.budget(world.now)
    opened = world.open()
    world.now += 3600
    world.close(opened)
    assert world.chain.ledger.supply(world.now) == supply + 3600 * PRICE
    assert world.chain.ledger.budget(world.now) == budget - 36 * PRICE


def test_each_transaction_costs_gas_and_without_it_nothing_is_sent(world: World) -> None:
    before = world.chain.ledger.eth_balance(USER)
    world.open()
    assert world.chain.ledger.eth_balance(USER) == before - GAS_WEI
    world.chain.fund(USER, mor=1000 * WEI, eth=0)
    with pytest.raises(RevertError, match=r"insufficient funds for gas \* price \+ value"):
        world.open(timestamp_ms=2)


def test_blocks_follow_the_time_and_contain_what_came_before_them(world: World) -> None:
    height = world.chain.height(world.now)
    assert world.chain.height(world.now + 7) == height + 3
    transaction = world.chain.submit(USER, Approve(address("spender"), 5), world.now)
    assert not world.chain.mine_until(transaction.due - 0.5)
    assert world.chain.ledger.allowance(USER, address("spender")) == 0
    assert world.chain.mine_until(transaction.due)
    assert world.chain.ledger.allowance(USER, address("spender")) == 5


def test_a_restored_chain_is_the_same_and_mines_what_was_pending(world: World) -> None:
    closed = world.open()
    world.close(closed)
    opened = world.open(timestamp_ms=2)
    pending = world.chain.submit(
        USER, OpenSession(*world.agreement(timestamp_ms=3), HOUR_STAKE, direct_payment=False), world.now
    )
    restored = Chain(marketplace.seeded(), now=0, block_seconds=2)
    rows = json.loads(json.dumps({name: table.all_rows() for name, table in world.chain.tables().items()}))
    for name, table in restored.tables().items():
        table.load(rows[name])
    restored.restore_clock(json.loads(json.dumps(world.chain.clock_state(world.now))))
    assert restored.ledger.session(opened) == world.chain.ledger.session(opened)
    assert restored.ledger.holds(USER) == world.chain.ledger.holds(USER)
    assert restored.height(world.now) == world.chain.height(world.now)
    assert restored.ledger.supply(world.now) == world.chain.ledger.supply(world.now)
    restored.mine_until(pending.due)
    world.chain.mine_until(pending.due)
    assert list(restored.ledger.sessions) == list(world.chain.ledger.sessions)
    assert len(restored.ledger.sessions) == 3
    with pytest.raises(RevertError, match="SessionDuplicateApproval"):
        restored.submit(USER, OpenSession(*world.agreement(), HOUR_STAKE, direct_payment=False), pending.due)
