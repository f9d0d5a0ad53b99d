"""An account from its first day to its last login, as its owner and the operator see it."""

import secrets
import time
from typing import Any

import httpx2

from tests.e2e.house import House

SECOND = 1.0
"""What was revoked is refused everywhere after it."""


def log_in(house: House, email: str, password: str) -> dict[str, str]:
    answer = house.http.post("auth/login", json={"email": email, "password": password})
    assert answer.status_code == 200, answer.text
    return {"Authorization": f"Bearer {answer.json()['access_token']}"}


def me(house: House, headers: dict[str, str]) -> httpx2.Response:
    return house.http.get("auth/me", headers=headers)


def post(house: House, path: str, headers: dict[str, str], **body: Any) -> int:
    return house.http.post(f"auth/{path}", json=body, headers=headers).status_code


def dies_within_a_second(house: House, headers: dict[str, str], since: float) -> bool:
    while me(house, headers).status_code == 200:
        assert time.monotonic() - since < SECOND, "still let in"
    return me(house, headers).status_code == 401


def test_an_account_from_register_to_logout(house: House) -> None:
    """C5"""
    email, old, new = f"{secrets.token_hex(6)}@example.com", secrets.token_urlsafe(16), secrets.token_urlsafe(16)
    registered = house.http.post("auth/register", json={"email": email, "password": old, "name": "Ada"})
    assert registered.status_code == 201, registered.text
    here, elsewhere = log_in(house, email, old), log_in(house, email, old)

    account = me(house, here)
    assert account.status_code == 200
    shown = account.json()
    assert (shown["id"], shown["email"], shown["name"]) == (registered.json()["id"], email, "Ada")
    assert (shown["active_keys"], shown["stake_at_risk"]) == (0, "0")
    assert int(shown["limits"]["stake_at_risk"]) > 0
    assert me(house, elsewhere).status_code == 200

    assert post(house, "password", here, current_password=old, new_password=new) == 204
    assert dies_within_a_second(house, elsewhere, time.monotonic())
    assert me(house, here).status_code == 200
    assert house.http.post("auth/login", json={"email": email, "password": old}).status_code == 401
    again = log_in(house, email, new)

    assert post(house, "logout", here) == 204
    assert dies_within_a_second(house, here, time.monotonic())
    assert me(house, again).status_code == 200


def test_a_forgotten_password_is_set_with_a_token_of_the_operator(house: House) -> None:
    email, new = f"{secrets.token_hex(6)}@example.com", secrets.token_urlsafe(16)
    person = {"email": email, "password": secrets.token_urlsafe(16)}
    assert house.http.post("auth/register", json=person).status_code == 201
    before = log_in(house, email, person["password"])
    with house.bus_capture() as captured:
        token = house.made_by_admin("reset-link", email)
        assert post(house, "password/reset", {}, token=token, new_password=new) == 204
    assert dies_within_a_second(house, before, time.monotonic())
    log_in(house, email, new)
    assert post(house, "password/reset", {}, token=token, new_password=person["password"]) == 401
    places = {"bus": b"".join(captured), **house.logs(), **house.dump_databases()}
    found = [name for name, content in places.items() if token.encode() in content or new.encode() in content]
    assert (len(captured) > 2, found) == (True, [])


def test_the_operator_makes_codes_and_is_told_what_went_wrong(house: House) -> None:
    made = house.made_by_admin("invite", "--count", "3", "--expires-days", "2")
    assert len(set(made.splitlines())) == 3
    refused = house.admin("reset-link", "nobody@example.com")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "morpheus: No active account has this e-mail address.\n"
