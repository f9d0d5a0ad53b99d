"""Queries: what stands after the question mark of an address."""

import re
from collections import Counter
from typing import Annotated

from morpheus_common.errors import ApiError
from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError
from starlette.requests import Request


async def no_query_parameter_twice(request: Request) -> None:
    """Refuse a repeated query parameter: two readers must not choose differently."""
    if not request.scope["query_string"]:
        return
    counts = Counter(name for name, _ in request.query_params.multi_items())
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        ours = {field.alias for field in request.scope["route"].dependant.query_params}
        name = next((name for name in twice if name in ours), None)
        raise ApiError("validation_error", "A query parameter stands twice in the address.", param=name)


_DECIMAL = re.compile(r"[1-9][0-9]{0,17}")


def _decimal(value: object) -> object:
    if isinstance(value, str) and not _DECIMAL.fullmatch(value):
        # by itself pydantic takes `600.0`, ` 600`, `+600` and `1_000` too
        raise PydanticCustomError("decimal", "Write a whole number above zero in decimal digits")
    return value


def _decimal_or_zero(value: object) -> object:
    return value if value == "0" else _decimal(value)


# bounds stand before the validator, else OpenAPI has them under names that are none of JSON Schema's

PageSize = Annotated[
    int, Field(ge=1, le=100, description="how many rows to show at most", examples=[20]), BeforeValidator(_decimal)
]
"""How many rows are asked for: decimal digits and nothing else, as `amount` is written."""

Skip = Annotated[
    int,
    Field(ge=0, le=1_000_000, description="how many of the newest to leave out", examples=[0]),
    BeforeValidator(_decimal_or_zero),
]
"""How many rows are left out, written in the same way."""

Seconds = Annotated[int, Field(ge=300), BeforeValidator(_decimal)]
"""How long a session is asked for, written in the same way."""
