"""Names of models, as strangers write them on chain: how they are compared, and which of them are shown to nobody."""

import re
import unicodedata
from typing import Final

MAX_NAME_LENGTH: Final = 128
_RESERVED: Final = frozenset({"allmodels", "ratedbids"})
"""Routes under `/models/`: a model of that name could not be asked for."""
_NO_SEGMENTS: Final = frozenset({"", ".", ".."})
"""What clients and proxies take out of a path."""
_INVISIBLE: Final = frozenset(
    chr(code)
    for codes in (
        # joiners, fillers and vowels without a form; a blank of Braille; a note without a head
        (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0, 0x1D159),
        # selectors of variants
        range(0x180B, 0x1810),
        range(0xFE00, 0xFE10),
        range(0xE0100, 0xE01F0),
    )
    for code in codes
)
"""What shows nothing and is no control or format character by its category (Unicode's Default_Ignorable_Code_Point, and blanks)."""


def normalise(name: str) -> str:
    """Return the form in which names are compared: NFKC, case folded."""
    if name.isascii():
        return name.lower()
    # folding can take a name out of the compatibility form
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def slug_of(name: str) -> str:
    """Return a name as people would type it into a shell: letters and digits, joined by dashes. Empty if it has none."""
    return re.sub(r"[^a-z0-9]+", "-", normalise(name)).strip("-")


def is_odd(name: str) -> bool:
    """Tell whether a name cannot be told from another by its look, or cannot be asked for: its model is shown by its id."""
    if len(name) > MAX_NAME_LENGTH or name != name.strip() or not _NO_SEGMENTS.isdisjoint(name.split("/")):
        return True
    folded = normalise(name)
    if folded.startswith("0x") or folded in _RESERVED:
        return True
    if name.isascii():
        return not name.isprintable()
    return any(_shows_nothing(char) for char in name)


def _shows_nothing(char: str) -> bool:
    category = unicodedata.category(char)
    # control, format, surrogate, private use, unassigned; separators of lines and paragraphs
    return category[0] == "C" or category in {"Zl", "Zp"} or char in _INVISIBLE
