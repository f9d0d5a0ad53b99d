"""Settings that would lose money or prompts are refused at start."""

import json
import re
from pathlib import Path
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
    assert (read.stake_limit_per_user, read.stake_limit_in_all, read.stake_limit_per_router) == ("10%", "90%", None)
    assert (read.duration_limit, read.automatic_duration_limit, read.price_limit) == (86_400, 3_600, None)
    assert (read.opens_per_minute, read.opens_per_day, read.hold_rule) == (6, 60, "whole")
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


LIMITS = {"stake_limit_per_user": "500000000000000000000", "stake_limit_in_all": "90%"}


def test_production_starts_only_when_the_operator_has_set_the_stake_limits() -> None:
    for missing in LIMITS:
        with pytest.raises(ValidationError, match=missing.upper()):
            settings(environment="production", **{name: LIMITS[name] for name in LIMITS if name != missing})
    assert settings(environment="production", **LIMITS).stake_limit_in_all == "90%"
    assert settings().stake_limit_per_user == "10%"


def test_production_takes_the_stake_limits_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    common = {"NATS_SEED": "SU", "MONGO_URL": "mongodb://m", "PROXY_ROUTERS": json.dumps([ROUTER])}
    for name, value in {**common, "ENVIRONMENT": "production", **LIMITS}.items():
        monkeypatch.setenv(name.upper(), value)
    assert SessionsSettings().stake_limit_per_user == LIMITS["stake_limit_per_user"]
    monkeypatch.delenv("STAKE_LIMIT_IN_ALL")
    with pytest.raises(ValidationError):
        SessionsSettings()


@pytest.mark.parametrize("limit", ["", "0", "-1", "1.5", "10 %", "1e18", "1000%x", "10.0001%", "%", "1" * 35])
def test_a_stake_limit_that_makes_no_sense_is_refused(limit: str) -> None:
    with pytest.raises(ValidationError):
        settings(stake_limit_per_user=limit)


def test_the_operators_page_names_the_limits_with_their_defaults() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "operations.md").read_text()
    rows = dict(re.findall(r"^\| (`[A-Z_`, ]+`) \| ([^|]+) \|", page, re.MULTILINE))
    told = {name: cell for names, cell in rows.items() for name in re.findall(r"[A-Z_]+", names)}
    limits = [name for name in SessionsSettings.model_fields if re.search(r"limit|opens_per|allowance|hold_rule", name)]
    assert {name.upper() for name in limits} <= told.keys()
    for name in limits:
        default = SessionsSettings.model_fields[name].default
        shown = {None: "none", 10**24: "10²⁴"}.get(default, str(default))
        assert shown in told[name.upper()], name
