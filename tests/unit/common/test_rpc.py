"""Every question is answered by one envelope, whatever the handler does."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
from faststream.exceptions import IgnoredException
from hypothesis import given
from hypothesis import strategies as st
from morpheus_common.bus.connection import AnswerLostError
from morpheus_common.bus.names import Header
from morpheus_common.bus.rpc import RpcClient, RpcMiddleware, error_envelope
from morpheus_common.contracts.base import Empty
from morpheus_common.contracts.health import PING, Health
from morpheus_common.contracts.sessions import OpenSession
from morpheus_common.errors import CATALOGUE, ApiError
from morpheus_common.request_context import Deadline, deadline, request_id
from nats.aio.client import Client
from nats.errors import ConnectionClosedError, MaxPayloadError, NoRespondersError, OutboundBufferLimitError
from nats.errors import TimeoutError as NatsTimeoutError
from structlog.testing import capture_logs

PINGING = PING["auth"]  # type: ignore[index]  # a StrEnum's members are strings
HEALTH = {"version": "1", "worker": "w1", "components": {"database": True}, "degraded": []}


class Bus:
    """Answers every question alike, and keeps what was asked."""

    def __init__(self, answer: bytes | Exception) -> None:
        self.answer = answer
        self.is_connected = True
        self.asked: list[tuple[str, bytes, float, dict[str, str]]] = []

    async def request(self, subject: str, payload: bytes, *, timeout: float, headers: dict[str, str]) -> Any:
        self.asked.append((subject, payload, timeout, headers))
        if isinstance(self.answer, Exception):
            raise self.answer
        return SimpleNamespace(data=self.answer)


async def ask(answer: Any) -> Health:
    bus = Bus(answer if isinstance(answer, bytes | Exception) else json.dumps(answer).encode())
    return await RpcClient(cast("Client", bus)).call(PINGING, Empty())


async def refused(answer: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await ask(answer)
    return caught.value


# asking


async def test_an_answer_is_read_as_its_contract_says() -> None:
    assert await ask({"ok": HEALTH}) == Health.model_validate(HEALTH)


@given(
    code=st.sampled_from(sorted(CATALOGUE)),
    message=st.text(min_size=1),
    param=st.none() | st.text(min_size=1),
    retry_after=st.none() | st.integers(1, 60),
    details=st.none() | st.dictionaries(st.text(), st.integers() | st.text(), min_size=1),
)
def test_an_error_arrives_as_it_was_raised(
    code: str, message: str, param: str | None, retry_after: int | None, details: dict[str, Any] | None
) -> None:
    raised = ApiError(code, message, param=param, retry_after=retry_after, details=details)

    arrived = asyncio.run(refused(error_envelope(raised)))

    assert (arrived.code, arrived.message, arrived.param) == (code, message, param)
    assert (arrived.retry_after, arrived.details) == (retry_after, details)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"not json",
        b"null",
        b"[]",
        b"7",
        b'"ok"',
        {},
        {"ok": {}},
        {"ok": None},
        {"error": None},
        {"error": "text"},
        {"error": {}},
        {"error": {"code": "of_a_newer_service", "message": "x"}},
    ],
)
async def test_an_answer_that_does_not_fit_is_our_own_failure(answer: Any) -> None:
    assert (await refused(answer)).code == "internal_error"


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        (NoRespondersError(), "service_unavailable"),
        (ConnectionClosedError(), "service_unavailable"),
        (OutboundBufferLimitError(), "service_unavailable"),
        (NatsTimeoutError(), "service_timeout"),
        (TimeoutError(), "service_timeout"),
        (AnswerLostError(), "service_timeout"),
        (MaxPayloadError(), "request_too_large"),
    ],
)
async def test_what_goes_wrong_on_the_bus_is_told_in_our_codes(problem: Exception, code: str) -> None:
    assert (await refused(problem)).code == code


async def test_nothing_is_asked_while_the_bus_is_away() -> None:
    bus = Bus(b"")
    bus.is_connected = False
    with pytest.raises(ApiError, match="service_unavailable"):
        await RpcClient(cast("Client", bus)).call(PINGING, Empty())
    assert bus.asked == []


async def test_a_question_carries_its_request_and_the_time_left_of_its_own_caller() -> None:
    bus = Bus(json.dumps({"ok": HEALTH}).encode())
    request_id.set("01890a5d-ac96-774b-bcce-b302099a8057")
    deadline.set(Deadline.after(0.5))

    await RpcClient(cast("Client", bus)).call(PINGING, Empty(), timeout=30)

    ((subject, _, timeout, headers),) = bus.asked
    assert subject == "rpc.auth.ping.v1"
    assert timeout <= 0.5
    assert 0 < int(headers[Header.TIMEOUT_MS]) <= 500
    assert headers[Header.REQUEST_ID] == "01890a5d-ac96-774b-bcce-b302099a8057"
    assert headers[Header.TRACEPARENT].split("-")[1] == "01890a5dac96774bbcceb302099a8057"


# answering


async def handled(
    handler: Any, *, subject: str = "rpc.auth.ping.v1", reply: str = "_INBOX_gw.x.1", **headers: str
) -> Any:
    raw = SimpleNamespace(subject=subject, reply=reply, headers=headers or None)
    middleware = RpcMiddleware(raw, context=cast("Any", None))
    return await middleware.consume_scope(handler, cast("Any", SimpleNamespace(raw_message=raw)))


async def test_what_a_handler_returns_is_wrapped() -> None:
    async def handler(_: Any) -> Health:
        return Health.model_validate(HEALTH)

    assert await handled(handler) == {"ok": HEALTH}


async def test_what_a_handler_raises_of_ours_is_told() -> None:
    async def handler(_: Any) -> None:
        raise ApiError("session_busy", retry_after=5)

    assert (await handled(handler))["error"]["code"] == "session_busy"


async def test_whatever_else_a_handler_raises_is_answered_without_a_word_of_it() -> None:
    async def handler(_: Any) -> None:
        raise RuntimeError("mongodb://user:hunter2@db")

    answer = await handled(handler)
    assert answer["error"]["code"] == "internal_error"
    assert "hunter2" not in json.dumps(answer)


async def test_a_question_that_does_not_fit_names_its_fields_and_not_their_values() -> None:
    async def handler(_: Any) -> None:
        OpenSession.model_validate({"operation_id": 5, "duration": 299, "model_id": "0xsecret"})

    answer = await handled(handler)
    assert answer["error"]["code"] == "validation_error"
    assert {"operation_id", "duration", "model_id", "user_id"} <= set(answer["error"]["details"]["fields"])
    assert "0xsecret" not in json.dumps(answer)


async def test_work_whose_caller_gave_up_is_not_begun() -> None:
    async def handler(_: Any) -> None:
        raise AssertionError("begun")

    answer = await handled(handler, **{Header.TIMEOUT_MS: "0"})
    assert answer["error"]["code"] == "service_timeout"


@pytest.mark.parametrize("patience", [None, "", "soon", "1e3"])
async def test_a_caller_that_says_nothing_of_its_time_is_given_some(patience: str | None) -> None:
    async def handler(_: Any) -> Empty:
        current = deadline.get()
        assert current is not None
        assert 0 < current.left <= 5
        return Empty()

    headers = {} if patience is None else {Header.TIMEOUT_MS: patience}
    assert await handled(handler, **headers) == {"ok": {}}


async def test_a_handler_knows_its_request_and_the_next_does_not() -> None:
    seen: list[str | None] = []

    async def handler(_: Any) -> Empty:
        seen.append(request_id.get())
        return Empty()

    await handled(handler, **{Header.REQUEST_ID: "r1"})
    await handled(handler)
    assert seen == ["r1", None]
    assert request_id.get() is None
    assert deadline.get() is None


@pytest.mark.parametrize(
    "message",
    [
        {"subject": "evt.auth.key.created.v1"},
        {"reply": ""},
        {"reply": "$JS.ACK.EVENTS.spy.1.1.1.1.0"},
        {"reply": "rpc.auth.deactivate_key.v1"},
        {"Nats-Stream": "EVENTS"},
        {"nats-sequence": "1"},
        {"Nats-Msg-Id": "1"},
        {"ce-id": "1"},
        {"Status": "100"},
    ],
)
async def test_what_is_no_question_reaches_no_handler_and_gets_no_answer(message: dict[str, Any]) -> None:
    async def handler(_: Any) -> None:
        raise AssertionError("handled")

    with pytest.raises(IgnoredException), capture_logs() as logged:
        await handled(handler, **message)
    assert len(logged) == 1
