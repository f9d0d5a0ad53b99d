"""Requests that were meant to confuse: what `make fuzz` has found stays found."""

import pytest

from tests.service.gateway.conftest import House

UNSOUND = {
    "a byte order mark": b'\xef\xbb\xbf{"name": "x"}',
    "UTF-16": '{"name": "x"}'.encode("utf-16"),
    "UTF-32": '{"name": "x"}'.encode("utf-32-le"),
    "NaN": b'{"name": "x", "more": NaN}',
    "Infinity": b'{"name": "x", "more": [-Infinity]}',
    "half a character": b'{"name": "\xed\xa0\x80"}',
    "no UTF-8": b'{"name": "\xff"}',
}


@pytest.mark.parametrize("what", UNSOUND)
async def test_what_only_pythons_parser_takes_for_json_is_no_json(house: House, what: str) -> None:
    headers = house.by_token | {"Content-Type": "application/json"}
    answer = await house.http.post("/api/v1/auth/keys", content=UNSOUND[what], headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")


@pytest.mark.parametrize(
    "expires_at", [4_000_000_000, "4000000000", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+01:00"]
)
async def test_a_key_ends_at_a_time_of_the_calendar_or_is_not_made(house: House, expires_at: object) -> None:
    body = {"expires_at": expires_at}
    answer = await house.http.post("/api/v1/auth/keys", json=body, headers=house.by_token)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "expires_at")


@pytest.mark.parametrize("seconds", [False, True, "3600", 3600.0])
async def test_the_grace_of_a_rotation_is_a_whole_number(house: House, seconds: object) -> None:
    body = {"grace_seconds": seconds}
    answer = await house.http.post("/api/v1/auth/keys/any/rotate", json=body, headers=house.by_token)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "grace_seconds")


@pytest.mark.parametrize("query", ["skip=1_0", "skip=+1", "skip=-0", "skip=00", "limit=5.0", "limit=%205", "limit=1e1"])
async def test_pages_of_delegations_are_counted_in_decimal_digits(house: House, query: str) -> None:
    answer = await house.http.get(f"/api/v1/auth/delegation?{query}", headers=house.by_token)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, query.partition("=")[0])


@pytest.mark.parametrize(("path", "by"), [("/api/v1/models", None), ("/api/v1/session/list", "key")])
async def test_the_name_of_a_parameter_that_is_none_of_ours_is_not_quoted(
    house: House, path: str, by: str | None
) -> None:
    headers = {} if by is None else house.by_key
    answer = await house.http.get(f"{path}?planted_marker=1&planted_marker=2", headers=headers)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, None)
    assert "planted" not in answer.text
    answer = await house.http.get("/api/v1/session/list?limit=1&limit=2", headers=house.by_key)
    assert answer.json()["error"]["param"] == "limit"
