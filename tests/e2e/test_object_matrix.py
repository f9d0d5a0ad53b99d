"""What one user can do to another's objects, and who may call what: for every operation of the OpenAPI document."""

import copy
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import httpx2
import pymongo
import pytest
from morpheus_common.ids import uuid7

from tests.e2e.house import Account, House
from tests.e2e.operations import PLAIN, ROWS, Access, Row, World, delegation, operations, unclassified

SCOPES = ("chat", "sessions", "automation", "usage")
CHANGES_BY_ITSELF = {"last_used_at", "claimed_at", "seen_block", "updated_at", "owner", "busy"}
"""What the services write into a record without anybody asking."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Person:
    """An account and what is its own, one id of each kind."""

    account: Account
    user_id: str
    ids: Mapping[str, str]

    def world(self, house: House, bid_id: str, **more: Any) -> World:
        account = self.account
        return World(
            account.email, account.password, account.refresh_token, self.ids, house.llm, house.embedder, bid_id, **more
        )


def person(house: House) -> Person:
    """Make a user who has everything that can be somebody's."""
    account = house.new_account(automation=True)
    assert house.embed(account, "hello").status_code == 200
    answer = house.chat(account, "hello")
    assert answer.status_code == 200
    house.recorded(answer)
    wanted = delegation(World(account.email, account.password, account.refresh_token, {}, "", "", ""))
    delegated = house.http.post("auth/delegation", json=wanted, headers=account.by_token)
    assert delegated.status_code == 201, delegated.text
    with pymongo.MongoClient[Json](house.stack.mongo_url) as client:
        key = client["auth"]["api_keys"].find_one({"_id": account.key_id})
        session = client["sessions"]["sessions"].find_one({"key_id": account.key_id, "state": "active"})
        assert key is not None
        parked = client["sessions"]["sessions"].find_one({"key_id": account.key_id, "state": "parked"})
        assert session is not None
        assert parked is not None
        user_id = key["user_id"]
        login = client["auth"]["logins"].find_one({"user_id": user_id})
        assert login is not None
    ids = {
        "user": user_id,
        "key": account.key_id,
        "login": login["_id"],
        "session": session["_id"],
        "chain session": session["chain_session"],
        "embedding session": parked["chain_session"],
        "operation": session["operation_id"],
        "delegation": delegated.json()["id"],
    }
    return Person(account, user_id, ids)


@pytest.fixture(scope="module")
def victim(house: House) -> Person:
    return person(house)


@pytest.fixture(scope="module")
def attacker(house: House) -> Person:
    return person(house)


@pytest.fixture(scope="module")
def openapi(house: House) -> Json:
    document: Json = house.http.get(house.stack.gateway_url + "/openapi.json").json()
    return document


@pytest.fixture(scope="module")
def bid_id(house: House, victim: Person) -> str:
    quote = house.http.get("session/quote", params={"model_id": house.llm}, headers=victim.account.by_key).json()
    return str(quote["bid_id"])


def of_nobody(kind: str) -> str:
    """Return an id of the same form that no object has."""
    return "0x" + secrets.token_hex(32) if kind.endswith("session") and kind != "session" else uuid7()


def send(
    house: House,
    operation: str,
    row: Row,
    world: World | None = None,
    *,
    values: Mapping[str, str] | None = None,
    extra: Json | None = None,
    headers: Mapping[str, str] | None = None,
) -> httpx2.Response:
    """Call an operation with the `values` for parameters and fields by name; without a world with nothing else."""
    method, _, path = operation.partition(" ")
    query: Json = {} if world is None else row.query(world)
    body: Json | None = None if world is None or row.body is None else row.body(world)
    for name, value in (values or {}).items():
        if f"{{{name}}}" in path:
            path = path.replace(f"{{{name}}}", value)
        elif row.body is not None:
            body = {**(body or {}), name: value}
        else:
            query[name] = value
    while "{" in path:
        before, _, rest = path.partition("{")
        path = before + uuid7() + rest.partition("}")[2]
    if extra is not None:
        body = {**extra, **(body or {})}
    return house.http.request(
        method,
        house.stack.gateway_url + path,
        params=query,
        json=body,
        headers={} if headers is None else dict(headers),
    )


def told(response: httpx2.Response) -> tuple[int, Json, bytes]:
    """Return all that a client can see but the request's id and what passes with time."""
    request_id = response.headers["x-request-id"].encode()
    passing = {"date", "x-request-id", "content-length"}
    headers = {
        name: value for name, value in response.headers.items() if name not in passing and "ratelimit" not in name
    }
    # a key's last use is written after the answer that it was used for
    content = re.sub(rb'"last_used_at":("[^"]*"|null)', b'"last_used_at":"<then>"', response.content)
    return response.status_code, headers, content.replace(request_id, b"<request id>")


def records(house: House, owner: Person) -> Json:
    """Everything that the databases keep of a user: by place and id."""
    names = {"user_id": owner.user_id}
    found: Json = {}
    with pymongo.MongoClient[Json](house.stack.mongo_url) as client:
        for database in ("auth", "sessions", "automation"):
            for collection in client[database].list_collection_names():
                for row in client[database][collection].find({"$or": [names, {"_id": owner.user_id}]}):
                    kept = {name: value for name, value in row.items() if name not in CHANGES_BY_ITSELF}
                    found[f"{database}.{collection} {row['_id']}"] = kept
    return found


# what the matrix is made of


def test_every_operation_and_every_parameter_is_classified(openapi: Json) -> None:
    """C11: a new endpoint cannot be forgotten."""
    assert unclassified(openapi, ROWS) == []


def test_the_matrix_knows_every_kind_of_object(victim: Person) -> None:
    """C11."""
    assert {kind for row in ROWS.values() for kind in row.objects.values()} <= victim.ids.keys()


def test_what_is_not_classified_is_named(openapi: Json) -> None:
    """C11: the guard itself can fail."""
    known = {name: row for name, row in ROWS.items() if name != "GET /api/v1/session"}
    assert unclassified(openapi, known) == ["GET /api/v1/session: classify me in tests/e2e/operations.py"]
    renamed = copy.deepcopy(openapi)
    renamed["paths"]["/api/v1/session/list"]["get"]["parameters"].append({"in": "query", "name": "owner_id"})
    renamed["components"]["schemas"]["NewKey"]["properties"]["on_behalf_of"] = {"type": "string"}
    assert [text.partition(" name ")[0] for text in unclassified(renamed, ROWS)] == [
        "POST /api/v1/auth/keys: does `on_behalf_of`",
        "GET /api/v1/session/list: does `owner_id`",
    ]
    forgotten = {**ROWS, "DELETE /api/v1/auth/keys/{key_id}": Row(Access.TOKEN)}
    assert [text.partition(" name ")[0] for text in unclassified(openapi, forgotten)] == [
        "DELETE /api/v1/auth/keys/{key_id}: does `key_id`"
    ]
    assert unclassified(openapi, {**ROWS, "GET /gone": Row(Access.KEY)}) == ["GET /gone: there is no such operation"]


# objects of others


def trials() -> Iterator[tuple[str, Row, str, str]]:
    for operation, row in ROWS.items():
        for parameter, kind in row.objects.items():
            yield operation, row, parameter, kind


def test_anothers_object_is_answered_as_one_that_does_not_exist_and_stays_as_it_is(
    house: House, attacker: Person, victim: Person, bid_id: str
) -> None:
    """C11: every parameter that names an object × every object of somebody else × both kinds of credential."""
    before = records(house, victim)
    assert len(before) >= len(victim.ids) - 1, "there is something to lose"
    world = attacker.world(house, bid_id)
    wrong, tried = [], 0
    for operation, row, parameter, wanted in trials():
        for kind, object_id in victim.ids.items():
            for credential, headers in (("token", attacker.account.by_token), ("key", attacker.account.by_key)):
                answers = [
                    send(house, operation, row, world, values={parameter: value}, headers=headers)
                    for value in (object_id, of_nobody(kind))
                ]
                tried += 1
                what = f"{operation} with {parameter} = the victim's {kind}, by {credential}: {answers[0].status_code}"
                if told(answers[0]) != told(answers[1]):
                    wrong.append(f"{what}, and {answers[1].status_code} for what does not exist: {answers[0].text}")
                elif answers[0].status_code not in ({401, 403, 404} if kind == wanted else {400, 401, 403, 404, 422}):
                    wrong.append(what)
                if any(found in answers[0].text for found in victim.ids.values()):
                    wrong.append(f"{what}: shows an id of the victim's")
    assert wrong == []
    assert tried >= 2 * len(victim.ids) * 3
    assert records(house, victim) == before
    assert house.chain_session(victim.ids["chain session"])["ClosedAt"] == 0


def test_its_owner_reaches_each_object_that_others_do_not(house: House, bid_id: str) -> None:
    """C11: the matrix compares answers of operations that work."""
    owner = person(house)
    world = owner.world(house, bid_id)
    refused = []
    # what reads comes first: to delete an object ends what can be asked about it
    for operation, row, parameter, kind in sorted(trials(), key=lambda trial: trial[0].startswith("DELETE")):
        headers = owner.account.by_key if row.access.takes_keys else owner.account.by_token
        answer = send(house, operation, row, world, values={parameter: owner.ids[kind]}, headers=headers)
        if answer.status_code >= 300:
            refused.append(f"{operation}: {answer.status_code} {answer.text}")
    assert refused == []


def test_nothing_that_a_user_can_read_shows_an_id_of_another(house: House, attacker: Person, victim: Person) -> None:
    """C11, C15: nor with headers that name somebody else, which only a proxy of ours may set."""
    pretended = {
        "X-User-Id": victim.user_id,
        "X-Forwarded-User": victim.user_id,
        "X-Authenticated-User": victim.account.email,
        "X-Api-Key": victim.account.key,
        "X-Forwarded-For": "127.0.0.1",
        "X-Original-URL": "/api/v1/auth/keys",
        "Forwarded": "for=127.0.0.1;proto=https",
    }
    # what its own requests used does not change any more
    house.recorded(house.chat(attacker.account, "hello"))
    shown, changed, read = [], [], 0
    for operation, row in ROWS.items():
        if not operation.startswith("GET ") or row.access is Access.PUBLIC or "{" in operation:
            continue
        own = attacker.account.by_key if row.access.takes_keys else attacker.account.by_token
        plain = send(house, operation, row, headers=own)
        spoofed = send(house, operation, row, headers={**own, **pretended})
        read += 1
        changed += [operation] * (told(plain) != told(spoofed))
        shown += [operation for found in victim.ids.values() if found in spoofed.text]
        alone = send(house, operation, row, headers=pretended)
        changed += [f"{operation} without credentials"] * (alone.status_code != 401)
    assert (shown, changed) == ([], [])
    assert read >= 5


# who may call what


def code_of(response: httpx2.Response) -> tuple[int, str | None]:
    try:
        return response.status_code, response.json()["error"]["code"]
    except (ValueError, KeyError, TypeError):
        return response.status_code, None


def test_every_operation_refuses_who_shows_nothing_nonsense_or_the_wrong_kind(house: House, attacker: Person) -> None:
    """C12."""
    wrong = []
    for operation, row in ROWS.items():
        if row.access is Access.PUBLIC:
            continue
        nonsense_key = {"Authorization": "Bearer sk-nonsense"}
        nonsense_token = {"Authorization": "Bearer a.b.c"}
        trying: list[tuple[str, dict[str, str], str]] = [("nothing", {}, "missing_credentials")]
        if row.access.takes_tokens:
            trying.append(("a nonsense token", nonsense_token, "invalid_token"))
        else:
            trying.append(("a token", attacker.account.by_token, "wrong_credential_kind"))
        if row.access.takes_keys:
            trying.append(("a nonsense key", nonsense_key, "invalid_api_key"))
        else:
            trying.append(("a key", attacker.account.by_key, "wrong_credential_kind"))
        for shown, headers, code in trying:
            answer = send(house, operation, row, headers=headers)
            if code_of(answer) != (401, code) or answer.headers.get("www-authenticate") != "Bearer":
                wrong.append(f"{operation} with {shown}: {code_of(answer)} instead of {code}")
    assert wrong == []


def test_a_public_operation_does_not_look_at_what_is_shown(house: House, attacker: Person, bid_id: str) -> None:
    world, wrong = attacker.world(house, bid_id), []
    for operation, row in ROWS.items():
        if row.access is Access.PUBLIC and operation.startswith("GET ") and "{" not in operation:
            answer = send(house, operation, row, world, headers={"Authorization": "Bearer sk-nonsense"})
            wrong += [f"{operation}: {answer.status_code}"] * (answer.status_code != 200)
    assert wrong == []


def test_a_key_without_the_scope_is_refused_and_one_with_nothing_else_is_not(
    house: House, attacker: Person, bid_id: str
) -> None:
    """C14."""
    keys = {
        scopes: _key_with(house, attacker, scopes)
        for one in SCOPES
        for scopes in ((one,), tuple(scope for scope in SCOPES if scope != one))
    }
    world, wrong = attacker.world(house, bid_id), []
    for operation, row in ROWS.items():
        if not row.access.takes_keys:
            continue
        for scopes, headers in keys.items():
            is_lacking = row.scope is not None and row.scope not in scopes
            # what is refused may be whole; what is not shall do nothing
            answer = send(house, operation, row, world if is_lacking else None, headers=headers)
            if (code_of(answer) == (403, "insufficient_scope")) != is_lacking or answer.status_code == 401:
                wrong.append(f"{operation} with {' '.join(scopes)}: {code_of(answer)}")
    assert wrong == []


def _key_with(house: House, owner: Person, scopes: tuple[str, ...]) -> dict[str, str]:
    made = house.http.post("auth/keys", json={"scopes": list(scopes)}, headers=owner.account.by_token)
    assert made.status_code == 201, made.text
    return {"Authorization": f"Bearer {made.json()['key']}"}


def test_what_cannot_be_undone_wants_a_login_of_the_last_hour(house: House) -> None:
    """C12."""
    account = house.new_account(automation=False)
    with pymongo.MongoClient[Json](house.mongo_url("auth")) as client:
        key = client["auth"]["api_keys"].find_one({"_id": account.key_id})
        assert key is not None
        earlier = [{"$set": {"authenticated_at": {"$subtract": ["$authenticated_at", 2 * 3_600_000]}}}]
        aged = client["auth"]["logins"].update_one({"user_id": key["user_id"]}, earlier)
        assert aged.modified_count == 1
    tokens = house.http.post("auth/refresh", json={"refresh_token": account.refresh_token}).json()
    headers = {"Authorization": f"Bearer {tokens['access_token']}"}
    found = {
        operation: code_of(send(house, operation, row, headers=headers))
        for operation, row in ROWS.items()
        if row.access is Access.RECENT
    }
    assert {operation: code for operation, code in found.items() if code != (403, "reauthentication_required")} == {}
    assert send(house, "GET /api/v1/auth/keys", ROWS["GET /api/v1/auth/keys"], headers=headers).status_code == 200


def test_what_operators_do_is_nowhere_on_the_public_port(house: House, openapi: Json, attacker: Person) -> None:
    """C12, C53."""
    assert [path for path in openapi["paths"] if any(word in path for word in ("admin", "operator", "internal"))] == []
    found = {
        path: house.http.get(house.stack.gateway_url + path, headers=attacker.account.by_token).status_code
        for path in ("/admin", "/api/v1/admin/users", "/metrics", "/debug", "/asyncapi", "/internal", "/api/v1/users")
    }
    assert {path: status for path, status in found.items() if status != 404} == {}


# fields that nobody asked for


def extras(word: str) -> Json:
    """Fields that would give away much if they were stored."""
    return {
        "is_admin": True,
        "role": word,
        "owner": word,
        "id": word,
        "_id": word,
        "user_id": word,
        "key_id": word,
        "login_id": word,
        "balance": word,
        "created_at": "2001-02-03T04:05:06Z",
        "is_active": False,
        "version": 7_654_321,
        "scopes": [word],
        "password_hash": word,
        "email_key": word,
        "digest": word,
        "key_guard": 7_654_321,
        "wallet": word,
        "stake": word,
        "$set": {"is_admin": True, "role": word},
    }


def test_fields_that_nobody_asked_for_are_ignored_and_never_stored(
    house: House, openapi: Json, attacker: Person, bid_id: str
) -> None:
    """C13: every operation that takes a body."""
    names = dict(operations(openapi))
    # a session is opened for a key that has none yet
    account = house.new_key(attacker.account)
    acting = replace(attacker, account=account, ids={**attacker.ids, "key": account.key_id})
    planted, refused, sent = f"planted{secrets.token_hex(8)}", [], 0
    for operation, row in ROWS.items():
        if row.body is None:
            assert not (names[operation] - row.objects.keys() - PLAIN)
            continue
        who, more = acting, {}
        if row.ends:
            # what follows needs the others' logins
            who = replace(acting, account=house.new_account(automation=False))
            more = {"reset_token": house.made_by_admin("reset-link", who.account.email)}
        by = who.account.by_key if row.access.takes_keys else who.account.by_token
        headers = {} if row.access is Access.PUBLIC else by
        extra = {name: value for name, value in extras(planted).items() if name not in names[operation]}
        own = {name: who.ids[kind] for name, kind in row.objects.items() if f"{{{name}}}" in operation}
        world = who.world(house, bid_id, **more)
        answer = send(house, operation, row, world, values=own, extra=extra, headers=headers)
        sent += 1
        if answer.status_code >= 300:
            refused.append(f"{operation}: {answer.status_code} {answer.text}")
        assert planted not in answer.text, operation
    assert refused == []
    assert sent == sum(row.body is not None for row in ROWS.values())
    places = house.dump_databases()
    wanted = (planted, "is_admin", "'balance'", "7654321", "2001, 2, 3")
    assert [f"{text} in {place}" for place, dump in places.items() for text in wanted if text.encode() in dump] == []


def test_who_registers_decides_nothing_about_the_account(house: House) -> None:
    """C13."""
    word = secrets.token_hex(12)
    body = {**extras(word), "email": f"{word}@example.com", "password": word + "!"}
    made = house.http.post("auth/register", json=body)
    assert made.status_code == 201
    assert (made.json()["is_active"], made.json()["created_at"][:4] == "2001") == (True, False)
    assert made.json()["id"] != word
    with pymongo.MongoClient[Json](house.stack.mongo_url) as client:
        stored = client["auth"]["users"].find_one({"_id": made.json()["id"]})
        assert stored is not None
        demo = client["auth"]["users"].find_one({"email": house.stack.email})
    assert demo is not None
    assert stored.keys() == demo.keys(), "the stack's own user sent nothing that was not asked for"
