"""Spans in one process: what belongs to what, what is recorded, what is told of errors, and where it goes."""

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
from morpheus_common import tracing
from morpheus_common.errors import ApiError
from morpheus_common.ids import uuid7
from morpheus_common.request_context import TracePoint, request_id, trace_point, traceparent
from morpheus_common.trace_export import DROPPED, EXPORTED, Exporting, sampling
from morpheus_common.tracing import (
    CLIENT,
    CONSUMER,
    SERVER,
    RecordedSpan,
    begun,
    caused,
    continued,
    current_span,
    is_wanted,
    recorded,
    span,
    traces_exported,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from structlog.testing import capture_logs

from tests.collector import Collector, collecting

TRACE = "01890a5dac96774bbcceb302099a8057"
SAMPLED = f"00-{TRACE}-00f067aa0ba902b7-01"
UNSAMPLED = f"00-{TRACE}-00f067aa0ba902b7-00"


@pytest.fixture
def spans() -> Iterator[list[RecordedSpan]]:
    """Spans that have ended, of traces that are all recorded unless they come from elsewhere and say otherwise."""
    ended: list[RecordedSpan] = []
    with recorded(ended.append, lambda parent, _: parent is None or parent.is_sampled):
        yield ended


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    give_up_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def test_a_part_belongs_to_what_runs_and_tells_the_next_process_that_it_is_its_parent(
    spans: list[RecordedSpan],
) -> None:
    with begun("GET", SERVER, TRACE) as root:
        with span("ask", CLIENT, {"rpc.method": "x"}) as asking:
            told = traceparent()
        assert current_span() is root
    with continued("answer", SERVER, told):
        assert told is not None
    assert trace_point.get() is None
    ask, get, answer = spans
    assert isinstance(asking, RecordedSpan)
    assert (ask.trace_id, get.trace_id, answer.trace_id) == (TRACE, TRACE, TRACE)
    assert told == f"00-{TRACE}-{asking.span_id}-01"
    assert (ask.parent, get.parent) == (get, None)
    assert answer.parent is not None
    assert answer.parent.span_id == ask.span_id
    assert get.started_at <= ask.started_at <= ask.ended_at <= get.ended_at


def test_what_nobody_asked_for_leaves_no_trace(spans: list[RecordedSpan]) -> None:
    with (
        span("poll"),
        continued("probe", SERVER, None),
        caused("event", CONSUMER, None),
        continued("odd", SERVER, "00-x"),
    ):
        assert traceparent() is None
    assert spans == []


def test_what_is_not_recorded_is_recorded_nowhere_and_says_so(spans: list[RecordedSpan]) -> None:
    for beginning in (continued("a", SERVER, UNSAMPLED), caused("b", CONSUMER, UNSAMPLED)):
        with beginning, span("inside"):
            told = traceparent()
            assert told is not None
            assert told.endswith("-00")
    with recorded(spans.append, lambda *_: False), begun("c", SERVER, TRACE):
        told = traceparent()
        assert told is not None
        assert (told[3:35], told[-3:]) == (TRACE, "-00")
    assert spans == []


def test_what_goes_on_after_its_cause_is_a_trace_of_its_own_with_a_link_to_it(spans: list[RecordedSpan]) -> None:
    with caused("wallet open", CONSUMER, SAMPLED):
        pass
    (one,) = spans
    assert one.parent is None
    assert one.trace_id != TRACE
    assert one.link is not None
    assert one.link.traceparent == SAMPLED


def test_of_an_error_its_code_or_type_is_told_and_never_its_words(spans: list[RecordedSpan]) -> None:
    with pytest.raises(ValueError, match="secret words"), begun("a", SERVER, TRACE):
        raise ValueError("secret words")
    with pytest.raises(ApiError), begun("b", SERVER, TRACE):
        raise ApiError("session_busy", "secret words")
    with pytest.raises(ApiError), begun("c", SERVER, TRACE):
        raise ApiError("provider_error", "secret words")
    with pytest.raises(asyncio.CancelledError), begun("d", SERVER, TRACE):
        raise asyncio.CancelledError("secret words")
    assert [(one.error, one.is_failure) for one in spans] == [
        ("ValueError", True),
        ("session_busy", False),
        ("provider_error", True),
        ("CancelledError", False),
    ]
    assert "secret words" not in repr([[getattr(one, name, None) for name in one.__slots__] for one in spans])


async def test_parallel_tasks_have_their_own_spans(spans: list[RecordedSpan]) -> None:
    async def ask(name: str) -> None:
        with span(name):
            await asyncio.sleep(0)
            with span(f"{name} inner"):
                await asyncio.sleep(0)

    with begun("root", SERVER, TRACE):
        async with asyncio.TaskGroup() as group:
            for name in ("a", "b"):
                group.create_task(ask(name))
    parents = {one.name: one.parent.name if isinstance(one.parent, RecordedSpan) else None for one in spans}
    assert parents == {"a": "root", "b": "root", "a inner": "a", "b inner": "b", "root": None}


@pytest.mark.parametrize("ratio", [0.01, 0.3, 0.7])
def test_a_ratio_is_kept_although_trace_ids_are_uuids(monkeypatch: pytest.MonkeyPatch, ratio: float) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", str(ratio))
    is_sampled = sampling()
    share = sum(is_sampled(None, uuid7().replace("-", "")) for _ in range(20_000)) / 20_000
    assert abs(share - ratio) < 0.02
    assert is_sampled(TracePoint.read(SAMPLED), TRACE)
    assert not is_sampled(TracePoint.read(UNSAMPLED), TRACE)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
    ],
)
def test_no_traces_are_made_unless_a_collector_is_named(environment: dict[str, str]) -> None:
    assert not is_wanted(environment)
    assert is_wanted({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"})


def test_a_process_without_a_collector_imports_nothing_of_it_and_starts_no_thread() -> None:
    script = (
        "import sys, threading, morpheus_automation.worker\n"
        "from morpheus_common.tracing import traces_exported, is_on\n"
        "with traces_exported('automation', 'w'):\n"
        "    assert not is_on() and threading.active_count() == 1\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter', 'requests'))])\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={}, timeout=60, check=True
    )
    assert told.stdout == "[]\n"


def test_a_collector_gets_every_span_with_all_that_it_says(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**collector.settings, "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test"}.items():
        monkeypatch.setenv(name, value)
    with traces_exported("gateway", "gateway-1"):
        with begun("GET /x", SERVER, TRACE, link=TracePoint.read(f"00-{'a' * 32}-{'b' * 16}-01")) as root:
            root.set("http.response.status_code", 503)
            root.fail("503")
            with span("ask", CLIENT):
                pass
        until(lambda: len(collector.spans()) == 2)
        with begun("the last", SERVER, TRACE):
            pass
    # what was left when the process ended is there as well
    ask, get, last = collector.spans()
    assert (get.service, get.name, get.kind, get.trace, get.parent) == ("gateway", "GET /x", "server", TRACE, "")
    assert get.attributes == {"http.response.status_code": 503, "error.type": "503"}
    assert get.failed
    assert get.links == (("a" * 32, "b" * 16),)
    assert (ask.parent, ask.kind, ask.failed) == (get.id, "client", False)
    assert last.name == "the last"
    assert b"deployment.environment.name" in collector.received


@pytest.fixture
def silent() -> Iterator[int]:
    """A port where connections are taken and nothing is ever answered."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("is_there", [False, True])
def test_a_collector_that_is_away_or_hangs_costs_counted_spans_and_one_line(
    monkeypatch: pytest.MonkeyPatch, silent: int, capsys: pytest.CaptureFixture[str], *, is_there: bool
) -> None:
    port = silent if is_there else 1
    for name, value in {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "0.3",
        "OTEL_BSP_SCHEDULE_DELAY": "10",
        "OTEL_BSP_MAX_QUEUE_SIZE": "20",
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "10",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("morpheus_common.trace_export.FLUSH_SECONDS", 0.5)
    said: list[str] = []
    monkeypatch.setattr("morpheus_common.trace_export.log.warning", lambda text, **_: said.append(text), raising=False)
    before = DROPPED._value.get()
    with traces_exported("gateway", "gateway-1"):
        slowest = 0.0
        for _ in range(200):
            began = time.perf_counter()
            with begun("GET", SERVER, TRACE):
                pass
            slowest = max(slowest, time.perf_counter() - began)
        assert slowest < 0.1, "nobody waits for a collector"
        until(lambda: DROPPED._value.get() - before >= 190)
        ends = time.monotonic()
    assert time.monotonic() - ends < 2
    assert said.count("traces are dropped: the collector takes none") == 1
    assert "opentelemetry" not in capsys.readouterr().err


class Moody(SpanExporter):
    """An exporter that fails the first time."""

    def __init__(self) -> None:
        self.calls = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        assert spans
        self.calls += 1
        if self.calls == 1:
            raise ConnectionError("secret words")
        return SpanExportResult.SUCCESS


def test_after_a_failure_spans_are_exported_again() -> None:
    exporting = Exporting(Moody(), Resource({}), delay=0.01)
    dropped, exported = DROPPED._value.get(), EXPORTED._value.get()
    with exporting.running(), recorded(exporting.take, lambda *_: True):
        for _ in range(2):
            with begun("GET", SERVER, TRACE):
                pass
            until(lambda: not exporting._queue)
    assert (DROPPED._value.get() - dropped, EXPORTED._value.get() - exported) == (1, 1)
    assert not any(thread.name == "traces" for thread in threading.enumerate())


def test_a_request_id_is_a_trace_that_is_not_sampled_where_no_traces_are_made() -> None:
    token = request_id.set("01890a5d-ac96-774b-bcce-b302099a8057")
    try:
        told = traceparent()
    finally:
        request_id.reset(token)
    assert not tracing.is_on()
    assert told is not None
    assert (told[3:35], told[-3:]) == (TRACE, "-00")


def test_headers_that_cannot_be_read_are_not_quoted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-api-key:planted-token-77")
    with capture_logs() as logs:
        Exporting.from_environment("gateway", "gateway-1")
    assert [line["setting"] for line in logs] == ["OTEL_EXPORTER_OTLP_HEADERS"]
    assert "planted-token-77" not in caplog.text + str(logs)
