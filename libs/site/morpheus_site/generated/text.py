"""Markdown that every reader of it understands: paragraphs, tables and code, with what strangers wrote kept as text."""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

_CODE_SPAN = re.compile(r"(?P<ticks>`+)(?!`)(?P<code>.+?)(?<!`)(?P=ticks)(?!`)", re.DOTALL)
_LOCAL_LINK = re.compile(r"\]\((?![a-z]+:|#|/)")


def prose(text: str) -> str:
    """Return Markdown as it is, but for HTML, which is shown and not obeyed. Code in it stays code."""
    return _outside_code(text, lambda piece: piece.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def cell(text: str) -> str:
    """Return Markdown that can stand in a table's cell: one line, no bar and no tick that the table would take for its own."""
    one_line = " ".join(text.split())
    return _outside_code(prose(one_line), lambda piece: piece.replace("`", "\\`")).replace("|", "\\|")


def code(value: str) -> str:
    """Return a code span that shows `value`, whatever ticks it has."""
    longest = max((len(ticks) for ticks in re.findall(r"`+", value)), default=0)
    ticks = "`" * (longest + 1)
    space = " " if value.startswith("`") or value.endswith("`") else ""
    return f"{ticks}{space}{value}{space}{ticks}"


def block(language: str, text: str) -> str:
    """Return a code block that ends where `text` does, whatever ticks it has."""
    longest = max((len(ticks) for ticks in re.findall(r"^`+", text, re.MULTILINE)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of cells in Markdown. A column in which nothing stands is left out."""
    filled = list(rows)
    kept = [index for index in range(len(head)) if any(row[index] for row in filled)]
    lines = [[head[index] for index in kept], ["---"] * len(kept)]
    lines += [[cell(row[index]) for index in kept] for row in filled]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page(*parts: str | None) -> str:
    """Return a page of these parts, one empty line between them. None is left out."""
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def as_json(value: Any) -> str:
    """Return JSON as people read it."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def from_below(text: str, depth: int) -> str:
    """Return Markdown whose links start at the documentation's root as it has to be on a page so many folders below."""
    return _LOCAL_LINK.sub("](" + "../" * depth, text)


def _outside_code(text: str, change: Any) -> str:
    pieces, last = [], 0
    for match in _CODE_SPAN.finditer(text):
        pieces += [change(text[last : match.start()]), match.group()]
        last = match.end()
    return "".join([*pieces, change(text[last:])])
