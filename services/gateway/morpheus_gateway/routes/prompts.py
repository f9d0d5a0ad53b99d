"""What prompts of all kinds have in common: how their bodies are described, who may send one, to which model it goes, how it is answered."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import Request, Response
from morpheus_common.contracts.auth import Caller, Scope
from morpheus_common.contracts.chat import Endpoint, PromptHead
from morpheus_common.errors import ApiError
from morpheus_common.request_context import request_id

from morpheus_gateway.answers import PromptResponse
from morpheus_gateway.body import MAX_MODEL_LENGTH, PromptBody, is_json
from morpheus_gateway.context import Context
from morpheus_gateway.openapi_parts import errors, header
from morpheus_gateway.principal import API_KEY, judge_key, key_of, require_scope
from morpheus_gateway.relay import Prompt

_FAILURES = (
    "missing_required_parameter",
    "invalid_value",
    "model_type_mismatch",
    "no_active_session",
    "attestation_unsupported",
    "provider_rejected",
    "insufficient_balance",
    "insufficient_scope",
    "model_not_allowed",
    "stake_limit_reached",
    "price_limit_reached",
    "model_not_found",
    "session_not_found",
    "open_cancelled",
    "session_busy",
    "session_open_limit",
    "provider_error",
    "session_lost",
    "stream_truncated",
    "open_failed",
    "overloaded",
    "provider_overloaded",
    "stake_capacity",
    "session_opening",
    "session_queue_full",
    "no_provider_available",
    "provider_timeout",
)


def prompt_answers(content: Mapping[str, Any]) -> dict[int | str, dict[str, Any]]:
    """Return what OpenAPI tells of the answers to a prompt: its `content` by media type, and how it may fail."""
    origin = header("X-Morpheus-Model", "X-Morpheus-Session", "X-Morpheus-Provider")
    return {200: {"content": dict(content), "headers": origin}, **errors(*_FAILURES)}


def prompt_request(required: str, properties: Mapping[str, Any], *examples: Mapping[str, Any]) -> dict[str, Any]:
    """Return what OpenAPI tells of a prompt's request: `properties` and what all prompts have; others are passed on as well."""
    schema = {
        "type": "object",
        "required": [required],
        "properties": {
            "model": {
                "type": ["string", "null"],
                "minLength": 1,
                "maxLength": MAX_MODEL_LENGTH,
                "description": "Name or chain id of a model; without one, that of the key's session.",
            },
            **properties,
            "session_id": {
                "type": ["string", "null"],
                "pattern": "^0x[0-9a-fA-F]{64}$",
                "description": "An open session of this API key, by its id on chain, to run the prompt in. Not passed on.",
            },
        },
        "additionalProperties": True,
        "examples": list(examples),
    }
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "security": [{API_KEY: []}],
    }


async def run_prompt(
    request: Request,
    context: Context,
    endpoint: Endpoint,
    read: Callable[[bytes, str], PromptBody],
) -> Response:
    """Return the answer to a prompt, still to be run; `read` is given its body and Accept header. Raises `ApiError`."""
    # by memory if possible: auth is asked again while a worker makes ready, and `admit` waits for that answer
    digest, caller = await judge_key(request, context, context.keys.recognise)
    # before the body is read: a key over its limit costs no more than this
    request.state.standing = await context.limits.chats.take(key_of(caller)[0])
    reading_since = time.monotonic()
    raw = await request.body()
    # how fast a client sends is its own affair
    began = request.state.began + time.monotonic() - reading_since
    if raw and not is_json(request.headers.get("content-type")):
        raise ApiError("unsupported_media_type")
    body = read(raw, ", ".join(request.headers.getlist("accept")))
    model_id = _model_id(context, body, endpoint)
    _check(caller, model_id)

    async def admit() -> None:
        _check(await context.keys.check(digest), model_id)

    checked = context.keys.checked(digest)
    if checked is not None:
        _check(checked, model_id)
    return PromptResponse(
        context.relay,
        Prompt(_head(context, caller, endpoint, body, model_id), body.payload, admitted=checked is not None),
        admit,
        times=context.answer_times,
        json_limit=context.settings.json_answer_limit,
        began=began,
    )


def _model_id(context: Context, body: PromptBody, endpoint: Endpoint) -> str | None:
    """Return the chain id of the model asked for; None leaves the choice to the key's session."""
    if body.model is None:
        return None
    model = context.catalogue.models.find(body.model)
    endpoint.require(model.type)
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


def _head(context: Context, caller: Caller, endpoint: Endpoint, body: PromptBody, model_id: str | None) -> PromptHead:
    key_id, key_prefix = key_of(caller)
    settings = context.settings
    return PromptHead(
        attempt="",
        gateway=settings.worker_id,
        request_id=request_id.get() or "",
        user_id=caller.user_id,
        key_id=key_id,
        key_prefix=key_prefix,
        endpoint=endpoint,
        model_id=model_id,
        session_id=body.session_id,
        stream=body.stream,
        include_usage=body.include_usage,
        choices=body.choices,
        body_bytes=len(body.payload),
        open_wait=settings.open_wait if body.stream else settings.json_open_wait,
    )
