"""The fenced blocks of a page of the documentation, by the heading they stand under."""

import re
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"
PLACEHOLDER = "https://gateway.example"
"""The address that pages name; the site puts its own in its place, tests that of a running stack."""

_HEADING_OR_BLOCK = re.compile(
    r"^#+ (?P<heading>.+?)$|^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    heading: str
    language: str
    text: str

    def at(self, gateway_url: str) -> str:
        """The text for a gateway at this address (without a path)."""
        return self.text.replace(PLACEHOLDER, gateway_url)


def blocks(page: str, *languages: str) -> list[Block]:
    """Return the blocks in these languages of `docs/<page>`, in their order."""
    found, heading = [], ""
    for match in _HEADING_OR_BLOCK.finditer((DOCS / page).read_text()):
        if match["language"] is None:
            heading = match["heading"]
        elif match["language"] in languages:
            found.append(Block(heading, match["language"], match["text"]))
    return found
