"""What is on offer, from the gateway's own copy."""

import pytest
from morpheus_common.contracts.sessions import CATALOGUE, Catalogue, CatalogueQuestion
from morpheus_common.errors import ApiError

from tests.service.gateway.conftest import House, MakeHouse
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


@pytest.mark.parametrize(
    ("tags", "status"),
    [
        (["*"], 304),
        (["W/{}"], 304),
        (['"a"', '"b", {}'], 304),
        (['"a"'], 200),
        (["{}x"], 200),
    ],
)
async def test_tags_are_compared_weakly_in_lists_and_in_several_headers(
    house: House, tags: list[str], status: int
) -> None:
    for path in ("/v1/models", "/v1/models/allmodels", "/v1/models/mistral-small"):
        tag = (await house.http.get(path)).headers["etag"]
        asked = [("If-None-Match", text.format(tag)) for text in tags]
        response = await house.http.get(path, headers=asked)
        assert response.status_code == status
        assert response.headers["etag"] == tag
        assert response.headers["cache-control"] == "public, max-age=5"
        assert int(response.headers["x-catalog-age"]) >= 2
        head = await house.http.head(path, headers=asked)
        assert (head.status_code, head.content) == (status, b"")
        assert head.headers["etag"] == tag


async def test_an_unknown_model_is_told_with_near_names(house: House) -> None:
    """F26"""
    for path in ("/api/v1/models/mistral-smal", "/v1/models/mistral-smal"):
        response = await house.http.get(path)
        assert response.status_code == 404
        error = response.json()["error"]
        assert (error["code"], error["param"]) == ("model_not_found", "model")
        assert error["details"]["suggestions"] == ["mistral-small"]
        assert response.headers["x-should-retry"] == "false"


async def test_before_the_first_copy_models_are_not_to_be_had_yet(make_house: MakeHouse) -> None:
    house = await make_house()
    house.gateway.context.catalogue._models = None
    for path in (
        "/v1/models",
        "/api/v1/models/allmodels",
        "/v1/models/x",
        f"/api/v1/models/ratedbids?model_id={chain_id(1)}",
    ):
        response = await house.http.get(path)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "service_unavailable")
        assert response.headers["retry-after"] == "1"


async def test_a_catalogue_of_many_parts_is_fetched_whole_from_the_one_worker_that_has_it(house: House) -> None:
    """Two workers answer in turn, and one of them has another version."""
    rows = [model(number, f"m{number}") for number in range(1_000)]
    served = 0

    async def now_one_now_another(question: CatalogueQuestion) -> Catalogue:
        nonlocal served
        served += 1
        if question.of_version is not None and served % 2:
            return Catalogue(version="other", age=9.0, models=None)
        piece = rows[question.part * 100 : (question.part + 1) * 100]
        return Catalogue(version="whole", age=0.0, models=piece, withheld=[f"gone-{question.part}"], parts=10)

    await house.sessions.answer(CATALOGUE, now_one_now_another)
    catalogue = house.gateway.context.catalogue
    await catalogue.renew()
    assert len(catalogue.models) == 1_000
    assert catalogue.models.find("m999").id == chain_id(999)
    assert served > 10


async def test_a_catalogue_whose_parts_are_not_to_be_had_leaves_the_last_copy(house: House) -> None:
    async def never_the_rest(question: CatalogueQuestion) -> Catalogue:
        if question.part:
            return Catalogue(version="other", age=0.0, models=None)
        return Catalogue(version="new", age=0.0, models=[model(1, "new")], parts=2)

    await house.sessions.answer(CATALOGUE, never_the_rest)
    catalogue = house.gateway.context.catalogue
    await catalogue.renew()
    assert len(catalogue.models) == 4
    assert catalogue.models.find("mistral-small")


async def test_what_a_worker_read_earlier_does_not_take_the_place_of_what_another_read_since(house: House) -> None:
    async def reading(version: str, age: float, name: str) -> None:
        async def answer(_: CatalogueQuestion) -> Catalogue:
            return Catalogue(version=version, age=age, models=[model(1, name)])

        await house.sessions.answer(CATALOGUE, answer)
        await house.gateway.context.catalogue.renew()

    await reading("late", 0.0, "new")
    await reading("early", 60.0, "old")
    assert house.gateway.context.catalogue.models.find("new")
    assert house.gateway.context.catalogue.age < 60.0


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


async def test_a_long_list_is_packed_for_who_asks_and_each_form_has_its_tag(house: House) -> None:
    """Many clients, one list: packed once a version. What is made for one caller is never packed (BREACH)."""
    house.sessions.models.extend(model(number, f"model-{number}") for number in range(10, 60))
    await house.gateway.context.catalogue.renew()
    plain = await house.http.get("/v1/models", headers={"Accept-Encoding": "identity"})
    packed = await house.http.get("/v1/models", headers={"Accept-Encoding": "br, gzip"})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert int(packed.headers["content-length"]) < int(plain.headers["content-length"]) / 3
    assert packed.json() == plain.json()
    assert packed.headers["etag"] != plain.headers["etag"]
    for first, accepted in ((packed, "gzip"), (plain, "gzip"), (packed, "identity")):
        asked = {"If-None-Match": first.headers["etag"], "Accept-Encoding": accepted}
        again = await house.http.get("/v1/models", headers=asked)
        assert (again.status_code, "content-encoding" in again.headers) == (304, False)
        assert again.headers["etag"] == (packed if accepted == "gzip" else plain).headers["etag"]
        assert "Accept-Encoding" in again.headers["vary"]
    for path in ("/v1/models/model-10", "/health", "/api/v1/session", "/nothing"):
        response = await house.http.get(path, headers=house.by_key | {"Accept-Encoding": "gzip"})
        assert "content-encoding" not in response.headers, path
    chat = await house.chat("one " * 1_000, headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in chat.headers
