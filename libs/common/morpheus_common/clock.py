"""The time of day, as the database keeps it."""

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Returns the time now, with zone."""


def utc_now() -> datetime:
    """Return the time now, in whole milliseconds: what is stored is then what is answered."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)
