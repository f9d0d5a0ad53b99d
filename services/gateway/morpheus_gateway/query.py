"""Queries: what stands after the question mark of an address."""

from collections import Counter

from morpheus_common.errors import ApiError
from starlette.requests import Request

MAX_NAME_LENGTH = 64
"""A name as long as this may be shown again; a longer one, or none of letters, is no name of ours."""


async def no_query_parameter_twice(request: Request) -> None:
    """Refuse a repeated query parameter: two readers must not choose differently."""
    if not request.scope["query_string"]:
        return
    counts = Counter(name for name, _ in request.query_params.multi_items())
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        name = twice[0] if len(twice[0]) <= MAX_NAME_LENGTH and twice[0].isidentifier() else None
        raise ApiError("validation_error", "A query parameter stands twice in the address.", param=name)
