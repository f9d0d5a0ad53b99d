"""Times as clients write them."""

import re
from datetime import UTC, datetime
from typing import Annotated

from pydantic import AwareDatetime, BeforeValidator
from pydantic_core import PydanticCustomError

_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)


def is_time(text: str) -> bool:
    """Tell whether a text has the form of RFC 3339, with a zone."""
    return _TIME.fullmatch(text) is not None


def read_time(text: str) -> datetime:
    """Return the time in UTC that a text of that form says. Raises `ValueError` if there is no such day, hour or year."""
    try:
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except OverflowError:
        # in UTC it is before the year 1 or after 9999
        raise ValueError(text) from None


def _moment(value: object) -> datetime:
    # by itself pydantic takes numbers too, and times that are none in UTC
    if isinstance(value, str) and is_time(value):
        try:
            return read_time(value)
        except ValueError:
            raise PydanticCustomError("time", "There is no such time") from None
    raise PydanticCustomError("time", "Write a time of RFC 3339 with its zone, like 2026-11-27T08:00:00Z")


Moment = Annotated[AwareDatetime, BeforeValidator(_moment)]
"""A time in a body: a text of RFC 3339 with its zone, and nothing else."""
