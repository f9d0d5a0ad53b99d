"""What this is, and the keys that others verify our tokens with."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response

from morpheus_gateway.context import ContextOf

router = APIRouter(tags=["root"])


@router.get("/")
async def root(request: Request) -> dict[str, Any]:
    """Name, version and where to read on."""
    return {
        "name": request.app.title,
        "version": request.app.version,
        "description": request.app.description,
        "documentation": {"openapi": "/openapi.json", "models": "/api/v1/models", "health": "/health"},
    }


@router.get("/openapi.json", include_in_schema=False)
@router.get("/api/v1/openapi.json", include_in_schema=False)
async def get_openapi(request: Request) -> dict[str, Any]:
    """OpenAPI of all endpoints, beside them too."""
    # made once, in a few hundred milliseconds: streams go on meanwhile
    document: dict[str, Any] = await asyncio.to_thread(request.app.state.document)
    return document


@router.get("/.well-known/jwks.json")
async def get_signing_keys(context: ContextOf, response: Response) -> dict[str, Any]:
    """The JSON Web Key Set that access tokens are signed with."""
    response.headers["Cache-Control"] = "public, max-age=60"
    return context.public_keys.jwks
