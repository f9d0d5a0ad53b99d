import json
from pathlib import Path

import pytest
from morpheus_common.bus.names import User
from morpheus_devstack.env import Places, Router
from morpheus_devstack.mongo_setup import STORES
from morpheus_devstack.secrets import StackSecrets
from morpheus_devstack.servers import MongoServer, NatsServer


@pytest.fixture
def places(tmp_path: Path) -> Places:
    secrets = StackSecrets.new()
    return Places(
        gateway_port=8000,
        nats=NatsServer(tmp_path, 4001, tmp_path / "n.log"),
        mongo=MongoServer(tmp_path, 4002, tmp_path / "m.log", secrets.mongo_passwords["root"]),
        router=Router("http://127.0.0.1:8082", "admin", "router-password"),
        secrets=secrets,
    )


def test_a_service_is_told_its_own_secrets_and_nobody_elses(places: Places) -> None:
    for service in (User.GATEWAY, *STORES):
        told = json.dumps(places.of_service(service))
        for user in User:
            assert (places.secrets.nats_seeds[user] in told) == (user is service)
        for name, password in places.secrets.mongo_passwords.items():
            assert (password in told) == (name == service)
        assert (places.router.password in told) == (service is User.SESSIONS)
        assert (places.secrets.auth_pepper in told) == (service is User.AUTH)


def test_the_gateway_is_not_told_where_the_database_is(places: Places) -> None:
    assert "MONGO_URL" not in places.of_service(User.GATEWAY)


def test_a_setting_of_the_caller_reaches_a_service_but_moves_no_part_of_the_stack(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUEUE_PER_KEY", "3")
    monkeypatch.setenv("ENVIRONMENT", "production")
    monkeypatch.setenv("NATS_URL", "nats://elsewhere:1")
    told = places.of_service(User.SESSIONS)
    assert told["QUEUE_PER_KEY"] == "3"
    assert told["ENVIRONMENT"] == "development"
    assert told["NATS_URL"] == "nats://127.0.0.1:4001"


def test_what_development_needs_can_be_changed_by_the_caller(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REGISTRATIONS_PER_HOUR", raising=False)
    assert int(places.of_service(User.GATEWAY)["REGISTRATIONS_PER_HOUR"]) > 1_000
    monkeypatch.setenv("REGISTRATIONS_PER_HOUR", "5")
    assert places.of_service(User.GATEWAY)["REGISTRATIONS_PER_HOUR"] == "5"
