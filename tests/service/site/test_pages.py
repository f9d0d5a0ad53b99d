"""Every page of the built site: what it says, where it leads, what it loads."""

import re
from collections import Counter
from collections.abc import Mapping
from urllib.parse import urlsplit

import httpx2
from morpheus_gateway.documentation import Documentation

from tests.service.site.pages import Parsed

GATEWAYS_OWN = {
    "/openapi.json",
    "/api/v1/openapi.json",
    "/health",
    "/live",
    "/ready",
    "/.well-known/jwks.json",
    "/api/v1/models",
}
"""Addresses beside the site's that pages may link to; the gateway's own tests ask them."""
WITHOUT_CONSOLE = "/docs/reference/without-console"


def is_known(site: Documentation, path: str) -> bool:
    return path in site.files or path in site.moved or path in GATEWAYS_OWN


async def test_every_page_is_served_with_a_title_and_one_first_heading(
    http: httpx2.AsyncClient, pages: Mapping[str, Parsed]
) -> None:
    assert len(pages) > 20
    for address, page in pages.items():
        for asked in (address, f"{address}/"):
            answer = await http.get(asked)
            assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8"), asked
        [title] = page.all("title")[:1]
        assert "Morpheus API Gateway" in title.text, address
        assert len(page.all("h1")) == 1, address
        assert page.all("html")[0].attributes["lang"] == "en"


def test_no_two_pages_have_the_same_title(pages: Mapping[str, Parsed]) -> None:
    titles = Counter(page.all("title")[0].text for page in pages.values())
    assert [title for title, count in titles.items() if count > 1] == []


def test_every_link_of_every_page_leads_to_a_page_and_a_place_on_it(
    site: Documentation, pages: Mapping[str, Parsed]
) -> None:
    broken = []
    for address, page in pages.items():
        for target in page.addresses:
            parts = urlsplit(target)
            if parts.scheme or target.startswith("#/"):
                continue
            path = parts.path or address
            is_there = path.startswith("/") and is_known(site, path)
            ids = pages[path].ids if path in pages else {parts.fragment}
            if not is_there or (parts.fragment and parts.fragment not in ids):
                broken.append((address, target))
    assert broken == []


def test_nothing_is_loaded_from_elsewhere(site: Documentation, pages: Mapping[str, Parsed]) -> None:
    assert {target for page in pages.values() for target in page.loaded if not target.startswith("/docs")} == set()
    styles = {address: file.plain().decode() for address, file in site.files.items() if address.endswith(".css")}
    assert styles
    elsewhere = re.compile(r"@import|url\(\s*[\"']?(?:https?:)?//")
    assert [address for address, style in styles.items() if elsewhere.search(style)] == []


def test_nothing_is_inline_that_the_policy_of_the_pages_forbids(pages: Mapping[str, Parsed]) -> None:
    for address, page in pages.items():
        scripts = [script for script in page.all("script") if "src" not in script.attributes]
        assert [script for script in scripts if script.attributes.get("type") != "application/json"] == [], address
        assert page.all("style") == [], address
        names = {name for element in page.elements for name in element.attributes}
        assert {name for name in names if name == "style" or name.startswith("on")} == set(), address


def test_assets_are_named_with_the_digest_that_lets_browsers_keep_them(
    site: Documentation, pages: Mapping[str, Parsed]
) -> None:
    assets = {target for page in pages.values() for target in page.loaded if target.startswith("/docs/_static/")}
    assert assets
    for target in assets:
        path, _, version = target.partition("?v=")
        assert version == site.files[path].digest, target


def test_pages_can_be_heard_and_reached_by_keyboard(pages: Mapping[str, Parsed]) -> None:
    for address, page in pages.items():
        headings = [element for element in page.elements if element.attributes.get("role") == "heading"]
        assert [element for element in headings if "aria-level" not in element.attributes] == [], address
        assert [image for image in page.all("img") if not image.attributes.get("alt")] == [], address
        names = [aside.attributes.get("aria-label") for aside in page.all("aside")]
        assert len(set(names)) == len(names), address
        assert [code for code in page.all("pre") if code.attributes.get("tabindex") != "0"] == [], address


async def test_the_search_has_every_page_at_an_address_that_is_served(
    http: httpx2.AsyncClient, site: Documentation, pages: Mapping[str, Parsed]
) -> None:
    index = site.files["/docs/searchindex.js"].plain().decode()
    found = re.search(r'docnames:\[(.*?)\]|"docnames":\[(.*?)\]', index)
    assert found is not None
    names = re.findall(r'"([^"]+)"', found.group())
    names = [name for name in names if name != "docnames"]
    # as the script makes them of names, because of the kind of builder that its options name
    assert "BUILDER: 'dirhtml'" in site.files["/docs/_static/documentation_options.js"].plain().decode()
    addresses = [f"/docs/{name}/".removesuffix("index/") for name in names]
    assert {(await http.get(address)).status_code for address in addresses} == {200}
    assert {address.rstrip("/") for address in addresses} == pages.keys() - {"/docs/search", WITHOUT_CONSOLE}
