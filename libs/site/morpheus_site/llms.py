"""The documentation for language models: each page as Markdown, a list of them, and the whole text."""

from collections.abc import Sequence

from morpheus_site.markdown import Page, rewrite_links
from morpheus_site.navigation import Navigation
from morpheus_site.sources import PICTURES, Sources

_ABOUT = (
    "Every page is Markdown at the address given here. All of them in one file: [/llms-full.txt](/llms-full.txt). "
    "The API as OpenAPI 3.1: [/openapi.json](/openapi.json)."
)


def markdown_page(page: Page, sources: Sources) -> str:
    """Return a page as it is served: links begin with `/`, so that they hold wherever the text is read. Raises `BrokenLink`."""

    def rewritten(target: str) -> str | None:
        return sources.places.resolve(page, target, page_address=lambda name: f"/docs/{name}.md", file_address=_address)

    return rewrite_links(page.body, rewritten).strip() + "\n"


def llms_txt(title: str, sources: Sources, navigation: Navigation) -> str:
    """Return the list of all pages, in the form that https://llmstxt.org describes."""
    index, *groups = navigation.in_order()
    lines = [f"# {title}", "", f"> {_summary(sources, index[1])}", ""]
    lines += [_ABOUT, ""]
    for caption, names in groups:
        lines += [f"## {caption}", ""]
        for name in names:
            page = sources.page(name)
            lines.append(f"- [{page.title}](/docs/{name}.md)" + (f": {page.summary}" if page.summary else ""))
        lines.append("")
    return "\n".join(lines)


def llms_full_txt(sources: Sources, navigation: Navigation) -> str:
    """Return the text of all pages, one after the other, as the sidebar has them."""
    names = [name for _, group in navigation.in_order() for name in group]
    return "\n".join(f"<!-- /docs/{name}.md -->\n\n{markdown_page(sources.page(name), sources)}" for name in names)


def _summary(sources: Sources, names: Sequence[str]) -> str:
    return next((sources.page(name).summary for name in names), "")


def _address(address: str) -> str:
    if address.startswith("/docs/") and address.endswith(tuple(PICTURES)):
        # where Sphinx puts pictures
        return f"/docs/_images/{address.rpartition('/')[2]}"
    return address
