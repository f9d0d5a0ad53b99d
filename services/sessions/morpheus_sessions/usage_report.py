"""Adds up what a user has used."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from morpheus_common.contracts.usage import (
    CLIENT_GONE,
    DEFAULT_DAYS,
    MAX_DAYS,
    MAX_GROUPS,
    OK,
    GetUsage,
    GroupBy,
    TokensFrom,
    UsageGroup,
    UsageReport,
    UsageSums,
)
from morpheus_common.errors import ApiError
from morpheus_common.logs import get_logger
from pymongo.errors import ExecutionTimeout

from morpheus_sessions.documents import UsageDocument
from morpheus_sessions.journal import Journal

log = get_logger(__name__)

READ_SECONDS: Final = 3.5
"""The database stops adding up after this; a caller waits five seconds."""

_FIRST_MOMENT: Final = datetime.min.replace(tzinfo=UTC)
"""Before it Python has no times."""
_GROUPS: Final[dict[GroupBy, Any]] = {
    GroupBy.DAY: {"$dateToString": {"date": "$at", "format": "%Y-%m-%d", "timezone": "UTC"}},
    GroupBy.MODEL: "$model_id",
    GroupBy.KEY: "$key_id",
}
_FIGURES: Final = tuple(UsageSums.model_fields)
_ADDED_UP: Final[dict[str, Any]] = {name: {"$sum": f"${name}"} for name in _FIGURES}


def _counted_if(condition: dict[str, Any]) -> dict[str, Any]:
    return {"$sum": {"$cond": [condition, 1, 0]}}


class UsageReports:
    """Answers what was used. Of what is erased nobody is told."""

    def __init__(self, journal: Journal, *, seconds: float = READ_SECONDS) -> None:
        self._journal = journal
        self._milliseconds = int(seconds * 1000)

    async def report(self, question: GetUsage) -> UsageReport:
        """Return the sums. Raises `validation_error` for a time that is none or too long, `service_unavailable` if it is
        too much to add up.
        """
        end = question.end
        if end is None:
            now = await self._journal.now()
            end = now if question.begin is not None else _midnight_after(now)
        begin = question.begin or end - min(timedelta(days=DEFAULT_DAYS), end - _FIRST_MOMENT)
        if begin >= end:
            raise ApiError("validation_error", "The time asked for is empty: from has to be before to.", param="from")
        if end - begin > timedelta(days=MAX_DAYS):
            raise ApiError(
                "validation_error", f"Ask for at most {MAX_DAYS} days: from and to are further apart.", param="from"
            )
        whose = {"user_id": question.user_id} | ({} if question.key_id is None else {"key_id": question.key_id})
        try:
            found = await self._added_up({**whose, "at": {"$gte": begin, "$lt": end}}, question.group_by)
        except ExecutionTimeout:
            log.warning("usage takes too long to add up", user_id=question.user_id)
            raise ApiError(
                "service_unavailable",
                "That is too much to add up at once. Ask for a shorter time with from and to.",
                retry_after=10,
            ) from None
        totals = found["totals"][0] if found["totals"] else {}
        return UsageReport(
            begin=begin,
            end=end,
            group_by=question.group_by,
            groups=[UsageGroup(group=row["_id"], model=row["model"], **_figures(row)) for row in found["groups"]],
            totals=UsageSums(**_figures(totals)),
            complete=totals.get("groups", 0) <= MAX_GROUPS,
        )

    async def _added_up(self, which: dict[str, Any], group_by: GroupBy) -> dict[str, Any]:
        by_model = group_by is GroupBy.MODEL
        order = {"_id": 1} if group_by is GroupBy.DAY else {"total_tokens": -1, "requests": -1, "_id": 1}
        pipeline: list[dict[str, Any]] = [
            {"$match": which},
            {
                "$group": {
                    "_id": _GROUPS[group_by],
                    "model": {"$max": "$model" if by_model else None},
                    "requests": {"$sum": 1},
                    "errors": _counted_if({"$not": [{"$in": ["$outcome", [OK, CLIENT_GONE]]}]}),
                    "cancelled": _counted_if({"$eq": ["$outcome", CLIENT_GONE]}),
                    "prompt_tokens": {"$sum": "$prompt_tokens"},
                    "completion_tokens": {"$sum": "$completion_tokens"},
                    "total_tokens": {"$sum": "$total_tokens"},
                    "estimated": _counted_if({"$eq": ["$tokens_from", TokensFrom.ESTIMATE]}),
                }
            },
            {
                "$facet": {
                    "groups": [{"$sort": order}, {"$limit": MAX_GROUPS}],
                    "totals": [{"$group": {"_id": None, "groups": {"$sum": 1}, **_ADDED_UP}}],
                }
            },
        ]
        cursor = await UsageDocument.get_pymongo_collection().aggregate(pipeline, maxTimeMS=self._milliseconds)
        (found,) = await cursor.to_list()
        return dict(found)


def _midnight_after(now: datetime) -> datetime:
    return now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)


def _figures(row: dict[str, Any]) -> dict[str, int]:
    return {name: row.get(name, 0) for name in _FIGURES}
