"""Every error a caller can be told about: one catalogue, one exception type.

A service raises `ApiError` where the cause is known; the bus carries code, message, param and retry_after; the gateway
turns the code into a status, a type and headers by this catalogue, in one place.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """One row of the catalogue.

    `retry` answers the SDKs' question whether waiting up to 60 seconds can cure it without running a prompt twice;
    `message` is what the caller reads when the place that raised it had nothing more precise to say.
    """

    code: str
    status: int
    type: str
    retry: bool
    message: str


_INVALID = "invalid_request_error"
_SERVER = "server_error"

_KINDS = (
    # 400, 404, 405, 409, 413, 415, 422: the request has to change
    ErrorKind(
        "malformed_request",
        400,
        _INVALID,
        False,
        "This is not a request of HTTP/1.1. Encode what is not ASCII in the address.",
    ),
    ErrorKind("invalid_json", 400, _INVALID, False, "The body is not valid JSON. Send one JSON object in UTF-8."),
    ErrorKind("missing_required_parameter", 400, _INVALID, False, "A required parameter is missing."),
    ErrorKind("invalid_value", 400, _INVALID, False, "A parameter has a value that is not allowed."),
    ErrorKind("validation_error", 422, _INVALID, False, "The request does not fit the documented form."),
    ErrorKind("multiple_credentials", 400, _INVALID, False, "Send exactly one Authorization header."),
    ErrorKind("unsupported_media_type", 415, _INVALID, False, "Send the body as application/json."),
    ErrorKind("request_too_large", 413, _INVALID, False, "The body is larger than this gateway accepts."),
    ErrorKind("not_found", 404, _INVALID, False, "There is nothing at this address."),
    ErrorKind("method_not_allowed", 405, _INVALID, False, "This address does not answer that method."),
    ErrorKind("endpoint_not_supported", 404, _INVALID, False, "This endpoint of the OpenAI API is not offered here."),
    ErrorKind("model_not_found", 404, _INVALID, False, "No such model. GET /api/v1/models lists what is offered."),
    ErrorKind("model_type_mismatch", 400, _INVALID, False, "This model is of another type than the endpoint needs."),
    ErrorKind("bid_not_found", 404, _INVALID, False, "There is no active bid with this id."),
    ErrorKind("session_not_found", 404, _INVALID, False, "This API key has no such open session."),
    ErrorKind(
        "foreign_session", 409, _INVALID, False, "That session's stake does not carry our tag: it is never touched."
    ),
    ErrorKind("session_known", 409, _INVALID, False, "A record or an open of ours already stands for that session."),
    ErrorKind("session_unrecorded", 409, _INVALID, False, "No record stands for that session. Adopt it first."),
    ErrorKind("key_not_found", 404, _INVALID, False, "You have no API key with that id."),
    ErrorKind("key_inactive", 409, _INVALID, False, "This API key is revoked or expired. Make a new one."),
    ErrorKind(
        "key_rotation_limit",
        409,
        _INVALID,
        False,
        "Too many earlier secrets of this key still work. Wait for their end, or rotate with a shorter grace_seconds.",
    ),
    ErrorKind("private_key_not_found", 404, _INVALID, False, "You have stored no private key."),
    ErrorKind(
        "development_key_refused",
        422,
        _INVALID,
        False,
        "Everybody knows this private key: it belongs to a development chain. Store one that was drawn by chance.",
    ),
    ErrorKind("delegation_not_found", 404, _INVALID, False, "You have no delegation with that id."),
    ErrorKind(
        "delegation_taken", 409, _INVALID, False, "Another account has stored this delegation. Sign another one."
    ),
    ErrorKind(
        "delegation_unrestricted",
        422,
        _INVALID,
        False,
        "A delegation without caveats may do everything. Add caveats that limit it, and sign it again.",
    ),
    ErrorKind(
        "no_active_session",
        400,
        _INVALID,
        False,
        "This API key has no active session. Open one with POST /api/v1/session/modelsession, or let the gateway do it: "
        'PUT /api/v1/automation/settings {"is_enabled": true}.',
    ),
    ErrorKind(
        "attestation_unsupported",
        400,
        _INVALID,
        False,
        "This model promises a provider whose hardware is attested (tag `tee`). Sessions of this gateway are not attested, so "
        "it opens none. Choose a model without that tag.",
    ),
    ErrorKind("direct_payment_unsupported", 400, _INVALID, False, "directPayment is not offered; send false."),
    ErrorKind("email_taken", 409, _INVALID, False, "An account with this e-mail exists. Log in instead."),
    ErrorKind(
        "password_too_common",
        422,
        _INVALID,
        False,
        "This password is one of the most common ones, which are guessed first. Choose another.",
    ),
    ErrorKind("deletion_not_found", 404, _INVALID, False, "No deletion has that address, or it is over for long."),
    ErrorKind("operation_not_found", 404, _INVALID, False, "This API key has no operation with that id."),
    ErrorKind(
        "open_cancelled",
        409,
        _INVALID,
        False,
        "The session was closed, or its key revoked, before it was open.",
    ),
    ErrorKind(
        "idempotency_in_progress",
        409,
        _INVALID,
        True,
        "The first request with this Idempotency-Key is still being carried out. Send it again to wait for its result.",
    ),
    ErrorKind("idempotency_key_reused", 422, _INVALID, False, "This Idempotency-Key was used for another request."),
    ErrorKind("provider_rejected", 400, _INVALID, False, "The provider's model refused the request."),
    # 401, 402, 403: who is asking, and what they may do
    ErrorKind("missing_credentials", 401, _INVALID, False, "Send your credentials as 'Authorization: Bearer …'."),
    ErrorKind("invalid_api_key", 401, _INVALID, False, "This API key is wrong, revoked or expired."),
    ErrorKind("invalid_token", 401, _INVALID, False, "This access token is not valid. Log in again."),
    ErrorKind("token_expired", 401, _INVALID, False, "This access token has expired. Refresh it or log in again."),
    ErrorKind("wrong_credential_kind", 401, _INVALID, False, "This endpoint wants the other kind of credential."),
    ErrorKind("invalid_credentials", 401, _INVALID, False, "E-mail or password is wrong."),
    ErrorKind("invalid_refresh_token", 401, _INVALID, False, "This refresh token is not valid. Log in again."),
    ErrorKind("refresh_token_reused", 401, _INVALID, False, "This refresh token was used before. Log in again."),
    ErrorKind(
        "invalid_reset_token",
        401,
        _INVALID,
        False,
        "This token for a new password is not valid, was used or has expired. Ask the operator for another.",
    ),
    ErrorKind("insufficient_balance", 402, "insufficient_quota", False, "The gateway's wallet lacks the MOR to stake."),
    ErrorKind("insufficient_scope", 403, "permission_error", False, "This API key lacks the scope for this call."),
    ErrorKind(
        "reauthentication_required",
        403,
        "permission_error",
        False,
        "This needs a login of the last hour. Log in again and repeat the request.",
    ),
    ErrorKind("registration_closed", 403, "permission_error", False, "This gateway makes no new accounts."),
    ErrorKind(
        "invite_required",
        403,
        "permission_error",
        False,
        "A new account needs an unused invite code. Ask the operator for one and send it as invite_code.",
    ),
    ErrorKind("model_not_allowed", 403, "permission_error", False, "This API key may not use that model."),
    ErrorKind("key_limit_reached", 403, "permission_error", False, "You have as many active API keys as are allowed."),
    ErrorKind(
        "delegation_limit_reached",
        403,
        "permission_error",
        False,
        "You have stored as many delegations as are allowed. Delete one first.",
    ),
    ErrorKind(
        "stake_limit_reached",
        403,
        "permission_error",
        False,
        "This open would put more stake at risk than you may have. Close sessions or ask for less time.",
    ),
    ErrorKind("price_limit_reached", 403, "permission_error", False, "No bid is within this gateway's price limit."),
    ErrorKind(
        "approval_limit_reached",
        403,
        "permission_error",
        False,
        "That is more than this gateway lets the contract take. It raises the allowance by itself: no approval is needed.",
    ),
    # 429: later
    ErrorKind("rate_limit_exceeded", 429, "requests", True, "Too many requests. Wait as long as Retry-After says."),
    ErrorKind(
        "session_busy",
        429,
        "requests",
        True,
        "This API key's session is busy: one prompt runs at a time and the line is full. More API keys run in parallel.",
    ),
    ErrorKind(
        "session_open_limit",
        429,
        "requests",
        True,
        "You have opened as many sessions as you may for now. Wait a little.",
    ),
    # 5xx: not the caller's doing
    ErrorKind("internal_error", 500, _SERVER, False, "Something went wrong here. The request id helps us find it."),
    ErrorKind("provider_error", 502, _SERVER, False, "The provider failed to answer."),
    ErrorKind("session_lost", 502, _SERVER, True, "The session is gone. Send the request again."),
    ErrorKind("stream_truncated", 502, _SERVER, False, "The answer broke off before it was complete."),
    ErrorKind("service_unavailable", 503, _SERVER, True, "A part of the gateway is not reachable. Try again shortly."),
    ErrorKind("overloaded", 503, _SERVER, True, "The gateway is at its limit of parallel work. Try again shortly."),
    ErrorKind("provider_overloaded", 503, _SERVER, True, "The provider is overloaded. Try again shortly."),
    ErrorKind(
        "stake_capacity",
        503,
        _SERVER,
        True,
        "All of the gateway's stake is in use. Try again when sessions have ended.",
    ),
    ErrorKind("session_opening", 503, _SERVER, True, "A session is being opened on chain. Try again in a few seconds."),
    ErrorKind("session_queue_full", 503, _SERVER, True, "More sessions wait to be opened than you would wait for."),
    ErrorKind("no_provider_available", 503, _SERVER, True, "No provider of this model accepts a session now."),
    ErrorKind("approval_failed", 502, _SERVER, False, "The allowance could not be raised on chain."),
    ErrorKind("open_failed", 502, _SERVER, False, "The session could not be opened on chain."),
    ErrorKind("service_timeout", 504, _SERVER, True, "A part of the gateway did not answer in time. Try again."),
    ErrorKind("session_pending", 504, _SERVER, False, "The session is still being opened on chain; that goes on."),
    ErrorKind("provider_timeout", 504, _SERVER, False, "The provider did not answer in time."),
)

CATALOGUE: Final[Mapping[str, ErrorKind]] = {kind.code: kind for kind in _KINDS}
"""Every code that can reach a caller, by its name."""


class ApiError(Exception):
    """A failure that the caller is told about.

    `retry_after` is in seconds (1 to 60). `details` is machine-readable help and must never hold a secret, a host, a
    wallet or the submitted value.
    """

    def __init__(
        self,
        code: str,
        message: str | None = None,
        *,
        param: str | None = None,
        retry_after: int | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        self.kind = CATALOGUE[code]
        self.message = message or self.kind.message
        self.param = param
        self.retry_after = retry_after
        self.details = dict(details) if details else None
        super().__init__(f"{code}: {self.message}")

    @property
    def code(self) -> str:
        """The stable code of the catalogue."""
        return self.kind.code
