"""What routes say of themselves for OpenAPI: how they fail, what stands in headers."""

from collections.abc import Mapping
from typing import Any, Final

from morpheus_common.errors import CATALOGUE
from pydantic import BaseModel

Json = dict[str, Any]

CODES: Final = "x-codes"
"""Under this name a route says which codes it gives; the document has them in schemas."""


def _text(description: str, example: str, **more: Any) -> Json:
    return {"description": description, "schema": {"type": "string", **more}, "example": example}


def _number(description: str, example: int) -> Json:
    return {"description": description, "schema": {"type": "integer", "minimum": 0}, "example": example}


HEADERS: Final[Mapping[str, Json]] = {
    "X-Request-Id": _text(
        "This request's id (UUIDv7), as our logs have it. Tell it when you ask for help.",
        "019a7c1e-8f00-7abc-8def-0123456789ab",
        format="uuid",
    ),
    "X-Client-Request-Id": _text(
        "Your own id, if the request had one in `X-Client-Request-Id` or `X-Request-Id`: 1 to 128 of `A-Z a-z 0-9 . _ -`.",
        "my-request-1",
        pattern="^[A-Za-z0-9._-]{1,128}$",
    ),
    "Retry-After": {
        "description": "Seconds to wait before the request is sent again.",
        "schema": {"type": "integer", "minimum": 1, "maximum": 60},
        "example": 5,
    },
    "x-should-retry": _text(
        "What OpenAI's SDKs decide by: `true` if waiting up to a minute can cure it and no prompt runs twice.",
        "false",
        enum=["true", "false"],
    ),
    "x-ratelimit-limit-requests": _number("How many requests are allowed in the time.", 60),
    "x-ratelimit-remaining-requests": _number("How many of them are left.", 59),
    "x-ratelimit-reset-requests": _text(
        "When all of them are there again, from now, as Go writes durations: `850ms`, `6m0s`.",
        "6m0s",
        pattern="^([0-9]+h)?([0-9]+m)?([0-9]+(\\.[0-9]+)?m?s)$",
    ),
    "WWW-Authenticate": _text("How to present a credential.", "Bearer", const="Bearer"),
    "Location": _text("Where to ask how it stands.", "/api/v1/session/operations/019a7c1e-8f00-7abc-8def-0123456789ab"),
    "Idempotent-Replayed": _text(
        "An earlier request with this `Idempotency-Key` began what is answered here.", "true", const="true"
    ),
    "ETag": _text("The copy's tag, for `If-None-Match`.", '"0123456789abcdef0123456789abcdef"'),
    "X-Catalog-Age": _number("Seconds since the router confirmed what is told here.", 3),
    "X-Morpheus-Model": _text(
        "The model that answers; percent-encoded where a header cannot hold it.", "llama-3.3-70b"
    ),
    "X-Morpheus-Session": _text(
        "The session that the prompt ran in, by its id on chain.", "0x" + "0f" * 32, pattern="^0x[0-9a-f]{64}$"
    ),
    "X-Morpheus-Provider": _text("The provider's address.", "0x" + "0f" * 20),
}
"""Every header of answers that a client may want to read, beside those of HTTP and CORS."""


def header(*names: str) -> Json:
    """Return what OpenAPI tells of an answer with these headers."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def schema_of(model: type[BaseModel]) -> Json:
    """Return what OpenAPI tells of a body that nothing is read into."""
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def errors(*codes: str) -> dict[int | str, Json]:
    """Return what OpenAPI tells of the errors of an endpoint, beside those that follow from what it takes."""
    told: dict[int | str, Json] = {}
    for code in codes:
        told.setdefault(CATALOGUE[code].status, {CODES: []})[CODES].append(code)
    return told
