"""How the gateway answers for the site: caches, addresses that moved, addresses that are none."""

import gzip
from typing import Any

import httpx2
import pytest
from morpheus_gateway.documentation import Documentation
from morpheus_site.old_links import PUBLISHED

from tests.servers import NatsAccount
from tests.service.gateway.conftest import House, make_house, running_gateway
from tests.service.site.conftest import application, client_of

__all__ = ["make_house"]

ASSET = "/docs/_static/swagger-ui/swagger-ui.css"


@pytest.mark.parametrize("old", sorted(PUBLISHED))
async def test_an_address_that_was_published_leads_to_the_page_of_its_operation(
    http: httpx2.AsyncClient, old: str
) -> None:
    method, _, path = PUBLISHED[old].partition(" ")
    answer = await http.get(f"/docs/{old}")
    assert answer.status_code == 308
    assert (await http.get(f"/docs/{old}/")).headers["location"] == answer.headers["location"]
    assert (await http.get(answer.headers["location"])).status_code == 200
    # the page is that of the same operation, whatever it is called
    text = (await http.get(answer.headers["location"] + ".md")).text
    assert method in text
    assert path in text


async def test_a_page_is_asked_for_again_and_not_sent_again(http: httpx2.AsyncClient) -> None:
    first = await http.get("/docs")
    assert first.headers["cache-control"] == "public, max-age=60"
    for known in (
        first.headers["etag"],
        first.headers["etag"].removeprefix("W/"),
        f'"x", {first.headers["etag"]}',
        "*",
    ):
        again = await http.get("/docs", headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
    assert (await http.get("/docs", headers={"If-None-Match": '"other"'})).status_code == 200


async def test_an_asset_is_kept_for_ever_under_the_digest_of_its_content_only(
    http: httpx2.AsyncClient, site: Documentation
) -> None:
    digest = site.files[ASSET].digest
    assert (await http.get(f"{ASSET}?v={digest}")).headers["cache-control"] == "public, max-age=31536000, immutable"
    for version in ("", "?v=", "?v=0123456789abcdef"):
        assert (await http.get(ASSET + version)).headers["cache-control"] == "public, max-age=60"


@pytest.mark.parametrize(
    ("accepted", "compressed"),
    [
        ("gzip", True),
        ("br, gzip;q=0.5", True),
        ("*", False),
        ("identity", False),
        ("gzip;q=0", False),
        ("x-gzip", False),
    ],
)
async def test_what_is_compressed_goes_to_those_who_take_it(
    site: Documentation, accepted: str, compressed: bool
) -> None:
    async with (
        client_of(application()) as http,
        http.stream("GET", ASSET, headers={"Accept-Encoding": accepted}) as answer,
    ):
        raw = b"".join([chunk async for chunk in answer.aiter_raw()])
    assert ("content-encoding" in answer.headers) == compressed
    assert "Accept-Encoding" in answer.headers["vary"]
    assert (gzip.decompress(raw) if compressed else raw) == site.files[ASSET].plain()
    assert int(answer.headers["content-length"]) == len(raw)


@pytest.mark.parametrize(
    "address",
    [
        "/docs/nothing",
        "/docs/..%2f..%2fsettings.py",
        "/docs/%2e%2e/%2e%2e/settings.py",
        "/docs/../settings.py",
        "/docs//etc/passwd",
        "/docs/manifest.json",
        "/docs/getting-started.html",
        "/docs/_static",
        "/docs/%00",
        "/docs/_static/..%5c..%5capp.py",
    ],
)
async def test_what_is_no_address_of_the_site_is_not_found(http: httpx2.AsyncClient, address: str) -> None:
    answer = await http.get(address)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


async def test_pages_may_run_nothing_but_their_own_scripts(http: httpx2.AsyncClient) -> None:
    for address in ("/docs", "/docs/reference", "/docs/search"):
        policy = (await http.get(address)).headers["content-security-policy"]
        assert policy.startswith("default-src 'self'; ")
        assert "unsafe" not in policy
        assert "http" not in policy
    assert (await http.get("/docs")).headers["x-content-type-options"] == "nosniff"


async def test_a_gateway_without_its_documentation_says_so() -> None:
    app = application()
    app.state.documentation = None
    async with client_of(app) as http:
        for address in ("/docs", "/docs/index.md", "/llms.txt", "/llms-full.txt"):
            answer = await http.get(address)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
            assert "make docs" in answer.json()["error"]["message"]


async def test_an_operator_can_switch_the_console_off(http: httpx2.AsyncClient) -> None:
    async with client_of(application(docs_try_it=False)) as without:
        page = (await without.get("/docs/reference")).text
    assert '"tryIt": false' in page
    assert '"tryIt": true' in (await http.get("/docs/reference")).text


async def test_other_methods_are_told_which_are_right(http: httpx2.AsyncClient) -> None:
    answer = await http.post("/docs", json={})
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


async def test_head_is_answered_as_get_without_the_page(nats_account: NatsAccount) -> None:
    async with running_gateway(nats_account, ready=False) as gateway, httpx2.AsyncClient(base_url=gateway.url) as http:
        for address in ("/docs", "/docs/index", "/llms.txt"):
            got, asked = await http.get(address), await http.head(address)
            assert asked.status_code == got.status_code
            assert asked.content == b""
            names = ("etag", "content-type", "content-length", "cache-control", "location")
            assert {name: asked.headers.get(name) for name in names} == {name: got.headers.get(name) for name in names}


async def test_everything_that_the_root_names_is_there(make_house: Any) -> None:
    house: House = await make_house()
    async with httpx2.AsyncClient(base_url=house.gateway.url) as http:
        named = (await http.get("/")).json()["documentation"]
        found = {name: (await http.get(address)).status_code for name, address in named.items()}
    assert {"docs", "llms", "openapi"} <= named.keys()
    assert found == dict.fromkeys(named, 200)
