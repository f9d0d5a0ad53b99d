"""Where the pages come from: `docs/`, some texts of the repository's root, and the code."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from morpheus_site import reference
from morpheus_site.markdown import Page, Places, uses_directives

ROOT_TEXTS = {"CHANGELOG.md": "changelog", "CONTRIBUTING.md": "contributing"}
"""Texts that stand at the root of the repository because readers look for them there."""
PICTURES = frozenset({".svg", ".png"})


class NotPlain(Exception):
    """A page uses what only Sphinx understands."""


class PageTwice(Exception):
    """A page is in `docs/` and made from the code too."""


@dataclass(frozen=True, slots=True)
class Sources:
    """All pages in the order in which they were found, and what their links can lead to."""

    pages: tuple[Page, ...]
    places: Places
    files: Mapping[str, Path]
    """What is no page, by its path in `docs/`: pictures, the contracts."""

    def page(self, name: str) -> Page:
        """Return the page of this name."""
        return next(page for page in self.pages if page.name == name)


def collect(root: Path, generated: Mapping[str, str]) -> Sources:
    """Read the pages of the repository at `root`. `generated` are those made from the code: Markdown by path in `docs/`.

    Raises `NotPlain` for a page that would not read well elsewhere, and `PageTwice`.
    """
    docs = root / "docs"
    found = {
        str(path.relative_to(root)): path.read_text()
        for path in (*sorted(docs.rglob("*.md")), *(root / text for text in ROOT_TEXTS))
        if path.is_file()
    }
    made = {f"docs/{path}": text for path, text in {**generated, reference.SOURCE: reference.TEXT}.items()}
    if twice := found.keys() & made.keys():
        raise PageTwice(f"written by hand and made from the code: {', '.join(sorted(twice))}")
    found |= made
    pages = {file: Page(_name(file), file.rpartition("/")[0], text) for file, text in found.items()}
    for file, page in pages.items():
        if uses_directives(page.text):
            raise NotPlain(
                f"{file} has a directive or role of Sphinx, which a code host and the .md page would show as it is"
            )
    kept = sorted(path for path in docs.rglob("*") if path.is_file() and path.suffix in {*PICTURES, ".json"})
    files = {path.relative_to(docs).as_posix(): path for path in kept}
    places = Places(
        pages={file: page.name for file, page in pages.items()},
        files=frozenset(f"docs/{name}" for name in files),
        exists=lambda path: (root / path).exists(),
    )
    return Sources(tuple(pages.values()), places, files)


def _name(file: str) -> str:
    if file in ROOT_TEXTS:
        return ROOT_TEXTS[file]
    folder, _, name = file.removeprefix("docs/").removesuffix(".md").rpartition("/")
    name = "index" if name == "README" else name
    return f"{folder}/{name}" if folder else name
