"""Who answers what: the registry of contracts and the services' subscribers say the same."""

import inspect
from types import SimpleNamespace
from typing import Any, get_type_hints

import morpheus_auth.operator_rpc
import morpheus_auth.worker
import morpheus_automation.worker
import morpheus_sessions.operator_rpc
import morpheus_sessions.worker
import pytest
from faststream.nats import NatsBroker
from morpheus_common.asyncapi import document
from morpheus_common.bus.names import User
from morpheus_common.contracts import REGISTRY
from morpheus_common.store.service import subscribe_events

PARTS: Any = SimpleNamespace(settings=SimpleNamespace(hashes_at_once=1, hashes_waiting=1), worker="w1", chat=None)
"""Declaring a handler needs none of what it calls."""


def subscribe_auth_operator(broker: NatsBroker, parts: Any) -> None:
    """Declare what auth answers to operators, with whatever it needs."""
    morpheus_auth.operator_rpc.subscribe_operator(
        broker, audit=parts, invites=parts, password_changes=parts, rotation=parts, kek_rotation=parts
    )


DECLARE: dict[User, tuple[Any, ...]] = {
    User.AUTH: (morpheus_auth.worker.subscribe, subscribe_auth_operator),
    User.SESSIONS: (morpheus_sessions.worker.subscribe_rpc, morpheus_sessions.operator_rpc.subscribe_operator),
    User.AUTOMATION: (morpheus_automation.worker.subscribe,),
}


def subscribers(service: User) -> list[Any]:
    """What a service subscribes to through FastStream."""
    broker = NatsBroker()
    for declare in DECLARE[service]:
        declare(broker, PARTS)
    subscribe_events(broker, service, PARTS)
    return list(broker.subscribers)


def test_every_service_that_is_asked_something_declares_its_handlers() -> None:
    assert {rpc.service for rpc in REGISTRY.rpcs.values()} == set(DECLARE)


@pytest.mark.parametrize("service", list(DECLARE))
def test_every_question_has_exactly_one_handler_and_every_subscriber_is_in_the_registry(service: User) -> None:
    subjects = sorted(subscriber.subject.broker_address for subscriber in subscribers(service))
    assert subjects == sorted(subject for subject, rpc in REGISTRY.rpcs.items() if rpc.service is service)


@pytest.mark.parametrize("service", list(DECLARE))
def test_handlers_take_and_give_what_the_contract_says_and_share_the_work_of_their_service(service: User) -> None:
    for subscriber in subscribers(service):
        contract = REGISTRY.rpcs[subscriber.subject.broker_address]
        (call,) = subscriber.calls
        handler = call.handler._original_call
        hints = get_type_hints(handler)
        (parameter,) = inspect.signature(handler).parameters
        assert (hints[parameter], hints["return"]) == (contract.question, contract.answer), contract.subject
        assert subscriber.queue == service


async def test_every_subject_of_a_session_worker_that_is_no_question_is_described() -> None:
    heard: list[str] = []

    class Connection:
        async def subscribe(self, subject: str, **_: Any) -> None:
            heard.append(subject)

    await morpheus_sessions.worker.subscribe_chat(Connection(), PARTS)  # type: ignore[arg-type]  # hears, says nothing
    operations = [op for op in document()["operations"].values() if op["action"] == "receive"]
    channels = {name: channel["address"] for name, channel in document()["channels"].items()}
    described = {channels[op["channel"]["$ref"].removeprefix("#/channels/")] for op in operations}
    assert {subject.replace("w1", "{worker}").split(".*")[0] for subject in heard} == {
        address.split(".{attempt}")[0].split(".{key_id}")[0] for address in described if address.startswith("chat.")
    }
