"""What a deployment keeps secret, as files."""

import json
import re
import stat
from pathlib import Path

import pytest
from morpheus_auth.settings import AuthSettings
from morpheus_automation.settings import AutomationServiceSettings
from morpheus_common.bus.names import User
from morpheus_common.settings import CommonSettings, Environment
from morpheus_devstack import cli
from morpheus_devstack.deployment_secrets import Deployment, Owners, SecretFolder, make_secrets
from morpheus_devstack.errors import StackError
from morpheus_devstack.mongo_setup import STORES, appender_privileges, roles_of
from morpheus_devstack.prepare_mongo import PrepareSettings
from morpheus_devstack.secrets import public_key
from morpheus_gateway.settings import GatewaySettings
from morpheus_sessions.settings import SessionsSettings

SIMULATOR = Deployment(routers={"simulator": "http://simulator:8082"})
SETTINGS: dict[User, type[CommonSettings]] = {
    User.GATEWAY: GatewaySettings,
    User.AUTH: AuthSettings,
    User.SESSIONS: SessionsSettings,
    User.AUTOMATION: AutomationServiceSettings,
}
DERIVED = {
    "nats/keys.json",
    "nats/nats-server.conf",
    "prepare-mongo/MONGO_URL",
    "prepare-mongo/MONGO_USERS",
    "gateway/LIMITS_URL",
    "valkey/valkey.conf",
    "sessions/PROXY_ROUTERS",
}


def made(folder: Path, deployment: Deployment = SIMULATOR) -> list[str]:
    kept = SecretFolder(folder, Owners())
    make_secrets(kept, deployment)
    return kept.made


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("service", SETTINGS)
def test_a_service_starts_in_production_with_the_files_of_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: User
) -> None:
    made(tmp_path)
    monkeypatch.setenv("SECRETS_DIR", str(tmp_path / service))
    if service is User.SESSIONS:
        monkeypatch.setenv("STAKE_LIMIT_PER_USER", "10%")
        monkeypatch.setenv("STAKE_LIMIT_IN_ALL", "90%")
    settings = SETTINGS[service].model_validate({"environment": Environment.PRODUCTION})
    seed = (tmp_path / service / "NATS_SEED").read_text()
    assert settings.nats_seed.get_secret_value() == seed
    known = {name.upper() for name in SETTINGS[service].model_fields}
    assert {path.name for path in (tmp_path / service).iterdir()} <= known


def test_a_folder_holds_no_secret_of_another_service(tmp_path: Path) -> None:
    made(tmp_path)
    for service in SETTINGS:
        seed = (tmp_path / service / "NATS_SEED").read_text()
        holders = {name.split("/")[0] for name, text in contents(tmp_path).items() if seed in text}
        assert holders == {service}
    passwords = json.loads((tmp_path / "prepare-mongo" / "MONGO_USERS").read_text())
    assert set(passwords) == {*STORES, User.OPS}
    for user, password in passwords.items():
        holders = {name.split("/")[0] for name, text in contents(tmp_path).items() if password in text}
        assert holders == {user, "prepare-mongo"}


def test_nothing_that_is_there_is_overwritten(tmp_path: Path) -> None:
    first = made(tmp_path)
    before = contents(tmp_path)
    assert set(first) | DERIVED == set(before)
    assert made(tmp_path) == []
    assert contents(tmp_path) == before


def test_a_secret_that_was_taken_away_is_made_anew_and_what_follows_from_it_follows(tmp_path: Path) -> None:
    made(tmp_path)
    old = contents(tmp_path)
    (tmp_path / "auth" / "NATS_SEED").unlink()
    (tmp_path / "auth" / "MONGO_URL").unlink()
    assert made(tmp_path) == ["auth/NATS_SEED", "auth/MONGO_URL"]
    new = contents(tmp_path)
    key = public_key(new["auth/NATS_SEED"])
    assert json.loads(new["nats/keys.json"])["auth"] == key
    assert key in new["nats/nats-server.conf"]
    password = json.loads(new["prepare-mongo/MONGO_USERS"])["auth"]
    assert f"auth:{password}@" in new["auth/MONGO_URL"]
    changed = {name for name in new if new[name] != old[name]}
    assert changed == {
        "auth/NATS_SEED",
        "auth/MONGO_URL",
        "nats/keys.json",
        "nats/nats-server.conf",
        "prepare-mongo/MONGO_USERS",
    }


def test_servers_are_told_no_seed(tmp_path: Path) -> None:
    made(tmp_path)
    for name, text in contents(tmp_path).items():
        if name.startswith("nats/"):
            assert not re.search(r"\bSU[A-Z2-7]{56}\b", text), name


def test_files_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    made(tmp_path)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_file()}
    assert modes == {0o400}


def test_each_file_is_given_to_the_user_of_the_image_that_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, int] = {}

    def chown(path: Path, owner: int, group: int) -> None:
        assert owner == group
        given[str(path.relative_to(tmp_path))] = owner

    monkeypatch.setattr("os.chown", chown)
    make_secrets(SecretFolder(tmp_path, Owners(10001, 999, 472)), SIMULATOR)
    assert given["mongodb/.member.key.new"] == 999
    assert given["grafana/.admin-password.new"] == 472
    assert {owner for name, owner in given.items() if not name.startswith(("mongodb/", "grafana/"))} == {10001}


def test_a_routers_password_that_is_there_is_the_one_that_is_used(tmp_path: Path) -> None:
    (tmp_path / "routers").mkdir()
    (tmp_path / "routers" / "wallet-1").write_text("of the router\n")
    made(tmp_path, Deployment(routers={"wallet-1": "http://10.0.0.5:8082"}))
    rows = json.loads((tmp_path / "sessions" / "PROXY_ROUTERS").read_text())
    assert rows == [{"name": "wallet-1", "url": "http://10.0.0.5:8082", "user": "admin", "password": "of the router"}]


def test_without_a_router_there_is_no_deployment(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="--router NAME=URL"):
        made(tmp_path, Deployment())


def test_a_file_that_is_no_secret_of_its_kind_is_named_and_not_shown(tmp_path: Path) -> None:
    made(tmp_path)
    path = tmp_path / "auth" / "MONGO_URL"
    path.unlink()
    path.write_text("planted-and-not-to-be-shown")
    with pytest.raises(StackError) as refused:
        made(tmp_path)
    assert "auth/MONGO_URL" in str(refused.value)
    assert "planted" not in str(refused.value)


def test_passwords_of_the_database_survive_the_way_through_a_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"tls": "true", "tlsCAFile": "/etc/morpheus/ca/ca.crt"}
    made(tmp_path, Deployment("m-0:27017,m-1:27017", "rs7", options, routers=SIMULATOR.routers))
    monkeypatch.setenv("SECRETS_DIR", str(tmp_path / "prepare-mongo"))
    settings = PrepareSettings.read()
    url = settings.mongo_url.get_secret_value()
    assert url.startswith("mongodb://root:")
    assert url.endswith(
        "@m-0:27017,m-1:27017/?replicaSet=rs7&authSource=admin&tls=true&tlsCAFile=/etc/morpheus/ca/ca.crt"
    )
    assert set(settings.users) == {"auth", "sessions", "automation", "ops"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--router", "nonsense"], "NAME=URL"),
        (["--router", "a=http://x", "--router", "a=http://y"], "two routers are called a"),
        (["--router", "a=http://x", "--mongo-option", "tls"], "NAME=VALUE"),
    ],
)
def test_what_cannot_be_understood_makes_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.setattr("sys.argv", ["morpheus", "secrets", str(tmp_path / "there"), *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "there").exists()


def test_a_database_user_of_a_service_has_one_database() -> None:
    for service in STORES:
        assert {role["db"] for role in roles_of(service)} == {service}


def test_operators_may_not_write_documents() -> None:
    assert {role["role"] for role in roles_of(User.OPS)} == {"dbAdmin", "read", "clusterMonitor"}


def test_auth_may_append_to_the_audit_log_and_change_nothing_in_it() -> None:
    actions = {row["resource"]["collection"]: set(row["actions"]) for row in appender_privileges()}
    assert actions["audit"] == {"insert"}
    assert actions["audit_head"] == {"insert", "update"}
    assert actions["audit_subjects"] == actions["users"] == {"insert", "update", "remove"}
    assert not actions[""] & {"insert", "update", "remove", "dropCollection"}
    assert {row["resource"]["db"] for row in appender_privileges()} == {"auth"}
