"""Chat completions."""

from fastapi import APIRouter, Request, Response
from morpheus_common.contracts.auth import Caller, Scope
from morpheus_common.contracts.chat import Endpoint, PromptHead
from morpheus_common.contracts.sessions import ModelType
from morpheus_common.errors import ApiError
from morpheus_common.request_context import request_id

from morpheus_gateway.answers import PromptResponse
from morpheus_gateway.body import ChatBody, read_chat_body
from morpheus_gateway.catalogue import require_type
from morpheus_gateway.context import Context, ContextOf
from morpheus_gateway.principal import judge_key, require_scope
from morpheus_gateway.relay import Prompt

router = APIRouter(tags=["chat"])

_BODY_SCHEMA = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["messages"],
                    "properties": {
                        "model": {"type": "string", "description": "name or chain id of a model"},
                        "messages": {"type": "array", "minItems": 1, "items": {"type": "object"}},
                        "stream": {"type": ["boolean", "null"]},
                        "session_id": {"type": "string", "pattern": "^0x[0-9a-fA-F]{64}$"},
                    },
                    "additionalProperties": True,
                }
            }
        },
    }
}


@router.post("/api/v1/chat/completions", openapi_extra=_BODY_SCHEMA)
@router.post("/v1/chat/completions", include_in_schema=False)
async def create_chat_completion(request: Request, context: ContextOf) -> Response:
    """Run a prompt in the key's session. A stream or one JSON object, as `stream` or else `Accept` says."""
    # by memory if possible: auth is asked again while a worker makes ready, and `admit` waits for that answer
    digest, caller = await judge_key(request, context, context.keys.recognise)
    raw = await request.body()
    if raw and not _is_json(request.headers.get("content-type")):
        raise ApiError("unsupported_media_type")
    body = read_chat_body(raw, ", ".join(request.headers.getlist("accept")))
    model_id = _model_id(context, body)
    _check(caller, model_id)

    async def admit() -> None:
        _check(await context.keys.check(digest), model_id)

    checked = context.keys.checked(digest)
    if checked is not None:
        _check(checked, model_id)
    return PromptResponse(
        context.relay,
        Prompt(_head(context, caller, body, model_id), body.payload, admitted=checked is not None),
        admit,
        times=context.answer_times,
        json_limit=context.settings.json_answer_limit,
    )


def _is_json(content_type: str | None) -> bool:
    if content_type is None:
        return True
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type == "application/json" or (media_type.startswith("application/") and media_type.endswith("+json"))


def _model_id(context: Context, body: ChatBody) -> str | None:
    """Return the chain id of the model asked for; None leaves the choice to the key's session."""
    if body.model is None:
        return None
    model = context.catalogue.models.find(body.model)
    require_type(model, ModelType.LLM)
    return model.id


def _check(caller: Caller, model_id: str | None) -> None:
    require_scope(caller, Scope.CHAT)
    if caller.allowed_models is None:
        return
    if model_id is None:
        raise ApiError(
            "missing_required_parameter", "This API key is limited to certain models: name one.", param="model"
        )
    if model_id not in caller.allowed_models:
        raise ApiError("model_not_allowed", param="model")


def _head(context: Context, caller: Caller, body: ChatBody, model_id: str | None) -> PromptHead:
    if caller.key_id is None or caller.key_prefix is None:
        msg = "a prompt belongs to an API key"
        raise RuntimeError(msg)
    settings = context.settings
    return PromptHead(
        attempt="",
        gateway=settings.worker_id,
        request_id=request_id.get() or "",
        user_id=caller.user_id,
        key_id=caller.key_id,
        key_prefix=caller.key_prefix,
        endpoint=Endpoint.CHAT,
        model_id=model_id,
        session_id=body.session_id,
        stream=body.stream,
        include_usage=body.include_usage,
        body_bytes=len(body.payload),
        open_wait=settings.open_wait if body.stream else settings.json_open_wait,
    )
