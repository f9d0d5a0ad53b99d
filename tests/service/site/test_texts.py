"""The documentation as language models read it."""

import httpx2
import pytest
from morpheus_gateway.documentation import Documentation
from morpheus_site.markdown import links

from tests.service.site.test_pages import is_known


def markdown_pages(site: Documentation) -> list[str]:
    return [address for address in site.files if address.endswith(".md")]


async def test_llms_txt_lists_every_page_as_markdown(http: httpx2.AsyncClient, site: Documentation) -> None:
    answer = await http.get("/llms.txt")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    lines = answer.text.splitlines()
    assert lines[0] == "# Morpheus API Gateway"
    assert lines[2].startswith("> ")
    assert sum(line.startswith("## ") for line in lines) > 3
    listed = [target for target in links(answer.text) if target.endswith(".md")]
    assert sorted({*listed, "/docs/index.md"}) == sorted(markdown_pages(site))
    assert [target for target in links(answer.text) if not is_known(site, target)] == []


async def test_every_page_is_markdown_too_and_says_where(http: httpx2.AsyncClient, site: Documentation) -> None:
    for address, file in site.files.items():
        if not file.is_page or address in {"/docs/search", "/docs/reference/without-console"}:
            continue
        html = (await http.get(address)).text
        [named] = [part.partition('"')[0] for part in html.split('type="text/markdown" href="')[1:]]
        answer = await http.get(named)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/markdown; charset=utf-8"), named
        if address != "/docs":
            assert (await http.get(f"{address}.md", follow_redirects=True)).text == answer.text, address


@pytest.mark.parametrize("what", ["links", "directives"])
def test_markdown_pages_hold_wherever_they_are_read(site: Documentation, what: str) -> None:
    for address in markdown_pages(site):
        text = site.files[address].plain().decode()
        assert text.lstrip().startswith("# "), address
        if what == "directives":
            assert "{toctree}" not in text, address
            continue
        for target in links(text):
            path = target.partition("#")[0]
            assert not path or "://" in path or path.startswith("mailto:") or is_known(site, path), (address, target)


async def test_llms_full_txt_has_the_whole_text(http: httpx2.AsyncClient, site: Documentation) -> None:
    answer = await http.get("/llms-full.txt")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    for address in markdown_pages(site):
        assert site.files[address].plain().decode() in answer.text, address
