"""Rules of docker-compose.yml."""

import re
from pathlib import Path
from typing import Any

import pytest
from morpheus_auth.settings import AuthSettings
from morpheus_automation.settings import AutomationServiceSettings
from morpheus_common.settings import CommonSettings, Environment
from morpheus_devstack.apply import ApplySettings
from morpheus_devstack.deployment_secrets import Deployment, Owners, SecretFolder, make_secrets
from morpheus_devstack.prepare_mongo import PrepareSettings
from morpheus_gateway.settings import GatewaySettings
from morpheus_sessions.settings import SessionsSettings

from deploy.docker.images import version
from requirements.install import ROOT
from tests.deploy.recipes import compose, env_file, substituted

CONFIG = compose()
SERVICES: dict[str, dict[str, Any]] = CONFIG["services"]
SETTINGS: dict[str, type[CommonSettings]] = {
    "gateway": GatewaySettings,
    "auth": AuthSettings,
    "sessions": SessionsSettings,
    "automation": AutomationServiceSettings,
}
TASKS = {"secrets", "nats-volume", "prepare-mongo", "apply"}
ARROWS = {
    "bus": {"gateway", "auth", "sessions", "automation", "nats", "apply"},
    "database": {"auth", "sessions", "automation", "mongodb", "prepare-mongo", "apply"},
    "limits": {"gateway", "valkey"},
    "routers": {"sessions", "simulator"},
    "metrics": {"gateway", "auth", "sessions", "automation", "prometheus", "grafana"},
    "traces": {"gateway", "auth", "sessions", "automation", "otel-collector"},
    "edge": {"gateway", "grafana", "otel-collector", "prometheus"},
}
"""Who speaks to whom (architecture, sections 4 to 8): nobody else is in the same network."""
HARMLESS = {"HOME", "MONGO_INITDB_ROOT_USERNAME"}
WORDS_OF_SECRETS = re.compile(r"PASSWORD|SEED|SECRET|TOKEN|KEY|PEPPER|MONGO_URL|LIMITS_URL|PROXY_ROUTERS")

every = pytest.mark.parametrize("name", SERVICES)
lasting = pytest.mark.parametrize("name", sorted(set(SERVICES) - TASKS))


def secrets_of(name: str) -> dict[str, Path]:
    """The files a service is given, by the name that it sees."""
    given = {}
    for row in SERVICES[name].get("secrets", []):
        source, target = (row, row) if isinstance(row, str) else (row["source"], row["target"])
        given[target] = Path(CONFIG["secrets"][source]["file"])
    return given


@every
def test_images_have_a_version(name: str) -> None:
    image = SERVICES[name]["image"]
    assert re.fullmatch(r"[a-z0-9/.-]+:v?\d+(\.\d+)+(-alpine)?(@sha256:[0-9a-f]{64})?", image), image
    if image.startswith("morpheus-"):
        assert image.endswith(f":{version()}")


@every
def test_a_container_can_write_nowhere_and_has_no_rights(name: str) -> None:
    row = SERVICES[name]
    assert row["read_only"] is True
    assert row["cap_drop"] == ["ALL"]
    assert row["security_opt"] == ["no-new-privileges:true"]
    assert row.get("privileged", False) is False
    if name == "secrets":
        assert set(row["cap_add"]) == {"CHOWN", "DAC_OVERRIDE"}
        assert row["network_mode"] == "none"
    else:
        assert "cap_add" not in row


@every
def test_nobody_is_root_but_who_gives_files_away(name: str) -> None:
    user = SERVICES[name].get("user")
    if name == "secrets":
        assert user == "0:0"
    elif user is None:
        assert SERVICES[name]["image"].startswith("morpheus-")  # the image says it (test_images.py)
    else:
        assert re.fullmatch(r"[1-9]\d*:\d+", user)


@every
def test_memory_processors_processes_and_logs_have_limits(name: str) -> None:
    limits = SERVICES[name]["deploy"]["resources"]["limits"]
    assert set(limits) == {"cpus", "memory", "pids"}
    assert SERVICES[name]["logging"]["options"] == {"max-size": "10m", "max-file": "5"}


@lasting
def test_what_lasts_is_started_again_and_says_how_it_is(name: str) -> None:
    """`C43`"""
    assert SERVICES[name]["restart"] == "unless-stopped"
    if name != "otel-collector":
        assert SERVICES[name]["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}


@pytest.mark.parametrize("name", SETTINGS)
def test_who_waits_for_a_service_waits_until_it_is_ready(name: str) -> None:
    """`C43`"""
    assert SERVICES[name]["healthcheck"]["test"][-1].endswith(":9464/ready")


def test_only_the_gateway_is_published_and_on_this_machine_unless_it_is_said_otherwise() -> None:
    """`C53`"""
    published = {name: row["ports"] for name, row in SERVICES.items() if "ports" in row}
    assert set(published) == {"gateway", "grafana"}
    assert [(port["host_ip"], port["target"]) for port in published["gateway"]] == [("127.0.0.1", 8000)]
    raw = compose(env_file("trial.env") | {"GATEWAY_ADDRESS": "0.0.0.0"})["services"]  # noqa: S104 - an operator's
    assert [port["host_ip"] for port in raw["grafana"]["ports"]] == ["127.0.0.1"]


def test_networks_are_the_arrows_of_the_architecture() -> None:
    found: dict[str, set[str]] = {network: set() for network in CONFIG["networks"]}
    for name, row in SERVICES.items():
        for network in row.get("networks", []):
            found[network].add(name)
        assert ("networks" in row) != ("network_mode" in row), name
        assert row.get("network_mode", "none") == "none"
    assert found == ARROWS
    outwards = {name for name, row in CONFIG["networks"].items() if not row.get("internal")}
    assert outwards == {"edge", "routers"}


@every
def test_secrets_are_files_and_never_variables(name: str) -> None:
    for variable, value in SERVICES[name].get("environment", {}).items():
        if WORDS_OF_SECRETS.search(variable) and variable not in HARMLESS:
            assert value.startswith("/run/secrets"), variable
    assert not re.search(r"password=|requirepass|://\w+:\w+@", str(SERVICES[name].get("command", "")))


@pytest.mark.parametrize("name", SETTINGS)
def test_every_variable_and_every_file_is_a_setting_of_that_service(name: str) -> None:
    known = {field.upper() for field in SETTINGS[name].model_fields} | {"SECRETS_DIR", "OTEL_EXPORTER_OTLP_ENDPOINT"}
    assert set(SERVICES[name]["environment"]) <= known
    assert set(secrets_of(name)) <= known
    assert {path.parts[1] for path in secrets_of(name).values()} == {name}


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """What `docker compose run --rm secrets` makes."""
    option, named = SERVICES["secrets"]["command"].split()
    assert option == "--router"
    name, url = named.split("=", 1)
    make_secrets(SecretFolder(tmp_path / "secrets", Owners()), Deployment(routers={name: url}))
    return tmp_path


def test_every_secret_that_is_named_is_made(made: Path) -> None:
    for row in CONFIG["secrets"].values():
        assert (made / row["file"]).is_file(), row["file"]


def told(name: str, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process's environment be that of a container."""
    folder = made / "run" / name
    folder.mkdir(parents=True)
    for target, path in secrets_of(name).items():
        (folder / target).write_text((made / path).read_text())
    for variable, value in SERVICES[name]["environment"].items():
        monkeypatch.setenv(variable, str(value))
    monkeypatch.setenv("SECRETS_DIR", str(folder))


@pytest.mark.parametrize("name", SETTINGS)
def test_a_service_starts_in_production_with_what_it_is_given(
    name: str, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told(name, made, monkeypatch)
    settings = SETTINGS[name]()
    assert settings.environment is Environment.PRODUCTION
    assert settings.nats_url == "nats://nats:4222"
    grace = float(SERVICES[name]["stop_grace_period"].removesuffix("s"))
    notice = settings.drain_notice if isinstance(settings, GatewaySettings) else 0
    assert settings.drain_seconds + notice < grace


def test_operators_tasks_have_what_they_need(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told("apply", made, monkeypatch)
    applied = ApplySettings()
    assert "@mongodb:27017/" in applied.mongo_url.get_secret_value()
    told("prepare-mongo", made, monkeypatch)
    assert set(PrepareSettings.read().users) == {"auth", "sessions", "automation", "ops"}


def test_in_production_nothing_starts_before_it_is_said_what_may_be_at_risk() -> None:
    production = env_file("production.env")
    with pytest.raises(KeyError, match="STAKE_LIMIT_IN_ALL"):
        compose(production)
    with pytest.raises(KeyError, match="STAKE_LIMIT_PER_USER"):
        compose(production | {"STAKE_LIMIT_IN_ALL": "90%"})
    ready = compose(production | {"STAKE_LIMIT_IN_ALL": "90%", "STAKE_LIMIT_PER_USER": "10%"})
    gateway = ready["services"]["gateway"]
    assert float(gateway["stop_grace_period"].removesuffix("s")) >= float(gateway["environment"]["DRAIN_SECONDS"]) + 5


def test_routers_keep_no_prompt_and_no_answer() -> None:
    routers = ARROWS["routers"] - {"sessions"}
    for name in routers:
        environment = SERVICES[name]["environment"]
        assert environment["PROXY_STORE_CHAT_CONTEXT"] == environment["PROXY_FORWARD_CHAT_CONTEXT"] == "false"


def test_parts_start_in_the_order_in_which_they_need_each_other() -> None:
    def waits(name: str) -> dict[str, str]:
        return {other: row["condition"] for other, row in SERVICES[name].get("depends_on", {}).items()}

    done, well = "service_completed_successfully", "service_healthy"
    assert waits("prepare-mongo") == {"mongodb": well}
    assert waits("apply") == {"nats": well, "prepare-mongo": done}
    for name in ("auth", "sessions", "automation"):
        assert waits(name)["apply"] == done
    assert waits("gateway") == dict.fromkeys(("auth", "automation", "nats", "sessions", "valkey"), well)


def test_what_has_to_stay_is_in_a_named_volume() -> None:
    mounted = {str(row if isinstance(row, str) else row["source"]).split(":")[0] for part in SERVICES.values() for row in part.get("volumes", [])}  # fmt: skip
    assert {volume for volume in mounted if "/" not in volume} == set(CONFIG["volumes"])


def test_files_that_are_mounted_are_in_the_repository() -> None:
    mounted = [row for part in SERVICES.values() for row in part.get("volumes", []) if str(row).startswith("./deploy")]
    assert mounted
    for row in mounted:
        assert row.endswith(":ro")
        assert (ROOT / row.split(":")[0]).exists(), row


def test_the_reader_of_variables_does_as_compose_does() -> None:
    assert substituted({"a": ["${X:-1} ${Y}", 2]}, {"Y": "3"}) == {"a": ["1 3", 2]}
    with pytest.raises(KeyError):
        substituted("${X:?say}", {"X": ""})
