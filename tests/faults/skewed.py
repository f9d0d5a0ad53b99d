"""Runs a service whose clock is wrong: `python -m tests.faults.skewed SECONDS morpheus_auth`.

Python's own clocks are moved before anything is imported, so that our code and libraries see the same wrong time of day.
Monotonic time is right, as it is on a machine whose clock was set wrongly. Ids with a time in them follow the clock.
"""

import datetime
import runpy
import sys
import time
from typing import Any

import uuid_utils

_real_time = time.time
_real_datetime = datetime.datetime
_real_uuid7 = uuid_utils.uuid7


class _AsReal(type):
    """What was made by C code, or read from a database, is no less a datetime."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _real_datetime)

    def __subclasscheck__(cls, other: type) -> bool:
        return issubclass(other, _real_datetime)


def move(seconds: float) -> None:
    """Have this process believe that it is so much later, or earlier."""

    class Skewed(_real_datetime, metaclass=_AsReal):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return _real_datetime.fromtimestamp(_real_time() + seconds, tz)

        @classmethod
        def utcnow(cls) -> Any:
            return cls.now(datetime.UTC).replace(tzinfo=None)

    def uuid7(*, nanoseconds: int | None = None) -> uuid_utils.UUID:
        if nanoseconds is None:
            nanoseconds = int((_real_time() + seconds) * 1e9)
        return _real_uuid7(nanoseconds=nanoseconds)

    time.time = lambda: _real_time() + seconds
    datetime.datetime = Skewed  # type: ignore[misc]  # replacing it is the purpose
    uuid_utils.uuid7 = uuid7


if __name__ == "__main__":
    _, by, module = sys.argv
    move(float(by))
    sys.argv = [module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
