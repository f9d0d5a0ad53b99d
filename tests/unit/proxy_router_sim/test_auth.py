import base64

import aiohttp
import pytest
from proxy_router_sim.app import ROUTES
from proxy_router_sim.auth import User
from proxy_router_sim.routes.route import Route

from tests.unit.proxy_router_sim.harness import Router


def basic(credentials: str) -> str:
    return "Basic " + base64.b64encode(credentials.encode()).decode()


@pytest.mark.parametrize(
    ("header", "body"),
    [
        (None, '{"error":"no basic auth provided"}'),
        ("Bearer abc", '{"error":"invalid basic auth provided"}'),
        ("Basic !!!", '{"error":"invalid basic auth provided"}'),
        (basic("admin"), '{"error":"invalid basic auth provided"}'),
        (basic(":correct"), '{"error":"invalid basic auth provided"}'),
        (basic("admin:wrong"), '{"error":"invalid username or password"}'),
        (basic("nobody:correct"), '{"error":"invalid username or password"}'),
    ],
)
async def test_a_caller_without_good_credentials_gets_401(router: Router, header: str | None, body: str) -> None:
    headers = {"Authorization": header} if header else {}
    async with aiohttp.ClientSession(router.url) as http, http.get("/wallet", headers=headers) as response:
        assert response.status == 401
        assert await response.text() == body
        assert response.headers["Content-Type"] == "application/json; charset=utf-8"
        assert "WWW-Authenticate" not in response.headers


async def test_a_user_may_call_what_it_has_the_permission_for(router: Router) -> None:
    headers = {"Authorization": basic("reader:reading")}
    async with aiohttp.ClientSession(router.url, headers=headers) as http:
        async with http.get("/blockchain/models") as response:
            assert response.status == 200
        async with http.get("/wallet") as response:
            assert response.status == 403
            assert await response.text() == '{"error":"method not allowed"}'


async def test_a_user_that_is_not_the_admin_cannot_spend(router: Router) -> None:
    agreement = await router.agreement(router.bid())
    status, body = await router.post("/blockchain/sessions", agreement, Authorization=basic("reader:reading"))
    assert (status, body) == (500, {"error": "low agent user allowance: user not found"})


async def test_health_needs_no_credentials(router: Router) -> None:
    async with aiohttp.ClientSession(router.url) as http, http.get("/healthcheck") as response:
        assert response.status == 200
        health = await response.json()
        assert health["status"] == "healthy"
        assert set(health) == {"status", "version", "uptime", "components"}


async def test_health_is_degraded_while_the_storage_fails(router: Router) -> None:
    assert (await router.post("/sim/storage", {"failure": 1}))[0] == 400
    await router.post("/sim/storage", {"failure": "disk full"})
    async with router.http.get("/healthcheck") as response:
        health = await response.json()
        assert (response.status, health["status"]) == (503, "degraded")
        assert health["components"] == {"badgerdb": "unhealthy: disk full"}
    await router.post("/sim/storage", {"failure": None})
    assert (await router.get("/healthcheck"))["status"] == "healthy"


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/nothing"), ("POST", "/wallet"), ("GET", "/blockchain/models/0x1")]
)
async def test_an_unknown_route_is_plain_text_even_without_credentials(router: Router, method: str, path: str) -> None:
    async with aiohttp.ClientSession(router.url) as http, http.request(method, path) as response:
        assert response.status == 404
        assert response.content_type == "text/plain"
        assert await response.text() == "404 page not found"


async def test_the_request_id_comes_back_or_is_made(router: Router) -> None:
    async with router.http.get("/wallet", headers={"X-Request-Id": "mine-1"}) as response:
        assert response.headers["X-Request-Id"] == "mine-1"
    async with router.http.get("/nothing") as response:
        assert len(bytes.fromhex(response.headers["X-Request-Id"])) == 4


GATEWAY = {
    "open_session", "close_session", "get_sessions", "get_bids", "get_models", "get_providers", "get_balance",
    "get_allowance", "get_budget", "get_supply", "get_latest_block", "get_wallet", "chat", "embeddings",
    "audio_transcription", "audio_speech", "initiate_session",
}  # fmt: skip
"""The minimal set of proxy-router contract section 1, and initiate_session of section 2.6b."""


@pytest.mark.parametrize("route", [route for route in ROUTES if route.permission], ids=lambda r: f"{r.method} {r.path}")
async def test_the_permissions_of_a_gateway_open_its_routes_and_no_others(router: Router, route: Route) -> None:
    await router.post("/auth/users", {"username": "gateway", "password": "x", "perms": sorted(GATEWAY)})
    path = route.path.format(id="ab" * 32, address="0x" + "ab" * 20, username="gateway")
    async with router.http.request(
        route.method, path, headers={"Authorization": basic("gateway:x")}, data=b""
    ) as response:
        assert (response.status == 403) == (route.permission not in GATEWAY)


def test_every_permission_of_a_gateway_has_a_route() -> None:
    assert {route.permission for route in ROUTES} >= GATEWAY


@pytest.mark.parametrize("line", ["", "name", "name:password", "name::chat", ":password:chat", "a:b:c:d"])
def test_a_user_needs_name_password_and_permissions(line: str) -> None:
    with pytest.raises(ValueError, match="name:password:permission"):
        User.parse(line)
