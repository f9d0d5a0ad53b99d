"""Questions and commands: the asking side and the answering side.

Every question is answered by one envelope, `{"ok": …}` or `{"error": {code, message, param?, retry_after?, details?}}`.
FastStream alone sends nothing when a handler raises or a payload does not fit, and the caller would wait.
"""

import json
import time
from typing import Any, TypeVar

from faststream import BaseMiddleware
from faststream.exceptions import IgnoredException
from faststream.message import StreamMessage
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import ConnectionClosedError, MaxPayloadError, NoRespondersError, OutboundBufferLimitError
from nats.errors import TimeoutError as NatsTimeoutError
from pydantic import ValidationError

from morpheus_common.bus.connection import AnswerLostError, ArrivedMsg
from morpheus_common.bus.metrics import OK, answered, asked
from morpheus_common.bus.names import INBOX, Header
from morpheus_common.contracts.base import Message, Rpc
from morpheus_common.errors import CATALOGUE, ApiError
from morpheus_common.logs import get_logger
from morpheus_common.request_context import Deadline, deadline, request_id, seconds_left, traceparent
from morpheus_common.tracing import CLIENT, SERVER, Span, continued, span

log = get_logger(__name__)

Question = TypeVar("Question", bound=Message)
Answer = TypeVar("Answer", bound=Message)

_ASKERS = tuple(f"{prefix}." for prefix in INBOX.values())
_NOT_OF_QUESTIONS = ("nats-", "ce-", "status")
"""Beginnings of headers that JetStream sets, and those of events."""

DEFAULT_TIMEOUT_SECONDS = 5.0
"""What a handler assumes when a caller says nothing of its time."""


class RpcClient:
    """Asks other services. Safe for any number of concurrent calls."""

    def __init__(self, connection: Client) -> None:
        self._connection = connection

    @property
    def is_connected(self) -> bool:
        """Whether this process has the bus."""
        return self._connection.is_connected

    async def call(self, rpc: Rpc[Question, Answer], question: Question, *, timeout: float | None = None) -> Answer:
        """Ask and return the answer.

        Waits `timeout` seconds (default: the contract's), never longer than our own caller does. Raises the `ApiError`
        the service answered with, `service_unavailable` if nobody listens or the bus is away, `service_timeout` if no
        answer came in time, or none can come any more.
        """
        attributes = {"rpc.system.name": "nats", "rpc.method": f"{rpc.service}/{rpc.verb}"}
        began = time.monotonic()
        try:
            with span(f"{rpc.service}/{rpc.verb}", CLIENT, attributes):
                answer = await self._ask(rpc, question, timeout)
        except ApiError as error:
            asked(rpc.subject, error.code, time.monotonic() - began)
            raise
        asked(rpc.subject, OK, time.monotonic() - began)
        return answer

    async def _ask(self, rpc: Rpc[Question, Answer], question: Question, timeout: float | None) -> Answer:
        patience = seconds_left(timeout or rpc.timeout)
        if not self.is_connected:
            raise ApiError("service_unavailable", retry_after=1)
        headers = {Header.TIMEOUT_MS: str(int(patience * 1000))}
        if current := request_id.get():
            headers[Header.REQUEST_ID] = current
        if trace := traceparent():
            headers[Header.TRACEPARENT] = trace
        payload = question.model_dump_json().encode()
        try:
            reply = await self._connection.request(rpc.subject, payload, timeout=patience, headers=headers)
        except NoRespondersError:
            raise ApiError("service_unavailable", retry_after=1) from None
        except (TimeoutError, NatsTimeoutError, AnswerLostError):
            # it may have arrived, and its work may be done
            raise ApiError("service_timeout", retry_after=1) from None
        except (ConnectionClosedError, OutboundBufferLimitError):
            raise ApiError("service_unavailable", retry_after=1) from None
        except MaxPayloadError:
            raise ApiError("request_too_large") from None
        return _open_envelope(rpc, reply.data)


def _open_envelope(rpc: Rpc[Question, Answer], data: bytes) -> Answer:
    try:
        envelope = json.loads(data)
        if "ok" in envelope:
            return rpc.answer.model_validate(envelope["ok"])
        error = envelope["error"]
        code, message = str(error["code"]), str(error["message"])
    except (ValueError, KeyError, TypeError) as problem:
        # a ValidationError names the fields, not their values, only without its inputs
        log.error("answer does not fit its contract", subject=rpc.subject, problem=type(problem).__name__)
        raise ApiError("internal_error") from None
    if code not in CATALOGUE:
        # a newer service may know codes that we do not
        log.error("answer with an unknown error code", subject=rpc.subject, code=code)
        raise ApiError("internal_error")
    raise ApiError(
        code, message, param=error.get("param"), retry_after=error.get("retry_after"), details=error.get("details")
    )


def error_envelope(error: ApiError) -> dict[str, Any]:
    """Return the envelope that tells a caller of `error`."""
    body: dict[str, Any] = {"code": error.code, "message": error.message}
    if error.param is not None:
        body["param"] = error.param
    if error.retry_after is not None:
        body["retry_after"] = error.retry_after
    if error.details is not None:
        body["details"] = error.details
    return {"error": body}


class RpcMiddleware(BaseMiddleware[Any, Any]):
    """Answers every question: wraps what a handler returns, turns what it raises into an error envelope.

    Sets the request's id and deadline for everything the handler does, and refuses to start work whose caller has
    already given up while the message waited in this process. What is no question never reaches a handler.
    """

    async def consume_scope(self, call_next: Any, msg: StreamMessage[Any]) -> Any:
        """Run the handler of one message."""
        raw: Msg = msg.raw_message
        headers = raw.headers or {}
        if not _is_question(raw, headers):
            log.warning("no question, though it came where questions come; dropped", subject=raw.subject)
            # the one way to send no answer: it would go where the message says
            raise IgnoredException
        request_token = request_id.set(headers.get(Header.REQUEST_ID))
        deadline_token = deadline.set(_deadline_of(raw, headers))
        code: str | None = None
        try:
            current = deadline.get()
            if current is not None and current.passed:
                log.info("caller gave up before its turn came", subject=raw.subject)
                code = "service_timeout"
                return error_envelope(ApiError(code, retry_after=1))
            with _span_of(raw.subject, headers):
                answer = await call_next(msg)
            code = OK
            return {"ok": answer.model_dump(mode="json") if isinstance(answer, Message) else answer}
        except ApiError as error:
            code = error.code
            return error_envelope(error)
        except ValidationError as error:
            code = "validation_error"
            fields = [".".join(str(part) for part in item["loc"]) for item in error.errors(include_input=False)]
            log.warning("question does not fit its contract", subject=raw.subject, fields=fields)
            return error_envelope(ApiError(code, details={"fields": fields}))
        except Exception:
            # the outermost edge of a handler: whatever went wrong, the caller is answered and we have the traceback
            log.exception("handler failed", subject=raw.subject)
            code = "internal_error"
            return error_envelope(ApiError(code))
        finally:
            # none if the process ends and takes the handler along: nobody is answered
            if code is not None:
                answered(raw.subject, code, time.monotonic() - _arrived_at(raw))
            deadline.reset(deadline_token)
            request_id.reset(request_token)


def _span_of(subject: str, headers: dict[str, str]) -> Span:
    # rpc.<service>.<verb>.v1
    method = "/".join(subject.split(".")[1:3])
    attributes = {"rpc.system.name": "nats", "rpc.method": method}
    return continued(method, SERVER, headers.get(Header.TRACEPARENT), attributes)


def _is_question(raw: Msg, headers: dict[str, str]) -> bool:
    """Tell whether a user asked this.

    The server checks who publishes to `rpc.…`, but whoever may read events can have JetStream deliver them, or its own
    answers, to any subject: with the subject of the event, a `$JS.…` reply or none, and headers no question has.
    """
    return (
        raw.subject.startswith("rpc.")
        and raw.reply.startswith(_ASKERS)
        and not any(name.lower().startswith(_NOT_OF_QUESTIONS) for name in headers)
    )


def _deadline_of(raw: Msg, headers: dict[str, str]) -> Deadline:
    try:
        patience = int(headers.get(Header.TIMEOUT_MS, "")) / 1000
    except ValueError:
        patience = DEFAULT_TIMEOUT_SECONDS
    return Deadline(_arrived_at(raw) + patience)


def _arrived_at(raw: Msg) -> float:
    return raw.arrived_at if isinstance(raw, ArrivedMsg) else time.monotonic()
