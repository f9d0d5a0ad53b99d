"""Rated bids: public, by chain id alone, with the router's own fields."""

import asyncio

import pytest
from morpheus_common.contracts.rated_bids import GET_RATED_BIDS, GetRatedBids, RatedBids
from morpheus_common.errors import ApiError

from tests.service.gateway.conftest import House
from tests.service.gateway.fakes import chain_id

PATH = "/api/v1/models/ratedbids"


async def test_bids_are_told_as_the_router_tells_them_best_first_with_their_ids(house: House) -> None:
    for path in (PATH, f"{PATH}/", "/v1/models/ratedbids"):
        response = await house.http.get(path, params={"model_id": chain_id(1)})
        assert response.status_code == 200
        bids = response.json()["bids"]
        assert [bid["ID"] for bid in bids] == [chain_id(77), chain_id(75), chain_id(76)]
        assert bids[0] == {
            "ID": chain_id(77),
            "Bid": {
                "Id": chain_id(77),
                "Provider": "0x" + "0b" * 20,
                "ModelAgentId": chain_id(1),
                "PricePerSecond": "10000000000000",
                "Nonce": "0",
                "CreatedAt": "1748000000",
                "DeletedAt": "0",
            },
            "Score": 12.5,
        }


async def test_an_id_is_taken_however_it_is_written_and_a_credential_is_not_looked_at(house: House) -> None:
    model_id = "0x" + "AB" * 32
    house.sessions.models.append(house.sessions.models[0].model_copy(update={"id": model_id.lower(), "name": "other"}))
    await house.gateway.context.catalogue.renew()
    response = await house.http.get(PATH, params={"model_id": model_id}, headers={"Authorization": "Bearer nonsense"})
    assert response.status_code == 200
    assert house.sessions.asked["get_rated_bids"] == [GetRatedBids(model_id=model_id.lower())]


@pytest.mark.parametrize(
    "query", ["", "?model_id=", "?model_id=mistral-small", "?model_id=0x12", "?model_id=" + "a" * 66]
)
async def test_what_is_no_id_is_refused_as_on_our_own_routes(house: House, query: str) -> None:
    response = await house.http.get(PATH + query)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (422, "validation_error", "model_id")
    assert house.sessions.asked["get_rated_bids"] == []


async def test_an_unknown_id_is_answered_without_a_question(house: House) -> None:
    response = await house.http.get(PATH, params={"model_id": chain_id(99)})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (404, "model_not_found", "model_id")
    assert house.sessions.asked["get_rated_bids"] == []


async def test_many_who_ask_at_once_are_one_question(house: House) -> None:
    async def get() -> int:
        return (await house.http.get(PATH, params={"model_id": chain_id(1)})).status_code

    assert set(await asyncio.gather(*(get() for _ in range(40)))) == {200}
    assert len(house.sessions.asked["get_rated_bids"]) == 1


async def test_what_the_client_has_is_not_sent_again(house: House) -> None:
    first = await house.http.get(PATH, params={"model_id": chain_id(1)})
    assert first.headers["cache-control"] == "no-cache"
    again = await house.http.get(
        PATH, params={"model_id": chain_id(1)}, headers={"If-None-Match": first.headers["etag"]}
    )
    assert (again.status_code, again.content) == (304, b"")
    assert (await house.http.head(PATH, params={"model_id": chain_id(1)})).headers["etag"] == first.headers["etag"]


async def test_old_bids_are_served_with_their_age_while_the_router_is_away(house: House) -> None:
    """F54"""
    await house.http.get(PATH, params={"model_id": chain_id(1)})

    async def away(_: GetRatedBids) -> RatedBids:
        raise ApiError("service_unavailable", retry_after=5)

    await house.sessions.answer(GET_RATED_BIDS, away)
    copies = house.gateway.context.rated_bids
    clock = copies._clock
    copies._clock = lambda: clock() + 500.0
    response = await house.http.get(PATH, params={"model_id": chain_id(1)})
    assert response.status_code == 200
    assert int(response.headers["x-catalog-age"]) >= 500
    never_asked = await house.http.get(PATH, params={"model_id": chain_id(2)})
    assert (never_asked.status_code, never_asked.headers["retry-after"]) == (503, "5")


async def test_who_comes_while_too_many_wait_is_told_when_to_come_again(house: House) -> None:
    async def full(_: GetRatedBids) -> RatedBids:
        raise ApiError("rate_limit_exceeded", retry_after=4)

    await house.sessions.answer(GET_RATED_BIDS, full)
    response = await house.http.get(PATH, params={"model_id": chain_id(1)})
    assert (response.status_code, response.headers["retry-after"]) == (429, "4")
