"""From the `Authorization` header to the caller a route may serve."""

import hashlib
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from morpheus_common.contracts.auth import Caller, Scope
from morpheus_common.errors import ApiError

from morpheus_gateway import api_keys
from morpheus_gateway.client_address import client_address
from morpheus_gateway.context import Context, ContextOf
from morpheus_gateway.tokens import LEEWAY_SECONDS, Login

RECENT_SECONDS = 3_600
"""What cannot be undone needs a login no older than this: a stolen access token is not enough for it."""

ACCESS_TOKEN = "accessToken"  # noqa: S105 - the name of a scheme
API_KEY = "apiKey"
"""The kinds of credentials, as OpenAPI names them."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an endpoint wants to see: a credential of one of these kinds. `recent`: a token of a login of the last hour.
    `scope`: what an API key needs.
    """

    kinds: tuple[str, ...]
    recent: bool = False
    scope: Scope | None = None


_KEY_WANTED = "This endpoint wants an API key (sk-…). Make one with POST /api/v1/auth/keys."
_TOKEN_WANTED = "This endpoint wants an access token. Get one with POST /api/v1/auth/login."  # noqa: S105 - no password


def read_credential(request: Request) -> str:
    """Return the presented credential: an API key starts with `sk-`, anything else is taken for an access token.

    Raises `multiple_credentials` (400) or `missing_credentials` (401).
    """
    presented = request.headers.getlist("authorization")
    if len(presented) > 1:
        raise ApiError("multiple_credentials")
    if not presented:
        raise ApiError("missing_credentials")
    value = presented[0].strip()
    if value.startswith("sk-"):
        return value
    scheme, _, credential = value.partition(" ")
    credential = credential.strip()
    if scheme.lower() != "bearer" or not credential:
        raise ApiError("missing_credentials")
    return credential


def _presented_key(request: Request) -> str:
    """Return the presented API key, whatever it is worth. Raises 401 for a credential of another kind."""
    credential = read_credential(request)
    if not credential.startswith("sk-"):
        raise ApiError("wrong_credential_kind", _KEY_WANTED)
    return credential


def _key_digest(key: str) -> str:
    """Return the digest of a presented API key. Raises 401 for anything that can be none."""
    if not api_keys.is_well_formed(key):
        raise ApiError("invalid_api_key")
    return api_keys.digest(key)


def _counted_if_refused(request: Request, context: Context, credential: str) -> AbstractAsyncContextManager[None]:
    """Judge a credential in this block: if it turns out to be wrong, that counts for the address it came from.

    Raises `rate_limit_exceeded` before anything is looked up for an address with too many wrong ones, unless this very
    credential was good a short while ago.
    """
    digest = hashlib.sha256(credential.encode()).hexdigest()
    return context.limits.refused_credentials.attempt(client_address(request), digest)


def require_scope(caller: Caller, scope: Scope) -> None:
    """Raise `insufficient_scope` (403) unless the key may do this."""
    if scope not in caller.scopes:
        raise ApiError("insufficient_scope", f"This API key lacks the scope '{scope}'.", details={"scope": scope})


def key_of(caller: Caller) -> tuple[str, str]:
    """Return id and prefix of the API key that was presented."""
    if caller.key_id is None or caller.key_prefix is None:
        msg = "this caller came without an API key"
        raise RuntimeError(msg)
    return caller.key_id, caller.key_prefix


async def _login(request: Request, context: Context) -> tuple[Login, Caller]:
    credential = read_credential(request)
    if credential.startswith("sk-"):
        raise ApiError("wrong_credential_kind", _TOKEN_WANTED)
    async with _counted_if_refused(request, context, credential):
        login = context.tokens.verify(credential)
        return login, await context.logins.check(f"{login.user_id} {login.login_id}")


def note_caller(request: Request, caller: Caller) -> Caller:
    """Let the access log know whose request it is (ids only); return the caller."""
    request.state.caller = caller
    return caller


async def by_token(request: Request, context: ContextOf) -> Caller:
    """The user of a presented access token."""
    _, caller = await _login(request, context)
    return note_caller(request, caller)


async def by_recent_token(request: Request, context: ContextOf) -> Caller:
    """The user of a presented access token whose login is of the last hour. Raises `reauthentication_required` (403)."""
    login, caller = await _login(request, context)
    note_caller(request, caller)
    if time.time() - login.authenticated_at > RECENT_SECONDS + LEEWAY_SECONDS:
        raise ApiError("reauthentication_required")
    return caller


async def by_key(request: Request, context: ContextOf) -> Caller:
    """The user and key of a presented API key."""
    _, caller = await judge_key(request, context, context.keys.check)
    return caller


async def judge_key(request: Request, context: Context, ask: Callable[[str], Awaitable[Caller]]) -> tuple[str, Caller]:
    """Return the digest of the presented API key and, as `ask` says of that digest, its user and key."""
    key = _presented_key(request)
    async with _counted_if_refused(request, context, key):
        digest = _key_digest(key)
        return digest, note_caller(request, await ask(digest))


def by_key_with(scope: Scope) -> Callable[[Request, Context], Awaitable[Caller]]:
    """Return the dependency for API keys that need `scope`."""

    async def dependency(request: Request, context: ContextOf) -> Caller:
        caller = await by_key(request, context)
        require_scope(caller, scope)
        return caller

    WANTED[dependency] = Wanted((API_KEY,), scope=scope)
    return dependency


def by_either(scope: Scope) -> Callable[[Request, Context], Awaitable[Caller]]:
    """Return the dependency for access tokens, or API keys that have `scope`."""

    async def dependency(request: Request, context: ContextOf) -> Caller:
        if read_credential(request).startswith("sk-"):
            caller = await by_key(request, context)
            require_scope(caller, scope)
            return caller
        return await by_token(request, context)

    WANTED[dependency] = Wanted((ACCESS_TOKEN, API_KEY), scope=scope)
    return dependency


WANTED: dict[Callable[..., Awaitable[Caller]], Wanted] = {
    by_token: Wanted((ACCESS_TOKEN,)),
    by_recent_token: Wanted((ACCESS_TOKEN,), recent=True),
    by_key: Wanted((API_KEY,)),
}
"""What each dependency that returns a caller wants."""


TokenCaller = Annotated[Caller, Depends(by_token)]
RecentCaller = Annotated[Caller, Depends(by_recent_token)]
KeyCaller = Annotated[Caller, Depends(by_key)]
SessionsCaller = Annotated[Caller, Depends(by_key_with(Scope.SESSIONS))]
AutomationCaller = Annotated[Caller, Depends(by_either(Scope.AUTOMATION))]
UsageCaller = Annotated[Caller, Depends(by_either(Scope.USAGE))]
