"""What this is, and the keys that others verify our tokens with."""

import asyncio
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict

from morpheus_gateway.context import ContextOf

router = APIRouter(tags=["root"])

DOCUMENTATION = {
    "docs": "/docs",
    "reference": "/docs/reference",
    "llms": "/llms.txt",
    "llms_full": "/llms-full.txt",
    "openapi": "/openapi.json",
    "asyncapi": "/docs/asyncapi.json",
    "models": "/api/v1/models",
    "health": "/health",
}
"""Where to read on, by what is found there."""


class GatewayShown(BaseModel):
    """What this is. `documentation`: where to read on, by what is found there."""

    name: str
    version: str
    description: str
    documentation: dict[str, str]


class SigningKey(BaseModel):
    """A JSON Web Key (RFC 8037): a public key of Ed25519, which access tokens name by `kid`."""

    model_config = ConfigDict(extra="allow")

    kty: Literal["OKP"]
    crv: Literal["Ed25519"]
    x: str
    kid: str
    use: Literal["sig"]
    alg: str


class SigningKeys(BaseModel):
    """A JSON Web Key Set (RFC 7517)."""

    model_config = ConfigDict(extra="allow")

    keys: list[SigningKey]


@router.get("/")
async def root(request: Request) -> GatewayShown:
    """Name, version and where to read on."""
    return GatewayShown(
        name=request.app.title,
        version=request.app.version,
        description=request.app.description,
        documentation=DOCUMENTATION,
    )


@router.get("/openapi.json", include_in_schema=False)
@router.get("/api/v1/openapi.json", include_in_schema=False)
async def get_openapi(request: Request) -> Response:
    """OpenAPI of all endpoints, beside them too."""
    # made once, in a few hundred milliseconds: streams go on meanwhile
    document = await asyncio.to_thread(request.app.state.document)
    return Response(document, headers={"Cache-Control": "public, max-age=60"}, media_type="application/json")


@router.get("/.well-known/jwks.json", response_model=None, responses={200: {"model": SigningKeys}})
async def get_signing_keys(context: ContextOf, response: Response) -> dict[str, Any]:
    """The JSON Web Key Set that access tokens are signed with."""
    response.headers["Cache-Control"] = "public, max-age=60"
    return context.public_keys.jwks
