"""The HTTP API as one OpenAPI 3.1 document: served at `/openapi.json`, and written to docs/openapi.json by `make contracts`.

What an operation is for, takes and gives stands with its route. What follows from the code for all of them is added here:
the credential it wants, the errors that come of what it takes, the headers of its answers.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from morpheus_common.errors import CATALOGUE
from pydantic.json_schema import models_json_schema

from morpheus_gateway import __version__
from morpheus_gateway.context import context_of_route
from morpheus_gateway.errors import ErrorBody, is_openai_route
from morpheus_gateway.idempotency import idempotency_of
from morpheus_gateway.openapi_parts import CODES, HEADERS, Json, header, schema_of
from morpheus_gateway.principal import ACCESS_TOKEN, API_KEY, WANTED
from morpheus_gateway.prompt_shapes import ChatCompletion, ChatCompletionChunk, EmbeddingList
from morpheus_gateway.routes import DIRECT_ROUTERS, ROUTERS
from morpheus_gateway.routes.session_body import sound_body

DOCUMENT = Path("docs/openapi.json")
"""Where the committed document is, from the repository's root."""

NAME = "Morpheus API Gateway"
DESCRIPTION = "OpenAI's API on top of the Morpheus AI marketplace."

_ABOUT = f"""\
{DESCRIPTION} The routes for prompts and models answer at `/v1/…` too, where OpenAI's SDKs look for them; a slash at the \
end of a path makes no difference, and every GET answers HEAD.

- **Credentials** are presented as `Authorization: Bearer …`, once: an access token (from `POST /api/v1/auth/login`) or an \
API key (`sk-…`), as each operation says.
- **Errors** have one form, `ErrorBody`, with a `code` that stays and a `message` that says what to do next. Each operation \
lists the codes that it gives. 429 and 503 come with `Retry-After`.
- **Fields that are not described** are ignored; of a prompt they are passed on.
- **Times** are RFC 3339 in UTC, but `created` in OpenAI's objects: Unix seconds. **Amounts** of MOR are in wei, as decimal \
strings. **Ids** of ours are UUIDv7, those on chain `0x` and 64 hex digits."""

_TAGS = {
    "root": "What this gateway is, and what its access tokens are verified with.",
    "health": "Is it well, is it up, may it get traffic.",
    "auth": "Accounts, logins, API keys, private keys and delegations.",
    "models": "What is on offer. Public.",
    "session": "Sessions of an API key: an amount of MOR is locked on chain for each while it is open.",
    "automation": "Sessions that the gateway opens and renews by itself.",
    "usage": "What prompts have used.",
    "chat": "Prompts to language models, as OpenAI has them.",
    "embeddings": "Texts into vectors, as OpenAI has them.",
}

_SCHEMES: Json = {
    ACCESS_TOKEN: {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "An access token from `POST /api/v1/auth/login` or `/refresh`, good for half an hour.",
    },
    API_KEY: {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "sk-…",
        "description": "An API key from `POST /api/v1/auth/keys`. It may stand without `Bearer` too.",
    },
}

_SCHEMA = "#/components/schemas/{model}"
_NOT_READ_INTO = (ChatCompletion, ChatCompletionChunk, EmbeddingList)
"""Models of bodies that no route returns: FastAPI does not know of them."""

OF_NO_OPERATION = (
    "malformed_request",
    "not_found",
    "method_not_allowed",
    "endpoint_not_supported",
    "request_timeout",
    "address_too_long",
    "headers_too_large",
    "https_required",
    "too_many_connections",
)
"""Codes of requests that reach no operation."""
_DEFAULT = f"The request reached no operation: `code` is {' or '.join(f'`{code}`' for code in OF_NO_OPERATION)}."

_COUNTED = frozenset(
    {
        # public GETs by address
        *("root", "get_signing_keys", "list_models", "list_all_models", "get_model", "get_rated_bids"),
        "get_account_deletion",
        # prompts by key
        *("create_chat_completion", "create_embeddings"),
        "register_user",
        "login",
        "change_password",
        "refresh_token",
        "ping_session",
        "create_model_session",
        "create_bid_session",
    }
)
"""Operations whose answers tell how the caller stands with a limit."""

_BY_CREDENTIAL = {
    (ACCESS_TOKEN,): ("invalid_token", "token_expired", "wrong_credential_kind"),
    (API_KEY,): ("invalid_api_key", "wrong_credential_kind"),
    (ACCESS_TOKEN, API_KEY): ("invalid_token", "token_expired", "invalid_api_key"),
}
_DONE = {200: "The answer.", 201: "It is made.", 204: "It is done. There is no body."}
_TELLING = {
    "x-ratelimit-limit-requests": "limited",
    "x-should-retry": "openai",
    "Idempotent-Replayed": "replayable",
}
"""How answers with one of these headers are called."""
_NEVER_REPLAYED = frozenset({400, 401, 413, 415, 422, 429, 500})
"""An operation that an earlier request began fails in other ways."""


@cache
def document() -> Json:
    """Return the document. It is the same whatever the settings are."""
    app = FastAPI(
        title=NAME,
        description=_ABOUT,
        version=__version__,
        openapi_tags=[{"name": name, "description": text} for name, text in _TAGS.items()],
        servers=[{"url": "/", "description": "Where this document came from."}],
        license_info={"name": "MIT", "identifier": "MIT"},
        responses={"default": {"model": ErrorBody, "description": _DEFAULT}},
        generate_unique_id_function=lambda route: route.name,
    )
    for router in ROUTERS:
        app.include_router(router)
    made = app.openapi()
    parts = made["components"]
    _, by_hand = models_json_schema([(model, "serialization") for model in _NOT_READ_INTO], ref_template=_SCHEMA)
    parts["schemas"] = dict(sorted((by_hand["$defs"] | parts["schemas"]).items()))
    parts["headers"] = dict(HEADERS)
    parts["securitySchemes"] = _SCHEMES
    told: set[str] = set()
    for route, operation in _described(made):
        _show_parameters(operation)
        _show_bodies(made, operation)
        told |= _complete(route, operation)
    parts["responses"] = dict(sorted(_shared(made)))
    parts["examples"] = {code: _example(code) for code in CATALOGUE if code in told}
    return made


def operations(made: Json) -> Iterator[Json]:
    """Yield every operation of a document."""
    for methods in made["paths"].values():
        yield from methods.values()


def _described(made: Json) -> Iterator[tuple[APIRoute, Json]]:
    for router in ROUTERS:
        for route in router.routes:
            if isinstance(route, APIRoute) and route.include_in_schema:
                for method in route.methods or ():
                    yield route, made["paths"][route.path_format][method.lower()]


def _show_parameters(operation: Json) -> None:
    """Put examples where tools look for them: beside the schemas, in which pydantic has them."""
    for parameter in operation.get("parameters", []):
        schema = parameter["schema"]
        parameter["example"] = schema.pop("examples")[0]
        for name in ("description", "title"):
            schema.pop(name, None)
        # what is not there has no value: null would be the text `null`
        forms = [form for form in schema.pop("anyOf", []) if form != {"type": "null"}]
        if len(forms) == 1:
            schema |= forms[0]
        elif forms:
            schema["anyOf"] = forms


def _show_bodies(made: Json, operation: Json) -> None:
    for content in operation.get("requestBody", {}).get("content", {}).values():
        found = _examples_of(made, content["schema"])
        content["examples"] = {f"example-{number}": {"value": value} for number, value in enumerate(found, 1)}


def _examples_of(made: Json, schema: Json) -> list[Any]:
    """Return the examples of a body's schema, of all the forms that it may have."""
    if "$ref" in schema:
        schema = made["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    forms = [example for form in schema.get("anyOf", []) for example in _examples_of(made, form)]
    return [*forms, *schema.get("examples", [])]


def _complete(route: APIRoute, operation: Json) -> set[str]:
    """Add what follows from the code to an operation; return the codes that it gives."""
    calls = set(_calls(route.dependant))
    operation["summary"] = operation["summary"].replace("Api ", "API ")
    wanted = [WANTED[call] for call in calls if call in WANTED]
    if wanted:
        operation["security"] = [{kind: []} for kind in wanted[0].kinds]
    operation.setdefault("security", [])
    responses = operation["responses"]
    given = _codes_of(operation, calls, is_direct=any(route in router.routes for router in DIRECT_ROUTERS))
    for response in responses.values():
        given |= set(response.pop(CODES, ()))
    for status, codes in _by_status(given):
        if "content" not in responses.get(str(status), {}):
            responses[str(status)] = _failure(codes)
    replayable = idempotency_of in calls
    for status, response in responses.items():
        if status != "default":
            names = _headers(operation, int(status), given, openai=is_openai_route(route.path), replayable=replayable)
            response["headers"] = header(*names) | response.get("headers", {})
            if response["description"] == "Successful Response":
                response["description"] = _DONE[int(status)]
    operation["responses"] = dict(sorted(responses.items()))
    return given


def _shared(made: Json) -> Iterator[tuple[str, Json]]:
    """Yield by name each failure that more than two operations have, and put references in its places."""
    places: dict[str, list[tuple[Json, str]]] = {}
    for operation in operations(made):
        for status, response in operation["responses"].items():
            if status >= "400" and status != "default":
                places.setdefault(json.dumps(response), []).append((operation["responses"], status))
    for text, found in places.items():
        if len(found) > 2:
            response = json.loads(text)
            name = "-".join([found[0][1], *_name_of(response)])
            yield name, response
            for responses, status in found:
                responses[status] = {"$ref": f"#/components/responses/{name}"}


def _name_of(response: Json) -> Iterator[str]:
    """Yield what makes a shared failure another one than those of the same status."""
    yield from response["content"]["application/json"]["examples"]
    for name, word in _TELLING.items():
        if name in response["headers"]:
            yield word


def _calls(dependant: Dependant) -> Iterator[Callable[..., Any]]:
    for dependency in dependant.dependencies:
        if dependency.call is not None:
            yield dependency.call
        yield from _calls(dependency)


def _codes_of(operation: Json, calls: set[Callable[..., Any]], *, is_direct: bool) -> set[str]:
    """Return the codes that follow from what an operation takes."""
    # a query parameter that stands twice
    codes = {"validation_error", "internal_error"}
    if "requestBody" in operation or sound_body in calls:
        codes |= {"invalid_json", "unsupported_media_type", "request_too_large"}
    if is_direct or context_of_route in calls:
        codes.add("service_unavailable")
    if kinds := tuple(kind for scheme in operation["security"] for kind in scheme):
        codes |= {"multiple_credentials", "missing_credentials", "rate_limit_exceeded", "service_timeout"}
        codes |= set(_BY_CREDENTIAL[kinds])
    for call in calls & WANTED.keys():
        if WANTED[call].recent:
            codes.add("reauthentication_required")
        if WANTED[call].scope is not None:
            codes.add("insufficient_scope")
    if operation["operationId"] in _COUNTED:
        codes.add("rate_limit_exceeded")
    if idempotency_of in calls:
        codes |= {"idempotency_in_progress", "idempotency_key_reused"}
    return codes


def _by_status(codes: set[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield each status with its codes, in the order of the catalogue."""
    kinds = [kind for code, kind in CATALOGUE.items() if code in codes]
    for status in sorted({kind.status for kind in kinds}):
        yield status, [kind.code for kind in kinds if kind.status == status]


def _failure(codes: list[str]) -> Json:
    shown: Json = {"enum": codes}
    if "provider_rejected" in codes:
        shown = {"anyOf": [shown, {"type": "string", "description": "the code of the provider's own error"}]}
    narrowed = {"properties": {"error": {"properties": {"code": shown}}}}
    return {
        "description": f"`code` is {' or '.join(f'`{code}`' for code in codes)}.",
        "content": {
            "application/json": {
                "schema": {"allOf": [schema_of(ErrorBody), narrowed]},
                "examples": {code: {"$ref": f"#/components/examples/{code}"} for code in codes},
            }
        },
    }


def _example(code: str) -> Json:
    kind = CATALOGUE[code]
    error = {"message": kind.message, "type": kind.type, "param": None, "code": code}
    return {"summary": kind.message, "value": {"error": error}}


def _headers(operation: Json, status: int, codes: set[str], *, openai: bool, replayable: bool) -> Iterable[str]:
    """Yield the headers that an answer of this status may have."""
    here = [CATALOGUE[code] for code in codes if CATALOGUE[code].status == status]
    yield from ("X-Request-Id", "X-Client-Request-Id")
    if status in {429, 503} or any(kind.retry for kind in here):
        yield "Retry-After"
    if status == 401:
        yield "WWW-Authenticate"
    elif operation["operationId"] in _COUNTED or any(kind.code == "rate_limit_exceeded" for kind in here):
        yield from ("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests")
    if status >= 400 and openai:
        yield "x-should-retry"
    if status == 202 or any(kind.code in {"session_pending", "idempotency_in_progress"} for kind in here):
        yield "Location"
    if replayable and status not in _NEVER_REPLAYED:
        yield "Idempotent-Replayed"


@cache
def served() -> bytes:
    """Return the document as it is served."""
    return orjson.dumps(document())


def as_text(made: Json) -> str:
    """Return a document as it is committed."""
    return json.dumps(made, indent=2, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    """Write the document to the path that is given, else to `DOCUMENT`."""
    path = Path(arguments[0]) if arguments else DOCUMENT
    made = document()
    path.write_text(as_text(made), encoding="utf-8")
    sys.stderr.write(f"{path} describes {sum(1 for _ in operations(made))} operations.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
