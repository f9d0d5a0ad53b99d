"""Pages of the documentation that are written from the code."""


def pages() -> dict[str, str]:
    """Return the Markdown of each page by its path from the root of the documentation, `api/models/list-models.md`."""
    return {}
