"""The header `Idempotency-Key`: the same request sent twice is carried out once, and answered twice.

What leaves the gateway are digests. What they mean is kept by the sessions service, beside the operation.
"""

import hashlib
import json
from typing import Annotated

from fastapi import Depends, Header, Request
from morpheus_common.contracts.sessions import Idempotency
from morpheus_common.errors import ApiError

from morpheus_gateway.principal import SessionsCaller

HEADER = "Idempotency-Key"

_Presented = Annotated[
    str | None,
    Header(
        alias=HEADER,
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        examples=["8e03978e-40d5-43e8-bc93-6894a57f9324"],
        description="Makes a request safe to send again: for 24 hours it is answered with the first result, and "
        "`Idempotent-Replayed: true`. Counts for one API key and one endpoint.",
    ),
]


async def idempotency_of(request: Request, caller: SessionsCaller, presented: _Presented = None) -> Idempotency | None:
    """Return what makes two requests the same, None without the header. Raises 422 if it comes twice."""
    if presented is None:
        return None
    if len(request.headers.getlist(HEADER)) > 1:
        raise ApiError("validation_error", f"Send one {HEADER} header.", param=HEADER)
    route = f"{request.method} {request.scope['route'].path}"
    query = sorted(request.query_params.multi_items())
    return Idempotency(
        digest=_digest(caller.key_id, route, presented),
        fingerprint=_digest(route, query, _canonical(await request.body())),
    )


Wish = Annotated[Idempotency | None, Depends(idempotency_of)]


def _canonical(body: bytes) -> str:
    """Return the body without what makes no difference: blanks, order of keys, an object with nothing in it."""
    try:
        return json.dumps(json.loads(body or b"{}") or {}, sort_keys=True, separators=(",", ":"))
    except (ValueError, RecursionError):
        # of an endpoint that reads no body
        return hashlib.sha256(body).hexdigest()


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()
