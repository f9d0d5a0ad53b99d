"""The copy of the market: what is read for it, how it is told in parts, and that nothing waits for it."""

import asyncio
import json
import time
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from morpheus_common.bus.permissions import MAX_PAYLOAD_BYTES
from morpheus_common.contracts.sessions import Catalogue, CatalogueModel
from morpheus_common.errors import ApiError
from morpheus_sessions.catalogue import BIDS_AT_ONCE, PART_BYTES, CatalogueCopy, pause_after
from morpheus_sessions.router import Bid, ChainModel, Provider, Router, RouterUnclear

from tests.unit.sessions.samples import MemoryNames


def chain_id(number: int) -> str:
    return f"0x{number:064x}"


def address(number: int) -> str:
    return f"0x{number:040x}"


def model(number: int, name: str | None = None, **fields: Any) -> ChainModel:
    known: dict[str, Any] = {
        "id": chain_id(number),
        "name": name or f"model-{number}",
        "owner": address(number),
        "tags": ("LLM",),
        "type": "LLM",
        "created_at": 1_748_000_000 + number,
        "is_deleted": False,
    }
    return ChainModel(**known | fields)


class Market(Router):
    """A market in memory. `asked`: providers whose bids were read."""

    def __init__(self, models: Iterable[ChainModel], bids: Iterable[Bid] = ()) -> None:
        self.name = "market"
        self.listed = list(models)
        self.bids: dict[str, list[Bid]] = {}
        for bid in bids:
            self.bids.setdefault(bid.provider, []).append(bid)
        self.asked: list[str] = []
        self.at_once = 0
        self.most_at_once = 0
        self.problem: Exception | None = None

    async def models(self) -> list[ChainModel]:
        return list(self.listed)

    async def providers(self) -> dict[str, Provider]:
        return {name: Provider(name, "host:1") for name in self.bids}

    async def active_bids_of(self, provider: str) -> list[Bid]:
        self.asked.append(provider)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        if self.problem is not None:
            raise self.problem
        return self.bids[provider]

    async def supply_and_budget(self) -> tuple[int, int]:
        return 10**25, 10**22


def bid(number: int, provider: int, of: int, price: int) -> Bid:
    return Bid(chain_id(number), address(provider), chain_id(of), price)


async def copied(market: Market, **more: Any) -> CatalogueCopy:
    catalogue = CatalogueCopy(market, MemoryNames(), seconds=30, **more)
    await catalogue.refresh()
    return catalogue


def parts_of(catalogue: CatalogueCopy) -> Iterator[Catalogue]:
    first = catalogue.answer(None)
    yield first
    for part in range(1, first.parts):
        yield catalogue.answer(None, part, first.version)


def told_by(catalogue: CatalogueCopy) -> list[CatalogueModel]:
    return [each for part in parts_of(catalogue) for each in part.models or ()]


async def test_the_cheapest_active_bid_of_a_model_counts() -> None:
    market = Market([model(1), model(2)], [bid(1, 1, 1, 30), bid(2, 2, 1, 10), bid(3, 3, 1, 20)])
    catalogue = await copied(market)
    assert catalogue.least_price(chain_id(1)) == 10
    with pytest.raises(ApiError, match="no_provider_available"):
        catalogue.least_price(chain_id(2))
    assert [each.has_bids for each in told_by(catalogue)] == [True, False]


async def test_each_provider_is_asked_once_and_few_at_a_time() -> None:
    market = Market([model(1)], [bid(n, n, 1, n) for n in range(1, 101)])
    await copied(market)
    assert sorted(market.asked) == sorted(market.bids)
    assert market.most_at_once == BIDS_AT_ONCE


async def test_a_reading_that_fails_leaves_the_last_good_copy() -> None:
    """F54"""
    market = Market([model(1)], [bid(1, 1, 1, 10), bid(2, 2, 1, 10)])
    catalogue = await copied(market)
    before = catalogue.copy
    market.problem = RouterUnclear("away")
    with pytest.raises(RouterUnclear):
        await catalogue.refresh()
    assert catalogue.copy is before


async def test_the_asker_of_a_version_gets_all_of_it_though_the_market_changed_meanwhile() -> None:
    market = Market(model(number) for number in range(1_200))
    catalogue = await copied(market)
    first = catalogue.answer(None)
    assert first.parts == 3
    market.listed = market.listed[:10]
    await catalogue.refresh()
    rest = [catalogue.answer(None, part, first.version) for part in (1, 2)]
    assert {answer.version for answer in rest} == {first.version}
    assert sum(len(answer.models or ()) for answer in (first, *rest)) == 1_200
    now = catalogue.answer(first.version)
    assert now.version != first.version
    assert len(now.models or ()) == 10


async def test_what_a_worker_does_not_have_it_says_so() -> None:
    catalogue = await copied(Market([model(1)]))
    version = catalogue.answer(None).version
    assert catalogue.answer(version).models is None
    assert catalogue.answer(None, 0, "another").models is None
    assert catalogue.answer(None, 0, "another").version == version
    assert catalogue.answer(None, 1, version).models is None


async def test_a_part_fits_into_a_message_whatever_the_names_are() -> None:
    """C42"""
    long = ("𝕏" * 128, "x" * 128, "ﬁ" * 128, "\x01" * 129)
    models = [model(n, long[n % 4][:-6] + f"{n:06}", tags=("𝕏" * 64,) * 32) for n in range(300)]
    catalogue = await copied(Market(models))
    parts = list(parts_of(catalogue))
    assert [each for part in parts for each in part.models or ()] == told_by(catalogue)
    assert len(told_by(catalogue)) == 300
    sizes = [len(json.dumps(part.model_dump(mode="json"))) for part in parts]
    assert max(sizes) < PART_BYTES * 1.1 < MAX_PAYLOAD_BYTES


async def test_withheld_names_are_told_in_parts_too() -> None:
    market = Market(model(number) for number in range(1_100))
    names = MemoryNames()
    catalogue = CatalogueCopy(market, names, seconds=30)
    await catalogue.refresh()
    market.listed = []
    await catalogue.refresh()
    parts = list(parts_of(catalogue))
    assert len(parts) > 1
    assert sorted(name for part in parts for name in part.withheld) == sorted(f"model-{n}" for n in range(1_100))


async def test_a_pin_that_is_set_changes_the_version() -> None:
    market = Market([model(1, "llama"), model(2, "llama")])
    plain = (await copied(market)).answer(None)
    pinned = (await copied(market, pinned={"llama": chain_id(2)})).answer(None)
    assert plain.version != pinned.version
    assert [each.holds_name for each in pinned.models or ()] == [False, True]


async def test_two_workers_name_the_same_market_alike() -> None:
    models = [model(number) for number in range(20)]
    one, other = await copied(Market(models)), await copied(Market(reversed(models)))
    assert one.answer(None).version == other.answer(None).version


def test_the_longer_a_reading_takes_the_rarer_it_is() -> None:
    assert pause_after(0.2, 30.0) == 30.0
    assert pause_after(20.0, 30.0) == pytest.approx(180.0)


async def test_a_market_of_ten_thousand_models_holds_up_no_prompt() -> None:
    """What is reckoned over all of it is not reckoned on the event loop: no turn of that takes long. Counted in its own CPU, which
    others on the machine take none of.
    """
    models = [model(number, f"model-{number}-instruct") for number in range(10_000)]
    bids = [bid(n, n % 50, n % 10_000, 10**10 + n) for n in range(20_000)]
    catalogue = CatalogueCopy(Market(models, bids), MemoryNames(), seconds=30)
    longest = 0.0

    async def beat() -> None:
        nonlocal longest
        while True:
            begun = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - begun)

    beating = asyncio.create_task(beat())
    await catalogue.refresh()
    # the turn that ended it counts too
    await asyncio.sleep(0)
    beating.cancel()
    assert len(told_by(catalogue)) == 10_000
    # on the loop itself it would be 0.2 s
    assert longest < 0.08
