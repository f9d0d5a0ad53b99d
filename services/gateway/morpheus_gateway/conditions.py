"""Conditional requests: what a client says that it has already."""

from collections.abc import Iterable


def tags_named(if_none_match: Iterable[str]) -> list[str]:
    """Return the entity tags in all headers `If-None-Match` of a request, without the mark of weak ones: for a GET they are
    compared weakly (RFC 9110, 13.1.2), and a proxy that packs a body makes its tag weak. `*` stands for any.
    """
    return [tag.strip().removeprefix("W/") for tag in ",".join(if_none_match).split(",")]
