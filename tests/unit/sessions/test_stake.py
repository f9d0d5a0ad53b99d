"""Stake arithmetic: exact integers of wei, whatever their size."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from morpheus_sessions.stake import (
    MAX_CHAIN_SECONDS,
    MIN_ASKED_SECONDS,
    TAG_SPACE,
    asked_duration,
    deployment_of,
    quote,
    tagged,
)

# the figures of the published contract's own test: an hour at 1e13 wei a second is a stake of 11.4 MOR
SUPPLY = 10_174_166_183_482_732_880_000_000
BUDGET = 32_128_945_842_577_051_200_000

amounts = st.integers(min_value=1, max_value=10**30)
prices = st.integers(min_value=1, max_value=10**22)
durations = st.integers(min_value=1, max_value=MAX_CHAIN_SECONDS)


def bought_seconds(stake: int, *, price: int, supply: int, budget: int) -> int:
    """What the contract makes of a stake: it rounds down."""
    return stake * budget // (supply * price)


def test_an_hour_costs_what_the_chain_says() -> None:
    """F13"""
    price = 10**13
    stake = quote(price=price, duration=3600, supply=SUPPLY, budget=BUDGET).stake

    assert stake == -(-SUPPLY * price * 3600 // BUDGET)
    assert stake // 10**17 == 114


@given(price=prices, duration=durations, supply=amounts, budget=amounts)
def test_a_stake_buys_the_time_asked_for_and_not_a_wei_less_would(
    price: int, duration: int, supply: int, budget: int
) -> None:
    cost = quote(price=price, duration=duration, supply=supply, budget=budget)

    assert bought_seconds(cost.stake, price=price, supply=supply, budget=budget) >= cost.duration >= duration
    assert cost.stake - 1 < Fraction(supply * price * cost.duration, budget)


@given(
    price=prices,
    duration=durations,
    supply=amounts,
    budget=amounts,
    deployment=st.integers(1, 999),
    counter=st.integers(0),
)
def test_a_tag_never_shortens_a_session_and_costs_less_than_two_thousand_millionths_of_a_mor(
    price: int, duration: int, supply: int, budget: int, deployment: int, counter: int
) -> None:
    cost = quote(price=price, duration=duration, supply=supply, budget=budget)

    stake = tagged(cost.stake, deployment=deployment, counter=counter)

    assert 0 < stake - cost.stake < 2 * TAG_SPACE
    assert deployment_of(stake) == deployment
    assert stake % 10**6 == counter % 10**6
    assert isinstance(stake, int)


@given(stake=amounts, deployment=st.integers(1, 999), start=st.integers(0, 10**9))
def test_counters_that_follow_each_other_give_stakes_that_differ(stake: int, deployment: int, start: int) -> None:
    stakes = {tagged(stake, deployment=deployment, counter=start + step) for step in range(50)}

    assert len(stakes) == 50


@given(stake=amounts, one=st.integers(1, 999), other=st.integers(1, 999), counter=st.integers(0, 10**7))
def test_two_deployments_on_one_wallet_never_choose_the_same_stake(
    stake: int, one: int, other: int, counter: int
) -> None:
    same = tagged(stake, deployment=one, counter=counter) == tagged(stake, deployment=other, counter=counter)

    assert same == (one == other)


def test_a_stake_that_is_a_round_number_is_not_rounded_further() -> None:
    assert tagged(11_400_000_000_000_000_000, deployment=7, counter=42) == 11_400_000_000_007_000_042


def test_a_stake_one_wei_over_a_round_number_goes_up_to_the_next() -> None:
    assert tagged(11_400_000_000_000_000_001, deployment=7, counter=42) == 11_400_000_001_007_000_042


@pytest.mark.parametrize("deployment", [0, -1, 1000])
def test_a_deployment_number_that_would_spill_into_the_stake_is_refused(deployment: int) -> None:
    with pytest.raises(ValueError, match="three digits"):
        tagged(10**18, deployment=deployment, counter=1)


def test_a_stake_nobody_tagged_has_no_deployment() -> None:
    assert deployment_of(11_400_000_000_000_000_000) == 0


@pytest.mark.parametrize(("wished", "asked"), [(1, 330), (300, 330), (330, 330), (331, 331), (604_800, 604_800)])
def test_the_chain_is_never_asked_for_less_than_it_might_refuse(wished: int, asked: int) -> None:
    assert MIN_ASKED_SECONDS == 330
    assert asked_duration(wished) == asked


def test_more_than_seven_days_is_refused_because_only_the_stake_would_grow() -> None:
    with pytest.raises(ValueError, match="604800"):
        quote(price=1, duration=MAX_CHAIN_SECONDS + 1, supply=SUPPLY, budget=BUDGET)


@pytest.mark.parametrize("budget", [0, -1])
def test_a_chain_without_a_budget_gives_no_quote(budget: int) -> None:
    with pytest.raises(ValueError, match="budget"):
        quote(price=1, duration=3600, supply=SUPPLY, budget=budget)
