"""Pages as Sphinx wants them, and Sphinx."""

import shutil
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace

from morpheus_site.markdown import Page, rewrite_links
from morpheus_site.navigation import INDEX, Group, Navigation
from morpheus_site.sources import PICTURES, Sources

TITLE = "Morpheus API Gateway"
_THEME = Path(__file__).parent / "theme"

CONFIGURATION: dict[str, Any] = {
    "project": TITLE,
    "language": "en",
    "extensions": ["myst_parser", "sphinx_copybutton"],
    "nitpicky": True,
    # an example with `…` in it is no JSON and is shown all the same
    "suppress_warnings": ["misc.highlighting_failure"],
    "templates_path": [str(_THEME / "templates")],
    "myst_enable_extensions": ["alert"],
    "myst_heading_anchors": 4,
    # `site:` is what `write_sources` writes before addresses that are no pages of Sphinx's
    "myst_url_schemes": {"http": None, "https": None, "mailto": None, "site": {"url": "{{path}}"}},
    "copybutton_exclude": ".linenos, .gp, .go",
    "html_theme": "furo",
    "html_theme_options": {"navigation_with_keys": False},
    "html_title": TITLE,
    "html_static_path": [str(_THEME / "static")],
    "html_css_files": ["site.css"],
    "html_js_files": ["origin.js"],
    "html_favicon": str(_THEME / "static" / "icon.svg"),
    "html_copy_source": False,
    "html_show_sphinx": False,
    "html_show_copyright": False,
    "html_use_index": False,
    "html_domain_indices": False,
    # a date in a page would make every build another one
    "html_last_updated_fmt": None,
}


class SphinxFailed(Exception):
    """Sphinx warned of something; it has said of what."""


def write_sources(sources: Sources, navigation: Navigation, folder: Path) -> None:
    """Write what Sphinx builds from: links as it resolves them, and the sidebar. Raises `BrokenLink`."""
    for page in sources.pages:

        def rewritten(target: str, page: Page = page) -> str | None:
            return sources.places.resolve(
                page, target, page_address=lambda name: f"/{name}.md", file_address=_source_address
            )

        text = rewrite_links(page.text, rewritten)
        if page.name == INDEX:
            text += "".join(_toctree(_entries(sources, group), caption=group.title) for group in navigation.groups)
        elif children := navigation.children.get(page.name):
            text += _toctree([f"/{child}" for child in children])
        target = folder / f"{page.name}.md"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    for name, file in sources.files.items():
        if file.suffix in PICTURES:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


def run_sphinx(sources: Path, html: Path, doctrees: Path) -> None:
    """Build HTML. Raises `SphinxFailed`: a warning is an error."""
    # Sphinx registers what it knows with docutils, for the whole process
    with docutils_namespace():
        app = Sphinx(
            srcdir=sources,
            confdir=None,
            outdir=html,
            doctreedir=doctrees,
            buildername="dirhtml",
            confoverrides=CONFIGURATION,
            status=None,
            warningiserror=True,
            freshenv=True,
        )
        app.build(force_all=True)
    if app.statuscode != 0:
        raise SphinxFailed


def _source_address(address: str) -> str:
    if Path(address).suffix in PICTURES:
        return address.removeprefix("/docs")
    return f"site:{address}"


def _entries(sources: Sources, group: Group) -> list[str]:
    """Return the pages of a group; a title that begins with the group's (`API: auth`) is shown without it."""
    entries = []
    for name in group.pages:
        begin, separator, rest = sources.page(name).title.partition(": ")
        is_shortened = separator and begin == group.title
        entries.append(f"{rest.capitalize()} </{name}>" if is_shortened else f"/{name}")
    return entries


def _toctree(entries: list[str], caption: str = "") -> str:
    said = f":caption: {caption}\n" if caption else ""
    return "\n\n```{toctree}\n:hidden:\n" + said + "\n" + "".join(f"{entry}\n" for entry in entries) + "```\n"
