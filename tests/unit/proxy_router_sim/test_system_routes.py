"""Configuration, wallet and the routes around them."""

from typing import Any

import pytest

from tests.unit.proxy_router_sim.harness import Router


async def eth_nodes(router: Router) -> Any:
    return (await router.get("/config"))["DerivedConfig"]["EthNodeURLs"]


async def test_addresses_of_the_chain_are_replaced_and_put_back(router: Router) -> None:
    usual = await eth_nodes(router)
    assert await router.post("/config/ethNode", {"urls": ["https://a.invalid", "https://b.invalid"]}) == (
        200,
        {"status": "ok"},
    )
    assert await eth_nodes(router) == ["https://a.invalid", "https://b.invalid"]
    async with router.http.delete("/config/ethNode") as response:
        assert await response.json() == {"status": "ok"}
    assert await eth_nodes(router) == usual


@pytest.mark.parametrize("body", [{}, {"urls": []}, {"urls": [1]}, {"urls": "https://a.invalid"}])
async def test_addresses_that_are_none_change_nothing(router: Router, body: dict[str, Any]) -> None:
    usual = await eth_nodes(router)
    assert (await router.post("/config/ethNode", body))[0] == 400
    assert await eth_nodes(router) == usual


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/wallet/privateKey"), ("POST", "/wallet/mnemonic"), ("DELETE", "/wallet")]
)
async def test_the_wallet_cannot_be_changed(router: Router, method: str, path: str) -> None:
    async with router.http.request(method, path, json={}) as response:
        assert response.status == 500
        assert (await response.json())["error"].startswith("cannot set private key for env wallet, switch to keychain")
    assert await router.get("/wallet") == {"address": router.wallet}


async def test_nothing_is_attested_and_the_explorer_knows_no_transaction(router: Router) -> None:
    assert await router.get("/v1/models/attestation") == []
    assert await router.get("/blockchain/transactions", page="1", limit="10") == {"transactions": []}


async def test_any_origin_may_ask_and_send_the_routers_headers(router: Router) -> None:
    headers = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    async with router.http.options("/v1/chat/completions", headers=headers) as response:
        assert response.status == 204
        assert "session_id" in response.headers["Access-Control-Allow-Headers"]
        assert response.headers["Access-Control-Allow-Origin"] == "*"
    async with router.http.options("/v1/chat/completions") as response:
        assert response.status == 404
