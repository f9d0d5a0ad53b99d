"""Embeddings."""

from fastapi import APIRouter, Request, Response
from morpheus_common.contracts.chat import Endpoint

from morpheus_gateway.body import read_embeddings_body
from morpheus_gateway.context import ContextOf
from morpheus_gateway.examples import EMBEDDING_MODEL
from morpheus_gateway.routes.prompts import body_schema, run_prompt

router = APIRouter(tags=["embeddings"])

_TOKENS = {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}}
_TEXT = {"type": "string", "minLength": 1}
_BODY_SCHEMA = body_schema(
    "input",
    {
        "input": {
            "anyOf": [
                _TEXT,
                {"type": "array", "minItems": 1, "items": _TEXT},
                _TOKENS,
                {"type": "array", "minItems": 1, "items": _TOKENS},
            ]
        }
    },
    {"model": EMBEDDING_MODEL, "input": ["first text", "second text"]},
)


@router.post("/api/v1/embeddings", openapi_extra=_BODY_SCHEMA)
@router.post("/v1/embeddings", include_in_schema=False)
async def create_embeddings(request: Request, context: ContextOf) -> Response:
    """Turn texts into vectors in the key's session, which is opened or switched as for a chat. Never streamed."""
    return await run_prompt(request, context, Endpoint.EMBEDDINGS, read_embeddings_body)
