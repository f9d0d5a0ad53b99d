"""What a router or a provider says, told apart, and what our callers are told of it.

Texts are matched by substring: two generations of routers word them differently (proxy-router contract, sections 2, 4, 6).
"""

import re
from typing import Any, Final

import orjson
from morpheus_common.errors import ApiError
from morpheus_common.logs import mask_secrets

from morpheus_sessions.router import error_text

MESSAGE_LIMIT: Final = 2_000

_SESSION_GONE = ("session expired", "session not found", "provider not found", "session cannot be loaded")
_NOT_REACHED = ("failed to connect to provider", "failed to write to provider")
_NOT_BELIEVED = ("invalid signature", "tee attestation failed", "TEE verification failed")
_TIMED_OUT = ("read timed out", "i/o timeout", "context deadline exceeded")
_STATUS = re.compile(r"[45][0-9]{2}")
_BEFORE_ANY_TRANSACTION = "low agent user allowance"
_STATUS_OF_KIND: Final = {
    "invalid_api_key": 401,
    "authentication_error": 401,
    "insufficient_quota": 402,
    "billing_error": 402,
    "permission_error": 403,
    "permission_denied": 403,
    "model_not_found": 404,
    "not_found_error": 404,
    "timeout_error": 408,
    "requests": 429,
    "tokens": 429,
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "server_error": 500,
    "api_error": 500,
    "internal_server_error": 500,
    "overloaded_error": 529,
}
"""What the usual `code` or `type` of a model's error says of its status, where a router says 400 whatever it was."""

# each alternative begins where a word does, or has a bound: the text is a stranger's and may be made to be slow
_UNSAFE = re.compile(
    r"\b[a-z][a-z0-9+.-]{1,20}://\S+"
    r"|(?<!\S)[^\s@]{1,64}@\S+"
    r"|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b"
    r"|(?<![\w:])(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}"
    r"|(?<![\w:])(?:[0-9a-f]{1,4}:){1,7}:(?:[0-9a-f]{1,4}(?::[0-9a-f]{1,4}){0,6})?"
    r"|(?<![\w.-])localhost(?::\d+)?\b"
    r"|(?<![\w.-])(?:[a-z0-9-]{1,63}\.){1,10}"
    r"(?:[a-z]{2,}:\d+|(?:com|net|org|io|ai|dev|app|cloud|co|xyz|info|tech|internal|local|lan|corp|svc|eu|de|uk|us|cn)\b)"
    r"|(?<![\w.-])[a-z][a-z0-9-]{1,62}:\d{2,5}\b"
    r"|\b(?:sk|pk|rk|hf|gsk|xai)[-_][a-z0-9._-]{8,}"
    r"|\bAIza[\w-]{20,}"
    r"|\bBearer\s+\S+"
    r"|\bBasic\s+(?=\S*[\d=+/])[a-z0-9=+/]{8,}"
    r"|\b0x[0-9a-f]{40,}",
    re.IGNORECASE,
)


class PromptFailure(Exception):
    """A prompt that failed at the router or beyond.

    `error`: what the client is told. `session_gone`: the session is of no use any more. `upstream_code`: the code of
    the provider's own error, when it is the client's business. `not_sent`: no byte of the prompt reached a router.
    `end_unseen`: the prompt may still run at the router. `unreachable`: the provider cannot be reached, or not believed, so that
    another one is worth a try.
    """

    def __init__(
        self,
        error: ApiError,
        *,
        session_gone: bool = False,
        upstream_code: str | None = None,
        not_sent: bool = False,
        end_unseen: bool = False,
        unreachable: bool = False,
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.session_gone = session_gone
        self.upstream_code = upstream_code
        self.not_sent = not_sent
        self.end_unseen = end_unseen
        self.unreachable = unreachable


def safe_text(text: str) -> str:
    """Return a provider's words without hosts, addresses and keys, cut to a length people can read."""
    if len(text) > 2 * MESSAGE_LIMIT:
        # masking takes time; what is cut in two here might not be known for what it is
        text = text[: 2 * MESSAGE_LIMIT].rsplit(maxsplit=1)[0]
    return mask_secrets(_UNSAFE.sub("[…]", text))[:MESSAGE_LIMIT]


def nothing_was_sent(status: int, text: str) -> bool:
    """Tell whether an error of the second step of opening certainly came before the first transaction.

    A text has to begin so: anything may stand in an error that a chain node or a provider is quoted in.
    """
    return status in {401, 403} or text.startswith(_BEFORE_ANY_TRANSACTION)


def handshake_reason(text: str) -> str:
    """Return in one word why a provider did not take a session."""
    if "no capacity" in text:
        return "no_capacity"
    if "attestation" in text or "TEE" in text:
        return "attestation_failed"
    if any(part in text for part in _TIMED_OUT):
        return "timed_out"
    if any(part in text for part in (*_NOT_REACHED, "failed to decode response: EOF")):
        return "unreachable"
    return "rejected"


def prompt_failure(status: int, body: bytes) -> PromptFailure:
    """Read a router's error to a prompt: an answer that is not 200, or the raw object at the end of a broken stream."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        parsed = None
    if isinstance(parsed, dict) and "providerModelError" in parsed:
        return _model_failure(status, parsed)
    text = error_text(body)
    if any(part in text for part in _SESSION_GONE):
        return PromptFailure(ApiError("session_lost", retry_after=1), session_gone=True)
    if any(part in text for part in (*_NOT_REACHED, *_NOT_BELIEVED)):
        return PromptFailure(ApiError("provider_error"), unreachable=True)
    if any(part in text for part in _TIMED_OUT):
        return PromptFailure(ApiError("provider_timeout"))
    return PromptFailure(ApiError("provider_error"))


def _model_failure(status: int, parsed: dict[str, Any]) -> PromptFailure:
    inner = parsed["providerModelError"]
    error = inner.get("error") if isinstance(inner, dict) else None
    # newer routers say what the model's backend answered; older ones say 400 whatever it was
    told = parsed.get("statusCode")
    code = error.get("code") if isinstance(error, dict) else None
    upstream = told if isinstance(told, int) else status
    if upstream == 400 and isinstance(code, int | str) and _STATUS.fullmatch(str(code)):
        upstream = int(code)
    elif upstream == 400 and told is None and isinstance(error, dict):
        kinds = (kind for kind in (code, error.get("type")) if isinstance(kind, str))
        upstream = next((_STATUS_OF_KIND[kind] for kind in kinds if kind in _STATUS_OF_KIND), upstream)
    if upstream in {401, 402, 403, 404}:
        return PromptFailure(ApiError("provider_error"))
    if upstream in {408, 409, 425, 429} or upstream >= 500:
        return PromptFailure(ApiError("provider_overloaded", retry_after=5))
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        return PromptFailure(ApiError("provider_rejected"))
    param = error.get("param")
    own_code = code if isinstance(code, str) and re.fullmatch(r"[a-z0-9_]{1,64}", code) else None
    return PromptFailure(
        ApiError(
            "provider_rejected",
            safe_text(error["message"]),
            param=safe_text(param)[:200] if isinstance(param, str) else None,
        ),
        upstream_code=own_code,
    )
