"""Ratings on demand: who asks, who waits, and how often the router is asked."""

import asyncio

import pytest
from morpheus_common.contracts.rated_bids import RatedBid
from morpheus_common.errors import ApiError
from morpheus_sessions.rated_bids import FRESH_SECONDS, Ratings
from morpheus_sessions.router import RouterUnreachable

from tests.unit.sessions.test_catalogue import Market, address, chain_id, copied, model


class Rater(Market):
    """Rates the bids of two models, when it is let."""

    def __init__(self) -> None:
        super().__init__([model(1), model(2)])
        self.rated: list[str] = []
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    async def ratings(self, model_id: str, *, most: int) -> list[RatedBid]:
        self.rated.append(model_id)
        await self.goes_on.wait()
        if self.problem is not None:
            raise self.problem
        bid = RatedBid(
            id=chain_id(7),
            provider=address(1),
            model_id=model_id,
            price_per_second="10",
            nonce="0",
            created_at="1",
            deleted_at="0",
            score=1.5,
        )
        return [bid][:most]


class Line:
    """Turns that come when a test says so."""

    def __init__(self) -> None:
        self.wait = 0.0
        self.is_full = False
        self.taken = 0
        self.slept: list[float] = []

    async def take(self) -> float:
        if self.is_full:
            raise ApiError("rate_limit_exceeded", retry_after=4)
        self.taken += 1
        return self.wait

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


class Desk:
    """Ratings with all that they stand on."""

    def __init__(self, router: Rater, ratings: Ratings, line: Line) -> None:
        self.router, self.ratings, self.line = router, ratings, line
        self.now = 1_000.0

    @classmethod
    async def made(cls) -> "Desk":
        router, line = Rater(), Line()
        desk: Desk
        ratings = Ratings(router, await copied(router), line, clock=lambda: desk.now, sleep=line.sleep)
        desk = cls(router, ratings, line)
        return desk


async def test_many_who_ask_at_once_are_one_call_of_the_router_a_model() -> None:
    desk = await Desk.made()
    desk.router.goes_on.clear()
    asking = [asyncio.ensure_future(desk.ratings.of(chain_id(1 + number % 2))) for number in range(50)]
    while len(desk.router.rated) < 2:  # noqa: ASYNC110 - nothing announces it
        await asyncio.sleep(0)
    desk.router.goes_on.set()
    answers = await asyncio.gather(*asking)
    assert sorted(desk.router.rated) == [chain_id(1), chain_id(2)]
    assert desk.line.taken == 2
    assert {answer.bids[0].model_id for answer in answers} == {chain_id(1), chain_id(2)}


async def test_a_rating_is_good_for_half_a_minute_and_tells_its_age() -> None:
    desk = await Desk.made()
    assert (await desk.ratings.of(chain_id(1))).age == 0.0
    desk.now += FRESH_SECONDS - 1
    assert (await desk.ratings.of(chain_id(1))).age == FRESH_SECONDS - 1
    desk.now += 2
    assert (await desk.ratings.of(chain_id(1))).age == 0.0
    assert len(desk.router.rated) == 2


async def test_an_unknown_model_is_not_asked_of_the_router() -> None:
    desk = await Desk.made()
    with pytest.raises(ApiError) as caught:
        await desk.ratings.of(chain_id(3))
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model_id")
    assert desk.router.rated == []
    assert desk.line.taken == 0


async def test_the_router_is_asked_when_the_turn_has_come() -> None:
    desk = await Desk.made()
    desk.line.wait = 2.5
    await desk.ratings.of(chain_id(1))
    assert desk.line.slept == [2.5]


async def test_who_finds_the_line_full_is_told_to_come_again() -> None:
    desk = await Desk.made()
    desk.line.is_full = True
    with pytest.raises(ApiError) as caught:
        await desk.ratings.of(chain_id(1))
    assert (caught.value.code, caught.value.retry_after) == ("rate_limit_exceeded", 4)
    assert desk.router.rated == []


async def test_a_router_that_is_away_is_told_and_asked_again_next_time() -> None:
    desk = await Desk.made()
    desk.router.problem = RouterUnreachable("refused")
    with pytest.raises(ApiError, match="service_unavailable"):
        await desk.ratings.of(chain_id(1))
    desk.router.problem = None
    assert (await desk.ratings.of(chain_id(1))).bids
