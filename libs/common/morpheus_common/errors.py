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
    `message` is what the caller reads when the place that raised it had nothing more precise to say. `advice` and
    `operators` are for the page of the catalogue, in Markdown: what a developer does about it, and what the operator of the
    gateway can do. `operators_only`: no caller of the HTTP API sees it, only who runs the `morpheus` command.
    """

    code: str
    status: int
    type: str
    retry: bool
    message: str
    advice: str
    operators: str = ""
    operators_only: bool = False


_INVALID = "invalid_request_error"
_SERVER = "server_error"

_KINDS = (
    # 400, 404, 405, 408, 409, 413, 414, 415, 422, 426, 431: the request has to change
    ErrorKind(
        "malformed_request",
        400,
        _INVALID,
        False,
        "This is not a request of HTTP/1.1. Encode what is not ASCII in the address.",
        advice=(
            "Let an HTTP library build the request: it percent-encodes spaces and letters outside ASCII in the "
            "address. Typed by hand, encode them yourself. A client that asks for HTTP/2 over plain http (`Upgrade: h2c`, as "
            "Java's `HttpClient` does by itself) has to be set to HTTP/1.1: its bodies are refused."
        ),
    ),
    ErrorKind(
        "invalid_json",
        400,
        _INVALID,
        False,
        "The body is not valid JSON. Send one JSON object in UTF-8.",
        advice=(
            "Send one JSON object in UTF-8, made by a JSON library: without a byte order mark, NaN, or a key that "
            "stands there twice."
        ),
    ),
    ErrorKind(
        "missing_required_parameter",
        400,
        _INVALID,
        False,
        "A required parameter is missing.",
        advice="`param` names what is missing. Add it and send the request again.",
    ),
    ErrorKind(
        "invalid_value",
        400,
        _INVALID,
        False,
        "A parameter has a value that is not allowed.",
        advice="`param` names the parameter and `message` its rule. Correct the value and send the request again.",
    ),
    ErrorKind(
        "validation_error",
        422,
        _INVALID,
        False,
        "The request does not fit the documented form.",
        advice=(
            "`param` names the first field that does not fit and `details.fields` all of them; `message` gives the "
            "rules."
        ),
    ),
    ErrorKind(
        "multiple_credentials",
        400,
        _INVALID,
        False,
        "Send exactly one Authorization header.",
        advice="Send one `Authorization` header. If your client adds one by itself, do not add another.",
    ),
    ErrorKind(
        "unsupported_media_type",
        415,
        _INVALID,
        False,
        "Send the body as application/json.",
        advice="Send `Content-Type: application/json` with every body.",
    ),
    ErrorKind(
        "request_too_large",
        413,
        _INVALID,
        False,
        "The body is larger than this gateway accepts.",
        advice="Send less: shorten the conversation, or make pictures smaller.",
        operators=(
            "`BODY_LIMIT` of the gateway is the limit of a prompt; what stands in front of the gateway may have a "
            "lower one."
        ),
    ),
    ErrorKind(
        "request_timeout",
        408,
        _INVALID,
        True,
        "The request did not arrive in time. Send it again, on a new connection, without pauses.",
        advice="Send the whole request at once. What is built slowly is built before the connection is opened.",
        operators="`HEADER_TIMEOUT`, `BODY_GRACE` and `BODY_RATE` of the gateway say how long a request may take to arrive.",
    ),
    ErrorKind(
        "address_too_long",
        414,
        _INVALID,
        False,
        "The address of the request is too long. Shorten its query.",
        advice="Leave out query parameters that this endpoint does not know.",
    ),
    ErrorKind(
        "headers_too_large",
        431,
        _INVALID,
        False,
        "The request has too many headers, or too large ones. Leave out those that this gateway need not see.",
        advice="Cookies are the usual reason: this gateway needs none.",
    ),
    ErrorKind(
        "https_required",
        426,
        _INVALID,
        False,
        "Use https. What you have sent went over the network in clear: replace any credential that was in it.",
        advice="Begin the address with `https://`, and make a new API key in place of one that was sent in clear.",
        operators="A trusted proxy said that the client came by http (`X-Forwarded-Proto`). `TRUSTED_PROXIES` says who is believed.",
    ),
    ErrorKind(
        "not_found",
        404,
        _INVALID,
        False,
        "There is nothing at this address.",
        advice="Compare method and path with the [reference](api/index.md).",
    ),
    ErrorKind(
        "method_not_allowed",
        405,
        _INVALID,
        False,
        "This address does not answer that method.",
        advice="The header `Allow` lists the methods that this address answers.",
    ),
    ErrorKind(
        "endpoint_not_supported",
        404,
        _INVALID,
        False,
        "This endpoint of the OpenAI API is not offered here.",
        advice="`message` names the endpoint to use instead. Text comes from chat completions, vectors from embeddings.",
    ),
    ErrorKind(
        "model_not_found",
        404,
        _INVALID,
        False,
        "No such model. GET /api/v1/models lists what is offered.",
        advice=(
            "Take a name from the [list of models](api/models/list-models.md). `details.suggestions` has names that "
            "are near."
        ),
        operators=(
            "A model is listed while it has an active bid; `morpheus sessions routers` shows whether the routers "
            "answer."
        ),
    ),
    ErrorKind(
        "model_type_mismatch",
        400,
        _INVALID,
        False,
        "This model is of another type than the endpoint needs.",
        advice=(
            "Choose a model whose `modelType` fits: `LLM` for chat completions, `EMBEDDING` for embeddings. A session for a "
            "model of another type is not opened."
        ),
    ),
    ErrorKind(
        "bid_not_found",
        404,
        _INVALID,
        False,
        "There is no active bid with this id.",
        advice=(
            "Bids come and go. Ask for a [quote](api/session/quote-session.md), which names the bid of now, or open "
            "by model."
        ),
    ),
    ErrorKind(
        "session_not_found",
        404,
        _INVALID,
        False,
        "This API key has no such open session.",
        advice=(
            "Leave `session_id` out, and the key's current session is used. [Your "
            "sessions](api/session/list-sessions.md) lists those that are open."
        ),
    ),
    ErrorKind(
        "foreign_session",
        409,
        _INVALID,
        False,
        "That session's stake does not carry our tag: it is never touched.",
        advice=(
            "Nothing can be done with it here: its stake was locked by somebody else who uses the wallet. Close it "
            "with the tool that opened it."
        ),
        operators_only=True,
    ),
    ErrorKind(
        "session_known",
        409,
        _INVALID,
        False,
        "A record or an open of ours already stands for that session.",
        advice=(
            "Nothing is to be done: the session has a record, or an open that is under way will take it. `morpheus "
            "sessions list` shows it."
        ),
        operators_only=True,
    ),
    ErrorKind(
        "session_unrecorded",
        409,
        _INVALID,
        False,
        "No record stands for that session. Adopt it first.",
        advice=(
            "Run `morpheus sessions adopt` with the id of the session and of the key that is to have it; then close it."
        ),
        operators_only=True,
    ),
    ErrorKind(
        "key_not_found",
        404,
        _INVALID,
        False,
        "You have no API key with that id.",
        advice=(
            "[Your keys](api/auth/get-api-keys.md) lists the ids. A key's `id` is wanted here, not the key itself "
            "and not its prefix."
        ),
    ),
    ErrorKind(
        "key_inactive",
        409,
        _INVALID,
        False,
        "This API key is revoked or expired. Make a new one.",
        advice="What is revoked or expired stays so. [Make a new key](api/auth/create-api-key.md).",
    ),
    ErrorKind(
        "key_rotation_limit",
        409,
        _INVALID,
        False,
        "Too many earlier secrets of this key still work. Wait for their end, or rotate with a shorter grace_seconds.",
        advice=(
            "Wait until the grace of an earlier secret is over, or rotate with `grace_seconds` of 0, which ends the "
            "one before at once."
        ),
    ),
    ErrorKind(
        "private_key_not_found",
        404,
        _INVALID,
        False,
        "You have stored no private key.",
        advice="There is nothing to delete. [Store one](api/auth/store-private-key.md) first if you want one here.",
    ),
    ErrorKind(
        "development_key_refused",
        422,
        _INVALID,
        False,
        "Everybody knows this private key: it belongs to a development chain. Store one that was drawn by chance.",
        advice=(
            "Make a private key with a wallet or a cryptographic random generator. Whatever is at the address of a "
            "known key is anybody's."
        ),
    ),
    ErrorKind(
        "delegation_not_found",
        404,
        _INVALID,
        False,
        "You have no delegation with that id.",
        advice="[Your delegations](api/auth/get-user-delegations.md) lists the ids.",
    ),
    ErrorKind(
        "delegation_taken",
        409,
        _INVALID,
        False,
        "Another account has stored this delegation. Sign another one.",
        advice="A delegation belongs to the account that stored it first. Sign one with another salt.",
    ),
    ErrorKind(
        "delegation_unrestricted",
        422,
        _INVALID,
        False,
        "A delegation without caveats may do everything. Add caveats that limit it, and sign it again.",
        advice="Add caveats that say what the delegate may do at most, and sign the delegation again.",
        operators="`ALLOW_UNRESTRICTED_DELEGATIONS` of auth lets such delegations in.",
    ),
    ErrorKind(
        "no_active_session",
        400,
        _INVALID,
        False,
        "This API key has no active session for this prompt. Open one with POST /api/v1/session/modelsession, or let the "
        'gateway do it: PUT /api/v1/automation/settings {"is_enabled": true}.',
        advice=(
            "Open one with [modelsession](api/session/create-model-session.md), or switch on "
            "[automation](api/automation/update-automation-settings.md), which opens one with the first prompt."
        ),
    ),
    ErrorKind(
        "attestation_unsupported",
        400,
        _INVALID,
        False,
        "This model promises a provider whose hardware is attested (tag `tee`). Sessions of this gateway are not attested, so "
        "it opens none. Choose a model without that tag.",
        advice="Choose a model without the tag `tee`.",
    ),
    ErrorKind(
        "direct_payment_unsupported",
        400,
        _INVALID,
        False,
        "directPayment is not offered; send false.",
        advice="Leave `directPayment` out, or send false.",
    ),
    ErrorKind(
        "email_taken",
        409,
        _INVALID,
        False,
        "An account with this e-mail exists. Log in instead.",
        advice=(
            "[Log in](api/auth/login.md) with that address. If the password is forgotten, the operator makes a token "
            "for a new one."
        ),
        operators="`morpheus admin reset-link` makes the token.",
    ),
    ErrorKind(
        "password_too_common",
        422,
        _INVALID,
        False,
        "This password is one of the most common ones, which are guessed first. Choose another.",
        advice="Choose another: three or four words that do not belong together are good and long enough.",
    ),
    ErrorKind(
        "deletion_not_found",
        404,
        _INVALID,
        False,
        "No deletion has that address, or it is over for long.",
        advice="Use the address exactly as `status_url` gave it. It answers for 30 days after the deletion is complete.",
    ),
    ErrorKind(
        "operation_not_found",
        404,
        _INVALID,
        False,
        "This API key has no operation with that id.",
        advice=(
            "Ask with the API key that began the operation, by the `operation_id` you were told. If an answer got "
            "lost, no operation means that nothing was begun."
        ),
    ),
    ErrorKind(
        "open_cancelled",
        409,
        _INVALID,
        False,
        "The session was closed, or its key revoked, before it was open.",
        advice="Open again if you still want a session. If this one appears on chain after all, the gateway closes it.",
    ),
    ErrorKind(
        "idempotency_in_progress",
        409,
        _INVALID,
        True,
        "The first request with this Idempotency-Key is still being carried out. Send it again to wait for its result.",
        advice=(
            "Send the same request with the same `Idempotency-Key` again: it waits for the result. The operation in "
            "`Location` shows how it stands."
        ),
    ),
    ErrorKind(
        "idempotency_key_reused",
        422,
        _INVALID,
        False,
        "This Idempotency-Key was used for another request.",
        advice="Make a new `Idempotency-Key` for every new wish, and repeat one only with the same request.",
    ),
    ErrorKind(
        "provider_rejected",
        400,
        _INVALID,
        False,
        "The provider's model refused the request.",
        advice=(
            "`message` is the provider's own, and `code` may be its own too. Change the request as it says: most "
            "often it is too long, or has a parameter that the model does not know."
        ),
    ),
    # 401, 402, 403: who is asking, and what they may do
    ErrorKind(
        "missing_credentials",
        401,
        _INVALID,
        False,
        "Send your credentials as 'Authorization: Bearer …'.",
        advice="Send `Authorization: Bearer …`: an API key for prompts and sessions, an access token for the account.",
    ),
    ErrorKind(
        "invalid_api_key",
        401,
        _INVALID,
        False,
        "This API key is wrong, revoked or expired.",
        advice=(
            "Send the key whole, as it was shown when it was made. If it was revoked or has expired, [make "
            "another](api/auth/create-api-key.md)."
        ),
    ),
    ErrorKind(
        "invalid_token",
        401,
        _INVALID,
        False,
        "This access token is not valid. Log in again.",
        advice=(
            "[Log in](api/auth/login.md) again. The access token has to come from this gateway and be sent unchanged."
        ),
        operators=(
            "If it is so for everybody, compare `TOKEN_ISSUER` and `TOKEN_AUDIENCE` of gateway and auth, and their clocks: "
            "they may differ by 30 s."
        ),
    ),
    ErrorKind(
        "token_expired",
        401,
        _INVALID,
        False,
        "This access token has expired. Refresh it or log in again.",
        advice="[Refresh](api/auth/refresh-token.md) the tokens, and send the request again with the new access token.",
    ),
    ErrorKind(
        "wrong_credential_kind",
        401,
        _INVALID,
        False,
        "This endpoint wants the other kind of credential.",
        advice=(
            "`message` says which is wanted: an access token (from a login) for the account, an API key (`sk-…`) for "
            "prompts and sessions."
        ),
    ),
    ErrorKind(
        "invalid_credentials",
        401,
        _INVALID,
        False,
        "E-mail or password is wrong.",
        advice=(
            "Check e-mail and password; for safety the answer is the same for accounts that do not exist. A "
            "forgotten password is replaced with a token of the operator."
        ),
        operators="`morpheus admin reset-link` makes the token.",
    ),
    ErrorKind(
        "invalid_refresh_token",
        401,
        _INVALID,
        False,
        "This refresh token is not valid. Log in again.",
        advice=(
            "[Log in](api/auth/login.md) again. A refresh token lasts 7 days from its last use, 90 days in all, and "
            "ends with a logout or a new password."
        ),
        operators="`REFRESH_TOKEN_SECONDS` and `LOGIN_SECONDS` of auth set these times.",
    ),
    ErrorKind(
        "refresh_token_reused",
        401,
        _INVALID,
        False,
        "This refresh token was used before. Log in again.",
        advice=(
            "The login is ended, because its refresh token came twice: somebody may have a copy. Log in again, and "
            "always store the newest refresh token."
        ),
    ),
    ErrorKind(
        "invalid_reset_token",
        401,
        _INVALID,
        False,
        "This token for a new password is not valid, was used or has expired. Ask the operator for another.",
        advice="A token is good once, and for an hour. Ask the operator for another.",
        operators="`morpheus admin reset-link` makes one.",
    ),
    ErrorKind(
        "insufficient_balance",
        402,
        "insufficient_quota",
        False,
        "The gateway's wallet lacks the MOR to stake.",
        advice=(
            "Ask for a shorter session or a cheaper model, or tell the operator: the MOR is the gateway's, not "
            "yours. `details.required_stake` is what the session would lock."
        ),
        operators=(
            "Send MOR to the wallet, or wait until sessions have ended; `morpheus sessions routers` shows what is free."
        ),
    ),
    ErrorKind(
        "insufficient_scope",
        403,
        "permission_error",
        False,
        "This API key lacks the scope for this call.",
        advice="Use a key that has the scope which `message` names, or [change this one](api/auth/change-api-key.md).",
    ),
    ErrorKind(
        "reauthentication_required",
        403,
        "permission_error",
        False,
        "This needs a login of the last hour. Log in again and repeat the request.",
        advice=(
            "[Log in](api/auth/login.md) with the password, and repeat the request with the new access token. A "
            "refresh does not count as a login."
        ),
    ),
    ErrorKind(
        "registration_closed",
        403,
        "permission_error",
        False,
        "This gateway makes no new accounts.",
        advice="Ask the operator for an account.",
        operators="`REGISTRATION` of auth decides who may register.",
    ),
    ErrorKind(
        "invite_required",
        403,
        "permission_error",
        False,
        "A new account needs an unused invite code. Ask the operator for one and send it as invite_code.",
        advice="Ask the operator for a code, and send it as `invite_code`. Each code makes one account.",
        operators="`morpheus admin invite` makes codes.",
    ),
    ErrorKind(
        "model_not_allowed",
        403,
        "permission_error",
        False,
        "This API key may not use that model.",
        advice="Use a key whose `allowed_models` has the model, or [change this one](api/auth/change-api-key.md).",
    ),
    ErrorKind(
        "key_limit_reached",
        403,
        "permission_error",
        False,
        "You have as many active API keys as are allowed.",
        advice="[Revoke](api/auth/delete-api-key.md) keys that you do not need. A key that expired does not count.",
        operators="`MAX_ACTIVE_KEYS` of auth is the limit.",
    ),
    ErrorKind(
        "delegation_limit_reached",
        403,
        "permission_error",
        False,
        "You have stored as many delegations as are allowed. Delete one first.",
        advice="[Delete](api/auth/delete-delegation.md) delegations that you do not need.",
        operators="`MAX_DELEGATIONS` of auth is the limit.",
    ),
    ErrorKind(
        "stake_limit_reached",
        403,
        "permission_error",
        False,
        "This open would put more stake at risk than you may have. Close sessions or ask for less time.",
        advice=(
            "[Close](api/session/close-session.md) sessions of your keys, or ask for less time: the stake grows with "
            "both price and duration. A stake can stay on hold on chain for a while after an early close."
        ),
        operators="`STAKE_LIMIT_PER_USER` of sessions is the limit.",
    ),
    ErrorKind(
        "price_limit_reached",
        403,
        "permission_error",
        False,
        "No bid is within this gateway's price limit.",
        advice="Choose another model.",
        operators="`PRICE_LIMIT` of sessions is the highest price that is taken.",
    ),
    ErrorKind(
        "approval_limit_reached",
        403,
        "permission_error",
        False,
        "That is more than this gateway lets the contract take. It raises the allowance by itself: no approval is needed.",
        advice="Leave the approval out: the gateway keeps the allowance high enough by itself.",
        operators="`APPROVAL_LIMIT` of sessions is the limit.",
    ),
    # 429: later
    ErrorKind(
        "rate_limit_exceeded",
        429,
        "requests",
        True,
        "Too many requests. Wait as long as Retry-After says.",
        advice=(
            "Wait for as many seconds as `Retry-After` says, and send the request again; SDKs do so by themselves. "
            "`x-ratelimit-remaining-requests` shows how many are left."
        ),
        operators="The limits are settings: see [settings](settings.md).",
    ),
    ErrorKind(
        "too_many_connections",
        429,
        "requests",
        True,
        "Your address has too many connections open. Close some, or send requests one after the other on those you have.",
        advice="Use one client for all requests: it keeps its connections and uses them again. Close what is not read.",
        operators="`CONNECTIONS_PER_ADDRESS` of the gateway; a proxy in `TRUSTED_PROXIES` is not counted.",
    ),
    ErrorKind(
        "session_busy",
        429,
        "requests",
        True,
        "This API key's session is busy: one prompt runs at a time and the line is full. More API keys run in parallel.",
        advice="Send fewer prompts at once with one key, or use more keys: each has a session of its own.",
        operators="`QUEUE_PER_KEY` and `QUEUE_WAIT` of sessions say how many wait, and for how long.",
    ),
    ErrorKind(
        "session_open_limit",
        429,
        "requests",
        True,
        "You have opened as many sessions as you may for now. Wait a little.",
        advice=(
            "Wait for as long as `Retry-After` says. Use the session that is open instead of opening one for every "
            "prompt."
        ),
        operators="`OPENS_PER_MINUTE` and `OPENS_PER_DAY` of sessions are the limits.",
    ),
    # 5xx: not the caller's doing
    ErrorKind(
        "internal_error",
        500,
        _SERVER,
        False,
        "Something went wrong here. The request id helps us find it.",
        advice=(
            "Tell the operator the `X-Request-Id` of the answer. Whether the request took effect is not known: look "
            "before you send it again."
        ),
        operators="The logs of all services have the request id; this is a mistake in the gateway.",
    ),
    ErrorKind(
        "provider_error",
        502,
        _SERVER,
        False,
        "The provider failed to answer.",
        advice=(
            "Send the request again if a second run does no harm, or choose another model. The provider may have run "
            "the prompt."
        ),
    ),
    ErrorKind(
        "session_lost",
        502,
        _SERVER,
        True,
        "The session is gone. Send the request again.",
        advice=(
            "Send the request again if `x-should-retry` is true. With automation a new session is opened by that; "
            "otherwise open one first."
        ),
    ),
    ErrorKind(
        "stream_truncated",
        502,
        _SERVER,
        False,
        "The answer broke off before it was complete.",
        advice=(
            "What came is not the whole answer; do not use it as such. Send the request again if a second run does "
            "no harm."
        ),
    ),
    ErrorKind(
        "service_unavailable",
        503,
        _SERVER,
        True,
        "A part of the gateway is not reachable. Try again shortly.",
        advice=(
            "Send the request again after `Retry-After`; SDKs do so by themselves. "
            "[Health](api/health/health-check.md) shows which part is away."
        ),
        operators="`/health` names the part that does not answer; its log says why.",
    ),
    ErrorKind(
        "overloaded",
        503,
        _SERVER,
        True,
        "The gateway is at its limit of parallel work. Try again shortly.",
        advice="Send the request again after `Retry-After`, and fewer at once.",
        operators="Run more processes of the service; where passwords are hashed, `HASHES_AT_ONCE` is the bound.",
    ),
    ErrorKind(
        "provider_overloaded",
        503,
        _SERVER,
        True,
        "The provider is overloaded. Try again shortly.",
        advice="Send the request again after `Retry-After`. If it stays so, choose another model.",
    ),
    ErrorKind(
        "stake_capacity",
        503,
        _SERVER,
        True,
        "All of the gateway's stake is in use. Try again when sessions have ended.",
        advice="Send the request again later, or ask for a shorter session.",
        operators=(
            "`STAKE_LIMIT_IN_ALL` and `STAKE_LIMIT_PER_ROUTER` of sessions are the limits; more MOR in the wallets "
            "raises shares."
        ),
    ),
    ErrorKind(
        "session_opening",
        503,
        _SERVER,
        True,
        "A session is being opened on chain. Try again in a few seconds.",
        advice="Send the request again after `Retry-After`: the open goes on, and the next try finds the session.",
    ),
    ErrorKind(
        "session_queue_full",
        503,
        _SERVER,
        True,
        "More sessions wait to be opened than you would wait for.",
        advice="Send the request again after `Retry-After`. Opens of one wallet go to the chain one after the other.",
        operators="A second router with a wallet of its own opens as many again.",
    ),
    ErrorKind(
        "no_provider_available",
        503,
        _SERVER,
        True,
        "No provider of this model accepts a session now.",
        advice=(
            "Send the request again after `Retry-After`, or choose another model. `details.reasons` says what each "
            "provider answered."
        ),
    ),
    ErrorKind(
        "approval_failed",
        502,
        _SERVER,
        False,
        "The allowance could not be raised on chain.",
        advice="Nothing was spent. Sessions may open all the same: the gateway raises the allowance by itself.",
        operators=(
            "Compare `DIAMOND_CONTRACT_ADDRESS` of sessions with the router's, and see that the wallet has ETH for gas."
        ),
    ),
    ErrorKind(
        "open_failed",
        502,
        _SERVER,
        False,
        "The session could not be opened on chain.",
        advice="Open again if you still want a session. If this one appears on chain after all, the gateway closes it.",
        operators="The log of sessions says what the router answered; see that the wallet has ETH for gas.",
    ),
    ErrorKind(
        "service_timeout",
        504,
        _SERVER,
        True,
        "A part of the gateway did not answer in time. Try again.",
        advice=(
            "Look whether the request took effect before you send it again, unless it only reads; with the same "
            "`Idempotency-Key` it is safe to repeat."
        ),
        operators="`/health` names the part that is slow.",
    ),
    ErrorKind(
        "session_pending",
        504,
        _SERVER,
        False,
        "The session is still being opened on chain; that goes on.",
        advice=(
            "Do not open again. Ask for the operation at `Location` until it is no longer `running`, or repeat the "
            "request with the same `Idempotency-Key`."
        ),
    ),
    ErrorKind(
        "provider_timeout",
        504,
        _SERVER,
        False,
        "The provider did not answer in time.",
        advice=(
            "The provider may have run the prompt. Send it again if that does no harm, with a lower `max_tokens` or "
            "as a stream."
        ),
        operators="`FIRST_BYTE_TIMEOUT`, `CHUNK_TIMEOUT` and `ANSWER_TIMEOUT` of sessions are the limits.",
    ),
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
