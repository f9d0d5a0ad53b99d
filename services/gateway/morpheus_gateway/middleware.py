"""What surrounds every request. Pure ASGI: Starlette's BaseHTTPMiddleware hides disconnects from what it wraps."""

import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

from fastapi.routing import APIRoute
from morpheus_common.contracts.auth import Caller
from morpheus_common.errors import ApiError
from morpheus_common.ids import uuid7
from morpheus_common.logs import get_logger
from morpheus_common.request_context import request_id
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from morpheus_gateway.body_memory import BodyMemory
from morpheus_gateway.client_address import Network, client_address, is_trusted
from morpheus_gateway.client_watch import ClientGone
from morpheus_gateway.context import Context, context_of
from morpheus_gateway.errors import BodyRefused, error_response, is_openai_route
from morpheus_gateway.limits import FailureLimit, Limit, Limits, RateLimited, Standing
from morpheus_gateway.metrics import ACTIVE_REQUESTS, CLIENT_LEFT, request_ended
from morpheus_gateway.principal import judge_key, key_of
from morpheus_gateway.query import no_query_parameter_twice

log = get_logger(__name__)

_CLIENT_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_HEADER_NAME = re.compile(r"[a-z0-9-]{1,64}")
_PROMPT_ROUTE = re.compile(r"(?:/api)?/v1/(?:chat/completions|embeddings)")
SMALL_BODY_BYTES = 64 * 1024
"""Limit of every body but a prompt's."""
_PROBES = frozenset({"/live", "/ready", "/health"})
"""Asked from inside, past any proxy."""
_HSTS_SECONDS = 365 * 24 * 3600
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})
_EXPOSED = ", ".join(
    [
        "x-request-id",
        *(f"x-ratelimit-{what}-requests" for what in ("limit", "remaining", "reset")),
        "retry-after",
        "x-should-retry",
        "etag",
        "x-catalog-age",
        "www-authenticate",
        # of 202 and 504: where to ask what became of it
        "location",
    ]
)


ON_EVERY_ANSWER = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    # for what pages of other origins take in without asking (images, scripts): what they ask for is CORS's affair
    (b"cross-origin-resource-policy", b"same-origin"),
)
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
)
"""Of every answer that is HTML and has no policy of its own."""
BODY_PROBLEM = "body_problem"
"""Where the server puts, into a request's state, the code of what became of a body that will not come to its end."""

_LIMITED_ROUTES: Mapping[str, Callable[[Limits], Limit | FailureLimit]] = {
    "/api/v1/auth/register": lambda limits: limits.registrations,
    "/api/v1/auth/login": lambda limits: limits.failed_logins,
    "/api/v1/auth/password": lambda limits: limits.failed_logins,
    "/api/v1/auth/refresh": lambda limits: limits.refreshes,
}
_NO_PUBLIC_GET = re.compile(r"/(?:health|live|ready)|/api/v1/(?:session|automation|usage|auth/(?!deletions/)).*")
"""Probes are never limited, and what needs a credential has limits of its own. All else is public: models, documentation,
keys of tokens, states of deletions, and what does not exist.
"""


_BEFORE_A_KEY = frozenset({400, 413, 422})
"""With these a prompt is refused before its key is judged: its body is announced too large, or a parameter stands twice."""


class RequestScope:
    """The outermost layer: gives the request its id, its headers and its line in the log."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        ours = uuid7()
        theirs = _client_id(Headers(scope=scope))
        token = request_id.set(ours)
        scope.setdefault("state", {})["began"] = started
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                # no route sets these: they need not be looked for
                headers.raw.append((b"x-request-id", ours.encode()))
                headers.raw.extend(ON_EVERY_ANSWER)
                if theirs is not None:
                    headers.raw.append((b"x-client-request-id", theirs.encode()))
                headers.setdefault("Cache-Control", "no-store")
                if headers.get("content-type", "").startswith("text/html"):
                    headers.setdefault("Content-Security-Policy", CONTENT_SECURITY_POLICY)
                if scope["app"].state.health.draining:
                    headers["Connection"] = "close"
                standing = scope["state"].get("standing")
                # a refusal has told it already; who is not known is told nothing
                if isinstance(standing, Standing) and status != 401:
                    for name, value in standing.headers().items():
                        headers.setdefault(name, value)
            await send(message)

        ACTIVE_REQUESTS.inc()
        try:
            await self._app(scope, receive, send_with_headers)
        finally:
            ACTIVE_REQUESTS.dec()
            request_ended(scope, status, time.monotonic() - started)
            _log_request(scope, status, started, theirs)
            request_id.reset(token)


def _client_id(headers: Headers) -> str | None:
    for name in ("x-client-request-id", "x-request-id"):
        value = headers.get(name)
        if value is not None and _CLIENT_ID.fullmatch(value):
            return value
    return None


def _log_request(scope: Scope, status: int, started: float, client_request_id: str | None) -> None:
    route = getattr(scope.get("route"), "path_format", None)
    caller = scope["state"].get("caller")
    log.info(
        "request",
        method=scope["method"],
        # the template, never the path: paths are what strangers type
        route=route or "none",
        status=status or CLIENT_LEFT,
        duration_ms=round((time.monotonic() - started) * 1000, 1),
        user_id=caller.user_id if isinstance(caller, Caller) else None,
        key_id=caller.key_id if isinstance(caller, Caller) else None,
        client_request_id=client_request_id,
    )


class Cors:
    """Which pages of other origins may call from a browser. Credentials never: there are no cookies."""

    def __init__(self, app: ASGIApp, *, public_origins: Iterable[str], origins: Iterable[str]) -> None:
        self._app = app
        self._public = frozenset(public_origins)
        self._others = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a preflight, or add what the browser must know to the answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = Headers(scope=scope)
        granted = self._granted(asked.get("origin"), _without_slash(scope["path"]))
        if scope["method"] == "OPTIONS" and "origin" in asked and "access-control-request-method" in asked:
            await _preflight(asked, granted, send)
            return

        async def send_with_cors(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.add_vary_header("Origin")
                if granted is not None:
                    headers["Access-Control-Allow-Origin"] = granted
                    headers["Access-Control-Expose-Headers"] = _EXPOSED
            await send(message)

        await self._app(scope, receive, send_with_cors)

    def _granted(self, origin: str | None, path: str) -> str | None:
        allowed = self._public if is_openai_route(path) else self._others
        if origin is None:
            return None
        if "*" in allowed:
            return "*"
        return origin if origin in allowed else None


async def _preflight(asked: Headers, granted: str | None, send: Send) -> None:
    headers = MutableHeaders()
    headers["Vary"] = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
    method = asked["access-control-request-method"]
    if granted is not None and method in _METHODS:
        headers["Access-Control-Allow-Origin"] = granted
        headers["Access-Control-Allow-Methods"] = method
        headers["Access-Control-Max-Age"] = "600"
        # SDKs send changing x-stainless-* headers, so there is no fixed list
        names = [name.strip().lower() for name in asked.get("access-control-request-headers", "").split(",")]
        if allowed := [name for name in names if _HEADER_NAME.fullmatch(name)]:
            headers["Access-Control-Allow-Headers"] = ", ".join(allowed)
    await send({"type": "http.response.start", "status": 204, "headers": headers.raw})
    await send({"type": "http.response.body", "body": b""})


class HttpsOnly:
    """In production, refuses what came over plain http; what came over https is told to stay there.

    It came over plain http if a trusted proxy says so, or if it came around the trusted proxies. A trusted peer that says
    nothing is a neighbour in the operator's own network. Where no proxy is trusted nobody's word counts and TLS is someone's
    who says nothing (a balancer of TCP): nothing is refused, and the log says so once.
    """

    def __init__(self, app: ASGIApp, *, trusted: Iterable[Network], enforced: bool) -> None:
        self._app = app
        self._trusted = tuple(trusted)
        self._enforced = enforced
        if enforced and not self._trusted:
            log.warning("TRUSTED_PROXIES is empty: requests over plain http are not recognised, and none is refused")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or not self._trusted:
            await self._app(scope, receive, send)
            return
        secure = self._is_secure(scope)
        if secure is False and self._enforced and _without_slash(scope["path"]) not in _PROBES:
            answer = error_response(ApiError("https_required"), scope["path"])
            answer.headers["Upgrade"] = "TLS/1.2, HTTP/1.1"
            answer.headers["Connection"] = "Upgrade"
            await answer(scope, receive, send)
            return

        async def send_with_hsts(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).append("Strict-Transport-Security", f"max-age={_HSTS_SECONDS}")
            await send(message)

        await self._app(scope, receive, send_with_hsts if secure else send)

    def _is_secure(self, scope: Scope) -> bool | None:
        """Tell whether the client spoke https, None if nobody knows."""
        peer = scope["client"]
        if peer is None or not is_trusted(peer[0], self._trusted):
            return False
        said = [
            word.strip() for value in Headers(scope=scope).getlist("x-forwarded-proto") for word in value.split(",")
        ]
        # proxies in a row may add theirs: every part of the way has to be safe
        return all(word.lower() == "https" for word in said) if said else None


class ErrorNet:
    """Catches what nobody else did, so that even a bug answers in OpenAI's form."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_noting(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, send_noting)
        except (ClientGone, ClientDisconnect):
            problem = scope["state"].get(BODY_PROBLEM)
            if problem is None or started:
                log.info("client gone before its answer")
            else:
                # it is there, and what it sends is no body
                await error_response(ApiError(problem), scope["path"])(scope, receive, send)
        except Exception as error:
            if not isinstance(error, ApiError):
                log.exception("request failed")
            if started:
                # the status is out; the broken connection is all that can tell the client
                raise
            known = error if isinstance(error, ApiError) else ApiError("internal_error")
            await error_response(known, scope["path"])(scope, receive, send)


class AddressLimits:
    """Looks how the client's address stands before anything is read of a request to a route that is limited by it.

    What counts is counted by the route, but public GETs, which are many routes: these count here. Every answer of a limited
    route is given its headers, those to a broken body included.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Raises `RateLimited`."""
        context: Context | None = scope["app"].state.context if scope["type"] == "http" else None
        if context is None:
            await self._app(scope, receive, send)
            return
        path = _without_slash(scope["path"])
        if scope["method"] in {"GET", "HEAD"}:
            if _NO_PUBLIC_GET.fullmatch(path) is None:
                address = client_address(Request(scope))
                scope["state"]["standing"] = await context.limits.public_gets.take(address)
        elif scope["method"] == "POST" and (limit_of := _LIMITED_ROUTES.get(path)) is not None:
            scope["state"]["standing"] = await limit_of(context.limits).look(client_address(Request(scope)))
        try:
            await self._app(scope, receive, send)
        except ApiError as error:
            if error.kind.status in _BEFORE_A_KEY and scope["method"] == "POST" and _PROMPT_ROUTE.fullmatch(path):
                await _look_at_key(Request(scope), context)
            raise


async def _look_at_key(request: Request, context: Context) -> None:
    """Find out how the key of a prompt stands, if it was refused before that was known."""
    if "standing" in request.scope["state"]:
        return
    with suppress(ApiError):
        _, caller = await judge_key(request, context, context.keys.recognise)
        try:
            request.state.standing = await context.limits.chats.look(key_of(caller)[0])
        except RateLimited as refusal:
            request.state.standing = refusal.standing


class BodyLimit:
    """Refuses bodies over the limit: by their announced length at once, others as soon as they pass it.

    `limit` is for prompts; everything else is small, and read before anyone knows who sends it. `memory`: bytes that all the
    bodies together may take that are not small, until they are answered.
    """

    def __init__(self, app: ASGIApp, *, limit: int, memory: int) -> None:
        self._app = app
        self._limit = limit
        self._memory = BodyMemory(memory)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_prompt = _PROMPT_ROUTE.fullmatch(_without_slash(scope["path"])) is not None
        limit = self._limit if is_prompt else min(self._limit, SMALL_BODY_BYTES)
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdecimal() or int(length) > limit:
            raise ApiError("request_too_large", f"The body is larger than {limit} bytes.")
        address = ""
        received = held = 0

        async def receive_counting() -> Message:
            nonlocal address, received, held
            message = await receive()
            if BODY_PROBLEM in scope["state"]:
                raise BodyRefused(scope["state"][BODY_PROBLEM])
            received += len(message.get("body", b""))
            if received > limit:
                raise BodyRefused("request_too_large")
            if received > SMALL_BODY_BYTES and received > held:
                address = address or client_address(Request(scope))
                if not self._memory.take(address, received - held):
                    raise BodyRefused("overloaded")
                held = received
            return message

        try:
            await self._app(scope, receive_counting, send)
        finally:
            if held:
                self._memory.give_back(address, held)


class Paths:
    """Serves `/models/` as `/models` without a redirect, and HEAD as GET (the server drops the body)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            # the router writes the route it found into this dictionary, and the access log reads it there
            scope["path"] = _without_slash(scope["path"])
            if scope["method"] == "HEAD":
                inner = {**scope, "method": "GET"}
                try:
                    await self._app(inner, receive, send)
                finally:
                    scope["route"] = inner.get("route")
                return
        await self._app(scope, receive, send)


class DirectRoutes:
    """Serves prompts and lists of models past Starlette's search for a route and FastAPI's dependencies: these cost more than
    all that the gateway itself does for a prompt (0.37 of 0.79 ms of CPU, measured). OpenAPI has the routes from where they
    are declared.

    The endpoints of `routes` are called with the request and the context, and return the response. A route with a
    parameter in its path is left to the search.
    """

    def __init__(self, app: ASGIApp, *, routes: Iterable[APIRoute]) -> None:
        self._app = app
        self._routes = {
            (method, route.path): route
            for route in routes
            if not route.param_convertors
            for method in route.methods or ()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Raises `ApiError`."""
        route = self._routes.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        # the access log reads it there
        scope["route"] = route
        request = Request(scope, receive)
        try:
            await no_query_parameter_twice(request)
            response = await route.endpoint(request, context_of(request))
        except BodyRefused as error:
            raise ApiError(error.code) from None
        await response(scope, receive, send)


def _without_slash(path: str) -> str:
    return path[:-1] if len(path) > 1 and path.endswith("/") else path
