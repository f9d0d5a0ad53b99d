import hashlib
import re
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from morpheus_common.contracts.deletion import (
    DELETE_ACCOUNT,
    GET_DELETION,
    AccountDeletion,
    DeleteAccount,
    DeletedData,
    DeletionState,
    GetDeletion,
)
from morpheus_common.errors import ApiError

from tests.service.gateway.conftest import House, MakeHouse

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FIGURES = DeletedData(sessions=2, api_keys=3, private_key=True, automation_settings=True, delegations=1)
PENDING = AccountDeletion(status=DeletionState.PENDING, requested_at=AT)
COMPLETE = AccountDeletion(status=DeletionState.COMPLETE, requested_at=AT, deleted_at=AT, deleted_data=FIGURES)
SHOWN: dict[str, Any] = {
    "sessions": 2,
    "api_keys": 3,
    "private_key": True,
    "automation_settings": True,
    "delegations": 1,
}


async def answering(house: House, answer: AccountDeletion) -> None:
    async def delete(_: DeleteAccount) -> AccountDeletion:
        return answer

    await house.auth.answer(DELETE_ACCOUNT, delete)


async def test_an_account_that_is_gone_is_told_with_what_there_was(house: House) -> None:
    await answering(house, COMPLETE)
    response = await house.http.delete("/api/v1/auth/register", headers=house.by_token)
    assert response.status_code == 200
    assert response.json() == {
        "message": "The account and everything that belonged to it is deleted.",
        "user_id": "user-1",
        "deleted_at": "2026-01-02T03:04:05.000Z",
        "deleted_data": SHOWN,
    }


async def test_what_is_not_done_in_time_is_202_with_an_address_that_needs_no_credentials(
    make_house: MakeHouse,
) -> None:
    house = await make_house(deletion_wait=0.1)
    await answering(house, PENDING)
    stands = PENDING

    async def status(_: GetDeletion) -> AccountDeletion:
        return stands

    await house.auth.answer(GET_DELETION, status)
    response = await house.http.delete("/api/v1/auth/register", headers=house.by_token)
    assert (response.status_code, response.json()["status"]) == (202, "pending")
    url = response.json()["status_url"]
    assert response.headers["Location"] == url
    token = url.removeprefix("/api/v1/auth/deletions/")
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", token)

    shown = (await house.http.get(url)).json()
    assert shown == {
        "status": "pending",
        "requested_at": "2026-01-02T03:04:05.000Z",
        "deleted_at": None,
        "deleted_data": None,
    }
    stands = COMPLETE
    assert (await house.http.get(url)).json()["deleted_data"] == SHOWN
    # auth never learns what it is asked about with, and each piece of the wait is the same command
    digest = hashlib.sha256(token.encode()).hexdigest()
    assert {item.token_sha256 for item in house.auth.asked["delete_account"]} == {digest}
    assert {item.token_sha256 for item in house.auth.asked["get_deletion"]} == {digest}


async def test_an_address_that_nobody_was_given_is_404(house: House) -> None:
    async def unknown(_: GetDeletion) -> AccountDeletion:
        raise ApiError("deletion_not_found")

    await house.auth.answer(GET_DELETION, unknown)
    response = await house.http.get("/api/v1/auth/deletions/invented")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "deletion_not_found")


async def test_deleting_wants_an_access_token_of_a_login_of_the_last_hour(house: House) -> None:
    await answering(house, COMPLETE)
    old = house.auth.token(auth_time=int(time.time()) - 2 * 3600)
    for headers, status, code in (
        ({}, 401, "missing_credentials"),
        (house.by_key, 401, "wrong_credential_kind"),
        ({"Authorization": f"Bearer {old}"}, 403, "reauthentication_required"),
    ):
        response = await house.http.delete("/api/v1/auth/register", headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert house.auth.asked["delete_account"] == []


async def test_a_deletion_of_an_account_that_is_gone_is_401(house: House) -> None:
    async def gone(_: DeleteAccount) -> AccountDeletion:
        raise ApiError("invalid_token")

    await house.auth.answer(DELETE_ACCOUNT, gone)
    response = await house.http.delete("/api/v1/auth/register", headers=house.by_token)
    assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_token")


@pytest.mark.parametrize("code", ["service_timeout", "service_unavailable"])
async def test_who_is_not_told_whether_the_deletion_has_begun_is_told_how_to_find_out(
    make_house: MakeHouse, code: str
) -> None:
    house = await make_house(deletion_wait=0.1)

    async def silent(_: DeleteAccount) -> AccountDeletion:
        raise ApiError(code)

    await house.auth.answer(DELETE_ACCOUNT, silent)
    response = await house.http.delete("/api/v1/auth/register", headers=house.by_token)
    error = response.json()["error"]
    if code == "service_unavailable":
        # nobody was there: nothing has begun
        assert (response.status_code, error["code"]) == (503, code)
        assert "details" not in error
    else:
        assert (response.status_code, error["code"]) == (504, code)
        assert error["details"]["status_url"].startswith("/api/v1/auth/deletions/")
