"""The market as a worker knows it: names that outlive its restarts, ratings on demand, and who names no model."""

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from morpheus_common.contracts.automation import Decision
from morpheus_common.contracts.chat import Endpoint
from morpheus_common.contracts.rated_bids import GET_RATED_BIDS, GetRatedBids, RatedBids
from morpheus_common.contracts.sessions import CATALOGUE, CatalogueModel, CatalogueQuestion
from morpheus_common.errors import ApiError
from morpheus_sessions import names
from morpheus_sessions.documents import NAME_WITHHELD_SECONDS
from morpheus_sessions.names import Changes, Holder, StoredNames
from morpheus_sessions.rated_bids import StoredTurns
from morpheus_sessions.router import Router
from proxy_router_sim.marketplace import Model

from tests.service.sessions.house import House, until

DAY = timedelta(days=1)


async def now(house: House) -> datetime:
    return (await house.database_time()).replace(tzinfo=UTC)


def imitation(house: House, number: int, **fields: Any) -> Model:
    """Register a model in the simulator's market that claims the name of another."""
    market = house.simulator.market
    llama = next(model for model in market.models.values() if model.name == "llama-3.3-70b")
    known: dict[str, Any] = {"id": f"0x{number:064x}", "name": "LLaMA-3.3-70B", "created_at": llama.created_at + number}
    copy = dataclasses.replace(llama, **known | fields)
    market.models[copy.id] = copy
    return copy


async def catalogue(house: House) -> tuple[dict[str, CatalogueModel], list[str]]:
    """All that a worker tells, by id, and the names withheld."""
    first = await house.gateway.rpc.call(CATALOGUE, CatalogueQuestion())
    assert first.parts == 1
    return {model.id: model for model in first.models or ()}, first.withheld


async def until_told(house: House, condition: Any) -> dict[str, CatalogueModel]:
    async def told() -> dict[str, CatalogueModel] | None:
        models, withheld = await catalogue(house)
        return models if condition(models, withheld) else None

    return await until(told)


async def test_a_deleted_models_name_goes_to_nobody_whoever_restarts_meanwhile(house: House) -> None:
    """F26"""
    late = imitation(house, 7)
    async with house.worker(catalogue_seconds=0.05):
        models, withheld = await catalogue(house)
        first = next(model.id for model in models.values() if model.name == "llama-3.3-70b")
        assert models[first].holds_name
        assert not models[late.id].holds_name
        assert withheld == []
        del house.simulator.market.models[first]
        await until_told(house, lambda _, withheld: withheld == ["llama-3.3-70b"])

    async with house.worker("w2", catalogue_seconds=0.05):
        models, withheld = await catalogue(house)
        assert withheld == ["llama-3.3-70b"]
        assert not models[late.id].holds_name
        # what the database does with records that are old enough, it does in its own time
        await house.database["names"].delete_one({"_id": "llama-3.3-70b"})
        models = await until_told(house, lambda models, _: models[late.id].holds_name)
        assert models[late.id].slug == "llama-3-3-70b"


async def test_a_name_is_withheld_for_thirty_days_by_the_databases_clock(house: House) -> None:
    book = StoredNames(house.database)
    holder = Holder("0x" + "1" * 64, 1_748_000_000)
    await book.write(Changes(taken={"llama": holder}))
    await book.write(Changes(gone={"llama": holder}))
    gone_at = (await book.read())["llama"].gone_at
    assert gone_at is not None
    assert abs(gone_at - await now(house)) < timedelta(seconds=60)
    indexes = await house.database["names"].index_information()
    assert indexes["expiry"]["expireAfterSeconds"] == NAME_WITHHELD_SECONDS == (30 * DAY).total_seconds()
    await book.write(Changes(back={"llama": holder}))
    assert (await book.read())["llama"].gone_at is None


async def test_who_was_written_down_first_stays_so(house: House) -> None:
    one, other = StoredNames(house.database), StoredNames(house.database)
    first, second = Holder("0x" + "1" * 64, 5), Holder("0x" + "2" * 64, 1)
    await one.write(Changes(taken={"llama": first}))
    await other.write(Changes(taken={"llama": second}, gone={"llama": second}, back={"llama": second}))
    assert (await one.read())["llama"] == first


async def test_of_too_many_withheld_names_those_held_shortest_are_forgotten(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "MAX_WITHHELD", 3)
    book = StoredNames(house.database)
    taken = {f"name-{number}": Holder(f"0x{number:064x}", 1_000_000 * number) for number in range(6)}
    await book.write(Changes(taken=taken))
    await book.write(Changes(gone=dict(list(taken.items())[:5])))
    assert sorted(await book.read()) == ["name-0", "name-1", "name-2", "name-5"]
    assert await house.database["names"].count_documents({}) == 4


async def test_thousands_of_names_are_forgotten_at_once_while_prompts_go_on(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger can register models and delete all of them between two readings."""
    monkeypatch.setattr(names, "MAX_WITHHELD", 3)
    gone_at = await now(house)
    await house.database["names"].insert_many(
        {"_id": f"name-{number}", "model_id": f"0x{number:064x}", "registered_at": number, "gone_at": gone_at}
        for number in range(8_000)
    )
    started = time.process_time()
    assert sorted(await StoredNames(house.database).read()) == ["name-0", "name-1", "name-2"]
    assert time.process_time() - started < 0.6


async def test_an_operator_pins_a_name_for_all_gateways(house: House) -> None:
    late = imitation(house, 7)
    async with house.worker(pinned_models={"LLAMA-3.3-70b": late.id}):
        models, _ = await catalogue(house)
        assert models[late.id].holds_name
        assert [model.holds_name for model in models.values() if model.name == "llama-3.3-70b"] == [False]


class Counted:
    """Calls of rated bids that came to the router."""

    def __init__(self) -> None:
        self.calls: list[str] = []


@asynccontextmanager
async def counted() -> AsyncIterator[Counted]:
    seen = Counted()
    get = Router._get

    async def counting(router: Router, path: str, *more: Any, **named: Any) -> Any:
        if path.endswith("/rated"):
            seen.calls.append(path)
        return await get(router, path, *more, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Router, "_get", counting)
        yield seen


async def ask(house: House, model_id: str) -> RatedBids:
    return await house.gateway.rpc.call(GET_RATED_BIDS, GetRatedBids(model_id=model_id))


async def test_rated_bids_are_the_routers_in_its_order(house: House) -> None:
    async with house.worker():
        model_id = house.gateway.model()
        answer = await ask(house, model_id)
    rated = house.simulator.market.rated_bids(model_id)
    assert len(rated) == 3
    assert [bid.id for bid in answer.bids] == [bid.id for bid, _ in rated]
    assert [bid.score for bid in answer.bids] == [score for _, score in rated]
    assert [bid.price_per_second for bid in answer.bids] == [str(bid.price_per_second) for bid, _ in rated]
    assert all(bid.deleted_at == "0" for bid in answer.bids)


async def test_one_call_a_model_however_many_ask_and_none_for_what_is_unknown(house: House) -> None:
    async with house.worker(), counted() as seen:
        model_id = house.gateway.model()
        await asyncio.gather(*(ask(house, model_id) for _ in range(30)))
        with pytest.raises(ApiError, match="model_not_found"):
            await ask(house, "0x" + "1" * 64)
    assert len(seen.calls) == 1


async def test_all_workers_together_begin_one_call_a_second(house: House) -> None:
    """The turns are in the database: their times are read, no clock of the test."""
    one, other = StoredTurns(house.database, "rated_bids"), StoredTurns(house.database, "rated_bids")
    before = await now(house)
    waits = [await turns.take() for turns in (one, other, one, other)]
    taken = await house.database["turns"].find_one({"_id": "rated_bids"})
    assert taken is not None
    after = await now(house)
    assert waits[0] == 0.0
    # four turns are four seconds, less what the test took between them
    assert taken["next_at"] >= before + timedelta(seconds=4)
    assert taken["next_at"] <= after + timedelta(seconds=4)
    assert waits == sorted(waits)
    assert max(waits) <= 3.0


async def test_who_would_wait_too_long_for_a_turn_is_told_to_come_again(house: House) -> None:
    turns = StoredTurns(house.database, "rated_bids")
    await turns.take()
    far = await house.database_time(3_600.0)
    await house.database["turns"].update_one({"_id": "rated_bids"}, {"$set": {"next_at": far}})
    with pytest.raises(ApiError) as caught:
        await turns.take()
    assert (caught.value.code, caught.value.retry_after) == ("rate_limit_exceeded", 4)
    async with house.worker(), counted() as seen:
        with pytest.raises(ApiError, match="rate_limit_exceeded"):
            await ask(house, house.gateway.model())
    assert seen.calls == []


async def test_without_a_router_there_are_no_ratings(house: House) -> None:
    async with house.worker():
        await house.simulator.arm("rated_bids", "drop", count=None)
        with pytest.raises(ApiError, match="service_unavailable"):
            await ask(house, house.gateway.model())


async def test_without_automation_and_a_session_who_names_no_model_is_told_the_two_ways_out(house: House) -> None:
    house.automation.is_enabled = False
    async with house.worker():
        answer = await house.gateway.chat(model_id=None)
    assert answer.error is not None
    assert answer.code == "no_active_session"
    assert "/session/modelsession" in answer.error.message
    assert "/automation/settings" in answer.error.message
    assert await house.sessions() == []


async def test_with_automation_who_names_no_model_and_has_no_session_is_told_to_name_one(house: House) -> None:
    async with house.worker():
        answer = await house.gateway.chat(model_id=None)
    assert answer.error is not None
    assert (answer.code, answer.error.param) == ("missing_required_parameter", "model")


async def test_an_operators_default_is_opened_for_who_names_no_model(house: House) -> None:
    async with house.worker(default_model=model_of(house, "hermes-4-14b")):
        (await house.gateway.chat(model_id=None)).assert_whole()
        # whoever has a session keeps its model
        assert (await house.only_session())["model_name"] == "hermes-4-14b"
        (await house.gateway.chat(key="k2")).assert_whole()
        (await house.gateway.chat(key="k2", model_id=None)).assert_whole()
    assert [item["model_name"] for item in await house.sessions(key_id="k2")] == ["llama-3.3-70b"]


async def test_a_default_of_another_type_or_that_is_gone_is_none(house: House) -> None:
    """F27"""
    async with house.worker(default_model=model_of(house, "llama-3.3-70b")):
        answer = await house.gateway.chat(model_id=None, stream=False, endpoint=Endpoint.EMBEDDINGS)
        assert answer.code == "missing_required_parameter"
    async with house.worker("w2", default_model="0x" + "1" * 64):
        assert (await house.gateway.chat(model_id=None)).code == "missing_required_parameter"


def model_of(house: House, name: str) -> str:
    return next(model.id for model in house.simulator.market.models.values() if model.name == name)


async def test_a_default_answers_a_key_without_automation_as_any_model_does(house: House) -> None:
    house.automation.decision = Decision.REFUSE
    async with house.worker(default_model=model_of(house, "llama-3.3-70b")):
        assert (await house.gateway.chat(model_id=None)).code == "no_active_session"
