"""What every message on the bus keeps to."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from morpheus_common.bus.events import event_headers
from morpheus_common.contracts import REGISTRY
from morpheus_common.contracts.base import Message, Registry, UtcTime, Wei
from morpheus_common.contracts.chat import Endpoint
from morpheus_common.contracts.sessions import SESSION_EVENTS, ModelType, OpenSession
from morpheus_common.errors import CATALOGUE, ApiError
from pydantic import ValidationError


class Sample(Message):
    at: UtcTime
    amount: Wei


@given(amount=st.integers(-(10**40), 10**40))
def test_an_amount_in_wei_survives_to_the_last_digit(amount: int) -> None:
    sent = Sample(at=datetime.now(UTC), amount=amount)

    assert Sample.model_validate_json(sent.model_dump_json()).amount == amount
    assert sent.model_dump(mode="json")["amount"] == str(amount)


def test_a_time_has_a_zone_and_travels_in_utc() -> None:
    local = datetime(2026, 11, 23, 12, 0, 0, 5000, timezone(timedelta(hours=2)))

    assert Sample(at=local, amount=0).model_dump(mode="json")["at"] == "2026-11-23T10:00:00.005Z"
    with pytest.raises(ValidationError):
        Sample(at=datetime(2026, 11, 23), amount=0)  # noqa: DTZ001 - that is the point


def test_an_older_reader_ignores_what_a_newer_sender_added() -> None:
    assert Sample.model_validate({"at": "2026-11-23T10:00:00Z", "amount": 1, "new": 5}).amount == 1


@pytest.mark.parametrize("duration", [0, -1, 299])
def test_a_session_shorter_than_the_chain_takes_is_refused_on_the_bus_already(duration: int) -> None:
    with pytest.raises(ValidationError):
        OpenSession(operation_id="o", user_id="u", key_id="k", key_prefix="p", duration=duration, wait=1)


def test_subjects_are_unique_and_of_the_documented_form() -> None:
    for subject, rpc in REGISTRY.rpcs.items():
        assert subject == rpc.subject == f"rpc.{rpc.service}.{rpc.verb}.v1"
    for subject, event in REGISTRY.events.items():
        assert subject == event.subject == f"evt.{event.domain}.{event.entity}.{event.past_tense}.v1"


def test_a_subject_can_be_defined_once_only() -> None:
    registry, rpc = Registry(), next(iter(REGISTRY.rpcs.values()))
    registry.rpc(rpc.service, rpc.verb, rpc.question, rpc.answer, callers=rpc.callers)
    with pytest.raises(ValueError, match="twice"):
        registry.rpc(rpc.service, rpc.verb, rpc.question, rpc.answer, callers=rpc.callers)


def test_an_event_names_itself_so_that_the_server_drops_a_repeat() -> None:
    headers = event_headers(
        SESSION_EVENTS["opened"].subject,
        event_id="e1",
        entity_id="s1",
        version=3,
        time=datetime(2026, 11, 23, tzinfo=UTC),
        request_id=None,
        traceparent=None,
    )
    assert (headers["Nats-Msg-Id"], headers["ce-id"], headers["ce-sequence"]) == ("e1", "e1", "3")
    assert headers["ce-time"] == "2026-11-23T00:00:00.000Z"
    assert headers["ce-type"] == SESSION_EVENTS["opened"].ce_type == "sessions.session.opened.v1"
    assert headers["ce-source"] == "/morpheus/sessions"
    assert "X-Request-Id" not in headers


@pytest.mark.parametrize("code", sorted(CATALOGUE))
def test_every_error_has_a_status_and_words_of_its_own(code: str) -> None:
    error = ApiError(code)

    assert 400 <= error.kind.status < 600
    assert error.message.endswith(".")
    assert (error.kind.status >= 500) == (error.kind.type == "server_error")


def test_a_code_that_is_not_in_the_catalogue_cannot_be_raised() -> None:
    with pytest.raises(KeyError):
        ApiError("made_up")


def test_only_a_model_that_is_known_to_be_of_another_type_is_refused() -> None:
    """F27"""
    for endpoint, fits in ((Endpoint.CHAT, ModelType.LLM), (Endpoint.EMBEDDINGS, ModelType.EMBEDDING)):
        for model_type in ModelType:
            if model_type in {fits, ModelType.UNKNOWN}:
                endpoint.require(model_type)
            else:
                with pytest.raises(ApiError) as caught:
                    endpoint.require(model_type)
                assert (caught.value.code, caught.value.param) == ("model_type_mismatch", "model")
