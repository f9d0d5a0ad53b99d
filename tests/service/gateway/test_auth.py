"""Accounts, logins, API keys, and every way a token can be wrong."""

import base64
import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from morpheus_gateway import api_keys

from tests.service.gateway.conftest import House
from tests.service.gateway.fakes import SESSION_ID

PERSON = {"email": "ada@example.org", "password": "correct horse battery", "name": "Ada"}


async def test_register_login_refresh(house: House) -> None:
    registered = await house.http.post("/api/v1/auth/register", json=PERSON)
    assert registered.status_code == 201
    assert registered.json() == {
        "id": "user-1",
        "email": "ada@example.org",
        "name": "Ada",
        "is_active": True,
        "created_at": "2026-01-02T03:04:05.000Z",
    }
    assert house.auth.passwords == {"ada@example.org": "correct horse battery"}
    login = await house.http.post("/api/v1/auth/login", json=PERSON)
    assert login.status_code == 200
    tokens = login.json()
    assert tokens.keys() == {"access_token", "refresh_token", "token_type", "expires_in"}
    assert tokens["token_type"] == "bearer"
    refreshed = await house.http.post("/api/v1/auth/refresh", json={"refresh_token": tokens["refresh_token"]})
    assert refreshed.json().keys() == tokens.keys()


async def test_a_password_never_travels_in_clear(house: House) -> None:
    """C39."""
    await house.http.post("/api/v1/auth/register", json=PERSON)
    await house.http.post("/api/v1/auth/login", json=PERSON)
    seen = "".join(question.model_dump_json() for questions in house.auth.asked.values() for question in questions)
    assert "horse" not in seen


async def test_a_taken_e_mail_is_409(house: House) -> None:
    await house.http.post("/api/v1/auth/register", json=PERSON)
    again = await house.http.post("/api/v1/auth/register", json=PERSON)
    assert (again.status_code, again.json()["error"]["code"]) == (409, "email_taken")


async def test_a_short_password_is_refused_at_registration_and_simply_wrong_at_login(house: House) -> None:
    short = PERSON | {"password": "short"}
    assert (await house.http.post("/api/v1/auth/register", json=short)).status_code == 422
    login = await house.http.post("/api/v1/auth/login", json=short)
    assert (login.status_code, login.json()["error"]["code"]) == (401, "invalid_credentials")


async def test_a_seal_that_auth_cannot_open_is_made_again_with_its_new_key(house: House) -> None:
    await house.http.post("/api/v1/auth/register", json=PERSON)
    house.auth.sealing = X25519PrivateKey.generate()
    house.gateway.context.public_keys._asked_at -= 10
    assert (await house.http.post("/api/v1/auth/login", json=PERSON)).status_code == 200


async def test_a_new_key_is_shown_once_and_auth_never_sees_it(house: House) -> None:
    """C4."""
    made = await house.http.post("/api/v1/auth/keys", json={"name": "laptop"}, headers=house.by_token)
    assert made.status_code == 201
    body = made.json()
    assert {"id", "key", "key_prefix", "name", "created_at", "expires_at", "scopes"} <= body.keys()
    assert api_keys.is_well_formed(body["key"])
    assert body["key"].startswith(body["key_prefix"])
    assert body["key"] not in house.auth.asked["create_key"][0].model_dump_json()
    house.key = body["key"]
    assert (await house.chat()).status_code == 200
    listed = await house.http.get("/api/v1/auth/keys", headers=house.by_token)
    assert body["key"] not in listed.text
    assert "key" not in listed.json()[0]


async def test_keys_can_be_limited_to_models_by_name(house: House) -> None:
    sent = {"allowed_models": ["Mistral-Small"], "scopes": ["chat"]}
    made = (await house.http.post("/api/v1/auth/keys", json=sent, headers=house.by_token)).json()
    assert made["allowed_models"] == [house.sessions.models[1].id]
    assert made["scopes"] == ["chat"]
    unknown = await house.http.post("/api/v1/auth/keys", json={"allowed_models": ["no"]}, headers=house.by_token)
    assert unknown.status_code == 404


async def test_the_list_of_keys_knows_their_sessions(house: House) -> None:
    await house.http.post("/api/v1/session/modelsession?model_id=mistral-small", headers=house.by_key)
    rows = (await house.http.get("/api/v1/auth/keys", headers=house.by_token)).json()
    assert rows[0]["session_id"] == SESSION_ID
    assert {"is_active", "last_used_at", "key_prefix"} <= rows[0].keys()


async def test_a_key_is_deactivated_as_often_as_one_likes(house: House) -> None:
    row = next(iter(house.auth.rows.values()))
    for _ in range(2):
        deleted = await house.http.delete(f"/api/v1/auth/keys/{row.id}", headers=house.by_token)
        assert (deleted.status_code, deleted.json()["is_active"]) == (200, False)
    missing = await house.http.delete("/api/v1/auth/keys/none", headers=house.by_token)
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "key_not_found")


async def test_a_key_knows_itself(house: House) -> None:
    row = next(iter(house.auth.rows.values()))
    assert (await house.http.get("/api/v1/auth/keys/current", headers=house.by_key)).json()["id"] == row.id


async def test_key_routes_want_a_token(house: House) -> None:
    response = await house.http.get("/api/v1/auth/keys", headers=house.by_key)
    assert (response.status_code, response.json()["error"]["code"]) == (401, "wrong_credential_kind")


NOW = int(time.time())


WRONG: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"exp": NOW - 3600}, {}, "token_expired"),
    ({"nbf": NOW + 3600}, {}, "invalid_token"),
    ({"iat": NOW + 3600}, {}, "invalid_token"),
    ({"iss": "someone"}, {}, "invalid_token"),
    ({"aud": "someone"}, {}, "invalid_token"),
    *(
        ({claim: None}, {}, "invalid_token")
        for claim in ("iss", "aud", "sub", "sid", "iat", "nbf", "exp", "jti", "auth_time")
    ),
    ({"sid": 7}, {}, "invalid_token"),
    ({"auth_time": "now"}, {}, "invalid_token"),
    ({"auth_time": True}, {}, "invalid_token"),
    ({}, {"typ": "JWT"}, "invalid_token"),
    ({}, {"kid": "unknown"}, "invalid_token"),
    ({}, {"jku": "https://example.org/keys"}, "invalid_token"),
    ({}, {"x5u": "https://example.org/cert"}, "invalid_token"),
    ({}, {"jwk": {"kty": "OKP"}}, "invalid_token"),
    ({}, {"crit": ["exp"]}, "invalid_token"),
]


async def test_a_token_with_anything_wrong_is_401(house: House) -> None:
    """C7"""
    for claims, headers, code in WRONG:
        token = house.auth.token(headers=headers, **claims)
        response = await house.http.get("/api/v1/auth/keys", headers={"Authorization": f"Bearer {token}"})
        assert (response.status_code, response.json()["error"]["code"]) == (401, code), (claims, headers)
    assert house.auth.asked["check_token"] == []


async def test_a_token_of_another_algorithm_or_key_is_401(house: House) -> None:
    """C7."""
    good = house.auth.token()
    claims = jwt.decode(good, options={"verify_signature": False})
    head = {"typ": "at+jwt", "kid": "k1"}
    public = house.auth.signing.public_key().public_bytes_raw()
    unsigned = ".".join(
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in ({**head, "alg": "none"}, claims)
    )
    for token in (
        jwt.encode(claims, Ed25519PrivateKey.generate(), algorithm="EdDSA", headers=head),
        jwt.encode(claims, public, algorithm="HS256", headers=head),
        f"{unsigned}.",
        good[:-4] + "AAAA",
        "a.b.c",
        "x" * 10_000,
    ):
        response = await house.http.get("/api/v1/auth/keys", headers={"Authorization": f"Bearer {token}"})
        assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_token")


async def test_a_token_of_a_login_that_was_ended_is_401(house: House) -> None:
    assert (await house.http.get("/api/v1/auth/keys", headers=house.by_token)).status_code == 200
    house.auth.ended_logins.add("login-1")
    house.gateway.let_callers_age(1.0)
    assert (await house.http.get("/api/v1/auth/keys", headers=house.by_token)).status_code == 401


async def test_a_new_signing_key_of_auth_is_found(house: House) -> None:
    house.auth.signing, house.auth.kid = Ed25519PrivateKey.generate(), "k2"
    house.gateway.context.public_keys._asked_at -= 10
    assert (await house.http.get("/api/v1/auth/keys", headers=house.by_token)).status_code == 200


async def test_invented_key_ids_do_not_make_us_ask_auth_again_and_again(house: House) -> None:
    asked = len(house.auth.asked["public_keys"])
    for number in range(5):
        token = house.auth.token(headers={"kid": f"invented-{number}"})
        await house.http.get("/api/v1/auth/keys", headers={"Authorization": f"Bearer {token}"})
    assert len(house.auth.asked["public_keys"]) == asked
