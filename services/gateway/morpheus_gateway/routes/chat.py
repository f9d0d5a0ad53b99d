"""Chat completions."""

from fastapi import APIRouter, Request, Response
from morpheus_common.contracts.chat import Endpoint

from morpheus_gateway.body import read_chat_body
from morpheus_gateway.context import ContextOf
from morpheus_gateway.examples import MODEL
from morpheus_gateway.routes.prompts import body_schema, run_prompt

router = APIRouter(tags=["chat"])

_HELLO = {"model": MODEL, "messages": [{"role": "user", "content": "Hello!"}]}
_BODY_SCHEMA = body_schema(
    "messages",
    {
        "messages": {"type": "array", "minItems": 1, "items": {"type": "object"}},
        "stream": {"type": ["boolean", "null"]},
    },
    _HELLO,
    _HELLO | {"stream": True},
)


@router.post("/api/v1/chat/completions", openapi_extra=_BODY_SCHEMA)
@router.post("/v1/chat/completions", include_in_schema=False)
async def create_chat_completion(request: Request, context: ContextOf) -> Response:
    """Run a prompt in the key's session. A stream or one JSON object, as `stream` or else `Accept` says."""
    return await run_prompt(request, context, Endpoint.CHAT, read_chat_body)
