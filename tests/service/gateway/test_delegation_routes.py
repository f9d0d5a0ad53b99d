"""Delegations over HTTP."""

import json
from typing import Any

import pytest
from morpheus_common.contracts.delegations import STORE_DELEGATION, DelegationRow, StoreDelegation
from morpheus_common.errors import ApiError

from tests.service.gateway.conftest import House

PATH = "/api/v1/auth/delegation"
GATEWAY = "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A"
DELEGATION: dict[str, Any] = {
    "delegate": GATEWAY,
    "delegator": "0x" + "5a" * 20,
    "authority": "0x" + "ff" * 32,
    "caveats": [{"enforcer": "0x" + "ab" * 20, "terms": "0x01", "args": "0x"}],
    "salt": 2**255 + 1,
    "signature": "0x" + "11" * 65,
}
BODY = {"delegate_address": GATEWAY, "signed_delegation_data": DELEGATION}


async def store(house: House, **fields: Any) -> dict[str, Any]:
    response = await house.http.post(PATH, json=BODY | fields, headers=house.by_token)
    assert response.status_code == 201
    shown: dict[str, Any] = response.json()
    return shown


async def test_a_stored_delegation_is_shown_as_it_was_sent(house: House) -> None:
    shown = await store(house, expiry="2100-01-02T03:04:05+01:00")
    assert shown == {
        "id": shown["id"],
        "user_id": "user-1",
        "delegate_address": GATEWAY,
        "delegator_address": "0x" + "5A" * 20,
        "delegation_hash": "0x" + "ab" * 32,
        "signed_delegation_data": DELEGATION,
        "expiry": "2100-01-02T02:04:05.000Z",
        "is_active": True,
        "verification": "unverified",
        "chain_id": 8453,
        "created_at": "2026-01-02T03:04:05.000Z",
    }
    (asked,) = house.auth.asked["store_delegation"]
    assert json.loads(asked.signed_delegation) == DELEGATION
    assert (await house.http.get(f"{PATH}/active", headers=house.by_token)).json() == shown


async def test_a_string_of_json_stays_the_string_it_was(house: House) -> None:
    text = json.dumps(DELEGATION, indent=3)
    shown = await store(house, signed_delegation_data=text, is_active=False)
    assert (shown["signed_delegation_data"], shown["is_active"]) == (text, False)
    assert house.auth.asked["store_delegation"][0].signed_delegation == text
    assert (await house.http.get(f"{PATH}/active", headers=house.by_token)).json() is None


async def test_a_list_is_as_long_as_is_asked_for_however_it_is_fetched(house: House) -> None:
    stored = [await store(house) for _ in range(23)]
    newest = [row["id"] for row in reversed(stored)]
    for query, expected in (("", newest), ("?limit=12", newest[:12]), ("?skip=5&limit=10", newest[5:15])):
        listed = await house.http.get(PATH + query, headers=house.by_token)
        assert [row["id"] for row in listed.json()] == expected, query
    assert (await house.http.get(f"{PATH}?skip=23", headers=house.by_token)).json() == []


async def test_the_largest_delegations_fit_into_a_list(house: House) -> None:
    # each newline and quote takes two bytes in a string of JSON
    text = json.dumps(DELEGATION) + "\n" * 31_000
    for _ in range(12):
        await store(house, signed_delegation_data=text)
    listed = await house.http.get(PATH, headers=house.by_token)
    assert [row["signed_delegation_data"] for row in listed.json()] == [text] * 12


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "skip=-1", "limit=x"])
async def test_a_page_that_cannot_be_is_refused(house: House, query: str) -> None:
    assert (await house.http.get(f"{PATH}?{query}", headers=house.by_token)).status_code == 422


async def test_a_delegation_is_deleted_once_and_by_its_owner_only(house: House) -> None:
    """C11"""
    one = f"{PATH}/{(await store(house))['id']}"
    of_another = {"Authorization": f"Bearer {house.auth.token(sub='user-2')}"}
    assert (await house.http.delete(one, headers=of_another)).status_code == 404
    deleted = await house.http.delete(one, headers=house.by_token)
    assert (deleted.status_code, deleted.content) == (204, b"")
    again = await house.http.delete(one, headers=house.by_token)
    assert (again.status_code, again.json()["error"]["code"]) == (404, "delegation_not_found")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"delegate_address": GATEWAY},
        BODY | {"delegate_address": "0x" + "a" * 70},
        BODY | {"signed_delegation_data": [DELEGATION]},
        BODY | {"signed_delegation_data": 5},
        BODY | {"signed_delegation_data": None},
        BODY | {"expiry": "2100-01-01T00:00:00"},
        BODY | {"expiry": "9999-12-31T23:59:59-01:00"},
        BODY | {"signed_delegation_data": "\ud800"},
        BODY | {"delegate_address": "\ud800"},
        BODY | {"is_active": "yes"},
    ],
)
async def test_another_shape_is_422_and_never_reaches_auth(house: House, body: dict[str, Any]) -> None:
    """F42"""
    headers = house.by_token | {"Content-Type": "application/json"}
    # the client's own JSON would not let a lone surrogate out
    refused = await house.http.post(PATH, content=json.dumps(body), headers=headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "validation_error")
    assert house.auth.asked["store_delegation"] == []


@pytest.mark.parametrize("odd", ['{"salt":"\\ud800"}', f'{{"salt":{"9" * 400}}}'])
async def test_what_the_bus_has_no_word_for_is_auth_s_to_refuse(house: House, odd: str) -> None:
    async def refuse(_: StoreDelegation) -> DelegationRow:
        raise ApiError("validation_error", param="signed_delegation_data")

    await house.auth.answer(STORE_DELEGATION, refuse)
    content = f'{{"delegate_address": "{GATEWAY}", "signed_delegation_data": {odd}}}'
    headers = house.by_token | {"Content-Type": "application/json"}
    refused = await house.http.post(PATH, content=content, headers=headers)
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, "signed_delegation_data")
    assert house.auth.asked["store_delegation"][0].signed_delegation == odd


async def test_no_depth_of_nesting_breaks_it(house: House) -> None:
    async def refuse(_: StoreDelegation) -> DelegationRow:
        raise ApiError("validation_error")

    await house.auth.answer(STORE_DELEGATION, refuse)
    statuses = set()
    # somewhere here reading goes just well enough; writing must go as well
    for depth in range(900, 950):
        nested = '{"a":' * depth + "1" + "}" * depth
        content = f'{{"delegate_address": "{GATEWAY}", "signed_delegation_data": {nested}}}'
        headers = house.by_token | {"Content-Type": "application/json"}
        statuses.add((await house.http.post(PATH, content=content, headers=headers)).status_code)
    assert statuses == {400, 422}


async def test_delegations_want_a_token(house: House) -> None:
    for method, path in (("POST", PATH), ("GET", PATH), ("GET", f"{PATH}/active"), ("DELETE", f"{PATH}/x")):
        response = await house.http.request(method, path, headers=house.by_key)
        assert (response.status_code, response.json()["error"]["code"]) == (401, "wrong_credential_kind")
        assert (await house.http.request(method, path)).status_code == 401
