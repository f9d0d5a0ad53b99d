"""How long the gateway keeps rated bids, and how much of them."""

import asyncio
from typing import Any

import pytest
from morpheus_common.contracts.rated_bids import GetRatedBids, RatedBid, RatedBids
from morpheus_common.errors import ApiError
from morpheus_gateway import rated_bids
from morpheus_gateway.rated_bids import ASKED_AT_ONCE, FRESH_SECONDS, RatedBidsCopies


def chain_id(number: int) -> str:
    return f"0x{number:064x}"


class Sessions:
    """Answers with as many bids as it is told, or an error."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.age = 0.0
        self.bids = 1
        self.error: str | None = None
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    async def call(self, _: Any, question: GetRatedBids) -> RatedBids:
        self.asked.append(question.model_id)
        await self.goes_on.wait()
        if self.error is not None:
            raise ApiError(self.error)
        bid = RatedBid(
            id=chain_id(7),
            provider="0xp",
            model_id=question.model_id,
            price_per_second="10000000000000",
            nonce="0",
            created_at="1748000000",
            deleted_at="0",
            score=12.5,
        )
        return RatedBids(bids=[bid] * self.bids, age=self.age)


class Gateway:
    def __init__(self) -> None:
        self.sessions = Sessions()
        self.now = 1_000.0
        self.copies = RatedBidsCopies(self.sessions, clock=lambda: self.now)  # type: ignore[arg-type]  # all it needs

    async def age(self, number: int = 1) -> float:
        return self.copies.age(await self.copies.of(chain_id(number)))

    async def code(self, number: int = 1) -> str:
        with pytest.raises(ApiError) as caught:
            await self.copies.of(chain_id(number))
        return caught.value.code


async def test_what_is_served_is_a_minute_old_at_most_counted_from_when_the_router_was_asked() -> None:
    gateway = Gateway()
    gateway.sessions.age = 25.0
    assert await gateway.age() == 25.0
    gateway.now += 34.0
    assert await gateway.age() == 59.0
    gateway.now += 1.0
    gateway.sessions.age = 3.0
    assert await gateway.age() == 3.0
    assert len(gateway.sessions.asked) == 2


async def test_many_who_ask_at_once_are_one_question() -> None:
    gateway = Gateway()
    gateway.sessions.goes_on.clear()
    asking = [asyncio.ensure_future(gateway.copies.of(chain_id(1))) for _ in range(100)]
    await asyncio.sleep(0)
    asking.pop().cancel()
    gateway.sessions.goes_on.set()
    assert len({id(rated) for rated in await asyncio.gather(*asking)}) == 1
    assert gateway.sessions.asked == [chain_id(1)]


@pytest.mark.parametrize("error", ["service_unavailable", "service_timeout"])
async def test_the_last_copy_is_served_while_the_router_is_away(error: str) -> None:
    """F54"""
    gateway = Gateway()
    await gateway.age()
    gateway.now += 500.0
    gateway.sessions.error = error
    assert await gateway.age() == 500.0
    assert await gateway.code(2) == error


async def test_old_bids_are_no_answer_while_the_router_is_there_and_others_wait_for_it() -> None:
    gateway = Gateway()
    await gateway.age()
    gateway.now += FRESH_SECONDS
    gateway.sessions.error = "rate_limit_exceeded"
    assert await gateway.code() == "rate_limit_exceeded"


async def test_no_more_models_are_asked_about_at_a_time_than_have_a_chance() -> None:
    gateway = Gateway()
    gateway.sessions.goes_on.clear()
    asking = [asyncio.ensure_future(gateway.copies.of(chain_id(number))) for number in range(ASKED_AT_ONCE)]
    await asyncio.sleep(0)
    assert await gateway.code(ASKED_AT_ONCE) == "rate_limit_exceeded"
    gateway.sessions.goes_on.set()
    await asyncio.gather(*asking)
    assert await gateway.age(ASKED_AT_ONCE) == 0.0


async def test_copies_take_no_more_memory_than_is_set_aside_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rated_bids, "KEPT_BYTES", 10_000)
    gateway = Gateway()
    gateway.sessions.bids = 10
    for number in range(50):
        await gateway.age(number)
    kept = gateway.copies._kept
    assert 1 < len(kept) < 5
    assert gateway.copies._bytes == sum(len(rated.listing.body) for rated in kept.values()) <= 10_000
    assert chain_id(49) in kept
