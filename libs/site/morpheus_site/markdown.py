"""Markdown as it is written for a code host: its links, and what a page says of itself."""

import posixpath
import re
from collections.abc import Callable, Container
from dataclasses import dataclass

_CODE = re.compile(
    r"^[ \t]*(?P<fence>`{3,}|~{3,})[^\n]*\n.*?^[ \t]*(?P=fence)[`~]*[ \t]*$|(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`)",
    re.MULTILINE | re.DOTALL,
)
_LINK = re.compile(r"(?P<picture>!?)\[(?P<text>(?:[^\[\]]|\[[^\[\]]*\](?:\([^()]*\))?)*)\]\((?P<target>[^()\s]+)\)")
_MASK = re.compile("\x00(\\d+)\x00")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_FENCED_DIRECTIVE = re.compile(r"[`~]{3,}\{")
# a role's text is a code span, which is masked when this looks for it
_ROLE = re.compile(r"\{[a-z:-]+\}\x00|^[ \t]*:{3,}\S*$", re.MULTILINE)
_FRONT_MATTER = re.compile(r"\A---\n(?P<fields>.*?)\n---\n+", re.DOTALL)
_MARKS = re.compile(r"!?\[([^\[\]]*)\]\([^()\s]*\)|[*`]+")
_STATUS = re.compile(r"^## Status\n.*?(?=^## )", re.DOTALL | re.MULTILINE)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\d`\[(])")


class BrokenLink(Exception):
    """A link leads to nothing that is in the repository."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the site. `name` is its address below `/docs/`; links of `text` start in `folder` of the repository."""

    name: str
    folder: str
    text: str

    @property
    def title(self) -> str:
        """The first heading."""
        heading = re.search(r"^# (.+)$", _without_code(self.body), re.MULTILINE)
        if heading is None:
            raise ValueError(f"{self.name}.md has no heading of the first level")
        return _plain(_with_code(heading[1], self.body))

    @property
    def body(self) -> str:
        """The text without what stands in front of it."""
        return _FRONT_MATTER.sub("", self.text, count=1)

    @property
    def summary(self) -> str:
        """`description` of the front matter, or the first sentence of the first paragraph that is not about the page's status."""
        front = _FRONT_MATTER.match(self.text)
        if front and (said := re.search(r"^description: *(.+)$", front["fields"], re.MULTILINE)):
            return said[1].strip().strip("\"'")
        for block in re.split(r"\n\s*\n", _STATUS.sub("", self.body)):
            paragraph = block.strip()
            if paragraph and not re.match(r"#|[-*|>!]|\d+\.|```|~~~", paragraph):
                return _SENTENCE_END.split(_plain(" ".join(paragraph.split())))[0]
        return ""


def uses_directives(text: str) -> bool:
    """Tell whether there is something in `text` that only Sphinx understands: a code host and a `.md` page would show it."""
    fences = (match.group().lstrip() for match in _CODE.finditer(text) if match["fence"])
    return any(_FENCED_DIRECTIVE.match(fence) for fence in fences) or _ROLE.search(_without_code(text)) is not None


def links(text: str) -> list[str]:
    """Return where the links and pictures of `text` lead; code is left out."""
    found: list[str] = []

    def note(target: str) -> str:
        found.append(target)
        return target

    rewrite_links(text, note)
    return found


def rewrite_links(text: str, rewrite: Callable[[str], str | None]) -> str:
    """Return `text` with every target of a link or picture put through `rewrite`. None: the words stay, without a link."""

    def replaced(match: re.Match[str]) -> str:
        target = rewrite(match["target"])
        words = _LINK.sub(replaced, match["text"])
        return words if target is None else f"{match['picture']}[{words}]({target})"

    return _with_code(_LINK.sub(replaced, _without_code(text)), text)


@dataclass(frozen=True, slots=True)
class Places:
    """What a link can lead to: pages by their file in the repository, other files of `docs/`, and the rest of the repository."""

    pages: dict[str, str]
    files: Container[str]
    exists: Callable[[str], bool]

    def resolve(
        self, page: Page, target: str, *, page_address: Callable[[str], str], file_address: Callable[[str], str]
    ) -> str | None:
        """Return `target` as it has to stand on the site; None if it leads to a file that is only in the repository.

        Raises `BrokenLink`.
        """
        if _SCHEME.match(target) or target.startswith("#"):
            return target
        path, mark, fragment = target.partition("#")
        if path.startswith("/"):
            if not path.startswith("/docs/"):
                # the gateway's own: /openapi.json, /llms.txt
                return file_address(path) + mark + fragment
            path = path[1:]
        else:
            path = posixpath.normpath(posixpath.join(page.folder, path))
        for file in (path, f"{path}.md", f"{path}/README.md", f"{path}/index.md"):
            if file in self.pages:
                return page_address(self.pages[file]) + mark + fragment
        if path in self.files:
            return file_address(f"/{path}") + mark + fragment
        if path.startswith("../") or not self.exists(path):
            raise BrokenLink(f"{page.name}.md links to {target}, which is not there")
        return None


def _without_code(text: str) -> str:
    count = -1

    def masked(_: re.Match[str]) -> str:
        nonlocal count
        count += 1
        return f"\x00{count}\x00"

    return _CODE.sub(masked, text)


def _with_code(masked: str, text: str) -> str:
    pieces = [match.group() for match in _CODE.finditer(text)]
    return _MASK.sub(lambda match: pieces[int(match[1])], masked)


def _plain(text: str) -> str:
    return _MARKS.sub(lambda match: match[1] or "", text).strip()
