"""From the repository to the folder that the gateway serves."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from morpheus_site import reference
from morpheus_site.html import (
    STATIC,
    STYLES,
    accessible,
    digest_of,
    style_sheet,
    with_absolute_addresses,
    with_head,
    without_inline,
)
from morpheus_site.llms import llms_full_txt, llms_txt, markdown_page
from morpheus_site.navigation import INDEX, Navigation, navigate
from morpheus_site.old_links import moved_pages, operation_pages
from morpheus_site.sources import PICTURES, Sources, collect
from morpheus_site.sphinx_build import TITLE, run_sphinx, write_sources
from morpheus_site.store import Served, write_site

_VENDOR = Path(__file__).parent / "vendor" / "swagger_ui"
_VENDORED = ("swagger-ui-bundle.js", "swagger-ui.css", "LICENSE", "NOTICE")
_VERSIONED = (STATIC, "/docs/_images", "/docs/searchindex.js")
"""What pages name with its digest, so that a browser can keep it."""
_UNSERVED = frozenset({".map", ".inv", ""})
"""Maps of what is minified, Sphinx's inventory for other sites, its own notes (which begin with a dot)."""


def build(root: Path, generated: Mapping[str, str], work: Path, destination: Path, *, partial: bool = False) -> int:
    """Build the site of the repository at `root` into `destination`, by way of `work`. Returns how many pages it has.

    `partial`: what is not there yet is left out, published addresses included. Raises `PageMissing`, `BrokenLink`,
    `NotPlain`, `NoSuccessor`, `SphinxFailed`.
    """
    if partial and not (root / "docs" / "index.md").exists():
        generated = {"index.md": f"# {TITLE}\n", **generated}
    sources = collect(root, generated)
    names = [page.name for page in sources.pages]
    navigation = navigate(names, partial=partial)
    published = {} if partial else moved_pages(operation_pages(root / "docs" / "openapi.json"), names)
    shutil.rmtree(work, ignore_errors=True)
    write_sources(sources, navigation, work / "source")
    run_sphinx(work / "source", work / "html", work / "doctrees")
    served = _assets(work / "html") | _texts(sources, navigation)
    served |= {
        f"/docs/{name}": Served(file.read_bytes(), file.suffix)
        for name, file in sources.files.items()
        if file.suffix not in PICTURES
    }
    served |= _pages(sources, work / "html", served)
    moved = {f"/docs/{old}": address_of(name) for old, name in published.items()} | _other_names(names)
    write_site(destination, served, moved)
    return len(names)


def address_of(name: str) -> str:
    """Return where a page is served: `decisions/index` at `/docs/decisions`."""
    return f"/docs/{name}".removesuffix(f"/{INDEX}").removesuffix("/.")


def _assets(html: Path) -> dict[str, Served]:
    found = {
        f"/docs/{path.relative_to(html)}": Served(path.read_bytes(), path.suffix)
        for path in sorted(html.rglob("*"))
        if path.is_file() and path.suffix not in {*_UNSERVED, ".html"}
    }
    found |= {
        f"{STATIC}/swagger-ui/{name}": Served((_VENDOR / name).read_bytes(), Path(name).suffix or ".txt")
        for name in _VENDORED
    }
    return found


def _texts(sources: Sources, navigation: Navigation) -> dict[str, Served]:
    texts = {f"/docs/{page.name}.md": markdown_page(page, sources) for page in sources.pages}
    texts["/llms.txt"] = llms_txt(TITLE, sources, navigation)
    texts["/llms-full.txt"] = llms_full_txt(sources, navigation)
    return {address: Served(text.encode(), Path(address).suffix) for address, text in texts.items()}


def _pages(sources: Sources, html: Path, assets: dict[str, Served]) -> dict[str, Served]:
    """Return the HTML as it is served, and the files that what was inline in it has become."""
    extracted: dict[str, bytes] = {}
    attributes: dict[str, str] = {}
    texts = {
        path.parent.relative_to(html).as_posix(): without_inline(path.read_text(), extracted, attributes)
        for path in sorted(html.rglob("index.html"))
    }
    extracted[STYLES] = style_sheet(attributes)
    found = {address: Served(content, Path(address).suffix) for address, content in extracted.items()}
    digests = {
        address: digest_of(what.content)
        for address, what in {**assets, **found}.items()
        if address.startswith(_VERSIONED)
    }
    pages = {address_of(page.name): page for page in sources.pages}
    for folder, text in texts.items():
        address = address_of(f"{folder}/{INDEX}")
        finished = accessible(with_absolute_addresses(text, f"{address}/", digests))
        if (page := pages.get(address)) is not None:
            finished = with_head(finished, description=page.summary, markdown=f"/docs/{page.name}.md")
        found[address] = Served(finished.encode(), ".html")
    for name, try_it in ((reference.NAME, True), (reference.WITHOUT_CONSOLE, False)):
        text = with_absolute_addresses(reference.html(try_it=try_it), f"/docs/{name}/", digests)
        found[f"/docs/{name}"] = Served(text.encode(), ".html")
    return found


def _other_names(names: list[str]) -> dict[str, str]:
    """Return what else an index could be called."""
    indexes = [name for name in names if name.endswith("/index")]
    moved = {f"/docs/{name}": address_of(name) for name in (INDEX, *indexes)}
    return moved | {f"{address_of(name)}.md": f"/docs/{name}.md" for name in indexes}
