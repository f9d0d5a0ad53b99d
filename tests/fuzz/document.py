"""schemathesis over all that the OpenAPI document says, with callers who may do it."""

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import schemathesis
from morpheus_gateway.openapi import OF_NO_OPERATION
from schemathesis import AuthContext, Case, HookContext, Response
from schemathesis.config import SchemathesisConfig
from schemathesis.config._checks import NEGATIVE_DATA_REJECTION_EXPECTED_STATUSES
from schemathesis.core import NOT_SET
from schemathesis.core.failures import Failure
from schemathesis.engine import Status, events, from_schema
from schemathesis.engine.recorder import ScenarioRecorder
from schemathesis.engine.run import PhaseName
from schemathesis.hooks import GLOBAL_HOOK_DISPATCHER, unregister
from schemathesis.openapi.checks import (
    AllowHeaderMismatch,
    EnsureResourceAvailability,
    JsonSchemaError,
    RejectedPositiveData,
    UseAfterFree,
)
from schemathesis.schemas import BaseSchema

from tests.e2e.operations import ROWS, Json, Row
from tests.fuzz.answers import Answer, wrongs
from tests.fuzz.people import People, Person
from tests.fuzz.reasons import KEPT, OF_THE_MARKET, REFUSALS, SHADOWED
from tests.fuzz.tally import Tally

AnyCase = Case[Any]
MESSAGE_LENGTH = 600
HINT = "\nHint:"
"""Behind it schemathesis guesses, in other words for each request."""
FITTING_SHARE = 0.6
"""So many of the requests that fit the document are given what also fits the caller: own ids, names of the market."""
PHASES = ("examples", "coverage", "fuzzing", "stateful")
USED_UP = frozenset({"key_limit_reached", "delegation_limit_reached", "key_rotation_limit"})
"""A caller who is told so is replaced: it says no more about the operation."""


def _config(*, seed: int, examples: int, phases: Sequence[str]) -> SchemathesisConfig:
    return SchemathesisConfig.from_dict(
        {
            "seed": seed,
            # more would be threads: they share one interpreter, and the order of requests would be another each time
            "workers": 1,
            "continue-on-failure": True,
            "generation": {"max-examples": examples, "no-shrink": True},
            "suppress-health-check": ["all"],
            # the credentials of a stack that is gone afterwards, without which a command repeats nothing
            "output": {"sanitization": {"enabled": False}},
            "request-timeout": 60,
            "max-stream-events": 10_000,
            "checks": {
                "not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", "503", "504"]},
                # what is much too long for its field can be too long for a body as well
                "negative_data_rejection": {
                    "expected-statuses": [*NEGATIVE_DATA_REJECTION_EXPECTED_STATUSES, "413", "414", "431"]
                },
            },
            "phases": {name: {"enabled": name in phases} for name in PHASES},
        }
    )


class Document:
    """One run over the document. `never`: what no answer may hold."""

    def __init__(self, people: People, tally: Tally, never: Sequence[str], base_url: str) -> None:
        self._people = people
        self._tally = tally
        self._never = never
        self._url = base_url
        self._words = ""
        self._together = False

    def run(
        self,
        *,
        seed: int,
        examples: int,
        phases: Sequence[str],
        most: float = math.inf,
        tell: Callable[[], None] = lambda: None,
    ) -> None:
        """Send everything, or a little more than `most` requests; what is wrong is noted in the tally."""
        before = self._tally.cases
        config = _config(seed=seed, examples=examples, phases=phases)
        schema = schemathesis.openapi.from_url(f"{self._url}/openapi.json", config=config)
        self._prepare(schema)
        register = GLOBAL_HOOK_DISPATCHER.register_hook_with_name
        hooks = [
            register(self._before, "before_call"),
            register(self._after, "after_call"),
            register(self._is_wrong, "filter_failure"),
        ]
        try:
            running = from_schema(schema).execute()
            for event in running:
                self._hear(event)
                tell()
                if self._tally.cases - before >= most:
                    running.stop()
        finally:
            for one in hooks:
                unregister(one)

    def _hear(self, event: events.EngineEvent) -> None:
        if isinstance(event, events.PhaseStarted):
            self._together = event.phase.name is PhaseName.STATEFUL_TESTING
        elif isinstance(event, events.ScenarioFinished):
            self._note(event.recorder)
        elif isinstance(event, events.NonFatalError):
            self._tally.fail(f"{event.label}: schemathesis broke: {event.info.title}: {event.info.message}", "")
        elif isinstance(event, events.FatalError):
            raise event.exception

    def _prepare(self, schema: BaseSchema) -> None:
        self._words = "\n".join(_texts(schema.raw_schema))
        document = self

        @schema.auth(refresh_interval=None)
        class _Credentials:
            def get(self, _: AnyCase, context: AuthContext) -> str | None:
                label = context.operation.label
                if label not in ROWS:
                    return None
                return document._person(label).credential(ROWS[label].access)

            def set(self, case: AnyCase, data: str, _: AuthContext) -> None:
                case.headers["Authorization"] = data

    def _person(self, label: str) -> Person:
        return self._people.of(label, together=self._together)

    def _before(self, _: HookContext, case: AnyCase, _kwargs: dict[str, Any]) -> None:
        label = case.operation.label
        row = ROWS.get(label)
        if row is None or case.meta is None or not case.meta.generation.mode.is_positive:
            return
        if isinstance(case.body, dict):
            # 3600.0 is an integer to JSON Schema, and no whole number to us: no client writes one so
            case.body = _whole(case.body)
        shown = repr((case.path_parameters, case.query, case.body)).encode(errors="surrogatepass")
        if zlib.crc32(shown) / 2**32 < FITTING_SHARE:
            self._fit(case, label, row)

    def _fit(self, case: AnyCase, label: str, row: Row) -> None:
        person = self._person(label)
        world = self._people.world(label, person)
        own = {name: person.ids[kind] for name, kind in row.objects.items() if kind in person.ids}
        case.path_parameters = {**case.path_parameters, **{k: v for k, v in own.items() if f"{{{k}}}" in case.path}}
        case.query = {**case.query, **row.query(world)}
        if "model_id" in case.path_parameters:
            case.path_parameters = {**case.path_parameters, "model_id": world.llm}
        if row.body is not None and (case.body is NOT_SET or isinstance(case.body, dict | None)):
            sent: Json = case.body if isinstance(case.body, dict) else {}
            in_body = {name: own[name] for name in own if name in sent}
            case.body = {**sent, **row.body(world), **in_body}

    def _after(self, _: HookContext, case: AnyCase, response: Response) -> None:
        label = case.operation.label
        row = ROWS.get(label)
        answer = _answer(case, response)
        is_positive = case.meta is not None and case.meta.generation.mode.is_positive
        self._tally.add(label, answer, positive=is_positive)
        secrets = self._never
        submitted = [] if answer.status < 400 else [text for text in _submitted(case) if text not in self._words]
        for wrong in wrongs(answer, secrets=secrets, submitted=submitted):
            self._tally.fail(f"{label}: {wrong}", case.as_curl_command())
        if row is None:
            return
        ends = row.ends or label.endswith("/refresh")
        if (answer.status < 300 and ends) or answer.code in USED_UP:
            self._people.used_up(label, together=self._together)

    def _is_wrong(self, _: HookContext, failure: Failure, case: AnyCase, response: Response) -> bool:
        """Tell whether a complaint of schemathesis is one: there may be a reason for what it sees."""
        label, answer = case.operation.label, _answer(case, response)
        if isinstance(failure, RejectedPositiveData):
            return not any(reason.covers(label, answer) for reason in REFUSALS)
        if isinstance(failure, EnsureResourceAvailability):
            return answer.code not in OF_THE_MARKET
        if isinstance(failure, JsonSchemaError) and answer.code in OF_NO_OPERATION:
            # told before there is an operation: the document tells of it under `default`, which a status of its own hides
            return False
        if isinstance(failure, UseAfterFree):
            return label not in KEPT
        if isinstance(failure, JsonSchemaError) and failure.title.startswith("SSE"):
            # OpenAPI 3.1 has no word for the events of a stream, and schemathesis reads the form of 3.2: `answers` looks at them
            return False
        return not (isinstance(failure, AllowHeaderMismatch) and label in SHADOWED)

    def _note(self, recorder: ScenarioRecorder) -> None:
        for case_id, checks in recorder.checks.items():
            for check in checks:
                if check.status is Status.FAILURE and check.failure_info is not None:
                    failure = check.failure_info.failure
                    label = failure.operation or recorder.label
                    told = recorder.find_response(case_id=case_id)
                    what = (
                        f"{label}: {check.name}: {failure.title}: {failure.message.partition(HINT)[0][:MESSAGE_LENGTH]}"
                    )
                    if told is not None and told.status_code >= 400:
                        what += f" {told.status_code} {told.content[:MESSAGE_LENGTH].decode(errors='replace')}"
                    self._tally.fail(what, check.failure_info.code_sample)


def _answer(case: AnyCase, response: Response) -> Answer:
    path = (response.request.url or "").partition("?")[0]
    path = "/" + path.split("/", 3)[3] if path.count("/") > 2 else "/"
    method = response.request.method or case.method
    return Answer(method, path, response.status_code, response.headers, response.content, response.elapsed)


def _texts(value: Any) -> Iterator[str]:
    """Yield every text in a value, names of fields too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, one in value.items():
            yield str(name)
            yield from _texts(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _whole(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_whole(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _submitted(case: AnyCase) -> Iterator[str]:
    yield from _texts(dict(case.path_parameters))
    yield from _texts(dict(case.query))
    if case.body is not NOT_SET:
        yield from _texts(case.body)
