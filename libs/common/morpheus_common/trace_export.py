"""Sends spans to a collector: OTLP over HTTP, set up by OpenTelemetry's standard variables.

A thread of its own sends. A collector that is away or hangs costs the spans that find no place in the queue, which are counted, one
line in the log, and nothing else.
"""

import logging
import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, set_span_in_context
from opentelemetry.trace.span import NonRecordingSpan
from prometheus_client import Counter

from morpheus_common import __version__
from morpheus_common.logs import get_logger
from morpheus_common.metrics import REGISTRY
from morpheus_common.request_context import TracePoint
from morpheus_common.tracing import RecordedSpan, Sample

log = get_logger(__name__)

FLUSH_SECONDS: Final = 2.0
"""How long what is left may take to be sent at the end of the process, after all else has ended."""
QUEUE_SPANS: Final = 2_048
BATCH_SPANS: Final = 512
DELAY_SECONDS: Final = 5.0
"""These three are OpenTelemetry's own defaults; `OTEL_BSP_MAX_QUEUE_SIZE` and its like change them."""
_HEADERS: Final = ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS")
_SCOPE: Final = InstrumentationScope("morpheus", __version__)

EXPORTED: Final = Counter("morpheus_trace_spans_exported_total", "Spans that the collector took", registry=REGISTRY)
DROPPED: Final = Counter(
    "morpheus_trace_spans_dropped_total",
    "Spans that no collector got: it was away, slow or refused them",
    registry=REGISTRY,
)


def sampling() -> Sample:
    """Return the sampler that `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG` name."""
    sampler = TracerProvider(shutdown_on_exit=False).sampler
    nowhere = Context()
    # of a parent only this counts; a third of the time that making one takes each time
    elsewhere = {
        is_sampled: set_span_in_context(
            NonRecordingSpan(_context(TracePoint("f" * 32, "f" * 16, is_sampled=is_sampled), is_remote=True)), nowhere
        )
        for is_sampled in (False, True)
    }

    def is_sampled(parent: TracePoint | None, trace_id: str) -> bool:
        context = nowhere if parent is None else elsewhere[parent.is_sampled]
        # OpenTelemetry compares the last 64 bits with the ratio. Of a UUIDv7 only the last 32 are random for each: before them stand
        # two that never change, so that no trace at all would be taken at 50 %, and what counts up within a millisecond
        chance = int(trace_id[-8:], 16) << 32
        return sampler.should_sample(context, chance, "").decision is not Decision.DROP

    return is_sampled


class Exporting:
    """A bounded queue of spans, and the thread that empties it."""

    def __init__(
        self,
        exporter: SpanExporter,
        resource: Resource,
        *,
        queue: int = QUEUE_SPANS,
        batch: int = BATCH_SPANS,
        delay: float = DELAY_SECONDS,
    ) -> None:
        self._exporter = exporter
        self._resource = resource
        self._size = queue
        self._batch = min(batch, queue)
        self._delay = delay
        self._queue: deque[RecordedSpan] = deque()
        self._wake = threading.Event()
        self._is_ending = False
        self._is_failing = False
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._words = _LastWords()

    @classmethod
    def from_environment(cls, service: str, worker: str) -> "Exporting":
        """Return one to the collector, of the size and as the process that the environment says."""
        # it quotes headers that it cannot read, and those are what a collector knows us by
        logger = logging.getLogger("opentelemetry")
        logger.handlers, logger.propagate = [logging.NullHandler()], False
        for name in _HEADERS:
            if any("=" not in item for item in os.environ.get(name, "").split(",") if item.strip()):
                log.error(
                    "headers for the collector are name=value, with commas between; others are left out", setting=name
                )
        ours = {
            "service.name": service,
            "service.namespace": "morpheus",
            "service.version": __version__,
            "service.instance.id": worker,
        }
        resource = Resource.create({**ours, **OTELResourceDetector().detect().attributes})
        return cls(
            OTLPSpanExporter(),
            resource,
            queue=_number("OTEL_BSP_MAX_QUEUE_SIZE", QUEUE_SPANS),
            batch=_number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", BATCH_SPANS),
            delay=_number("OTEL_BSP_SCHEDULE_DELAY", round(DELAY_SECONDS * 1000)) / 1000,
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        """Send while the block runs, then what is left, for at most `FLUSH_SECONDS`; the rest is dropped."""
        # what OpenTelemetry says of each failure is kept out of the log: ours says it once
        logger = logging.getLogger("opentelemetry")
        logger.handlers, logger.propagate = [self._words], False
        self._thread.start()
        log.info("traces are exported")
        try:
            yield
        finally:
            self._is_ending = True
            self._wake.set()
            self._thread.join(FLUSH_SECONDS)
            if self._thread.is_alive():
                # it is in a call to the collector; a daemon holds no process up
                log.warning("spans left behind: the collector did not take them in time", spans=len(self._queue))

    def take(self, span: RecordedSpan) -> None:
        """Take a span that has ended, or drop it if the queue is full."""
        if len(self._queue) >= self._size:
            DROPPED.inc()
            return
        self._queue.append(span)
        if len(self._queue) == self._batch:
            self._wake.set()

    def _run(self) -> None:
        while not self._is_ending:
            self._wake.wait(self._delay)
            self._wake.clear()
            self._send()
        self._send()

    def _send(self) -> None:
        while self._queue:
            count = min(len(self._queue), self._batch)
            self._note(count, is_sent=self._is_taken([self._queue.popleft() for _ in range(count)]))

    def _is_taken(self, batch: list[RecordedSpan]) -> bool:
        try:
            return self._exporter.export([self._readable(span) for span in batch]) is SpanExportResult.SUCCESS
        except Exception as error:  # noqa: BLE001 - the outermost edge of the thread: the next batch may go out
            self._words.last = type(error).__name__
            return False

    def _note(self, count: int, *, is_sent: bool) -> None:
        if is_sent:
            EXPORTED.inc(count)
            if self._is_failing:
                log.info("traces are exported again")
        else:
            DROPPED.inc(count)
            if not self._is_failing:
                log.warning("traces are dropped: the collector takes none", problem=self._words.last[:300])
        self._is_failing = not is_sent

    def _readable(self, span: RecordedSpan) -> ReadableSpan:
        attributes = span.attributes if span.error is None else {**span.attributes, "error.type": span.error}
        parent = span.parent
        return ReadableSpan(
            span.name,
            context=_context(span, is_remote=False),
            parent=None if parent is None else _context(parent, is_remote=not isinstance(parent, RecordedSpan)),
            resource=self._resource,
            attributes=attributes,
            links=() if span.link is None else (Link(_context(span.link, is_remote=True)),),
            kind=SpanKind(span.kind),
            status=Status(StatusCode.ERROR if span.is_failure else StatusCode.UNSET),
            start_time=span.started_at,
            end_time=span.ended_at,
            instrumentation_scope=_SCOPE,
        )


class _LastWords(logging.Handler):
    """Keeps the last that OpenTelemetry said of a failure, for our one line."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.last = record.getMessage()


def _context(point: TracePoint, *, is_remote: bool) -> SpanContext:
    return SpanContext(
        int(point.trace_id, 16), int(point.span_id, 16), is_remote=is_remote, trace_flags=TraceFlags(point.is_sampled)
    )


def _number(name: str, default: int) -> int:
    said = os.environ.get(name, "")
    if said.isdecimal() and int(said) > 0:
        return int(said)
    if said:
        log.warning("no whole number above 0; the default is taken", variable=name, default=default)
    return default
