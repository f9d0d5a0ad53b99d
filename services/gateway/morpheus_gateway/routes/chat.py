"""Chat completions."""

from fastapi import APIRouter, Request, Response
from morpheus_common.contracts.chat import Endpoint

from morpheus_gateway.body import read_chat_body
from morpheus_gateway.context import ContextOf
from morpheus_gateway.errors import ErrorBody
from morpheus_gateway.examples import MODEL
from morpheus_gateway.openapi_parts import schema_of
from morpheus_gateway.prompt_shapes import ChatCompletion, ChatCompletionChunk
from morpheus_gateway.routes.prompts import prompt_answers, prompt_request, run_prompt

router = APIRouter(tags=["chat"])

_HELLO = {"model": MODEL, "messages": [{"role": "user", "content": "Hello!"}]}
_REQUEST = prompt_request(
    "messages",
    {
        "messages": {
            "type": "array",
            "minItems": 1,
            "items": {"type": "object"},
            "description": "The conversation, in OpenAI's form. Passed on as it is.",
        },
        "stream": {
            "type": ["boolean", "null"],
            "description": "Whether the answer is a stream. Without it, it is one if `Accept` prefers `text/event-stream`.",
        },
        "stream_options": {
            "type": ["object", "null"],
            "properties": {"include_usage": {"type": ["boolean", "null"]}},
            "description": "`include_usage`: the last chunk of the stream tells the tokens.",
        },
    },
    _HELLO,
    _HELLO | {"stream": True},
)


_ANSWERS = prompt_answers(
    {
        "application/json": {"schema": schema_of(ChatCompletion)},
        "text/event-stream": {
            "schema": {
                "description": "What stands behind `data:` of one event. Lines that begin with `:` are comments, sent in "
                "silence. The stream ends with `data: [DONE]`; an answer that broke off has an error before that.",
                "anyOf": [schema_of(ChatCompletionChunk), schema_of(ErrorBody)],
            }
        },
    }
)


@router.post("/api/v1/chat/completions", responses=_ANSWERS, openapi_extra=_REQUEST)
@router.post("/v1/chat/completions", include_in_schema=False)
async def create_chat_completion(request: Request, context: ContextOf) -> Response:
    """Run a prompt in the key's session. A stream or one JSON object, as `stream` or else `Accept` says."""
    return await run_prompt(request, context, Endpoint.CHAT, read_chat_body)
