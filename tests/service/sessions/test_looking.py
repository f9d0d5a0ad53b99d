"""What a key's owner sees of its sessions, and of what one would take."""

import asyncio
from typing import Any

import pytest
from morpheus_common.contracts.automation import Decision
from morpheus_common.contracts.sessions import SessionQuote, SessionState, Slot
from morpheus_common.errors import ApiError
from morpheus_sessions.router import Router
from morpheus_sessions.stake import TAG_SPACE, quote

from tests.service.sessions.house import House, until

OTHER = "hermes-4-14b"


async def test_the_list_shows_current_next_parked_and_closing_newest_first(house: House) -> None:
    async with house.worker():
        # by prompts of an automated key: what is replaced is parked
        assert (await house.gateway.chat()).ended
        assert (await house.gateway.chat(model_id=house.gateway.model(OTHER))).ended
        await house.simulator.arm("open", "hang")
        coming = asyncio.create_task(house.gateway.open(bid_id=await another_bid(house)))
        await until(lambda: house.simulator.struck("open"))
        shown = await house.gateway.list()
        await house.simulator.disarm()
        await coming

    assert [(row.state, row.slot, row.model) for row in shown] == [
        (SessionState.OPENING, Slot.NEXT, "llama-3.3-70b"),
        (SessionState.ACTIVE, Slot.CURRENT, OTHER),
        (SessionState.PARKED, None, "llama-3.3-70b"),
    ]


async def another_bid(house: House) -> str:
    """A bid of the first model that no session is on."""
    taken = {session["BidID"] for session in await house.simulator.sessions()}
    return next(
        bid.id
        for bid in house.simulator.market.bids.values()
        if bid.model_id == house.gateway.model() and bid.id not in taken
    )


async def test_the_list_has_an_end_and_shows_ended_sessions_when_asked(house: House) -> None:
    async with house.worker():
        first = await house.gateway.open()
        await house.gateway.close()
        second = await house.gateway.open()
        assert [row.session_id for row in await house.gateway.list()] == [second.session_id]
        everything = await house.gateway.list(ended=True)
        newest = await house.gateway.list(ended=True, limit=1)
        await house.gateway.open("k2")
        assert len(await house.gateway.list()) == 1

    assert [(row.session_id, row.state) for row in everything] == [
        (second.session_id, SessionState.ACTIVE),
        (first.session_id, SessionState.CLOSED),
    ]
    assert [row.session_id for row in newest] == [second.session_id]


async def test_a_session_tells_which_decision_of_automation_made_it_current(house: House) -> None:
    async with house.worker():
        await house.gateway.open("k1")
        manual = await house.gateway.current("k1")
        assert (await house.gateway.chat(key="k2")).ended
        opened = await house.gateway.current("k2")
        assert (await house.gateway.chat(key="k2", model_id=house.gateway.model(OTHER))).ended
        assert (await house.gateway.chat(key="k2")).ended
        resumed = await house.gateway.current("k2")

    assert manual is not None
    assert manual.automation is None
    assert opened is not None
    assert opened.automation is not None
    assert (opened.automation.decision, opened.automation.reason) == (Decision.OPEN, "test")
    assert resumed is not None
    assert resumed.session_id == opened.session_id
    assert resumed.automation is not None
    assert resumed.automation.at > opened.automation.at


# quotes


async def test_a_quote_is_the_stake_that_an_open_then_locks_but_for_its_tag(house: House) -> None:
    async with house.worker():
        told = await house.gateway.quote(duration=7200)
        row = await house.gateway.open(duration=7200)

    assert (told.bid_id, told.provider, told.price_per_second) == (row.bid_id, row.provider, row.price_per_second)
    assert told.duration == 7200
    assert told.cost == told.price_per_second * 7200
    assert told.affordable
    assert row.stake is not None
    assert 0 <= row.stake - told.stake < 2 * TAG_SPACE


async def test_a_quote_reads_supply_and_budget_from_the_router(house: House) -> None:
    async with house.worker():
        told = await house.gateway.quote()
    router = Router(house.settings().routers[0], read_timeout=5.0)
    supply, budget = await router.supply_and_budget()
    await router.aclose()

    wanted = quote(price=told.price_per_second, duration=3600, supply=supply, budget=budget)
    assert told.stake == wanted.stake
    # the stake is many times the cost: whoever locks the cost only will not get a session
    assert told.stake > told.cost


async def test_a_short_session_is_quoted_with_the_seconds_the_chain_is_asked_for(house: House) -> None:
    async with house.worker():
        told = await house.gateway.quote(duration=300)

    assert (told.duration, told.cost) == (330, 330 * told.price_per_second)


async def test_a_quote_by_bid_is_for_that_bid(house: House) -> None:
    async with house.worker():
        best = await house.gateway.quote()
        dearer = next(
            bid
            for bid in house.simulator.market.bids.values()
            if bid.model_id == house.gateway.model() and bid.id != best.bid_id
        )
        told = await house.gateway.quote(bid_id=dearer.id)

    assert (told.bid_id, told.model_id, told.provider) == (dearer.id, dearer.model_id, dearer.provider)
    assert told.price_per_second == dearer.price_per_second


async def test_a_quote_says_whether_a_wallet_can_pay_it_and_locks_nothing(house: House) -> None:
    async with house.worker():
        assert (await house.gateway.quote()).affordable
        await house.simulator.fund(1)

        async def no_more() -> SessionQuote | None:
            told = await house.gateway.quote()
            return None if told.affordable else told

        # what the wallets hold is read again after some seconds
        poor = await until(no_more)

    assert poor.stake > 1
    assert await house.operations() == []
    assert (await house.simulator.state())["counters"].get("initiated", 0) == 0


async def test_many_quotes_at_once_read_the_router_as_one_does(house: House) -> None:
    calls: list[str] = []
    get = Router._get

    async def counting(router: Router, path: str, *more: Any, **named: Any) -> Any:
        calls.append(path)
        return await get(router, path, *more, **named)

    async with house.worker(catalogue_seconds=3600.0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Router, "_get", counting)
            quotes = await asyncio.gather(*(house.gateway.quote(duration=600 + number) for number in range(60)))
    assert len({told.duration for told in quotes}) == 60
    about_bids = [path for path in calls if path.endswith("/bids/rated")]
    # a slow machine may take longer for sixty answers than a reading is good for
    assert 1 <= len(about_bids) <= 3
    assert 1 <= calls.count("/blockchain/sessions/budget") <= 4
    # the wallet's loop reads balances too
    assert calls.count("/blockchain/balance") < 30


async def test_what_cannot_be_quoted_says_why(house: House) -> None:
    async def code(**wish: str) -> str:
        with pytest.raises(ApiError) as caught:
            await house.gateway.quote(**wish)  # type: ignore[arg-type]  # ids only
        return caught.value.code

    async with house.worker():
        assert await code(model_id="0x" + "1" * 64) == "model_not_found"
        assert await code(bid_id="0x" + "1" * 64) == "bid_not_found"
        assert await code(model_id=house.gateway.model("tts-kokoro")) == "no_provider_available"
        # what was read before is still known for some seconds
        for kind in ("rated_bids", "supply", "balance"):
            await house.simulator.arm(kind, "drop", count=None)
            assert await code() == "service_unavailable"
            await house.simulator.disarm()
