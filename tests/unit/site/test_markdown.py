import pytest
from morpheus_site.markdown import BrokenLink, Page, Places, links, rewrite_links, uses_directives

PLACES = Places(
    pages={
        "docs/index.md": "index",
        "docs/events.md": "events",
        "docs/decisions/README.md": "decisions/index",
        "docs/api/auth/login.md": "api/auth/login",
        "CHANGELOG.md": "changelog",
    },
    files={"docs/asyncapi.json", "docs/images/shape.svg"},
    exists=lambda path: path == "libs/common/errors.py",
)


def resolved(target: str, folder: str = "docs") -> str | None:
    page = Page("page", folder, "")
    return PLACES.resolve(
        page, target, page_address=lambda name: f"/docs/{name}.md", file_address=lambda path: f"<{path}>"
    )


@pytest.mark.parametrize(
    ("target", "folder", "address"),
    [
        ("events.md", "docs", "/docs/events.md"),
        ("events.md#order", "docs", "/docs/events.md#order"),
        ("../../events.md", "docs/api/auth", "/docs/events.md"),
        ("decisions/README.md", "docs", "/docs/decisions/index.md"),
        ("decisions", "docs", "/docs/decisions/index.md"),
        ("/docs/api/auth/login", "docs", "/docs/api/auth/login.md"),
        ("../CHANGELOG.md", "docs", "/docs/changelog.md"),
        ("docs/events.md", "", "/docs/events.md"),
        ("asyncapi.json", "docs", "</docs/asyncapi.json>"),
        ("/openapi.json", "docs", "</openapi.json>"),
        ("https://example.com/a.md", "docs", "https://example.com/a.md"),
        ("#here", "docs", "#here"),
    ],
)
def test_a_link_leads_where_its_file_is_on_the_site(target: str, folder: str, address: str) -> None:
    assert resolved(target, folder) == address


def test_a_link_to_a_file_that_is_only_in_the_repository_becomes_words() -> None:
    assert resolved("../libs/common/errors.py") is None
    assert rewrite_links("see [the `errors`](x.py), all", lambda _: None) == "see the `errors`, all"


@pytest.mark.parametrize("target", ["nothing.md", "../../etc/passwd", "/docs/nothing"])
def test_a_link_to_nothing_stops_the_build(target: str) -> None:
    with pytest.raises(BrokenLink, match=r"page\.md links to"):
        resolved(target)


def test_links_are_found_around_code_and_pictures_and_not_in_code() -> None:
    text = "[`a`](1) ![b\nb](2) [![c](3)](4) `[d](5)` [e(f)](6)\n\n```md\n[g](7)\n```\n  ~~~\n  [h](8)\n  ~~~\n[i](9)\n"
    assert sorted(links(text)) == ["1", "2", "3", "4", "6", "9"]


def test_rewriting_a_link_leaves_everything_else_as_it_is() -> None:
    text = "# A\n\n[`a`](1) ``b ` c`` [![c](3)](4)\n\n```md\n[g](7)\n```\n"
    assert rewrite_links(text, lambda target: target) == text
    assert rewrite_links(text, lambda target: f"/{target}") == text.replace("(1)", "(/1)").replace(
        "(3)](4)", "(/3)](/4)"
    )


@pytest.mark.parametrize(
    "text", ["```{note}\nx\n```", ":::{tip}\nx\n:::", "see {ref}`here`", "  ~~~{toctree}\n  a\n  ~~~"]
)
def test_what_only_sphinx_understands_is_seen(text: str) -> None:
    assert uses_directives(text)


@pytest.mark.parametrize(
    "text", ["`/keys/{key_id}` `x`", "```sh\n:::\n```", "> [!NOTE]\n> x", "```text\n```{note}\n```"]
)
def test_what_a_code_host_understands_is_no_directive(text: str) -> None:
    assert not uses_directives(text)


def test_title_and_summary_are_plain_words() -> None:
    text = "# The `GET` of *it*\n\n| a |\n|---|\n\nKeeps `session_id` of [a key](x.md). And more.\n"
    page = Page("page", "docs", text)
    assert page.title == "The GET of it"
    assert page.summary == "Keeps session_id of a key."
    assert Page("page", "docs", f"---\ndescription: 'Said.'\n---\n\n{text}").summary == "Said."
    decision = "# 1. It\n\n## Status\n\nAccepted.\n\n## Context\n\nIt was needed. Now.\n"
    assert Page("page", "docs", decision).summary == "It was needed."
    assert Page("page", "docs", f"---\ndescription: Said.\n---\n\n{text}").body == text


def test_a_heading_in_code_is_no_title() -> None:
    assert Page("page", "docs", "```sh\n# comment\n```\n\n# Title\n").title == "Title"
    with pytest.raises(ValueError, match="no heading"):
        _ = Page("page", "docs", "```sh\n# comment\n```\n").title
