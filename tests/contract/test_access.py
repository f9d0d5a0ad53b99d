"""Who may ask, and what every answer has in common (Contract 0 and 1)."""

import base64

import pytest

from tests.contract.target import Router


def basic(credentials: str) -> str:
    return "Basic " + base64.b64encode(credentials.encode()).decode()


@pytest.mark.parametrize(
    ("header", "body"),
    [
        (None, b'{"error":"no basic auth provided"}'),
        ("Bearer abc", b'{"error":"invalid basic auth provided"}'),
        ("Basic !!!", b'{"error":"invalid basic auth provided"}'),
        (basic("admin:"), b'{"error":"invalid basic auth provided"}'),
        (basic(":secret"), b'{"error":"invalid basic auth provided"}'),
        (basic("nobody-of-this-name:secret"), b'{"error":"invalid username or password"}'),
    ],
)
def test_a_caller_without_good_credentials_gets_401(router: Router, header: str | None, body: bytes) -> None:
    """Contract 1: the exact bodies, and no WWW-Authenticate."""
    response = router.anonymous.get("/wallet", headers={"Authorization": header} if header else {})
    assert (response.status_code, response.content) == (401, body)
    assert response.headers["Content-Type"] == "application/json; charset=utf-8"
    assert "WWW-Authenticate" not in response.headers


def test_a_wrong_password_of_a_known_user_gets_401(router: Router) -> None:
    """Contract 1: not told apart from an unknown user."""
    header = basic(f"{router.target.user}:not-{router.target.password}")
    response = router.anonymous.get("/wallet", headers={"Authorization": header})
    assert (response.status_code, response.content) == (401, b'{"error":"invalid username or password"}')


@pytest.mark.simulator
def test_a_user_without_the_permission_gets_403(router: Router) -> None:
    """Contract 1: each route has a permission."""
    header = {"Authorization": basic("reader:reading")}
    assert router.anonymous.get("/blockchain/models", headers=header).status_code == 200
    response = router.anonymous.get("/wallet", headers=header)
    assert (response.status_code, response.content) == (403, b'{"error":"method not allowed"}')


def test_health_needs_no_credentials(router: Router) -> None:
    """Contract 2.1: status, version, uptime and the state of the storage."""
    response = router.anonymous.get("/healthcheck")
    health = response.json()
    assert response.status_code == 200
    assert health["status"] == "healthy"
    assert health["components"]["badgerdb"].startswith("healthy, size=")
    assert {"version", "uptime"} <= set(health)


def test_a_ping_needs_no_credentials(router: Router) -> None:
    """Contract 1: the empty body is what it complains about."""
    response = router.anonymous.post("/proxy/provider/ping")
    assert (response.status_code, response.json()) == (400, {"error": "EOF"})


@pytest.mark.parametrize("path", ["/nothing", "/blockchain/models/0x12"])
def test_an_unknown_route_is_plain_text(router: Router, path: str) -> None:
    """Contract 0: handlers never answer 404, gin does; there is no route for a single model (Contract 2.4)."""
    response = router.anonymous.get(path)
    assert (response.status_code, response.content) == (404, b"404 page not found")
    assert response.headers["Content-Type"].startswith("text/plain")


def test_the_callers_request_id_comes_back(router: Router) -> None:
    """Contract 0: X-Request-Id is echoed, also with an error."""
    for path in ("/wallet", "/blockchain/bids/0x12"):
        assert router.http.get(path, headers={"X-Request-Id": "mine-1"}).headers["X-Request-Id"] == "mine-1"


def test_a_request_without_an_id_gets_eight_hex_digits(router: Router) -> None:
    """Contract 0: and another one each time."""
    made = [router.get("/wallet").headers["X-Request-Id"] for _ in range(2)]
    assert [len(bytes.fromhex(one)) for one in made] == [4, 4]
    assert made[0] != made[1]


def test_pages_of_any_origin_may_read(router: Router) -> None:
    """Contract 0: CORS is open."""
    response = router.http.get("/wallet", headers={"Origin": "https://example.org"})
    assert response.headers["Access-Control-Allow-Origin"] == "*"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
def test_prompts_need_credentials(router: Router, path: str) -> None:
    """Contract 1."""
    assert router.anonymous.post(path, json={}).status_code == 401


@pytest.mark.simulator
def test_a_user_that_was_only_added_cannot_spend(router: Router) -> None:
    """Contract 1: without a record of an allowance an open fails, whatever the permissions say."""
    user = {"username": "added", "password": "secret", "perms": ["open_session", "initiate_session"]}
    assert router.post("/auth/users", user).json() == {"result": True}
    offer = router.offer("LLM")
    response = router.anonymous.post(
        f"/blockchain/bids/{offer.bid_id}/session",
        json={"sessionDuration": 3600},
        headers={"Authorization": basic("added:secret")},
    )
    assert (response.status_code, response.json()) == (500, {"error": "low agent user allowance: user not found"})
    assert router.http.request("DELETE", "/auth/users", json={"username": "added"}).json() == {"result": True}
    denied = router.anonymous.get("/wallet", headers={"Authorization": basic("added:secret")})
    assert denied.status_code == 401


@pytest.mark.simulator
def test_an_agent_spends_its_allowance_and_no_more(router: Router) -> None:
    """Contract 1: it asks without credentials, the admin confirms, and what an open staked is never returned."""
    offer = router.offer("LLM")
    token = router.read("/config")["Config"]["Marketplace"]["MorTokenAddress"].lower()
    wish = {
        "username": "agent",
        "password": "secret",
        "perms": ["open_session"],
        "allowances": {token: str(2 * 10**19)},
    }
    assert router.anonymous.post("/auth/users/request", json=wish).json() == {"result": True}
    assert router.post("/auth/users/confirm", {"username": "agent", "confirm": True}).json() == {"result": True}
    opened = [
        router.anonymous.post(
            f"/blockchain/bids/{offer.bid_id}/session",
            json={"sessionDuration": 3600},
            headers={"Authorization": basic("agent:secret")},
        )
        for _ in range(2)
    ]
    assert [response.status_code for response in opened] == [200, 500]
    assert opened[1].json() == {"error": "low agent user allowance: not enough allowance"}
