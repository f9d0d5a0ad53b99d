"""What is on offer, from the gateway's own copy."""

from morpheus_common.contracts.sessions import CATALOGUE, CatalogueQuestion
from morpheus_common.errors import ApiError

from tests.service.gateway.conftest import House
from tests.service.gateway.fakes import chain_id, model


async def test_models_with_bids_are_listed_as_openai_does(house: House) -> None:
    response = await house.http.get("/v1/models", headers={"Authorization": "Bearer whatever"})
    body = response.json()
    assert body["object"] == "list"
    assert [entry["id"] for entry in body["data"]] == ["Llama 3.3 70B", "mistral-small", "nomic-embed"]
    assert body["data"][1] == {
        "id": "mistral-small",
        "object": "model",
        "created": 1_700_000_002,
        "owned_by": "0x" + "0a" * 20,
        "blockchainID": chain_id(2),
        "tags": ["llm"],
        "modelType": "LLM",
    }


async def test_all_models_include_those_without_bids(house: House) -> None:
    body = (await house.http.get("/api/v1/models/allmodels")).json()
    assert [entry["id"] for entry in body["data"]][-1] == "retired"


async def test_openais_client_lists_and_gets_models(house: House) -> None:
    async with house.openai as client:
        listed = [entry.id async for entry in client.models.list()]
        one = await client.models.retrieve("LLAMA 3.3 70b")
    assert listed[0] == one.id == "Llama 3.3 70B"


async def test_a_model_with_a_slash_in_its_name_is_found(house: House) -> None:
    house.sessions.models.append(model(9, "meta/llama-4"))
    await house.gateway.context.catalogue.renew()
    for path in ("meta%2Fllama-4", "meta/llama-4", chain_id(9)):
        assert (await house.http.get(f"/v1/models/{path}")).json()["id"] == "meta/llama-4"


async def test_what_the_client_has_is_not_sent_again(house: House) -> None:
    first = await house.http.get("/v1/models")
    tag = first.headers["etag"]
    again = await house.http.get("/v1/models", headers={"If-None-Match": f'"other", W/{tag}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    house.sessions.models.append(model(9, "new"))
    await house.gateway.context.catalogue.renew()
    assert (await house.http.get("/v1/models", headers={"If-None-Match": tag})).status_code == 200


async def test_sessions_is_asked_with_the_version_we_have(house: House) -> None:
    await house.gateway.context.catalogue.renew()
    questions: list[CatalogueQuestion] = house.sessions.asked["catalogue"]
    assert questions[0].have_version is None
    assert questions[-1].have_version is not None


async def test_the_last_copy_is_served_while_sessions_is_away(house: House) -> None:
    async def away(_: object) -> CatalogueQuestion:
        raise ApiError("service_unavailable")

    await house.sessions.answer(CATALOGUE, away)
    catalogue = house.gateway.context.catalogue
    await catalogue.renew()
    catalogue._confirmed_at -= 90
    response = await house.http.get("/v1/models")
    assert response.status_code == 200
    assert int(response.headers["x-catalog-age"]) >= 90
