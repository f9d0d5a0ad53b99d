"""What prompts have used, added up."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Self

from fastapi import APIRouter, Query
from morpheus_common.contracts.base import UtcTime
from morpheus_common.contracts.usage import (
    DEFAULT_DAYS,
    GET_USAGE,
    GetUsage,
    GroupBy,
    UsageGroup,
    UsageReport,
    UsageSums,
)
from morpheus_common.errors import ApiError
from pydantic import BaseModel, ConfigDict, Field

from morpheus_gateway.context import ContextOf
from morpheus_gateway.principal import UsageCaller
from morpheus_gateway.times import is_time, read_time

router = APIRouter(prefix="/api/v1", tags=["usage"])

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_FORMS = (
    "Write a day (2026-11-27) or a time of RFC 3339 with its zone (2026-11-27T08:00:00Z; `+` in an address is %2B)."
)


class UsageShown(BaseModel):
    """What was used in the time from `from` until before `to`. Days are in their order, models and keys by tokens.

    `totals` are of all groups. `complete` is false if there are more groups than are shown; ask for a shorter time then.
    """

    model_config = ConfigDict(populate_by_name=True)

    begin: UtcTime = Field(alias="from")
    end: UtcTime = Field(alias="to")
    group_by: GroupBy
    groups: list[UsageGroup]
    totals: UsageSums
    complete: bool

    @classmethod
    def of(cls, report: UsageReport) -> Self:
        """Show a report."""
        return cls(
            begin=report.begin,
            end=report.end,
            group_by=report.group_by,
            groups=report.groups,
            totals=report.totals,
            complete=report.complete,
        )


def _time(kind: str, what: str, example: str) -> Any:
    return Query(alias=kind, max_length=64, description=f"{what}: a UTC day, or a time of RFC 3339", examples=[example])


@router.get("/usage")
async def get_usage(
    caller: UsageCaller,
    context: ContextOf,
    begin: Annotated[
        str | None, _time("from", f"where to begin; {DEFAULT_DAYS} days before `to` if missing", "2026-11-01")
    ] = None,
    end: Annotated[
        str | None, _time("to", "where to end (a day counts in full, a time does not); now if missing", "2026-11-27")
    ] = None,
    group_by: Annotated[GroupBy, Query(description="what to add up by", examples=[GroupBy.MODEL])] = GroupBy.DAY,
) -> UsageShown:
    """Requests and tokens by day (UTC), model or API key, over at most 90 days. An access token is told of all of the
    user's keys; an API key, which needs the scope `usage`, of its own requests only.

    Without `from` and `to` it is the last 30 days of UTC with today. `errors` and `cancelled` (the client left) are among
    `requests`. A request counts within a second or two of its end.
    """
    question = GetUsage(
        user_id=caller.user_id,
        key_id=caller.key_id,
        begin=None if begin is None else _read_time(begin, "from"),
        end=None if end is None else _read_time(end, "to", days=1),
        group_by=group_by,
    )
    return UsageShown.of(await context.rpc.call(GET_USAGE, question))


def _read_time(text: str, param: str, *, days: int = 0) -> datetime:
    """Return what a text says; of a day, the beginning of the one that is `days` later. Raises 422."""
    try:
        if _DAY.fullmatch(text):
            return datetime.fromisoformat(text).replace(tzinfo=UTC) + timedelta(days=days)
        if is_time(text):
            return read_time(text)
    except (ValueError, OverflowError):
        # the form is right, and there is no such day or hour
        raise ApiError("validation_error", f"There is no such time. {_FORMS}", param=param) from None
    raise ApiError("validation_error", _FORMS, param=param)
