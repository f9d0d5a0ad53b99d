"""Every operation of the API: who may call it, which of its parameters name somebody's object, and a body that it takes.

A new route is one row here; without it `test_object_matrix.py` fails and says so. A parameter (path, query, header, or field
of a body) names an object of one user, or it is in `PLAIN`.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from morpheus_auth.settings import DEVELOPMENT_DELEGATE
from morpheus_gateway.examples import MODEL_ID

Json = dict[str, Any]


class Access(StrEnum):
    """What an operation wants to see: nothing, an access token, one of a login of the last hour, an API key, or either."""

    PUBLIC = "public"
    TOKEN = "token"
    RECENT = "recent token"
    KEY = "key"
    EITHER = "either"

    @property
    def takes_tokens(self) -> bool:
        return self in {Access.TOKEN, Access.RECENT, Access.EITHER}

    @property
    def takes_keys(self) -> bool:
        return self in {Access.KEY, Access.EITHER}


@dataclass(frozen=True)
class World:
    """What a row may need of the caller: e-mail, password and refresh token of an account with `ids` of its own objects, one of
    each kind, an LLM's name, that of a model for embeddings, and a bid for the LLM; the operator's codes, if he was asked for them. The rest is new each time.
    """

    email: str
    password: str
    refresh_token: str
    ids: Mapping[str, str]
    llm: str
    embedder: str
    bid_id: str
    invite_code: str | None = None
    reset_token: str = "nobody's"
    word: str = field(default_factory=lambda: f"w{secrets.token_hex(12)}")
    new_password: str = field(default_factory=lambda: secrets.token_urlsafe(18))
    private_key: str = field(default_factory=lambda: "0x" + secrets.token_hex(32))
    signature: str = field(default_factory=lambda: "0x" + secrets.token_hex(65))


def _nothing(_: World) -> Json:
    return {}


@dataclass(frozen=True)
class Row:
    """`scope`: what an API key needs. `objects`: parameter → kind of object, as in `World.ids`. `body` and `query` make a
    request that succeeds; without `body` the operation takes none. `ends`: the password, the login or the account is
    another one afterwards, or none.
    """

    access: Access
    scope: str | None = None
    objects: Mapping[str, str] = field(default_factory=dict)
    body: Callable[[World], Json] | None = None
    query: Callable[[World], Json] = _nothing
    ends: bool = False


PLAIN = frozenset(
    {
        # public things of the marketplace
        *("model", "model_id", "bid_id", "allowed_models"),
        # figures, words and wishes
        *("limit", "skip", "ended", "duration", "sessionDuration", "amount", "name", "expires_at", "scopes"),
        *(
            "messages",
            "input",
            "stream",
            "stream_options",
            "If-None-Match",
            "is_enabled",
            "session_duration",
            "directPayment",
            "failover",
        ),
        *("from", "to", "group_by"),
        *("all", "grace_seconds", "delegate_address", "signed_delegation_data", "expiry", "is_active"),
        # what proves who somebody is; the header is scoped to its API key (test_idempotency.py of the sessions service)
        *("email", "password", "refresh_token", "Idempotency-Key", "current_password", "new_password"),
        *("invite_code", "private_key"),
        # the operator's for a new password; the one that `status_url` of a deletion ends with
        "token",
    }
)

_PUBLIC = Row(Access.PUBLIC)


def _model(world: World) -> Json:
    return {"model_id": world.llm}


def _registration(world: World) -> Json:
    return {"email": f"{world.word}@example.com", "password": world.word, "invite_code": world.invite_code}


def _login(world: World) -> Json:
    return {"email": world.email, "password": world.password}


def _password(world: World) -> Json:
    return {"current_password": world.password, "new_password": world.new_password}


def _reset(world: World) -> Json:
    return {"token": world.reset_token, "new_password": world.new_password}


def delegation(world: World) -> Json:
    """Return the body of one that nobody else has. Its delegator may be a contract account, so that only the chain could judge
    the signature.
    """
    signed = {
        "delegate": DEVELOPMENT_DELEGATE,
        "delegator": "0x" + "5a" * 20,
        "authority": "0x" + "ff" * 32,
        "caveats": [{"enforcer": "0x" + "ab" * 20, "terms": "0x01", "args": "0x"}],
        "salt": "0x" + secrets.token_hex(32),
        "signature": world.signature,
    }
    return {"delegate_address": DEVELOPMENT_DELEGATE, "signed_delegation_data": signed}


def _prompt(world: World) -> Json:
    return {"model": world.llm, "messages": [{"role": "user", "content": "hello"}]}


def _texts(world: World) -> Json:
    return {"model": world.embedder, "input": ["hello"]}


ROWS: dict[str, Row] = {
    "GET /": _PUBLIC,
    "GET /.well-known/jwks.json": _PUBLIC,
    "GET /health": _PUBLIC,
    "GET /live": _PUBLIC,
    "GET /ready": _PUBLIC,
    "GET /api/v1/models": _PUBLIC,
    "GET /api/v1/models/allmodels": _PUBLIC,
    "GET /api/v1/models/ratedbids": Row(Access.PUBLIC, query=lambda _: {"model_id": MODEL_ID}),
    "GET /api/v1/models/{model_id}": _PUBLIC,
    "POST /api/v1/auth/register": Row(Access.PUBLIC, body=_registration),
    "POST /api/v1/auth/login": Row(Access.PUBLIC, body=_login),
    "POST /api/v1/auth/refresh": Row(Access.PUBLIC, body=lambda world: {"refresh_token": world.refresh_token}),
    "GET /api/v1/auth/me": Row(Access.TOKEN),
    "POST /api/v1/auth/logout": Row(Access.TOKEN, body=lambda _: {"all": False}, ends=True),
    "POST /api/v1/auth/password": Row(Access.RECENT, body=_password, ends=True),
    "POST /api/v1/auth/password/reset": Row(Access.PUBLIC, body=_reset, ends=True),
    "DELETE /api/v1/auth/register": Row(Access.RECENT, ends=True),
    "GET /api/v1/auth/deletions/{token}": _PUBLIC,
    "GET /api/v1/auth/keys": Row(Access.TOKEN),
    "POST /api/v1/auth/keys": Row(Access.TOKEN, body=lambda world: {"name": world.word}),
    "GET /api/v1/auth/keys/current": Row(Access.KEY),
    "PATCH /api/v1/auth/keys/{key_id}": Row(
        Access.TOKEN, objects={"key_id": "key"}, body=lambda world: {"name": world.word}
    ),
    "POST /api/v1/auth/keys/{key_id}/rotate": Row(
        Access.TOKEN, objects={"key_id": "key"}, body=lambda _: {"grace_seconds": 3_600}
    ),
    "DELETE /api/v1/auth/keys/{key_id}": Row(Access.TOKEN, objects={"key_id": "key"}),
    "GET /api/v1/auth/private-key": Row(Access.RECENT),
    "POST /api/v1/auth/private-key": Row(Access.RECENT, body=lambda world: {"private_key": world.private_key}),
    "DELETE /api/v1/auth/private-key": Row(Access.RECENT),
    "GET /api/v1/auth/delegation": Row(Access.TOKEN),
    "POST /api/v1/auth/delegation": Row(Access.TOKEN, body=delegation),
    "GET /api/v1/auth/delegation/active": Row(Access.TOKEN),
    "DELETE /api/v1/auth/delegation/{delegation_id}": Row(Access.TOKEN, objects={"delegation_id": "delegation"}),
    "GET /api/v1/session": Row(Access.KEY, "sessions"),
    "GET /api/v1/session/list": Row(Access.KEY, "sessions"),
    "GET /api/v1/session/quote": Row(Access.KEY, "sessions", query=_model),
    "GET /api/v1/session/operations/{operation_id}": Row(Access.KEY, "sessions", objects={"operation_id": "operation"}),
    "POST /api/v1/session/modelsession": Row(Access.KEY, "sessions", body=_nothing, query=_model),
    "POST /api/v1/session/bidsession": Row(
        Access.KEY, "sessions", body=_nothing, query=lambda world: {"bid_id": world.bid_id}
    ),
    "POST /api/v1/session/closesession": Row(Access.KEY, "sessions"),
    "POST /api/v1/session/pingsession": Row(Access.KEY, "sessions"),
    "POST /api/v1/session/approve": Row(Access.KEY, "sessions", query=lambda _: {"amount": "1"}),
    "GET /api/v1/automation/settings": Row(Access.EITHER, "automation"),
    "PUT /api/v1/automation/settings": Row(Access.EITHER, "automation", body=lambda _: {"is_enabled": True}),
    "GET /api/v1/automation/decisions": Row(Access.EITHER, "automation"),
    "GET /api/v1/usage": Row(Access.EITHER, "usage"),
    "POST /api/v1/chat/completions": Row(Access.KEY, "chat", objects={"session_id": "chain session"}, body=_prompt),
    "POST /api/v1/embeddings": Row(Access.KEY, "chat", objects={"session_id": "embedding session"}, body=_texts),
}


def operations(openapi: Json) -> Iterator[tuple[str, set[str]]]:
    """Yield each operation of an OpenAPI document, `METHOD /path`, with the names of all of its parameters and fields."""
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", _names(openapi, operation)


def _names(openapi: Json, operation: Json) -> set[str]:
    names = {parameter["name"] for parameter in operation.get("parameters", [])}
    for content in operation.get("requestBody", {}).get("content", {}).values():
        names |= set(_fields(openapi, content["schema"]))
    return names


def _fields(openapi: Json, schema: Json) -> Iterator[str]:
    """Yield the fields of a body, of all the forms that it may have."""
    if "$ref" in schema:
        yield from _fields(openapi, openapi["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    for form in ("anyOf", "oneOf", "allOf"):
        for one in schema.get(form, []):
            yield from _fields(openapi, one)
    yield from schema.get("properties", {})


def unclassified(openapi: Json, rows: Mapping[str, Row]) -> list[str]:
    """Return what nobody has classified yet, and rows that are for nothing."""
    found = []
    known = dict(operations(openapi))
    for operation, names in known.items():
        if operation not in rows:
            found.append(f"{operation}: classify me in tests/e2e/operations.py")
            continue
        row = rows[operation]
        found += [
            f"{operation}: does `{name}` name an object of a user? Then it belongs into `objects`, else into PLAIN"
            for name in sorted(names - row.objects.keys() - PLAIN)
        ]
        found += [f"{operation}: it has no `{name}`" for name in sorted(row.objects.keys() - names)]
    found += [f"{operation}: there is no such operation" for operation in rows if operation not in known]
    return found
