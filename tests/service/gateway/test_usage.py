"""GET /usage: who is told of what, and which times can be asked about."""

from datetime import UTC, datetime
from typing import Any

import pytest
from morpheus_common.contracts.auth import Scope
from morpheus_common.contracts.usage import GET_USAGE, GetUsage, GroupBy, UsageGroup, UsageReport, UsageSums
from morpheus_common.errors import ApiError

from tests.service.gateway.conftest import House, MakeHouse

URL = "/api/v1/usage"
BEGIN, END = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 28, tzinfo=UTC)
BIG = 2**60 + 1
SUMS: dict[str, Any] = {
    "requests": 3,
    "errors": 1,
    "cancelled": 1,
    "prompt_tokens": BIG,
    "completion_tokens": 5,
    "total_tokens": BIG + 5,
}


@pytest.fixture
async def house(make_house: MakeHouse) -> House:
    """A gateway, and sessions that answer what was used."""
    house = await make_house()

    async def report(question: GetUsage) -> UsageReport:
        return UsageReport(
            begin=question.begin or BEGIN,
            end=question.end or END,
            group_by=question.group_by,
            groups=[UsageGroup(group="2026-11-20", **SUMS), UsageGroup(group=None)],
            totals=UsageSums(**SUMS),
            complete=True,
        )

    await house.sessions.answer(GET_USAGE, report)
    await house.sessions.connection.flush()
    return house


def asked(house: House) -> GetUsage:
    question: GetUsage = house.sessions.asked[GET_USAGE.verb][-1]
    return question


async def get(house: House, query: str = "", headers: dict[str, str] | None = None) -> Any:
    return await house.http.get(f"{URL}?{query}" if query else URL, headers=headers or house.by_token)


async def test_an_access_token_is_told_of_all_of_the_users_keys_and_an_api_key_of_itself(house: House) -> None:
    """C11, C14: least privilege."""
    assert (await get(house)).status_code == 200
    assert (asked(house).user_id, asked(house).key_id) == ("user-1", None)
    assert (await get(house, headers=house.by_key)).status_code == 200
    own = next(iter(house.auth.rows.values()))
    assert (asked(house).user_id, asked(house).key_id) == (own.user_id, own.id)


async def test_a_key_needs_the_scope(house: House) -> None:
    """C14."""
    others = [scope for scope in Scope if scope is not Scope.USAGE]
    with_it, without = [
        await get(house, headers={"Authorization": f"Bearer {house.auth.add_key(scopes=scopes)}"})
        for scopes in ([Scope.USAGE], others)
    ]
    assert with_it.status_code == 200
    assert (without.status_code, without.json()["error"]["code"]) == (403, "insufficient_scope")


async def test_sums_are_shown_exactly_and_nobody_may_keep_them(house: House) -> None:
    answer = await get(house)
    sums = {**SUMS, "estimated": 0}
    assert answer.json() == {
        "from": "2026-11-01T00:00:00.000Z",
        "to": "2026-11-28T00:00:00.000Z",
        "group_by": "day",
        "groups": [
            {"group": "2026-11-20", "model": None, **sums},
            {"group": None, "model": None, **dict.fromkeys(sums, 0)},
        ],
        "totals": sums,
        "complete": True,
    }
    assert answer.headers["cache-control"] == "no-store"


async def test_a_day_counts_in_full_and_a_time_is_taken_as_it_is(house: House) -> None:
    for begin, end, asked_begin, asked_end in (
        ("2026-11-20", "2026-11-20", "2026-11-20T00:00:00Z", "2026-11-21T00:00:00Z"),
        ("2026-11-20T08:00:00Z", "2026-11-20t09:30:00.5z", "2026-11-20T08:00:00Z", "2026-11-20T09:30:00.5Z"),
        ("2026-11-20T01:00:00%2B02:00", "2026-11-20", "2026-11-19T23:00:00Z", "2026-11-21T00:00:00Z"),
    ):
        assert (await get(house, f"from={begin}&to={end}&group_by=model")).status_code == 200
        question = asked(house)
        assert (question.begin, question.end) == (
            datetime.fromisoformat(asked_begin),
            datetime.fromisoformat(asked_end),
        )
        assert question.group_by is GroupBy.MODEL


async def test_without_a_time_the_sessions_service_decides_by_the_databases_clock(house: House) -> None:
    assert (await get(house)).status_code == 200
    assert (asked(house).begin, asked(house).end, asked(house).group_by) == (None, None, GroupBy.DAY)


NO_TIMES = (
    "",
    "yesterday",
    "1764000000",
    "2025-11",
    "2026-13-01",
    "2026-02-30",
    "2026-11-20T25:00:00Z",
    "2026-11-20T08:00:00",
    "2026-11-20 08:00:00Z",
    "2026-11-20T01:00:00+02:00",
    "0001-01-01T00:00:00%2B02:00",
    "٢٠٢٦-11-20",
    "2026-11-20T08:00:00Z" + "0" * 60,
)


async def test_what_is_no_time_is_refused_with_what_to_write(house: House) -> None:
    for param in ("from", "to"):
        for value in NO_TIMES:
            answer = await get(house, f"{param}={value}")
            assert answer.status_code == 422, value
            error = answer.json()["error"]
            assert (error["code"], error["param"]) == ("validation_error", param), value
            assert not value or value not in error["message"], value
    assert house.sessions.asked[GET_USAGE.verb] == []


async def test_the_last_day_there_is_has_no_next_one(house: House) -> None:
    answer = await get(house, "to=9999-12-31")
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "to")


async def test_other_groups_and_repeated_parameters_are_refused(house: House) -> None:
    for query in ("group_by=user", "group_by=", "from=2026-11-20&from=2026-11-21", "group_by=day&group_by=key"):
        answer = await get(house, query)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "validation_error"), query


async def test_what_the_sessions_service_refuses_reaches_the_client(house: House) -> None:
    async def refuse(_: GetUsage) -> UsageReport:
        raise ApiError("validation_error", "Ask for less.", param="from")

    await house.sessions.answer(GET_USAGE, refuse)
    answer = await get(house, "from=2026-01-01")
    assert (answer.status_code, answer.json()["error"]["message"]) == (422, "Ask for less.")


async def test_the_documentation_tells_of_the_endpoint(house: House) -> None:
    document = (await house.http.get("/openapi.json")).json()
    operation = document["paths"][URL]["get"]
    assert {item["name"] for item in operation["parameters"]} == {"from", "to", "group_by"}
    shown = document["components"]["schemas"]["UsageShown"]["properties"]
    assert set(shown) == {"from", "to", "group_by", "groups", "totals", "complete"}
