"""Conditional requests: what a client says that it has already."""

from fastapi import Request


def tags_named(request: Request) -> list[str]:
    """Return the entity tags of `If-None-Match`, without the mark of weak ones: for a GET they are compared weakly (RFC 9110,
    13.1.2), and a proxy that packs a body makes its tag weak. `*` stands for any.
    """
    named = ",".join(request.headers.getlist("if-none-match")).split(",")
    return [tag.strip().removeprefix("W/") for tag in named]
