"""A collector of traces on the loopback: OTLP over HTTP, read as any collector would."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")


@dataclass(frozen=True)
class Seen:
    """A span as it arrived. Ids in hex; `parent` is empty for the first of a trace, `links` are spans of other traces."""

    service: str
    trace: str
    id: str
    parent: str
    name: str
    kind: str
    attributes: dict[str, Any]
    links: tuple[tuple[str, str], ...]
    failed: bool
    seconds: float


class Collector:
    """Everything that came in, as bytes and as spans."""

    def __init__(self) -> None:
        self.port = 0
        self._bodies: list[bytes] = []
        self._answers = threading.Event()
        self._answers.set()
        self.waiting = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def settings(self) -> dict[str, str]:
        """What a process is told that is to export here, soon after each span has ended."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.url,
            "OTEL_EXPORTER_OTLP_TIMEOUT": "2",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        }

    @property
    def received(self) -> bytes:
        """All that came, byte for byte."""
        return b"".join(self._bodies)

    def take(self, body: bytes) -> None:
        self.waiting += 1
        self._answers.wait(60)
        self._bodies.append(body)

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Take everything and answer nothing while the block runs. `waiting` tells how often it was called so far."""
        self._answers.clear()
        try:
            yield
        finally:
            self._answers.set()

    def spans(self) -> list[Seen]:
        """Every span that came."""
        return [span for body in list(self._bodies) for span in _spans_in(body)]

    def of_trace(self, trace: str) -> list[Seen]:
        """All of a trace, and of those that are linked to it: what belongs to one request."""
        spans = self.spans()
        traces = {trace}
        while more := {span.trace for span in spans if {linked for linked, _ in span.links} & traces} - traces:
            traces |= more
        return [span for span in spans if span.trace in traces]


@contextmanager
def collecting() -> Iterator[Collector]:
    """Listen on a free port while the block runs."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            collector.take(self.rfile.read(int(self.headers["content-length"])))
            with suppress(ConnectionError):
                # whoever sent it may have given up
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector.port = server.server_port
    thread = threading.Thread(target=lambda: server.serve_forever(0.05), daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def _spans_in(body: bytes) -> Iterator[Seen]:
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        service = _values(resource.resource.attributes)["service.name"]
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Seen(
                    service=service,
                    trace=span.trace_id.hex(),
                    id=span.span_id.hex(),
                    parent=span.parent_span_id.hex(),
                    name=span.name,
                    kind=KINDS[span.kind],
                    attributes=_values(span.attributes),
                    links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
                    failed=span.status.code == span.status.STATUS_CODE_ERROR,
                    seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
                )


def _values(attributes: Any) -> dict[str, Any]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in attributes}
