"""Settings that would lose money or prompts are refused at start."""

import json
from typing import Any

import pytest
from morpheus_sessions.settings import SessionsSettings
from pydantic import ValidationError

ROUTER = {"name": "r1", "url": "http://router:8082", "user": "admin", "password": "hunter2"}


def settings(routers: Any = (ROUTER,), **more: Any) -> SessionsSettings:
    return SessionsSettings.model_validate(
        {
            "nats_seed": "SUseed",
            "mongo_url": "mongodb://m",
            "worker_id": "w1",
            "proxy_routers": routers if isinstance(routers, str) else json.dumps(list(routers)),
            **more,
        }
    )


def test_the_defaults_are_the_documented_ones() -> None:
    read = settings()
    assert (read.handshake_timeout, read.chain_timeout, read.abandon_after) == (15, 240, 600)
    assert (read.first_byte_timeout, read.chunk_timeout, read.answer_timeout) == (120, 90, 900)
    assert (read.queue_per_key, read.queue_wait, read.quarantine, read.idle_release) == (32, 120, 600, 300)
    assert [(router.name, router.url) for router in read.routers] == [("r1", "http://router:8082")]


@pytest.mark.parametrize(
    "routers",
    [
        "",
        "[]",
        "{}",
        "not json",
        [{**ROUTER, "name": "two words"}],
        [{**ROUTER, "name": "a.b"}],
        [{**ROUTER, "url": "ftp://router"}],
        [ROUTER, {**ROUTER, "url": "http://other:8082"}],
        [ROUTER, {**ROUTER, "name": "r2"}],
    ],
)
def test_a_fleet_that_makes_no_sense_is_refused(routers: Any) -> None:
    with pytest.raises(ValidationError):
        settings(routers)


@pytest.mark.parametrize("number", [0, 1000])
def test_a_deployment_number_that_does_not_fit_into_a_tag_is_refused(number: int) -> None:
    with pytest.raises(ValidationError):
        settings(deployment_number=number)


def test_no_password_is_shown_with_the_settings_or_with_what_is_wrong_in_them() -> None:
    assert "hunter2" not in repr(settings())
    assert "hunter2" not in repr(settings().routers)
    with pytest.raises(ValidationError) as caught:
        settings([{**ROUTER, "name": "two words"}])
    assert "hunter2" not in str(caught.value)
