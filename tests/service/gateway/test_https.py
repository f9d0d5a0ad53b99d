"""Plain http in production, and what answers tell browsers."""

from itertools import product
from typing import Any

import httpx2
import pytest
from fastapi import APIRouter
from morpheus_gateway.middleware import CONTENT_SECURITY_POLICY
from starlette.responses import HTMLResponse
from structlog.testing import capture_logs

from tests.service.gateway.conftest import House, MakeHouse
from tests.service.gateway.test_http import check_error

PRODUCTION = {"environment": "production", "trusted_proxies": ["127.0.0.0/8"]}
BY_HTTP = {"X-Forwarded-Proto": "http"}
BY_HTTPS = {"X-Forwarded-Proto": "https"}


async def test_plain_http_is_refused_in_production_and_not_redirected(make_house: MakeHouse) -> None:
    """A redirect would have the client send its key in clear once more, and never learn of it."""
    house = await make_house(**PRODUCTION)
    said = ("http", "https, http", "http, https", "ws", "HTTP")
    for path, word in product(("/v1/models", "/api/v1/session", "/nothing"), said):
        response = await house.http.get(path, headers={"X-Forwarded-Proto": word})
        check_error(response, path, 426, "https_required")
        assert response.headers["upgrade"] == "TLS/1.2, HTTP/1.1"
        assert response.headers["connection"] == "Upgrade"
        assert "location" not in response.headers
        assert "strict-transport-security" not in response.headers
    prompt = await house.chat(headers=BY_HTTP)
    check_error(prompt, "/v1/chat/completions", 426, "https_required")
    assert house.worker.prompts == []


async def test_https_by_the_word_of_a_trusted_proxy_is_served_and_told_to_stay(make_house: MakeHouse) -> None:
    house = await make_house(**PRODUCTION)
    for path, status in (("/v1/models", 200), ("/api/v1/session", 401), ("/nothing", 404)):
        response = await house.http.get(path, headers=BY_HTTPS)
        assert (response.status_code, response.headers["strict-transport-security"]) == (status, "max-age=31536000")


async def test_probes_are_answered_over_plain_http(make_house: MakeHouse) -> None:
    house = await make_house(**PRODUCTION)
    for path in ("/live", "/ready", "/health", "/health/"):
        assert (await house.http.get(path, headers=BY_HTTP)).status_code == 200


async def test_a_trusted_neighbour_that_says_nothing_is_served(make_house: MakeHouse) -> None:
    house = await make_house(**PRODUCTION)
    assert (await house.http.get("/v1/models")).status_code == 200


async def test_who_comes_around_the_trusted_proxies_came_over_plain_http_whatever_it_says(
    make_house: MakeHouse,
) -> None:
    """C15."""
    house = await make_house(environment="production", trusted_proxies=["192.0.2.0/24"], ready=False)
    for headers in (BY_HTTPS, BY_HTTP, {}):
        response = await house.http.get("/v1/models", headers=headers)
        assert (response.status_code, "strict-transport-security" in response.headers) == (426, False)


@pytest.mark.parametrize("settings", [{"environment": "production"}, {"trusted_proxies": ["127.0.0.0/8"]}, {}])
async def test_without_a_trusted_proxy_or_outside_production_nothing_is_refused(
    make_house: MakeHouse, settings: dict[str, Any]
) -> None:
    """C15: what a stranger says of itself is not read at all."""
    with capture_logs() as logs:
        house = await make_house(**settings)
    response = await house.http.get("/v1/models", headers=BY_HTTP)
    assert response.status_code == 200
    assert any("TRUSTED_PROXIES" in entry["event"] for entry in logs) == (settings == {"environment": "production"})


async def test_a_page_of_the_gateway_takes_nothing_from_elsewhere_unless_it_says_so_itself(house: House) -> None:
    router = APIRouter()

    @router.get("/page")
    async def page() -> HTMLResponse:
        return HTMLResponse("<p>page</p>")

    @router.get("/own")
    async def own() -> HTMLResponse:
        return HTMLResponse("<p>page</p>", headers={"Content-Security-Policy": "default-src 'none'"})

    house.gateway.app.include_router(router)
    # OpenAPI knows no pages, so their answers are not held against it
    transport = httpx2.ASGITransport(house.gateway.app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://gateway") as http:
        assert (await http.get("/page")).headers["content-security-policy"] == CONTENT_SECURITY_POLICY
        assert (await http.get("/own")).headers.get_list("content-security-policy") == ["default-src 'none'"]
    assert "content-security-policy" not in (await house.http.get("/v1/models")).headers


CACHED = ("/v1/models", "/v1/models/allmodels", "/.well-known/jwks.json", "/live", "/ready", "/health")


async def test_every_answer_has_what_browsers_must_know_and_only_public_copies_are_kept(house: House) -> None:
    answers = [
        *[await house.http.get(path) for path in CACHED],
        *[await house.http.get(path, headers=house.by_key) for path in ("/", "/api/v1/session", "/nothing")],
        await house.http.post("/v1/chat/completions", content=b"{", headers=house.by_key),
        await house.chat(),
        await house.http.options(
            "/v1/models", headers={"Origin": "https://a.example", "Access-Control-Request-Method": "GET"}
        ),
    ]
    for response in answers:
        path = response.request.url.path
        assert response.headers["x-content-type-options"] == "nosniff", path
        assert response.headers["referrer-policy"] == "no-referrer", path
        assert response.headers["cross-origin-resource-policy"] == "same-origin", path
        assert "server" not in response.headers, path
        assert (response.headers["cache-control"] == "no-store") == (
            path not in CACHED or response.status_code == 204
        ), path


async def test_every_route_answers_a_preflight_without_authentication(house: House) -> None:
    for route in house.gateway.app.state.routes:
        for method in route.methods:
            asked = {"Origin": "https://a.example", "Access-Control-Request-Method": method}
            path = route.path.replace("{", "").replace("}", "").replace(":path", "")
            response = await house.http.options(path, headers=asked)
            public = "/v1/chat/" in path or "/v1/embeddings" in path or "/v1/models" in path
            assert (response.status_code, "access-control-allow-origin" in response.headers) == (204, public), path


async def test_pages_can_read_every_kind_of_answer(make_house: MakeHouse) -> None:
    house = await make_house(**PRODUCTION)
    etag = (await house.http.get("/v1/models")).headers["etag"]
    for status, method, path, content, headers in (
        (200, "GET", "/v1/models", b"", {}),
        (304, "GET", "/v1/models", b"", {"If-None-Match": etag}),
        (404, "GET", "/v1/models/none-such", b"", {}),
        (413, "POST", "/v1/models", b"x" * 70_000, {}),
        (426, "GET", "/v1/models", b"", BY_HTTP),
    ):
        asked = {"Origin": "https://a.example", **headers}
        answer = await house.http.request(method, path, content=content, headers=asked)
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == "*"
        assert {"location", "etag", "retry-after"} <= set(answer.headers["access-control-expose-headers"].split(", "))
        assert "origin" in answer.headers["vary"].lower()
