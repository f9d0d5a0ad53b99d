"""The span of a request at the edge: whose trace it is, and what it tells."""

from collections.abc import Iterator
from ipaddress import ip_network
from types import SimpleNamespace
from typing import Any

import pytest
from morpheus_common.request_context import TracePoint, request_id, traceparent
from morpheus_common.tracing import RecordedSpan, recorded
from morpheus_gateway.traces import Traces
from starlette.types import Message, Receive, Scope, Send

OURS = "01890a5d-ac96-774b-bcce-b302099a8057"
TRACE = OURS.replace("-", "")
THEIRS, THEIR_SPAN = "a" * 32, "b" * 16


@pytest.fixture
def asked() -> list[TracePoint | None]:
    """What the sampler was asked about: the trace that a request is a part of."""
    return []


@pytest.fixture
def spans(asked: list[TracePoint | None]) -> Iterator[list[RecordedSpan]]:
    ended: list[RecordedSpan] = []

    def is_sampled(parent: TracePoint | None, _: str) -> bool:
        asked.append(parent)
        return parent is None or parent.is_sampled

    with recorded(ended.append, is_sampled):
        yield ended


async def ask(
    *headers: tuple[str, str], peer: str = "10.0.0.1", trusted: str | None = None, path: str = "/x", status: int = 200
) -> str | None:
    """Send one request; return the traceparent that the application sees."""
    seen: list[str | None] = []

    async def app(scope: Scope, _: Receive, send: Send) -> None:
        seen.append(traceparent())
        scope["route"] = SimpleNamespace(path_format="/keys/{key_id}")
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"secret words"})

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(_: Message) -> None:
        return

    scope: dict[str, Any] = {
        "type": "http",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "query_string": b"token=secret",
        "client": (peer, 1),
        "headers": [(name.encode(), value.encode()) for name, value in (*headers, ("authorization", "Bearer secret"))],
    }
    token = request_id.set(OURS)
    try:
        await Traces(app, trusted=[ip_network(trusted)] if trusted else [])(scope, receive, send)
    finally:
        request_id.reset(token)
    return seen[0]


async def test_a_request_is_a_trace_with_its_id_and_tells_the_template_and_nothing_that_was_sent(
    spans: list[RecordedSpan],
) -> None:
    inside = await ask(path="/keys/secret")
    (span,) = spans
    assert inside == span.traceparent
    assert (span.trace_id, span.parent, span.link, span.name) == (TRACE, None, None, "GET /keys/{key_id}")
    assert span.attributes == {
        "http.request.method": "GET",
        "http.route": "/keys/{key_id}",
        "url.scheme": "http",
        "http.response.status_code": 200,
        "morpheus.request_id": OURS,
    }


@pytest.mark.parametrize("flags", ["00", "01"])
@pytest.mark.parametrize(("peer", "trusted"), [("10.0.0.1", None), ("192.0.2.1", "10.0.0.0/8")])
async def test_a_stranger_can_neither_force_nor_prevent_that_a_request_is_recorded(
    spans: list[RecordedSpan], asked: list[TracePoint | None], flags: str, peer: str, trusted: str | None
) -> None:
    await ask(("traceparent", f"00-{THEIRS}-{THEIR_SPAN}-{flags}"), peer=peer, trusted=trusted)
    assert asked == [None]
    (span,) = spans
    assert (span.trace_id, span.parent) == (TRACE, None)
    assert span.link is not None
    assert (span.link.trace_id, span.link.span_id) == (THEIRS, THEIR_SPAN)


async def test_a_trusted_proxy_s_trace_is_continued_as_it_says(spans: list[RecordedSpan]) -> None:
    await ask(("traceparent", f"00-{THEIRS}-{THEIR_SPAN}-01"), trusted="10.0.0.0/8")
    (span,) = spans
    assert span.parent is not None
    assert (span.trace_id, span.parent.span_id) == (THEIRS, THEIR_SPAN)
    assert span.attributes["morpheus.request_id"] == OURS
    inside = await ask(("traceparent", f"00-{THEIRS}-{THEIR_SPAN}-00"), trusted="10.0.0.0/8")
    assert inside == f"00-{THEIRS}-{THEIR_SPAN}-00"
    assert len(spans) == 1


@pytest.mark.parametrize(
    "header", ["", "00-x", f"01-{THEIRS}-{THEIR_SPAN}-01", f"00-{'0' * 32}-{THEIR_SPAN}-01", "é" * 99]
)
async def test_what_is_no_trace_context_is_ignored(spans: list[RecordedSpan], header: str) -> None:
    await ask(("traceparent", header), trusted="10.0.0.0/8")
    (span,) = spans
    assert (span.trace_id, span.parent, span.link) == (TRACE, None, None)


@pytest.mark.parametrize(("status", "failed"), [(404, False), (503, True)])
async def test_only_what_failed_here_is_a_failure(spans: list[RecordedSpan], status: int, *, failed: bool) -> None:
    await ask(status=status)
    assert spans[0].is_failure is failed


@pytest.mark.parametrize("path", ["/live", "/ready", "/health"])
async def test_probes_leave_no_trace(spans: list[RecordedSpan], path: str) -> None:
    await ask(path=path)
    assert spans == []
