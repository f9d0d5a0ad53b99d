import base64

import aiohttp
import pytest
from proxy_router_sim.auth import User

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


@pytest.mark.parametrize("line", ["", "name", "name:password", "name::chat", ":password:chat", "a:b:c:d"])
def test_a_user_needs_name_password_and_permissions(line: str) -> None:
    with pytest.raises(ValueError, match="name:password:permission"):
        User.parse(line)
