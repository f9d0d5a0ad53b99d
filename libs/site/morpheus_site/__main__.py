"""`python -m morpheus_site`: build the documentation into the gateway's package (`make docs`)."""

import argparse
import sys
from pathlib import Path

from morpheus_site import generated
from morpheus_site.build import build
from morpheus_site.markdown import BrokenLink
from morpheus_site.navigation import PageMissing
from morpheus_site.old_links import NoSuccessor
from morpheus_site.sources import NotPlain, PageTwice
from morpheus_site.sphinx_build import SphinxFailed

ROOT = Path(__file__).resolve().parents[3]


def main() -> None:
    """Build the site. Whatever is wrong with it is said, and nothing is written then."""
    parser = argparse.ArgumentParser(prog="python -m morpheus_site", description=__doc__)
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository")
    parser.add_argument("--to", type=Path, help="where the site goes; by default into the gateway's package")
    parser.add_argument("--partial", action="store_true", help="leave out what is not written yet")
    arguments = parser.parse_args()
    root = arguments.root.resolve()
    destination = arguments.to or root / "services" / "gateway" / "morpheus_gateway" / "site"
    try:
        count = build(root, generated.pages(), root / ".site", destination, partial=arguments.partial)
    except SphinxFailed:
        sys.exit("docs: not built; Sphinx has said above what is wrong")
    except (BrokenLink, NoSuccessor, NotPlain, PageMissing, PageTwice) as problem:
        sys.exit(f"docs: not built: {problem}")
    print(f"docs: {count} pages", flush=True)  # noqa: T201 - a command's output


if __name__ == "__main__":
    main()
