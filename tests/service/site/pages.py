"""What a page of HTML has in it, as a browser would find it."""

from dataclasses import dataclass, field
from functools import cached_property
from html.parser import HTMLParser

_READ = frozenset({"title", "h1"})
_VOID = frozenset({"area", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"})


@dataclass
class Element:
    """`text` of those that are read: titles and first headings."""

    tag: str
    attributes: dict[str, str]
    text: str = ""


@dataclass
class Parsed:
    elements: list[Element] = field(default_factory=list)

    def all(self, tag: str) -> list[Element]:
        return [element for element in self.elements if element.tag == tag]

    @cached_property
    def ids(self) -> set[str]:
        return {element.attributes["id"] for element in self.elements if "id" in element.attributes}

    @property
    def addresses(self) -> list[str]:
        """Where its links lead, and what it loads."""
        return [
            element.attributes[name]
            for element in self.elements
            for name in ("href", "src", "action")
            if name in element.attributes
        ]

    @property
    def loaded(self) -> list[str]:
        """What a browser fetches without being asked to."""
        tags = {"script", "img", "link", "iframe", "source", "video", "audio", "object", "embed"}
        found = [element for element in self.elements if element.tag in tags]
        named = [element.attributes.get(name, "#") for element in found for name in ("src", "href", "data")]
        # the page itself, as its own neighbour
        return [address for address in named if address != "#"]


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found = Parsed()
        self._open: list[Element] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.found.elements.append(element)
        if tag not in _VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.elements.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop().tag != tag:
            pass

    def handle_data(self, data: str) -> None:
        for element in self._open:
            if element.tag in _READ:
                element.text += data


def parse(text: str) -> Parsed:
    parser = _Parser()
    parser.feed(text)
    parser.close()
    return parser.found
