"""`/auth/private-key`: the key goes in sealed, and never comes out."""

import time
from datetime import UTC, datetime
from typing import Any

import pytest
from morpheus_common.contracts.vault import (
    DELETE_PRIVATE_KEY,
    PRIVATE_KEY_STATUS,
    STORE_PRIVATE_KEY,
    PrivateKeyDeleted,
    PrivateKeyOf,
    PrivateKeyStatus,
    StorePrivateKey,
)
from morpheus_common.errors import ApiError

from tests.service.gateway.conftest import House

PATH = "/api/v1/auth/private-key"
KEY = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"
ADDRESS = "0x2c7536E3605D9C16a7a3D7b1898e529396a65c23"
NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
STORED = {
    "has_private_key": True,
    "address": ADDRESS,
    "used_for_signing": False,
    "created_at": "2026-11-26T12:00:00.000Z",
    "updated_at": "2026-11-26T12:00:00.000Z",
}


class FakeVault:
    """Auth's answers about one user's key. `refusal`: what it answers instead."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.received: list[str] = []
        self.status = PrivateKeyStatus(has_private_key=False)
        self.refusal: ApiError | None = None

    async def start(self) -> None:
        await self.house.auth.answer(STORE_PRIVATE_KEY, self._store)
        await self.house.auth.answer(PRIVATE_KEY_STATUS, self._status)
        await self.house.auth.answer(DELETE_PRIVATE_KEY, self._delete)

    async def _store(self, question: StorePrivateKey) -> PrivateKeyStatus:
        assert question.user_id == "user-1"
        self.received.append(self.house.auth._unseal(question.private_key, STORE_PRIVATE_KEY))
        if self.refusal is not None:
            raise self.refusal
        self.status = PrivateKeyStatus(has_private_key=True, address=ADDRESS, created_at=NOW, updated_at=NOW)
        return self.status

    async def _status(self, question: PrivateKeyOf) -> PrivateKeyStatus:
        assert question.user_id == "user-1"
        return self.status

    async def _delete(self, question: PrivateKeyOf) -> PrivateKeyDeleted:
        assert question.user_id == "user-1"
        if not self.status.has_private_key:
            raise ApiError("private_key_not_found")
        self.status = PrivateKeyStatus(has_private_key=False)
        return PrivateKeyDeleted(address=ADDRESS, deleted_at=NOW)


@pytest.fixture(autouse=True)
async def vault(house: House) -> FakeVault:
    vault = FakeVault(house)
    await vault.start()
    return vault


def old_login(house: House) -> dict[str, str]:
    return {"Authorization": f"Bearer {house.auth.token(auth_time=int(time.time()) - 3_700)}"}


async def test_a_key_is_stored_told_of_and_deleted(house: House) -> None:
    empty = await house.http.get(PATH, headers=house.by_token)
    assert empty.status_code == 200
    assert empty.json() == dict.fromkeys(STORED) | {"has_private_key": False, "used_for_signing": False}
    stored = await house.http.post(PATH, json={"private_key": f"0x{KEY}"}, headers=house.by_token)
    assert (stored.status_code, stored.json()) == (201, STORED)
    assert (await house.http.get(PATH, headers=house.by_token)).json() == STORED
    deleted = await house.http.delete(PATH, headers=house.by_token)
    assert (deleted.status_code, deleted.json()) == (
        200,
        {"message": "Private key deleted", "address": ADDRESS, "deleted_at": "2026-11-26T12:00:00.000Z"},
    )
    missing = await house.http.delete(PATH, headers=house.by_token)
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "private_key_not_found")
    for response in (stored, deleted):
        assert response.headers["cache-control"] == "no-store"


async def test_what_was_sent_reaches_auth_sealed_and_as_it_was(house: House, vault: FakeVault) -> None:
    """C39."""
    for text in (KEY, f" 0x{KEY}", KEY.upper(), "", "short"):
        await house.http.post(PATH, json={"private_key": text}, headers=house.by_token)
    assert vault.received == [KEY, f" 0x{KEY}", KEY.upper(), "", "short"]
    on_the_bus = "".join(question.model_dump_json() for question in house.auth.asked["store_private_key"])
    assert KEY.lower() not in on_the_bus.lower()


@pytest.mark.parametrize("code", ["validation_error", "development_key_refused"])
async def test_what_auth_refuses_is_422(house: House, vault: FakeVault, code: str) -> None:
    vault.refusal = ApiError(code, param="private_key")
    refused = await house.http.post(PATH, json={"private_key": KEY}, headers=house.by_token)
    assert refused.status_code == 422
    assert (refused.json()["error"]["code"], refused.json()["error"]["param"]) == (code, "private_key")
    assert KEY not in refused.text


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"private_key": None},
        {"private_key": int(KEY, 16)},
        {"private_key": [KEY]},
        {"private_key": {"hex": KEY}},
        {"private_key": KEY * 20},
        [KEY],
        KEY,
    ],
)
async def test_what_is_no_text_is_refused_without_being_quoted(
    house: House, vault: FakeVault, body: Any, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """C39."""
    refused = await house.http.post(PATH, json=body, headers=house.by_token)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "validation_error")
    shown = refused.text + caplog.text + "".join(capsys.readouterr())
    assert "validation_error" in shown
    for secret in (KEY, str(int(KEY, 16))):
        assert secret not in shown
    assert vault.received == []


async def test_half_a_character_is_refused_like_anything_else(house: House, vault: FakeVault) -> None:
    headers = house.by_token | {"Content-Type": "application/json"}
    refused = await house.http.post(PATH, content=b'{"private_key": "\\ud800"}', headers=headers)
    assert (refused.status_code, vault.received) == (422, [])


async def test_an_unavailable_provider_is_503_with_a_time_to_come_back(house: House, vault: FakeVault) -> None:
    vault.refusal = ApiError("service_unavailable", retry_after=5)
    refused = await house.http.post(PATH, json={"private_key": KEY}, headers=house.by_token)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_every_route_needs_a_login_of_the_last_hour(house: House, vault: FakeVault, method: str) -> None:
    body = {"private_key": KEY} if method == "POST" else None
    refused = await house.http.request(method, PATH, json=body, headers=old_login(house))
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "reauthentication_required")
    assert vault.received == []


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_an_api_key_is_not_enough(house: House, vault: FakeVault, method: str) -> None:
    refused = await house.http.request(method, PATH, headers=house.by_key)
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "wrong_credential_kind")
    assert vault.received == []
