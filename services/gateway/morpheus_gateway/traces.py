"""A span for each request: where a trace begins, or goes on from an ingress that makes traces of its own."""

from collections.abc import Iterable

from morpheus_common.request_context import TracePoint, request_id
from morpheus_common.tracing import SERVER, Span, begun, continued
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from morpheus_gateway.client_address import Network, is_trusted

_UNTRACED = frozenset({"/live", "/ready", "/health"})
"""Asked every few seconds, and nobody's request."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Traces:
    """Makes the span. Its trace has the request's id, so that it is found by what every answer carries.

    A client's `traceparent` is linked to and decides nothing: else a stranger could have everything recorded, or nothing. One
    that comes from a proxy in `trusted` is continued as it says.
    """

    def __init__(self, app: ASGIApp, *, trusted: Iterable[Network]) -> None:
        self._app = app
        self._trusted = tuple(trusted)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] in _UNTRACED:
            await self._app(scope, receive, send)
            return
        status = 0

        async def send_noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with self._begin(scope) as span:
            try:
                await self._app(scope, receive, send_noting)
            finally:
                if span.is_recorded:
                    _describe(span, scope, status)

    def _begin(self, scope: Scope) -> Span:
        said = Headers(scope=scope).get("traceparent")
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        if (
            self._trusted
            and TracePoint.read(said)
            and scope["client"]
            and is_trusted(scope["client"][0], self._trusted)
        ):
            return continued(method, SERVER, said, {"http.request.method": method})
        ours = (request_id.get() or "").replace("-", "")
        return begun(method, SERVER, ours, link=TracePoint.read(said), attributes={"http.request.method": method})


def _describe(span: Span, scope: Scope, status: int) -> None:
    # the template, never the path or the query: these are what strangers type
    route = getattr(scope.get("route"), "path_format", None)
    if route is not None:
        span.rename(f"{scope['method']} {route}")
        span.set("http.route", route)
    span.set("url.scheme", scope["scheme"])
    span.set("morpheus.request_id", request_id.get())
    if status:
        span.set("http.response.status_code", status)
    if status >= 500:
        span.fail(str(status))
