"""Whether an API key's session is alive."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from morpheus_common.contracts.chat import PingAnswer, PingStatus, PromptHead
from morpheus_common.errors import ApiError
from morpheus_common.request_context import request_id
from pydantic import ValidationError

from morpheus_gateway.answers import whole_answer
from morpheus_gateway.client_watch import ClientWatch
from morpheus_gateway.context import Context, ContextOf
from morpheus_gateway.openapi_parts import errors
from morpheus_gateway.principal import SessionsCaller, key_of
from morpheus_gateway.relay import Prompt
from morpheus_gateway.routes.session_body import SoundBody
from morpheus_gateway.session_shapes import SessionPinged

router = APIRouter(prefix="/api/v1/session", tags=["session"])

ANSWER_BYTES = 64 * 1024

_MESSAGES = {
    PingStatus.ALIVE: "The session answers.",
    PingStatus.DEAD: "The session does not answer. It is being closed on chain; that goes on by itself.",
    PingStatus.EXPIRED: "The session's time is over.",
    PingStatus.NO_SESSION: "This API key has no session.",
}


async def within_limit(request: Request, caller: SessionsCaller, context: ContextOf) -> None:
    """Count a ping of a key. Raises `rate_limit_exceeded`; the answer tells the standing either way."""
    request.state.standing = await context.limits.pings.take(key_of(caller)[0])


@router.post(
    "/pingsession",
    responses=errors(
        "model_type_mismatch",
        "rate_limit_exceeded",
        "session_busy",
        "provider_error",
        "stream_truncated",
        "overloaded",
        "session_opening",
    ),
)
async def ping_session(
    request: Request,
    caller: SessionsCaller,
    context: ContextOf,
    _: Annotated[None, Depends(within_limit)],
    _body: Annotated[object, SoundBody],
) -> SessionPinged:
    """Ask the key's session for one token. A session that does not answer is closed on chain, in the background.

    A session that is busy with a prompt is alive without being asked (`latency_ms` is null). 6 a minute.
    """
    prompt = Prompt(_head(context, *key_of(caller), caller.user_id), b"")

    async def admit() -> None:
        # the caller was checked a moment ago, and nothing of its own goes to a provider
        return

    async with (
        ClientWatch(request.receive) as client,
        context.relay.passage(prompt, admit, client.hang_up) as passage,
    ):
        told, _head_frame = await whole_answer(passage, ANSWER_BYTES)
    try:
        answer = PingAnswer.model_validate_json(told)
    except ValidationError:
        raise ApiError("internal_error") from None
    message = _MESSAGES[answer.status]
    if answer.status is PingStatus.ALIVE and answer.latency_ms is None:
        message = "The session is busy with a prompt: it was not asked."
    return SessionPinged(
        status=answer.status,
        success=answer.status is PingStatus.ALIVE,
        message=message,
        session_id=answer.session_id,
        latency_ms=answer.latency_ms,
    )


def _head(context: Context, key_id: str, key_prefix: str, user_id: str) -> PromptHead:
    return PromptHead(
        attempt="",
        gateway=context.settings.worker_id,
        request_id=request_id.get() or "",
        user_id=user_id,
        key_id=key_id,
        key_prefix=key_prefix,
        stream=False,
        body_bytes=0,
        open_wait=0,
        ping=True,
    )
