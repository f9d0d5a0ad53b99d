"""What strangers wrote stays text: in tables, in code, in paragraphs."""

import pytest
from morpheus_site.generated import text


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("a | b", "a \\| b"),
        ("`a|b`", "`a\\|b`"),
        ("one\ntwo   three", "one two three"),
        ("<script> & `<kept>`", "&lt;script&gt; &amp; `<kept>`"),
        ("a lone ` tick", "a lone \\` tick"),
        ("``two ` ticks``", "``two ` ticks``"),
    ],
)
def test_a_cell_stays_one_cell(written: str, shown: str) -> None:
    assert text.cell(written) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [("a", "`a`"), ("a`b", "``a`b``"), ("`a", "`` `a ``"), ("a``b`", "``` a``b` ```")]
)
def test_code_shows_its_ticks(value: str, shown: str) -> None:
    assert text.code(value) == shown


def test_a_block_ends_where_its_text_does() -> None:
    assert text.block("text", "a\n```\nb\n") == "````text\na\n```\nb\n````"


def test_a_column_without_anything_is_left_out() -> None:
    assert (
        text.table(("A", "B", "C"), [("1", "", "x"), ("2", "", "")]) == "| A | C |\n| --- | --- |\n| 1 | x |\n| 2 |  |"
    )


def test_links_are_moved_with_their_page_and_addresses_stay() -> None:
    moved = text.from_below("[a](api/a.md) [b](#b) [c](https://c.example) [d](/openapi.json)", 2)
    assert moved == "[a](../../api/a.md) [b](#b) [c](https://c.example) [d](/openapi.json)"
