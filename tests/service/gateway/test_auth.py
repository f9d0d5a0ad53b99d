"""Accounts, logins, API keys, and every way a token can be wrong."""

import asyncio
import base64
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from morpheus_common.contracts.auth import PUBLIC_KEYS, PublicKeys, PublicKeysQuestion
from morpheus_common.errors import ApiError
from morpheus_devstack.waiting import poll
from morpheus_gateway import api_keys

from tests.service.gateway.conftest import House, MakeHouse
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


async def test_a_key_knows_itself_by_one_question(house: House) -> None:
    row = next(iter(house.auth.rows.values()))
    assert (await house.http.get("/api/v1/auth/keys/current", headers=house.by_key)).json()["id"] == row.id
    assert len(house.auth.asked["get_key"]) == 1
    assert house.auth.asked["list_keys"] == []


async def test_what_is_left_out_of_a_change_stays_and_null_clears(house: House) -> None:
    house.auth.add_key(name="laptop", allowed_models=[house.sessions.models[0].id])
    row = list(house.auth.rows.values())[-1]
    path = f"/api/v1/auth/keys/{row.id}"
    named = await house.http.patch(path, json={"scopes": ["chat"]}, headers=house.by_token)
    assert named.status_code == 200
    assert (named.json()["name"], named.json()["scopes"]) == ("laptop", ["chat"])
    assert named.json()["allowed_models"] == [house.sessions.models[0].id]
    sent = {"name": None, "allowed_models": ["mistral-small"]}
    changed = (await house.http.patch(path, json=sent, headers=house.by_token)).json()
    assert (changed["name"], changed["allowed_models"]) == (None, [house.sessions.models[1].id])
    assert [question.fields for question in house.auth.asked["change_key"]] == [["scopes"], ["name", "allowed_models"]]


@pytest.mark.parametrize(
    "sent",
    [{"scopes": None}, {"scopes": []}, {"scopes": ["all"]}, {"name": "x" * 101}, {"expires_at": "2030-01-01"}, []],
)
async def test_a_change_that_is_none_is_422(house: House, sent: Any) -> None:
    row = next(iter(house.auth.rows.values()))
    response = await house.http.patch(f"/api/v1/auth/keys/{row.id}", json=sent, headers=house.by_token)
    assert (response.status_code, response.json()["error"]["code"]) == (422, "validation_error")
    assert house.auth.asked["change_key"] == []


async def test_nothing_but_what_may_be_changed_is_changed(house: House) -> None:
    """C13"""
    row = next(iter(house.auth.rows.values()))
    sent = {"user_id": "user-2", "is_active": False, "id": "x", "key_prefix": "sk-mine", "name": "new"}
    changed = await house.http.patch(f"/api/v1/auth/keys/{row.id}", json=sent, headers=house.by_token)
    assert changed.json() == row.model_dump(mode="json") | {"name": "new"}


async def test_a_revoked_key_cannot_be_changed(house: House) -> None:
    house.auth.revoke(house.key)
    row = next(iter(house.auth.rows.values()))
    response = await house.http.patch(f"/api/v1/auth/keys/{row.id}", json={"name": "x"}, headers=house.by_token)
    assert (response.status_code, response.json()["error"]["code"]) == (409, "key_inactive")


async def test_a_rotated_key_is_shown_once_with_the_end_of_the_old_one(house: House) -> None:
    """C4"""
    row = next(iter(house.auth.rows.values()))
    path = f"/api/v1/auth/keys/{row.id}/rotate"
    rotated = await house.http.post(path, json={"grace_seconds": 60}, headers=house.by_token)
    assert rotated.status_code == 200
    body = rotated.json()
    assert api_keys.is_well_formed(body["key"])
    assert body["key"] != house.key
    assert (body["id"], body["key_prefix"]) == (row.id, body["key"][:9])
    assert body["previous_key_expires_at"] == "2026-01-02T03:05:05.000Z"
    assert body["key"] not in house.auth.asked["rotate_key"][0].model_dump_json()
    house.key = body["key"]
    assert (await house.chat()).status_code == 200
    # no body at all is as good as an empty one
    assert (await house.http.post(path, headers=house.by_token)).status_code == 200
    assert (await house.http.post(path, json={}, headers=house.by_token)).status_code == 200
    assert [question.grace_seconds for question in house.auth.asked["rotate_key"]] == [60, 86_400, 86_400]


@pytest.mark.parametrize("grace", [-1, 30 * 86_400 + 1, 1.5, "soon", None])
async def test_a_grace_of_more_than_thirty_days_or_less_than_none_is_422(house: House, grace: Any) -> None:
    row = next(iter(house.auth.rows.values()))
    sent = {"grace_seconds": grace}
    response = await house.http.post(f"/api/v1/auth/keys/{row.id}/rotate", json=sent, headers=house.by_token)
    assert (response.status_code, response.json()["error"]["code"]) == (422, "validation_error")
    assert house.auth.asked["rotate_key"] == []


async def test_key_routes_want_a_token(house: House) -> None:
    for method, path in (("GET", ""), ("POST", ""), ("PATCH", "/x"), ("POST", "/x/rotate"), ("DELETE", "/x")):
        response = await house.http.request(method, f"/api/v1/auth/keys{path}", json={}, headers=house.by_key)
        assert (response.status_code, response.json()["error"]["code"]) == (401, "wrong_credential_kind")


NOW = int(time.time())
CLAIMS = ("iss", "aud", "sub", "sid", "iat", "nbf", "exp", "jti", "auth_time")
TIMES = ("iat", "nbf", "exp", "auth_time")
NO_TIMES: tuple[Any, ...] = (True, str(NOW), [NOW], -1, 10**400)
NO_NAMES: tuple[Any, ...] = (7, "", [], {"a": 1})

WRONG: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"exp": NOW - 3600}, {}, "token_expired"),
    ({"nbf": NOW + 3600}, {}, "invalid_token"),
    ({"iat": NOW + 3600}, {}, "invalid_token"),
    ({"iss": "someone"}, {}, "invalid_token"),
    ({"aud": "someone"}, {}, "invalid_token"),
    ({"aud": ["morpheus-gateway"]}, {}, "invalid_token"),
    ({"aud": ["someone", "morpheus-gateway"]}, {}, "invalid_token"),
    ({"aud": {"morpheus-gateway": 1}}, {}, "invalid_token"),
    *(({claim: None}, {}, "invalid_token") for claim in CLAIMS),
    *(({claim: value}, {}, "invalid_token") for claim in TIMES for value in NO_TIMES),
    *(({claim: value}, {}, "invalid_token") for claim in ("sub", "sid", "jti") for value in NO_NAMES),
    ({}, {"typ": "JWT"}, "invalid_token"),
    ({}, {"typ": None}, "invalid_token"),
    ({}, {"typ": ["at+jwt"]}, "invalid_token"),
    *(
        ({}, {"kid": kid}, "invalid_token")
        for kid in ("unknown", "", "../../dev/null", "k1' OR '1'='1", "k1\x00", "K1", "k" * 5_000)
    ),
    ({}, {"jku": "https://example.org/keys"}, "invalid_token"),
    ({}, {"x5u": "https://example.org/cert"}, "invalid_token"),
    ({}, {"x5c": ["MIIB"]}, "invalid_token"),
    ({}, {"jwk": {"kty": "OKP"}}, "invalid_token"),
    ({}, {"crit": ["exp"]}, "invalid_token"),
    ({}, {"zip": "DEF"}, "invalid_token"),
]


def part(value: Any) -> str:
    """A segment of a token: the JSON text of a value, or a text as it is."""
    text = value if isinstance(value, str) else json.dumps(value)
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def signed(house: House, head: Any, claims: Any) -> str:
    """A token of whatever header and payload, with a good signature of auth's key."""
    content = f"{part(head)}.{part(claims)}"
    signature = house.auth.signing.sign(content.encode())
    return f"{content}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


async def answer_to(house: House, token: str) -> tuple[int, str | None]:
    response = await house.http.get("/api/v1/auth/keys", headers={"Authorization": f"Bearer {token}"})
    return response.status_code, None if response.status_code == 200 else response.json()["error"]["code"]


async def test_a_token_with_anything_wrong_is_401(make_house: MakeHouse) -> None:
    """C7"""
    house = await make_house(refused_credentials_per_minute=len(WRONG) + 1)
    for claims, headers, code in WRONG:
        token = house.auth.token(headers=headers, **claims)
        assert await answer_to(house, token) == (401, code), (claims, headers)
    assert house.auth.asked["check_token"] == []


async def test_a_token_of_another_algorithm_or_key_is_401(house: House) -> None:
    """C7"""
    good = house.auth.token()
    claims = jwt.decode(good, options={"verify_signature": False})
    head = {"typ": "at+jwt", "kid": "k1"}
    public = house.auth.signing.public_key()
    content, _, signature = good.rpartition(".")
    rsa_key, ec_key = rsa.generate_private_key(65_537, 2048), ec.generate_private_key(ec.SECP256R1())
    for token in (
        jwt.encode(claims, Ed25519PrivateKey.generate(), algorithm="EdDSA", headers=head),
        # the public key, in each form it has, as the secret of a symmetric algorithm
        jwt.encode(claims, public.public_bytes_raw(), algorithm="HS256", headers=head),
        jwt.encode(claims, base64.urlsafe_b64encode(public.public_bytes_raw()), algorithm="HS256", headers=head),
        jwt.encode(claims, rsa_key, algorithm="RS256", headers=head),
        jwt.encode(claims, ec_key, algorithm="ES256", headers=head),
        *(f"{part({**head, 'alg': name})}.{part(claims)}." for name in ("none", "None", "nOnE", "")),
        *(f"{part({**head, 'alg': name})}.{part(claims)}.{signature}" for name in ("none", "HS256", "ES256", "RS256")),
        *(signed(house, {**head, "alg": name}, claims) for name in ("none", "HS256", "eddsa", "Ed448", None, 7)),
        signed(house, head, claims),
        f"{content}.",
        f"{content}.{part('x' * 64)}",
        f"{content}.{signature[:-4]}AAAA",
        f"{part({**head, 'alg': 'EdDSA'})}.{part({**claims, 'sub': 'user-2'})}.{signature}",
    ):
        assert await answer_to(house, token) == (401, "invalid_token"), token
    assert await answer_to(house, good) == (200, None)


async def test_a_text_that_is_no_token_is_401(house: House) -> None:
    """C7: nor does it take long, or end in a 500."""
    good = house.auth.token()
    head, claims, signature = good.split(".")
    for token in (
        "a.b.c",
        "..",
        "x" * 10_000,
        f"{head}.{claims}",
        f"{good}.{signature}",
        f"{head}.{claims}.{signature[:8]}!{signature[8:]}",
        f"{head}.{claims}.{signature}==",
        f"{head}. {claims}.{signature}",
        f"{part('[' * 5_000)}.{claims}.{signature}",
        f"{part('[]')}.{claims}.{signature}",
        f"{part('7')}.{part('null')}.{signature}",
        f"{head}.{part('{')}.{signature}",
        f"{head}.{base64.urlsafe_b64encode(bytes(range(128, 200))).decode()}.{signature}",
        f"{base64.urlsafe_b64encode('{}'.encode('utf-16')).decode().rstrip('=')}.{claims}.{signature}",
        house.auth.token(padding="x" * 9_000),
    ):
        assert await answer_to(house, token) == (401, "invalid_token"), token


async def test_a_token_that_says_something_twice_is_401(house: House) -> None:
    """C7: two readers could believe different halves of it, so it is refused although auth signed it."""
    head = {"alg": "EdDSA", "typ": "at+jwt", "kid": house.auth.kid}
    claims = jwt.decode(house.auth.token(), options={"verify_signature": False})
    assert await answer_to(house, signed(house, head, claims)) == (200, None)
    twice = json.dumps(claims)[:-1]
    for token in (
        signed(house, head, f'{twice}, "sub": "user-2"}}'),
        signed(house, head, f'{twice}, "sub": "user-1"}}'),
        signed(house, head, f'{twice}, "act": {{"a": 1, "a": 2}}}}'),
        signed(house, f'{json.dumps(head)[:-1]}, "alg": "none"}}', claims),
        signed(house, f'{json.dumps(head)[:-1]}, "kid": "k2"}}', claims),
        signed(house, {**head, "kid": ["k1"]}, claims),
        signed(house, {**head, "kid": None}, claims),
        signed(house, {**head, "b64": False}, claims),
        signed(house, head, f'{twice}, "n": NaN}}'),
        signed(house, head, json.dumps(claims | {"exp": "X"}).replace('"X"', "1e999")),
        signed(house, head, [claims]),
    ):
        assert await answer_to(house, token) == (401, "invalid_token"), token


async def test_a_token_just_within_the_leeway_is_good(house: House) -> None:
    """C47: clocks of issuer and verifier may differ by so much."""
    now = int(time.time())
    assert await answer_to(house, house.auth.token(exp=now - 20)) == (200, None)
    assert await answer_to(house, house.auth.token(nbf=now + 20, iat=now + 20)) == (200, None)


async def test_who_comes_from_an_auth_with_a_later_clock_is_told_that_it_is_the_clocks(house: House) -> None:
    """C47: logging in again, which is the advice for other tokens that are not valid, would change nothing."""
    by_token = {"Authorization": f"Bearer {house.auth.token(nbf=int(time.time()) + 300, iat=int(time.time()) + 300)}"}
    answer = await house.http.get("/api/v1/auth/keys", headers=by_token)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_token")
    assert "clocks" in answer.json()["error"]["message"]


async def test_a_token_of_a_login_that_was_ended_is_401(house: House) -> None:
    """C7: auth says the same of a login that was ended and of a user who is disabled or deleted."""
    assert (await house.http.get("/api/v1/auth/keys", headers=house.by_token)).status_code == 200
    house.auth.ended_logins.add("login-1")
    house.gateway.let_callers_age(1.0)
    assert await answer_to(house, house.auth.token()) == (401, "invalid_token")


async def renewed(house: House) -> None:
    """Let the gateway's copy of auth's keys be renewed now."""
    house.gateway.context.public_keys._asked_at -= 10
    await house.gateway.context.public_keys.renew()


async def test_tokens_of_a_published_key_are_good_and_those_of_a_withdrawn_one_are_not(house: House) -> None:
    """C7"""
    old, new = house.auth.signing, Ed25519PrivateKey.generate()
    of_old = house.auth.token()
    house.auth.signing, house.auth.kid = new, "k2"
    house.auth.also_published = {"k1": old}
    await renewed(house)
    assert await answer_to(house, of_old) == (200, None)
    assert await answer_to(house, house.auth.token()) == (200, None)
    house.auth.also_published = {}
    await renewed(house)
    assert await answer_to(house, of_old) == (401, "invalid_token")
    assert await answer_to(house, house.auth.token()) == (200, None)


async def test_a_new_signing_key_of_auth_is_found_without_a_request(
    make_house: MakeHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("morpheus_gateway.public_keys.REFRESH_SECONDS", 0.05)
    house = await make_house()
    house.auth.signing, house.auth.kid = Ed25519PrivateKey.generate(), "k2"
    token = house.auth.token()

    async def is_good() -> bool:
        return await answer_to(house, token) == (200, None)

    assert await poll(is_good, seconds=10)


async def test_an_unknown_key_id_is_401_without_asking_or_waiting_for_auth(house: House) -> None:
    never = asyncio.Event()
    asked_by_requests: list[str] = []

    async def never_answers(_: PublicKeysQuestion) -> PublicKeys:
        if house.auth.request_ids[-1] is not None:
            asked_by_requests.append("public_keys")
        await never.wait()
        raise ApiError("service_unavailable")

    await house.auth.answer(PUBLIC_KEYS, never_answers)
    house.gateway.context.public_keys._asked_at -= 10
    for number in range(5):
        token = house.auth.token(headers={"kid": f"invented-{number}"})
        assert await answer_to(house, token) == (401, "invalid_token")
    assert asked_by_requests == []


async def test_without_a_fresh_copy_of_auths_keys_no_token_is_judged(house: House) -> None:
    """A copy that is old could hold a key that was withdrawn, or lack the one that signs."""
    public_keys = house.gateway.context.public_keys
    copied_at = public_keys._copied_at
    public_keys._copied_at = copied_at - 31
    assert await answer_to(house, house.auth.token()) == (503, "service_unavailable")
    assert await answer_to(house, house.auth.token(headers={"kid": "unknown"})) == (503, "service_unavailable")
    public_keys._copied_at = copied_at
    assert await answer_to(house, house.auth.token()) == (200, None)
