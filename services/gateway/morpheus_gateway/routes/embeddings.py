"""Embeddings."""

from fastapi import APIRouter, Request, Response
from morpheus_common.contracts.chat import Endpoint

from morpheus_gateway.body import read_embeddings_body
from morpheus_gateway.context import ContextOf
from morpheus_gateway.examples import EMBEDDING_MODEL
from morpheus_gateway.openapi_parts import schema_of
from morpheus_gateway.prompt_shapes import EmbeddingList
from morpheus_gateway.routes.prompts import prompt_answers, prompt_request, run_prompt

router = APIRouter(tags=["embeddings"])

_TOKENS = {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}}
_TEXT = {"type": "string", "minLength": 1}
_REQUEST = prompt_request(
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
_ANSWERS = prompt_answers({"application/json": {"schema": schema_of(EmbeddingList)}})


@router.post("/api/v1/embeddings", responses=_ANSWERS, openapi_extra=_REQUEST)
@router.post("/v1/embeddings", include_in_schema=False)
async def create_embeddings(request: Request, context: ContextOf) -> Response:
    """Turn texts into vectors in the key's session, which is opened or switched as for a chat. Never streamed."""
    return await run_prompt(request, context, Endpoint.EMBEDDINGS, read_embeddings_body)
