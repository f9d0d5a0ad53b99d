"""What is in an answer and how its numbers are written (Contract 0, 2.1 to 2.4)."""

import math

import pytest

from tests.contract.shapes import BID, MODEL, PROVIDER, SESSION, address, bare_number, hash32, text_number, wrong_fields
from tests.contract.target import UNKNOWN_ID, ZERO_ADDRESS, ZERO_HASH, Router


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/blockchain/balance", ["mor", "eth"]),
        ("/blockchain/sessions/budget", ["budget"]),
        ("/blockchain/token/supply", ["supply"]),
        ("/blockchain/allowance", ["allowance"]),
    ],
)
def test_amounts_of_the_wallet_and_of_the_day_are_strings(router: Router, path: str, fields: list[str]) -> None:
    """Contract 2.3: wei as a string of digits."""
    answer = router.read(path)
    assert list(answer) == fields
    assert all(text_number(answer[name]) for name in fields)


def test_the_latest_block_is_a_bare_number_and_does_not_fall(router: Router) -> None:
    """Contract 2.3."""
    first, second = (router.read("/blockchain/latestBlock")["block"] for _ in range(2))
    assert bare_number(first)
    assert second >= first > 0


def test_the_wallet_has_a_lowercase_address(router: Router) -> None:
    """Contract 2.2 and 0: checksummed spelling is for texts only."""
    assert address(router.wallet())


def test_the_configuration_names_wallet_chain_and_contracts(router: Router) -> None:
    """Contract 2.1: PascalCase, and no private key."""
    config = router.read("/config")
    assert config["DerivedConfig"]["WalletAddress"].lower() == router.wallet()
    assert bare_number(config["DerivedConfig"]["ChainID"])
    assert config["Config"]["Marketplace"]["WalletPrivateKey"] is None
    assert address(config["Config"]["Marketplace"]["MorTokenAddress"].lower())
    assert address(router.diamond())


def test_models_have_pascal_case_keys_and_bare_numbers(router: Router) -> None:
    """Contract 2.4: Fee, Stake and CreatedAt are bare, and only models that were not deleted are listed."""
    models = router.read("/blockchain/models")["models"]
    assert models
    assert [wrong_fields(model, MODEL) for model in models if wrong_fields(model, MODEL)] == []
    assert not any(model["IsDeleted"] for model in models)


def test_numbers_of_providers_are_strings(router: Router) -> None:
    """Contract 2.4."""
    providers = router.read("/blockchain/providers")["providers"]
    assert providers
    assert [wrong_fields(provider, PROVIDER) for provider in providers if wrong_fields(provider, PROVIDER)] == []


def test_numbers_of_bids_are_strings_in_every_list(router: Router) -> None:
    """Contract 2.4: bids of a model, of a provider, rated, and one alone."""
    offer = router.offer("LLM")
    listed = router.read(f"/blockchain/models/{offer.model_id}/bids")["bids"]
    listed += router.read(f"/blockchain/providers/{offer.provider}/bids")["bids"]
    listed += [rated["Bid"] for rated in router.read(f"/blockchain/models/{offer.model_id}/bids/rated")["bids"]]
    listed.append(router.read(f"/blockchain/bids/{offer.bid_id}")["bid"])
    assert [wrong_fields(bid, BID) for bid in listed if wrong_fields(bid, BID)] == []


def test_rated_bids_come_best_first_under_an_id_that_is_never_filled(router: Router) -> None:
    """Contract 2.4: `ID` is zero; `Bid.Id` counts. Only active bids are rated."""
    rated = router.read(f"/blockchain/models/{router.offer('LLM').model_id}/bids/rated")["bids"]
    assert rated
    assert {one["ID"] for one in rated} == {ZERO_HASH}
    assert all(hash32(one["Bid"]["Id"]) and one["Bid"]["DeletedAt"] == "0" for one in rated)
    scores = [one["Score"] for one in rated]
    assert all(math.isfinite(score) for score in scores)
    assert scores == sorted(scores, reverse=True)


def test_active_bids_are_those_without_a_deletion(router: Router) -> None:
    """Contract 2.4: /bids has the deleted ones too."""
    path = f"/blockchain/models/{router.offer('LLM').model_id}/bids"
    everything, active = (router.read(p, limit=255)["bids"] for p in (path, f"{path}/active"))
    assert active == [bid for bid in everything if bid["DeletedAt"] == "0"]


@pytest.mark.simulator
def test_a_deleted_bid_stays_listed_but_is_neither_active_nor_rated(controls: Router) -> None:
    """Contract 2.4."""
    offer = controls.offer("LLM")
    controls.control("/sim/bids", {"id": offer.bid_id, "deleted": True})
    try:
        path = f"/blockchain/models/{offer.model_id}/bids"
        [bid] = [bid for bid in controls.read(path, limit=255)["bids"] if bid["Id"] == offer.bid_id]
        assert int(bid["DeletedAt"]) > int(bid["CreatedAt"])
        assert offer.bid_id not in {bid["Id"] for bid in controls.read(f"{path}/active", limit=255)["bids"]}
        assert offer.bid_id not in {one["Bid"]["Id"] for one in controls.read(f"{path}/rated")["bids"]}
        listed = controls.read(f"/blockchain/providers/{offer.provider}/bids", limit=255)["bids"]
        assert offer.bid_id in {bid["Id"] for bid in listed}
    finally:
        controls.control("/sim/bids", {"id": offer.bid_id, "deleted": False})


def test_an_unknown_bid_is_a_bid_of_zeros(router: Router) -> None:
    """Contract 2.4: 200, so that only the content says it does not exist."""
    bid = router.read(f"/blockchain/bids/{UNKNOWN_ID}")["bid"]
    assert (bid["Provider"], bid["PricePerSecond"], bid["CreatedAt"]) == (ZERO_ADDRESS, "0", "0")


@pytest.mark.parametrize("suffix", ["bids", "bids/active", "bids/rated"])
def test_an_unknown_model_has_no_bids(router: Router, suffix: str) -> None:
    """Contract 0 and 2.4: an empty list is [], never null."""
    assert router.read(f"/blockchain/models/{UNKNOWN_ID}/{suffix}") == {"bids": []}


def test_sessions_have_bare_numbers(router: Router) -> None:
    """Contract 2.7: the reverse of bids; an amount may be longer than a double can hold."""
    sessions = router.read("/blockchain/sessions/user", user=router.wallet())["sessions"]
    assert [wrong_fields(session, SESSION) for session in sessions if wrong_fields(session, SESSION)] == []


def test_ids_of_sessions_are_a_bare_array(router: Router) -> None:
    """Contract 2.7: not an object, whatever the router's own description says."""
    ids = router.read("/blockchain/sessions/user/ids", user=router.wallet())
    assert isinstance(ids, list)
    assert all(hash32(one) for one in ids)


def test_local_models_are_a_bare_array(router: Router) -> None:
    """Contract 2.9: the node's own, and not in the form of OpenAI."""
    assert isinstance(router.read("/v1/models"), list)


def test_a_ping_tells_milliseconds_and_version(router: Router) -> None:
    """Contract 2.4: `ping` is missing when it is 0."""
    offer = router.offer("LLM")
    answer = router.ping(offer.provider, offer.endpoint).json()
    assert bare_number(answer.get("ping", 0))
    assert answer["version"]


def test_a_ping_to_nobody_is_a_failed_connection(router: Router) -> None:
    """Contract 2.4: port 9 of the router's own machine."""
    response = router.ping(router.offer("LLM").provider, "127.0.0.1:9")
    assert response.status_code == 500
    assert "failed to connect to provider: dial tcp" in response.json()["error"]
