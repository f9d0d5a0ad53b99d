"""Small sites, built as the real one is."""

from pathlib import Path

import pytest
from morpheus_site.build import build
from morpheus_site.markdown import BrokenLink
from morpheus_site.sources import NotPlain, PageTwice
from morpheus_site.sphinx_build import SphinxFailed

# what MyST calls of Sphinx is not ours to mend
pytestmark = pytest.mark.filterwarnings("ignore:.*Check CHANGES for Sphinx API modifications")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    (root / "docs" / "decisions").mkdir(parents=True)
    (root / "docs" / "index.md").write_text("# The gateway\n\nIt is one. Look at [events](events.md#order).\n")
    (root / "docs" / "events.md").write_text(
        "# Events\n\n## Order\n\n| a | |\n|---|---|\n| `b` | c |\n\n```sh\nrun\n```\n"
    )
    (root / "docs" / "decisions" / "README.md").write_text("# Decisions\n\n[One](0001-one.md)\n")
    (root / "docs" / "decisions" / "0001-one.md").write_text("# 1. One\n\nBack to the [list](README.md).\n")
    return root


GENERATED = {"api/index.md": "# API\n\n[Codes](../errors.md).\n", "errors.md": "# Errors\n\nAll.\n"}


def built(root: Path, name: str = "site", generated: dict[str, str] = GENERATED) -> Path:
    destination = root.parent / name
    build(root, generated, root / ".site", destination, partial=True)
    return destination


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_sources_give_the_same_bytes(root: Path) -> None:
    first, second = content(built(root, "first")), content(built(root, "second"))
    assert first == second
    assert "manifest.json" in first


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("# Events\n\n[gone](gone.md)\n", BrokenLink),
        ("# Events\n\n[here](#gone)\n", SphinxFailed),
        ("# Events\n\n[there](index.md#gone)\n", SphinxFailed),
        ("# Events\n\n```{note}\nx\n```\n", NotPlain),
    ],
)
def test_what_is_wrong_in_a_page_stops_the_build_and_leaves_the_old_site(
    root: Path, text: str, problem: type[Exception]
) -> None:
    before = content(built(root))
    (root / "docs" / "events.md").write_text(text)
    with pytest.raises(problem):
        built(root)
    assert content(root.parent / "site") == before


def test_a_page_is_written_by_hand_or_made_from_the_code_and_not_both(root: Path) -> None:
    with pytest.raises(PageTwice, match=r"docs/events\.md"):
        built(root, generated={"events.md": "# Events\n"})
