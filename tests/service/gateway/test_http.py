"""What holds for every endpoint: paths, methods, ids, errors, limits, browsers."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from itertools import count
from typing import Any

import httpx2
import pytest
from morpheus_common.bus.names import User
from morpheus_common.contracts.health import PING, Health
from morpheus_common.errors import ApiError
from structlog.testing import capture_logs

from tests.servers import NatsAccount
from tests.service.gateway.conftest import House, MakeHouse, running_gateway

UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")

FAILURES: list[tuple[str, str, dict[str, Any], int, str]] = [
    ("GET", "/nothing", {}, 404, "not_found"),
    ("GET", "/v1/auth/keys", {}, 404, "not_found"),
    ("DELETE", "/api/v1/models", {}, 405, "method_not_allowed"),
    ("POST", "/v1/responses", {}, 404, "endpoint_not_supported"),
    ("POST", "/api/v1/completions", {}, 404, "endpoint_not_supported"),
    ("POST", "/v1/audio/speech", {}, 404, "endpoint_not_supported"),
    ("POST", "/v1/audio/transcriptions", {}, 404, "endpoint_not_supported"),
    ("POST", "/v1/images/generations", {}, 404, "endpoint_not_supported"),
    ("GET", "/api/v1/models/none-such", {}, 404, "model_not_found"),
    ("GET", "/api/v1/models?a=1&a=2", {}, 422, "validation_error"),
    ("GET", "/api/v1/auth/keys", {}, 401, "missing_credentials"),
    ("GET", "/api/v1/session", {"headers": {"Authorization": "Basic abc"}}, 401, "missing_credentials"),
    ("POST", "/v1/chat/completions", {"json": {}}, 401, "missing_credentials"),
    ("POST", "/v1/embeddings", {"json": {}}, 401, "missing_credentials"),
    ("POST", "/api/v1/auth/login", {"content": b"{"}, 400, "invalid_json"),
    ("POST", "/api/v1/auth/login", {"json": {"email": "a@b"}}, 422, "validation_error"),
    ("POST", "/api/v1/auth/login", {"data": {"email": "a@b", "password": "x"}}, 415, "unsupported_media_type"),
    ("POST", "/api/v1/auth/login", {"json": {"email": "a@b", "password": "x" * 70_000}}, 413, "request_too_large"),
]


async def test_every_error_has_openais_form_and_our_request_id(make_house: MakeHouse) -> None:
    """C54."""
    house = await make_house(body_limit=65_536)
    for method, path, sent, status, code in FAILURES:
        response = await house.http.request(method, path, **sent)
        check_error(response, path, status, code)


def check_error(response: httpx2.Response, path: str, status: int, code: str) -> None:
    assert response.status_code == status, path
    check_error_form(response.headers, response.json(), code)
    assert ("www-authenticate" in response.headers) == (status == 401)
    openai = "/chat" in path or "/embeddings" in path or "/models" in path or code == "endpoint_not_supported"
    assert ("x-should-retry" in response.headers) == openai


def check_error_form(headers: Mapping[str, str], body: Any, code: str) -> None:
    assert headers["content-type"] == "application/json"
    assert UUID7.fullmatch(headers["x-request-id"])
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    error = body["error"]
    assert error["code"] == code
    assert error["message"].strip()
    assert {"type", "param"} <= error.keys()


async def test_an_endpoint_of_openai_that_is_missing_names_the_one_to_use(house: House) -> None:
    response = await house.http.post("/v1/responses", json={})
    assert "/api/v1/chat/completions" in response.json()["error"]["message"]


async def test_what_was_sent_is_not_in_the_error(house: House) -> None:
    """C54."""
    body = {"email": "someone@example.org", "password": ["hunter2-hunter2"]}
    response = await house.http.post("/api/v1/auth/register", json=body)
    assert response.status_code == 422
    assert "hunter2" not in response.text
    assert response.json()["error"]["param"] == "password"


async def test_a_trailing_slash_is_answered_and_not_redirected(house: House) -> None:
    for path in ("/api/v1/models", "/api/v1/models/", "/v1/models/", "/health/", "/api/v1/models/allmodels/"):
        assert (await house.http.get(path)).status_code == 200, path


async def test_every_get_answers_head(house: House) -> None:
    for path in ("/", "/health", "/live", "/ready", "/v1/models", "/.well-known/jwks.json"):
        response = await house.http.head(path)
        assert response.status_code == 200, path
        assert response.content == b""
        assert int(response.headers["content-length"]) > 0


async def test_a_wrong_method_is_told_the_right_ones(house: House) -> None:
    assert (await house.http.post("/api/v1/models")).headers["allow"] == "GET, HEAD"
    assert (await house.http.patch("/api/v1/auth/keys")).headers["allow"] == "GET, HEAD, POST"
    assert (await house.http.get("/v1/chat/completions")).headers["allow"] == "POST"
    assert (await house.http.head("/api/v1/auth/login")).status_code == 405


async def test_a_clients_own_request_id_comes_back_beside_ours(house: House) -> None:
    response = await house.http.get("/live", headers={"X-Request-Id": "mine-1"})
    assert response.headers["x-client-request-id"] == "mine-1"
    assert response.headers["x-request-id"] != "mine-1"
    ill_formed = await house.http.get("/live", headers={"X-Client-Request-Id": "a b"})
    assert "x-client-request-id" not in ill_formed.headers


async def test_two_authorization_headers_are_refused(house: House) -> None:
    headers = [("Authorization", f"Bearer {house.key}"), ("Authorization", f"Bearer {house.key}")]
    response = await house.http.get("/api/v1/session", headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "multiple_credentials")


async def test_a_key_may_come_without_its_scheme(house: House) -> None:
    assert (await house.http.get("/api/v1/session", headers={"Authorization": house.key})).status_code == 200


async def test_a_body_that_does_not_announce_its_length_is_limited_too(make_house: MakeHouse) -> None:
    house = await make_house(body_limit=65_536)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b"x" * 10_000

    for path in ("/v1/chat/completions", "/v1/embeddings", "/api/v1/auth/login"):
        response = await house.http.post(
            path, content=pieces(), headers=house.by_key | {"Content-Type": "application/json"}
        )
        assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")


async def test_a_query_parameter_that_stands_twice_is_refused_for_prompts_too(house: House) -> None:
    for path in ("/v1/chat/completions", "/api/v1/models"):
        method = "GET" if path.endswith("models") else "POST"
        response = await house.http.request(method, f"{path}?a=1&a=2", headers=house.by_key)
        # a name that is none of ours is not quoted
        assert (response.status_code, response.json()["error"]["param"]) == (422, None)


JSON_ROUTES = ("/v1/chat/completions", "/v1/embeddings", "/api/v1/session/modelsession", "/api/v1/auth/login")


@pytest.mark.parametrize("content_type", ["text/x+json", "text/json", "application/x-www-form-urlencoded", "json"])
async def test_what_is_json_is_one_thing_on_every_route(house: House, content_type: str) -> None:
    for path in JSON_ROUTES:
        headers = house.by_key | {"Content-Type": content_type}
        response = await house.http.post(path, content=b"{}", headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (415, "unsupported_media_type"), path


@pytest.mark.parametrize(
    "content_type", ["application/json", "Application/JSON; charset=utf-8", "application/x+json", ""]
)
async def test_json_of_any_vendor_is_json(house: House, content_type: str) -> None:
    for path in JSON_ROUTES:
        headers = house.by_key | {"Content-Type": content_type}
        response = await house.http.post(path, content=b"{}", headers=headers)
        assert response.status_code in {400, 422}, path
        assert response.json()["error"]["param"] is not None, path


async def test_a_body_for_a_chat_may_not_be_missing(house: House) -> None:
    response = await house.http.post("/v1/chat/completions", content=b"", headers=house.by_key)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_json")


# browsers


async def test_pages_of_any_origin_may_send_prompts_but_not_log_in(house: House) -> None:
    asked = {
        "Origin": "https://app.example.org",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, x-stainless-lang, bad header",
    }
    for path in ("/v1/chat/completions", "/v1/embeddings"):
        prompt = await house.http.options(path, headers=asked)
        assert prompt.status_code == 204
        assert prompt.headers["access-control-allow-origin"] == "*"
        assert prompt.headers["access-control-allow-methods"] == "POST"
        assert prompt.headers["access-control-allow-headers"] == "authorization, x-stainless-lang"
        assert "access-control-allow-credentials" not in prompt.headers
    login = await house.http.options("/api/v1/auth/login", headers=asked)
    assert login.status_code == 204
    assert "access-control-allow-origin" not in login.headers


async def test_errors_can_be_read_by_pages_too(house: House) -> None:
    response = await house.http.post("/v1/chat/completions", json={}, headers={"Origin": "https://app.example.org"})
    assert response.status_code == 401
    assert response.headers["access-control-allow-origin"] == "*"
    assert "x-should-retry" in response.headers["access-control-expose-headers"]
    assert response.headers["vary"] == "Origin"


async def test_other_routes_have_their_own_list_of_origins(make_house: MakeHouse) -> None:
    """F56"""
    house = await make_house(cors_origins=("https://ours.example.org",))
    ours = await house.http.get("/", headers={"Origin": "https://ours.example.org"})
    assert ours.headers["access-control-allow-origin"] == "https://ours.example.org"
    theirs = await house.http.get("/", headers={"Origin": "https://theirs.example.org"})
    assert "access-control-allow-origin" not in theirs.headers


# root, health, keys


async def test_root_says_what_this_is(house: House) -> None:
    answer = (await house.http.get("/")).json()
    assert answer["name"] == "Morpheus API Gateway"
    assert {"version", "description", "documentation"} <= answer.keys()


async def test_the_openapi_document_can_be_made(house: House) -> None:
    document = (await house.http.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    assert (await house.http.get("/api/v1/openapi.json")).json() == document
    assert "/api/v1/openapi.json" not in document["paths"]
    body = document["paths"]["/api/v1/session/modelsession"]["post"]["requestBody"]["content"]["application/json"]
    assert body["schema"]["anyOf"][0]["properties"].keys() == {"sessionDuration", "directPayment", "failover"}
    assert "/api/v1/chat/completions" in document["paths"]
    texts = document["paths"]["/api/v1/embeddings"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert texts["required"] == ["input"]


async def test_openapi_tells_of_the_one_form_of_errors_for_every_endpoint(house: House) -> None:
    document = (await house.http.get("/openapi.json")).json()
    shown = document["components"]["schemas"]["ErrorShown"]["properties"]
    assert shown.keys() == {"message", "type", "param", "code", "details"}
    assert "HTTPValidationError" not in document["components"]["schemas"]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            [told] = operation["responses"]["default"]["content"].values()
            assert told["schema"] == {"$ref": "#/components/schemas/ErrorBody"}, path


async def test_openapi_tells_the_bounds_of_numbers_by_their_names_in_json_schema(house: House) -> None:
    paths = (await house.http.get("/openapi.json")).json()["paths"]
    for path in ("/api/v1/session/list", "/api/v1/automation/decisions"):
        [limit] = [item for item in paths[path]["get"]["parameters"] if item["name"] == "limit"]
        assert (limit["schema"]["minimum"], limit["schema"]["maximum"]) == (1, 100)


async def test_health_names_every_component(house: House) -> None:
    response = await house.http.get("/health")
    body = response.json()
    assert (response.status_code, body["status"], body["database"]) == (200, "ok", "healthy")
    assert body["components"].keys() == {"database", "bus", "auth", "sessions", "automation", "proxy_router"}
    assert body["components"]["auth"]["latency_ms"] > 0


async def test_a_router_that_is_away_degrades_but_does_not_stop(house: House) -> None:
    house.sessions.lacks.add("proxy_router")
    body = await _health_when(house, "degraded")
    assert body["components"]["proxy_router"]["status"] == "unhealthy"
    assert (await house.http.get("/ready")).status_code == 200


async def test_a_fleet_of_which_some_are_away_is_degraded(house: House) -> None:
    """F55"""
    house.sessions.degraded.append("proxy_router")
    body = await _health_when(house, "degraded")
    assert body["components"]["proxy_router"]["status"] == "degraded"
    assert body["components"]["sessions"]["status"] == "healthy"
    assert (await house.http.get("/ready")).status_code == 200


async def test_losing_a_service_that_every_answer_needs_flips_ready_and_never_live(house: House) -> None:
    """C43."""

    async def fail(_: object) -> Any:
        raise ApiError("internal_error")

    await house.automation.answer(PING[User.AUTOMATION], fail)
    await _health_when(house, "degraded")
    assert (await house.http.get("/health")).status_code == 200
    # warm and manual sessions answer without it: sending all clients away would answer nobody
    assert (await house.http.get("/ready")).status_code == 200
    await house.auth.answer(PING[User.AUTH], fail)
    await _health_when(house, "unavailable")
    assert (await house.http.get("/health")).status_code == 503
    assert (await house.http.get("/ready")).status_code == 503
    assert (await house.http.get("/live")).status_code == 200


async def test_one_worker_without_the_database_does_not_take_the_gateways_out_of_service(house: House) -> None:
    """C43: of a service's workers one has lost its way to the database; the others have theirs."""
    asked = count()

    async def pong(_: object) -> Any:
        return Health(version="0.1.0", worker="w", components={"database": next(asked) % 3 == 2})

    for service in (house.auth, house.sessions):
        await service.answer(PING[service.service], pong)
        body = await _health_when(house, "degraded")
        assert body["components"]["database"]["status"] == "degraded"
        assert body["components"][service.service]["status"] == "degraded"
        assert (await house.http.get("/ready")).status_code == 200
        await service.answer_pings()
        await _health_when(house, "ok")


async def test_automation_without_the_database_is_as_automation_away(house: House) -> None:
    house.automation.lacks.add("database")
    body = await _health_when(house, "degraded")
    assert body["components"]["database"]["status"] == "degraded"
    assert (await house.http.get("/ready")).status_code == 200
    house.auth.lacks.add("database")
    await _health_when(house, "unavailable")
    assert (await house.http.get("/ready")).status_code == 503


async def _health_when(house: House, status: str) -> dict[str, Any]:
    async with asyncio.timeout(5):
        while True:
            body: dict[str, Any] = (await house.http.get("/health")).json()
            if body["status"] == status:
                return body
            await asyncio.sleep(0.02)


async def test_before_the_bus_is_there_the_gateway_lives_and_says_so(nats_account: NatsAccount) -> None:
    nobody = NatsAccount(nats_account.name, "nats://127.0.0.1:1", nats_account.seeds)
    async with running_gateway(nobody, ready=False) as gateway:
        assert (await gateway.http.get("/live")).status_code == 200
        assert (await gateway.http.get("/ready")).status_code == 503
        assert (await gateway.http.get("/health")).json()["components"]["bus"]["status"] == "unhealthy"
        models = await gateway.http.get("/v1/models")
        assert (models.status_code, models.json()["error"]["code"]) == (503, "service_unavailable")


async def test_the_signing_keys_are_public(house: House) -> None:
    response = await house.http.get("/.well-known/jwks.json")
    assert response.json()["keys"][0]["crv"] == "Ed25519"
    assert "d" not in response.json()["keys"][0]
    assert response.headers["cache-control"] == "public, max-age=60"


async def test_a_bug_answers_in_openais_form(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """C54."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("morpheus_gateway.routes.chat.read_chat_body", broken)
    with capture_logs() as logged:
        response = await house.chat()
    assert "request failed" in [line["event"] for line in logged]
    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")
    assert response.headers["x-should-retry"] == "false"
    assert "ZeroDivision" not in response.text
