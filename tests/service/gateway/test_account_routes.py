"""The account of who asks, over HTTP."""

import asyncio
import hashlib
import time
from typing import Any

import httpx2
import pytest
from morpheus_common.contracts.accounts import (
    CHANGE_PASSWORD,
    END_LOGINS,
    GET_ACCOUNT,
    RESET_PASSWORD,
    Account,
    ChangePassword,
    EndLogins,
    GetAccount,
    PasswordChange,
    PasswordReset,
    ResetPassword,
)
from morpheus_common.contracts.auth import REGISTER, Register
from morpheus_common.contracts.base import Empty
from morpheus_common.contracts.sessions import GET_STAKE_AT_RISK, GetStakeAtRisk, StakeAtRisk
from morpheus_common.errors import ApiError

from tests.service.gateway.conftest import House
from tests.service.gateway.fakes import LONG_AGO, FakeAuth

OLD, NEW = "correct horse battery", "another horse, another battery"


class Accounts:
    """What auth was asked of the account, with the secrets opened."""

    def __init__(self, auth: FakeAuth) -> None:
        self._auth = auth
        self.change: PasswordChange | None = None
        self.reset: PasswordReset | None = None

    async def start(self) -> None:
        await self._auth.answer(GET_ACCOUNT, self._account)
        await self._auth.answer(END_LOGINS, self._end)
        await self._auth.answer(CHANGE_PASSWORD, self._change)
        await self._auth.answer(RESET_PASSWORD, self._reset)

    async def _account(self, question: GetAccount) -> Account:
        return Account(id=question.user_id, email="ada@example.org", name=None, created_at=LONG_AGO, active_keys=3)

    async def _end(self, question: EndLogins) -> Empty:
        self._auth.ended_logins.add(question.login_id or "login-1")
        return Empty()

    async def _change(self, question: ChangePassword) -> Empty:
        self.change = PasswordChange.model_validate_json(self._auth._unseal(question.passwords, CHANGE_PASSWORD))
        if self.change.current_password != OLD:
            raise ApiError("invalid_credentials", param="current_password")
        return Empty()

    async def _reset(self, question: ResetPassword) -> Empty:
        self.reset = PasswordReset.model_validate_json(self._auth._unseal(question.reset, RESET_PASSWORD))
        return Empty()


@pytest.fixture
async def accounts(house: House) -> Accounts:
    accounts = Accounts(house.auth)
    await accounts.start()
    return accounts


async def post(house: House, path: str, body: Any = None, **claims: Any) -> httpx2.Response:
    headers = {"Authorization": f"Bearer {house.auth.token(**claims)}"}
    return await house.http.post(f"/api/v1/auth/{path}", json=body, headers=headers)


@pytest.mark.usefixtures("accounts")
async def test_an_account_is_shown_with_the_stake_at_risk_for_it(house: House) -> None:
    async def stake(question: GetStakeAtRisk) -> StakeAtRisk:
        assert question.user_id == "user-1"
        return StakeAtRisk(at_risk=2**70, limit=2**80)

    await house.sessions.answer(GET_STAKE_AT_RISK, stake)
    shown = await house.http.get("/api/v1/auth/me", headers=house.by_token)
    assert shown.status_code == 200
    assert shown.json() == {
        "id": "user-1",
        "email": "ada@example.org",
        "name": None,
        "created_at": "2026-01-02T03:04:05.000Z",
        "active_keys": 3,
        "limits": {"stake_at_risk": str(2**80)},
        "stake_at_risk": str(2**70),
    }


@pytest.mark.usefixtures("accounts")
async def test_an_account_does_not_wait_for_a_stake_that_nobody_tells(house: House) -> None:
    never = asyncio.Event()

    async def silence(_: GetStakeAtRisk) -> StakeAtRisk:
        await never.wait()
        raise AssertionError

    await house.sessions.answer(GET_STAKE_AT_RISK, silence)
    started = time.monotonic()
    shown = await house.http.get("/api/v1/auth/me", headers=house.by_token)
    assert shown.status_code == 200
    assert (shown.json()["limits"], shown.json()["stake_at_risk"], shown.json()["active_keys"]) == (None, None, 3)
    assert time.monotonic() - started < 4
    never.set()


@pytest.mark.usefixtures("accounts")
@pytest.mark.parametrize(("body", "login_id"), [(None, "login-1"), ({}, "login-1"), ({"all": True}, None)])
async def test_a_logout_ends_this_login_or_all(house: House, body: Any, login_id: str | None) -> None:
    left = await post(house, "logout", body)
    assert (left.status_code, left.content) == (204, b"")
    assert house.auth.asked["end_logins"] == [EndLogins(user_id="user-1", login_id=login_id)]
    house.gateway.let_callers_age(1.0)
    assert (await post(house, "logout", body)).status_code == 401


@pytest.mark.usefixtures("accounts")
async def test_a_logout_that_is_not_understood_ends_nothing(house: House) -> None:
    assert (await post(house, "logout", {"all": "yes"})).status_code == 422
    assert house.auth.asked["end_logins"] == []


async def test_a_password_change_travels_sealed_with_login_and_address(house: House, accounts: Accounts) -> None:
    changed = await post(house, "password", {"current_password": OLD, "new_password": NEW})
    assert (changed.status_code, changed.content) == (204, b"")
    assert accounts.change == PasswordChange(current_password=OLD, new_password=NEW)
    asked = house.auth.asked["change_password"][0]
    assert (asked.user_id, asked.login_id, asked.address) == ("user-1", "login-1", "127.0.0.1")
    assert "horse" not in asked.model_dump_json()


@pytest.mark.usefixtures("accounts")
async def test_a_wrong_current_password_is_401(house: House) -> None:
    refused = await post(house, "password", {"current_password": "short", "new_password": NEW})
    assert (refused.status_code, refused.json()["error"]["param"]) == (401, "current_password")


@pytest.mark.usefixtures("accounts")
async def test_a_password_change_needs_a_login_of_the_last_hour(house: House) -> None:
    body = {"current_password": OLD, "new_password": NEW}
    refused = await post(house, "password", body, auth_time=int(time.time()) - 3_700)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "reauthentication_required")
    assert house.auth.asked["change_password"] == []


async def test_a_reset_needs_no_login_and_travels_sealed(house: House, accounts: Accounts) -> None:
    done = await house.http.post("/api/v1/auth/password/reset", json={"token": " reset-x\n", "new_password": NEW})
    assert (done.status_code, done.content) == (204, b"")
    assert accounts.reset == PasswordReset(token="reset-x", new_password=NEW)
    asked = house.auth.asked["reset_password"][0].model_dump_json()
    assert "horse" not in asked
    assert "reset-x" not in asked


@pytest.mark.usefixtures("accounts")
@pytest.mark.parametrize("method_path", ["GET me", "POST logout", "POST password"])
async def test_an_account_wants_a_token(house: House, method_path: str) -> None:
    method, _, path = method_path.partition(" ")
    nobody = await house.http.request(method, f"/api/v1/auth/{path}")
    assert (nobody.status_code, nobody.json()["error"]["code"]) == (401, "missing_credentials")
    by_key = await house.http.request(method, f"/api/v1/auth/{path}", headers=house.by_key)
    assert (by_key.status_code, by_key.json()["error"]["code"]) == (401, "wrong_credential_kind")


async def test_a_login_tells_auth_from_where(house: House) -> None:
    await house.http.post("/api/v1/auth/login", json={"email": "ada@example.org", "password": OLD})
    assert house.auth.asked["login"][0].address == "127.0.0.1"


async def test_an_invite_code_travels_as_its_hash(house: House) -> None:
    async def closed(_: Register) -> Empty:
        raise ApiError("invite_required", param="invite_code")

    await house.auth.answer(REGISTER, closed)
    person = {"email": "ada@example.org", "password": OLD, "invite_code": "invite-secret"}
    refused = await house.http.post("/api/v1/auth/register", json=person)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "invite_required")
    asked = house.auth.asked["register"][0]
    assert asked.invite_sha256 == hashlib.sha256(b"invite-secret").hexdigest()
    assert "invite-secret" not in asked.model_dump_json()


async def test_the_length_of_a_password_is_counted_after_composition(house: House) -> None:
    """One character may be typed as two; auth counts one."""
    typed = "e\N{COMBINING ACUTE ACCENT}"
    for count, status in ((7, 422), (8, 201), (1_024, 201), (1_025, 422)):
        person = {"email": f"ada-{count}@example.org", "password": typed * count}
        assert (await house.http.post("/api/v1/auth/register", json=person)).status_code == status, count
