"""Spans: what a request does in this process, how long it takes, and what it belongs to.

They are made only where the environment names a collector, and only there OpenTelemetry is imported: a span is an object of our
own until the thread that exports it makes OpenTelemetry's of it. Theirs costs 11 µs on the event loop, ours 2 (measured).

In a name or an attribute stands what is known beforehand, what is configured, or a figure. Never anything of a prompt or an answer,
a path, query or header of a stranger, the id of a user or key, a secret; of an error its code or type, never its words.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import Token
from enum import IntEnum
from types import TracebackType
from typing import Final, Self

from morpheus_common.errors import ApiError
from morpheus_common.logs import get_logger
from morpheus_common.request_context import TracePoint, new_span_id, new_trace_id, trace_point, traceparent

log = get_logger(__name__)

Value = str | int | float | bool


class SpanKind(IntEnum):
    """As OpenTelemetry numbers them."""

    INTERNAL = 0
    SERVER = 1
    CLIENT = 2
    PRODUCER = 3
    CONSUMER = 4


INTERNAL, SERVER, CLIENT, PRODUCER, CONSUMER = SpanKind


class Span:
    """A span that nobody records. Entering it changes nothing."""

    __slots__ = ()
    is_recorded = False

    @property
    def traceparent(self) -> str | None:
        """What to send along with a message that is a part of this span."""
        return traceparent()

    def enter(self) -> None:
        """Make all that this task does from now on a part of it."""

    def rename(self, name: str) -> None:
        """Call it by what is known by now."""

    def set(self, key: str, value: Value | None) -> None:
        """Set an attribute; None sets none."""

    def fail(self, error: BaseException | str) -> None:
        """Note what it ends with: an error, or its code."""

    def end(self) -> None:
        """It is over. Said again, nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


NO_SPAN: Final = Span()


class _Unsampled(Span):
    """The beginning of something that is not recorded: all that belongs to it, here and elsewhere, is to know that."""

    __slots__ = ("_before", "_point")

    def __init__(self, point: TracePoint) -> None:
        self._point = point
        self._before: Token[TracePoint | None] | None = None

    @property
    def traceparent(self) -> str:
        return self._point.traceparent

    def enter(self) -> None:
        trace_point.set(self._point)

    def __enter__(self) -> Self:
        self._before = trace_point.set(self._point)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            trace_point.reset(self._before)


class RecordedSpan(TracePoint, Span):
    """A span that is exported when it ends. Times are nanoseconds of Unix time."""

    __slots__ = (
        "_before",
        "_epoch",
        "_record",
        "attributes",
        "ended_at",
        "error",
        "is_failure",
        "kind",
        "link",
        "name",
        "parent",
        "started_at",
    )
    is_recorded = True

    def __init__(
        self,
        record: "Record",
        name: str,
        kind: SpanKind,
        trace_id: str,
        *,
        parent: TracePoint | None = None,
        link: TracePoint | None = None,
        attributes: Mapping[str, Value] | None = None,
    ) -> None:
        super().__init__(trace_id, new_span_id(), is_sampled=True)
        self.name = name
        self.kind = kind
        self.parent = parent
        self.link = link
        self.attributes: dict[str, Value] = dict(attributes) if attributes else {}
        self.error: str | None = None
        self.is_failure = False
        self.ended_at = 0
        # the wall clock may be set back meanwhile, and what is inside is to end inside
        clock = time.perf_counter_ns()
        self._epoch: int = parent._epoch if isinstance(parent, RecordedSpan) else time.time_ns() - clock
        self.started_at = self._epoch + clock
        self._record = record
        self._before: Token[TracePoint | None] | None = None

    def enter(self) -> None:
        trace_point.set(self)

    def rename(self, name: str) -> None:
        self.name = name

    def set(self, key: str, value: Value | None) -> None:
        if value is not None:
            self.attributes[key] = value

    def fail(self, error: BaseException | str) -> None:
        # some exceptions carry what a client is told
        told = error if isinstance(error, ApiError) else getattr(error, "error", None)
        if isinstance(told, ApiError):
            self.error = told.code
            # what a caller did wrong is no failure of ours
            self.is_failure = told.kind.status >= 500
        elif isinstance(error, str):
            self.error = error
            self.is_failure = True
        else:
            self.error = type(error).__name__
            # who is cancelled has been told to stop, mostly because a client has left
            self.is_failure = isinstance(error, Exception)

    def end(self) -> None:
        if not self.ended_at:
            self.ended_at = self._epoch + time.perf_counter_ns()
            self._record(self)

    def __enter__(self) -> Self:
        self._before = trace_point.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            trace_point.reset(self._before)
        if error is not None and self.error is None:
            self.fail(error)
        self.end()


Record = Callable[[RecordedSpan], None]
"""Takes a span that has ended. Never blocks, never raises."""
Sample = Callable[[TracePoint | None, str], bool]
"""Tells whether the part of a trace (by its id) that begins in this process is recorded. It may have begun elsewhere."""

_record: Record | None = None
_sample: Sample | None = None


@contextmanager
def recorded(record: Record, sample: Sample) -> Iterator[None]:
    """Record spans while the block runs."""
    global _record, _sample  # noqa: PLW0603 - one for the process, as the environment that it is made from
    _record, _sample = record, sample
    try:
        yield
    finally:
        _record = _sample = None


def is_wanted(environment: Mapping[str, str]) -> bool:
    """Tell whether the environment names a collector for traces, and does not say that there are to be none."""
    named = environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environment.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if not named or environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if "otlp" not in (environment.get("OTEL_TRACES_EXPORTER") or "otlp").split(","):
        return False
    protocol = environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environment.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol not in {None, "", "http/protobuf"}:
        log.error("no traces: only http/protobuf is spoken; unset OTEL_EXPORTER_OTLP_PROTOCOL and name that port")
        return False
    return True


@contextmanager
def traces_exported(service: str, worker: str) -> Iterator[None]:
    """Export the spans of this process while the block runs, if that is wanted."""
    if not is_wanted(os.environ):
        yield
        return
    # all of OpenTelemetry: 0.13 s, 10 MB, a thread
    from morpheus_common.trace_export import Exporting, sampling

    try:
        sample, exporting = sampling(), Exporting.from_environment(service, worker)
    except (ValueError, RuntimeError, OSError) as error:
        log.error("no traces: OpenTelemetry refuses a variable", problem=str(error)[:300])
        yield
        return
    with exporting.running(), recorded(exporting.take, sample):
        yield


def is_on() -> bool:
    """Tell whether this process makes traces."""
    return _record is not None


def current_span() -> Span:
    """Return the span that what is done now belongs to."""
    point = trace_point.get()
    return point if isinstance(point, RecordedSpan) else NO_SPAN


def span(name: str, kind: SpanKind = INTERNAL, attributes: Mapping[str, Value] | None = None) -> Span:
    """Return a part of what is done now, to be entered or ended; nothing where that is not recorded or belongs to nothing.

    Work that no request asked for (probes, polling) therefore leaves no traces.
    """
    if _record is None:
        return NO_SPAN
    parent = trace_point.get()
    if not isinstance(parent, RecordedSpan):
        return NO_SPAN
    return RecordedSpan(_record, name, kind, parent.trace_id, parent=parent, attributes=attributes)


def continued(
    name: str, kind: SpanKind, traceparent: str | None, attributes: Mapping[str, Value] | None = None
) -> Span:
    """Return what this process does about a message of another one, as a part of the trace that it brings along; without
    one, nothing.
    """
    parent = TracePoint.read(traceparent) if _record is not None else None
    if _record is None or _sample is None or parent is None:
        return NO_SPAN
    if not _sample(parent, parent.trace_id):
        return _Unsampled(TracePoint(parent.trace_id, parent.span_id, is_sampled=False))
    return RecordedSpan(_record, name, kind, parent.trace_id, parent=parent, attributes=attributes)


def begun(
    name: str,
    kind: SpanKind,
    trace_id: str,
    *,
    link: TracePoint | None = None,
    attributes: Mapping[str, Value] | None = None,
) -> Span:
    """Return the beginning of a trace, recorded if its turn has come. `link`: what it has to do with."""
    if _record is None or _sample is None:
        return NO_SPAN
    if not _sample(None, trace_id):
        return _Unsampled(TracePoint(trace_id, new_span_id(), is_sampled=False))
    return RecordedSpan(_record, name, kind, trace_id, link=link, attributes=attributes)


def caused(
    name: str,
    kind: SpanKind,
    cause: str | None,
    *,
    trace_id: str | None = None,
    attributes: Mapping[str, Value] | None = None,
) -> Span:
    """Return the beginning of what goes on after its cause (a traceparent) has ended: a trace of its own with a link to
    it, recorded if that is; nothing without a cause.
    """
    link = TracePoint.read(cause) if _record is not None else None
    if _record is None or link is None:
        return NO_SPAN
    trace_id = trace_id or new_trace_id()
    if not link.is_sampled:
        return _Unsampled(TracePoint(trace_id, new_span_id(), is_sampled=False))
    return RecordedSpan(_record, name, kind, trace_id, link=link, attributes=attributes)


def event_attributes(operation: str, subject: str, consumer: str | None = None) -> dict[str, Value]:
    """Return what OpenTelemetry's conventions call the sending (`send`) or reading (`process`) of an event."""
    attributes: dict[str, Value] = {
        "messaging.system": "nats",
        "messaging.operation.type": operation,
        "messaging.operation.name": operation,
        "messaging.destination.name": subject,
    }
    if consumer is not None:
        attributes["messaging.consumer.group.name"] = consumer
    return attributes
