"""Users of the router, and agents among them that spend up to an allowance."""

import base64
from typing import Any

import aiohttp
import pytest

from tests.unit.proxy_router_sim.harness import HOUR_STAKE, Router

PERMISSIONS = ["open_session", "initiate_session", "get_models", "request_allowance"]
AGENT = {"Authorization": aiohttp.encode_basic_auth("agent", "secret")}


async def ask(router: Router, **fields: Any) -> None:
    wish = {"username": "agent", "password": "secret", "perms": PERMISSIONS, **fields}
    async with aiohttp.ClientSession(router.url) as nobody, nobody.post("/auth/users/request", json=wish) as response:
        assert (response.status, await response.json()) == (200, {"result": True})


async def agent_with(router: Router, allowance: int) -> None:
    await ask(router, allowances={router.simulator.chain.mor_token: str(allowance)})
    confirmed = await router.post("/auth/users/confirm", {"username": "agent", "confirm": True})
    assert confirmed == (200, {"result": True})


async def open_as_agent(router: Router) -> tuple[int, Any]:
    return await router.post("/blockchain/sessions", await router.agreement(router.bid()), **AGENT)


async def models_as_agent(router: Router) -> int:
    async with router.http.get("/blockchain/models", headers=AGENT) as response:
        return response.status


async def test_an_agent_is_nobody_before_it_is_confirmed(router: Router) -> None:
    await ask(router)
    assert await models_as_agent(router) == 401
    assert (await router.get("/auth/users"))["agents"] == [
        {"username": "agent", "perms": sorted(PERMISSIONS), "isConfirmed": False, "allowances": {}}
    ]
    await router.post("/auth/users/confirm", {"username": "agent", "confirm": True})
    assert await models_as_agent(router) == 200


async def test_an_agent_that_is_declined_is_forgotten(router: Router) -> None:
    await ask(router)
    await router.post("/auth/users/confirm", {"username": "agent", "confirm": False})
    assert await router.get("/auth/users") == {"agents": []}
    assert await models_as_agent(router) == 401


async def test_an_agent_stakes_up_to_its_allowance_and_never_gets_it_back(router: Router) -> None:
    await agent_with(router, HOUR_STAKE + 5)
    status, opened = await open_as_agent(router)
    assert status == 200, opened
    await router.post(f"/blockchain/sessions/{opened['sessionID']}/close")
    [agent] = (await router.get("/auth/users"))["agents"]
    assert agent["allowances"] == {router.simulator.chain.mor_token: "5"}
    refused = {"error": "low agent user allowance: not enough allowance"}
    assert await open_as_agent(router) == (500, refused)
    status, body = await router.post(f"/blockchain/bids/{router.bid().id}/session", {"sessionDuration": 3600}, **AGENT)
    assert (status, body) == (500, refused)
    assert len(router.simulator.chain.ledger.sessions) == 1


async def test_a_token_in_another_spelling_is_not_found(router: Router) -> None:
    await ask(router, allowances={router.simulator.chain.mor_token.upper(): str(HOUR_STAKE)})
    await router.post("/auth/users/confirm", {"username": "agent", "confirm": True})
    assert (await open_as_agent(router))[1] == {"error": "low agent user allowance: not enough allowance"}


async def test_a_user_that_was_only_added_cannot_spend(router: Router) -> None:
    added = {"username": "agent", "password": "secret", "perms": PERMISSIONS}
    assert await router.post("/auth/users", added) == (200, {"result": True})
    assert await models_as_agent(router) == 200
    assert await open_as_agent(router) == (500, {"error": "low agent user allowance: user not found"})


async def test_a_removed_user_is_nobody(router: Router) -> None:
    await agent_with(router, 5)
    async with router.http.delete("/auth/users", json={"username": "agent"}) as response:
        assert await response.json() == {"result": True}
    assert await models_as_agent(router) == 401


async def test_an_allowance_is_asked_for_granted_and_revoked(router: Router) -> None:
    await agent_with(router, 5)
    token = router.simulator.chain.mor_token
    wish = {"username": "agent", "token": token, "allowance": str(HOUR_STAKE)}
    assert await router.post("/auth/allowance/requests", wish, **AGENT) == (200, {"result": True})
    assert await router.get("/auth/allowance/requests") == {"requests": [wish]}
    decided = {"username": "agent", "token": token, "confirm": True}
    assert await router.post("/auth/allowance/confirm", decided) == (200, {"result": True})
    assert await router.get("/auth/allowance/requests") == {"requests": []}
    assert (await open_as_agent(router))[0] == 200
    assert (await router.post("/auth/allowance/confirm", decided))[0] == 500
    await router.post("/auth/allowance/revoke", {"username": "agent", "token": token})
    assert (await router.get("/auth/users"))["agents"][0]["allowances"] == {}


async def test_a_refused_allowance_changes_nothing(router: Router) -> None:
    await agent_with(router, 5)
    token = router.simulator.chain.mor_token
    await router.post("/auth/allowance/requests", {"username": "agent", "token": token, "allowance": "9"})
    await router.post("/auth/allowance/confirm", {"username": "agent", "token": token, "confirm": False})
    assert (await router.get("/auth/users"))["agents"][0]["allowances"] == {token: "5"}


async def test_transactions_of_an_agent_come_in_pages(router: Router) -> None:
    await agent_with(router, 3 * HOUR_STAKE)
    for _ in range(3):
        assert (await open_as_agent(router))[0] == 200
        router.simulator.clock.advance(1)
    first = await router.get("/auth/users/agent/txs", limit="2")
    assert base64.b64decode(first["nextCursor"])
    second = await router.get("/auth/users/agent/txs", limit="2", cursor=first["nextCursor"])
    assert (len(first["txHashes"]), len(second["txHashes"]), second["nextCursor"]) == (2, 1, "")
    assert len({*first["txHashes"], *second["txHashes"]}) == 3


@pytest.mark.parametrize(
    ("query", "status"), [("", 400), ("limit=300", 400), ("limit=2&cursor=*", 500), ("limit=2&cursor=eA==", 500)]
)
async def test_a_page_that_cannot_be_read_is_an_error(router: Router, query: str, status: int) -> None:
    await agent_with(router, 5)
    async with router.http.get(f"/auth/users/agent/txs?{query}") as response:
        assert response.status == status
        assert list(await response.json()) == ["error"]


async def test_the_admins_name_is_taken(router: Router) -> None:
    async with aiohttp.ClientSession(router.url) as nobody:
        wish = {"username": "admin", "password": "mine", "perms": ["*"]}
        async with nobody.post("/auth/users/request", json=wish) as response:
            assert response.status == 500
    assert await router.get("/wallet") == {"address": router.wallet}


@pytest.mark.parametrize("path", ["/auth/users", "/auth/users/request"])
@pytest.mark.parametrize("wish", [{"username": 7}, {"perms": "all"}, {"perms": [1]}])
async def test_fields_of_another_type_are_400(router: Router, path: str, wish: dict[str, Any]) -> None:
    assert (await router.post(path, {"username": "x", "password": "y", **wish}))[0] == 400
