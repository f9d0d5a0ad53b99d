"""What stands in the sidebar, in which order: the one place that lists the pages."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase


class PageMissing(Exception):
    """A page is listed and not there."""


@dataclass(frozen=True, slots=True)
class Group:
    """Pages under one caption. A pattern (`api/*/index`) stands for all pages that fit, in the order in which they come."""

    title: str
    pages: tuple[str, ...]


INDEX = "index"
NAVIGATION = (
    Group("Start", ("getting-started", "sessions-and-stake", "faq")),
    Group("Guides", ("clients", "streaming-and-errors", "privacy")),
    Group("API", ("api/index", "reference", "api/*/index", "errors")),
    Group("Events", ("events", "events-reference")),
    Group("Operators", ("operations", "kubernetes", "runbooks", "settings", "metrics", "commands")),
    Group("Project", ("architecture", "security", "decisions/index", "benchmarks", "changelog", "contributing")),
)
"""Every page stands here, or below the index of its folder: `decisions/index` brings along all of `decisions/`."""


@dataclass(frozen=True, slots=True)
class Navigation:
    """The sidebar of a build: what is under each caption, and what is below each index."""

    groups: tuple[Group, ...]
    children: dict[str, tuple[str, ...]]

    def in_order(self) -> list[tuple[str, list[str]]]:
        """Return the names of all pages by caption, as one reads them."""
        listed = [
            (group.title, [name for page in group.pages for name in self._with_children(page)]) for group in self.groups
        ]
        return [("", [INDEX]), *listed]

    def _with_children(self, page: str) -> Iterable[str]:
        yield page
        for child in self.children.get(page, ()):
            yield from self._with_children(child)


def navigate(names: Sequence[str], groups: Sequence[Group] = NAVIGATION, *, partial: bool = False) -> Navigation:
    """Return the sidebar for the pages of these names.

    Raises `PageMissing` for a page that is listed and not there, or there and not listed. `partial` leaves out the
    former and puts the latter under a caption of their own: for looking at what is being written.
    """
    filled = [Group(group.title, tuple(_pages(group, names))) for group in groups]
    missing = [page for group in filled for page in group.pages if page not in names]
    listed = {page for group in filled for page in group.pages} | {INDEX}
    children = {
        name: tuple(
            child for child in names if child not in listed and _folder(child) == _folder(name) and child != name
        )
        for name in names
        if name.endswith("/index")
    }
    placed = listed.union(*children.values())
    unplaced = [name for name in names if name not in placed]
    if not partial:
        if INDEX not in names:
            missing.insert(0, INDEX)
        if missing or unplaced:
            raise PageMissing(
                f"listed in morpheus_site/navigation.py and not there: {', '.join(missing) or 'none'}; "
                f"there and not listed: {', '.join(unplaced) or 'none'}"
            )
        return Navigation(tuple(filled), children)
    filled = [Group(group.title, tuple(page for page in group.pages if page in names)) for group in filled]
    if unplaced:
        filled.append(Group("Not listed", tuple(unplaced)))
    return Navigation(tuple(group for group in filled if group.pages), children)


def _pages(group: Group, names: Sequence[str]) -> Iterable[str]:
    for page in group.pages:
        if "*" in page:
            yield from (name for name in names if fnmatchcase(name, page) and name.count("/") == page.count("/"))
        else:
            yield page


def _folder(name: str) -> str:
    return name.rpartition("/")[0]
