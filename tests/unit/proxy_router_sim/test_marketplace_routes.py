import pytest
from proxy_router_sim.ethereum import ZERO_ADDRESS, ZERO_HASH

from tests.unit.proxy_router_sim.harness import Router


async def test_models_have_pascal_case_keys_and_bare_numbers(router: Router) -> None:
    models = (await router.get("/blockchain/models"))["models"]
    assert [model["ModelType"] for model in models] == [*["LLM"] * 4, "EMBEDDING", "TTS", "TTS", "STT"]
    assert list(models[0]) == [
        "Id", "IpfsCID", "Fee", "Stake", "Owner", "Name", "Tags", "CreatedAt", "IsDeleted", "ModelType"
    ]  # fmt: skip
    assert models[0]["Stake"] == 100_000_000_000_000_000
    assert models[0]["Id"] == models[0]["Id"].lower()


async def test_every_model_has_two_bids_or_more_but_one_that_has_none(router: Router) -> None:
    for model in (await router.get("/blockchain/models"))["models"]:
        bids = (await router.get(f"/blockchain/models/{model['Id']}/bids/active"))["bids"]
        assert len(bids) >= 2 if model["Name"] != "tts-kokoro" else bids == []
        assert len({bid["PricePerSecond"] for bid in bids}) == len(bids)


async def test_numbers_of_bids_are_strings(router: Router) -> None:
    wanted = router.bid()
    assert await router.get(f"/blockchain/bids/{wanted.id}") == {
        "bid": {
            "Id": wanted.id,
            "Provider": wanted.provider,
            "ModelAgentId": wanted.model_id,
            "PricePerSecond": "10000000000000",
            "Nonce": "0",
            "CreatedAt": str(wanted.created_at),
            "DeletedAt": "0",
        }
    }


async def test_an_unknown_bid_is_a_bid_of_zeros(router: Router) -> None:
    bid = (await router.get(f"/blockchain/bids/{'ab' * 32}"))["bid"]
    assert (bid["Id"], bid["Provider"], bid["PricePerSecond"]) == (ZERO_HASH, ZERO_ADDRESS, "0")


async def test_rated_bids_are_active_ones_best_first_with_an_empty_outer_id(router: Router) -> None:
    rated = (await router.get(f"/blockchain/models/{router.bid().model_id}/bids/rated"))["bids"]
    scores = [bid["Score"] for bid in rated]
    assert len(rated) == 3
    assert scores == sorted(scores, reverse=True)
    assert {bid["ID"] for bid in rated} == {ZERO_HASH}
    assert rated[0]["Bid"]["Id"] == router.bid().id


async def test_only_an_upper_case_asc_is_ascending(router: Router) -> None:
    path = f"/blockchain/models/{router.bid().model_id}/bids"
    created = {}
    for order in ("ASC", "asc", "DESC", ""):
        bids = (await router.get(path, order=order))["bids"]
        created[order] = [int(bid["CreatedAt"]) for bid in bids]
    assert created["ASC"] == sorted(created["ASC"])
    assert created["asc"] == created["DESC"] == created[""] == created["ASC"][::-1]
    assert len(created["ASC"]) == 4


async def test_offset_and_limit_page_a_list(router: Router) -> None:
    path = f"/blockchain/models/{router.bid().model_id}/bids"
    everything = (await router.get(path, order="ASC"))["bids"]
    assert (await router.get(path, order="ASC", offset="1", limit="2"))["bids"] == everything[1:3]
    assert (await router.get(path, limit="0"))["bids"] == []
    assert (await router.get(path, offset="99"))["bids"] == []


async def test_lists_of_models_and_providers_are_whole_without_a_limit(router: Router) -> None:
    ascending = (await router.get("/blockchain/models"))["models"]
    assert (await router.get("/blockchain/models", limit="0", order="DESC"))["models"] == ascending
    assert (await router.get("/blockchain/models", limit="2"))["models"] == ascending[:-3:-1]
    assert len((await router.get("/blockchain/providers"))["providers"]) == 3


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/blockchain/bids/0x12", "invalid hash length"),
        (f"/blockchain/bids/{'zz' * 32}", "encoding/hex: invalid byte: U+007A 'z'"),
        (f"/blockchain/models/{'ab' * 32}/bids?limit=256", 'strconv.ParseUint: parsing "256": value out of range'),
        (f"/blockchain/models/{'ab' * 32}/bids?limit=x", 'strconv.ParseUint: parsing "x": invalid syntax'),
        ("/blockchain/providers/0x12/bids", "invalid address"),
        ("/blockchain/allowance?spender=xyz", "invalid address"),
    ],
)
async def test_parameters_that_cannot_be_read_are_400(router: Router, path: str, error: str) -> None:
    async with router.http.get(path) as response:
        assert response.status == 400
        assert await response.json() == {"error": error}


async def test_an_unknown_model_has_an_empty_list_of_bids(router: Router) -> None:
    assert await router.get(f"/blockchain/models/0x{'ab' * 32}/bids") == {"bids": []}
    assert await router.get(f"/blockchain/models/{'ab' * 32}/bids/rated") == {"bids": []}


async def test_bids_of_a_provider_and_a_ping_to_it(router: Router) -> None:
    provider = (await router.get("/blockchain/providers"))["providers"][1]
    everything = (await router.get(f"/blockchain/providers/{provider['Address']}/bids"))["bids"]
    active = (await router.get(f"/blockchain/providers/{provider['Address']}/bids/active"))["bids"]
    assert len(active) < len(everything)
    where = {"providerAddr": provider["Address"], "providerUrl": provider["Endpoint"]}
    status, pinged = await router.post("/proxy/provider/ping", where)
    assert (status, pinged["version"]) == (200, "v7.0.0")
    assert pinged["ping"] > 0
    await router.post("/sim/providers", {"address": provider["Address"], "online": False})
    status, pinged = await router.post("/proxy/provider/ping", where)
    assert status == 500
    assert "failed to connect to provider: dial tcp" in pinged["error"]


async def test_balances_supply_and_budget_are_strings_and_the_block_is_a_number(router: Router) -> None:
    assert await router.get("/blockchain/balance") == {"mor": str(10**24), "eth": str(10**19)}
    assert isinstance((await router.get("/blockchain/latestBlock"))["block"], int)
    supply = (await router.get("/blockchain/token/supply"))["supply"]
    budget = (await router.get("/blockchain/sessions/budget"))["budget"]
    assert isinstance(supply, str)
    assert round(int(supply) / int(budget), 2) == 316.67


async def test_approve_sets_the_allowance(router: Router) -> None:
    spender = router.simulator.chain.diamond
    for amount in ("500", "200"):
        async with router.http.post("/blockchain/approve", params={"spender": spender, "amount": amount}) as response:
            assert set(await response.json()) == {"tx"}
        assert await router.get("/blockchain/allowance", spender=spender) == {"allowance": amount}
    assert await router.get("/blockchain/allowance") == {"allowance": "0"}
    status, body = await router.post("/blockchain/approve")
    assert status == 400
    assert "'QueryApprove.Amount'" in body["error"]


async def test_the_configuration_names_the_diamond(router: Router) -> None:
    config = await router.get("/config")
    assert config["DerivedConfig"]["WalletAddress"] == router.wallet
    assert config["Config"]["Marketplace"]["DiamondContractAddress"] == router.simulator.chain.diamond


async def test_local_models_are_a_bare_array(router: Router) -> None:
    assert isinstance(await router.get("/v1/models"), list)
