"""What is built is what Kubernetes takes, says what is released, and shows nobody's secrets."""

import ipaddress
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]  # it has no annotations
from morpheus_devstack.servers import find_nats_server
from morpheus_gateway.settings import GatewaySettings
from morpheus_sessions.settings import SessionsSettings
from proxy_router_sim.__main__ import parser
from pydantic import ValidationError
from pydantic_settings import SettingsError

from tests.deploy.kubernetes.arrows import PAGE
from tests.deploy.kubernetes.clusters import (
    CLUSTERS,
    PLACEHOLDER,
    VALUES,
    make_trial_secrets,
    operators_tree,
    secrets_of,
)
from tests.deploy.kubernetes.manifests import ROOT, SERVICES, SOURCES, Manifests
from tests.deploy.kubernetes.settings_of import settings_of

VALIDATE = ROOT / ".venv-deploy" / "bin" / "kubernetes-validate"
VERSIONS = ("1.31", "1.37")
"""The oldest Kubernetes that the page promises, and the newest that the tool knows."""
EXTENSIONS = {"ExternalSecret", "PodMonitor", "PrometheusRule", "Certificate"}
"""Kinds that are not Kubernetes' own: no schema of them comes with the tool, tests below look at what matters of them."""
SEED = re.compile(r"\bS[UAOPNCX][A-Z2-7]{56}\b")
"""An NKey's private half."""
ALERTS = ROOT / "deploy" / "monitoring" / "alerts.yaml"
OURS = re.compile(r"morpheus-[a-z]+")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", CLUSTERS)
def test_every_document_has_kubernetes_own_form(
    clusters: dict[str, Manifests], name: str, version: str, tmp_path: Path
) -> None:
    file = tmp_path / "all.yaml"
    file.write_text(yaml.safe_dump_all(clusters[name].documents))
    run = subprocess.run(
        [VALIDATE, "--strict", "--kubernetes-version", version, file], capture_output=True, text=True, check=False
    )
    said = (run.stdout + run.stderr).splitlines()
    unknown = {line.split("kind ")[1].split()[0] for line in said if "Couldn't find schema" in line}
    assert [line for line in said if not line.startswith("INFO") and "Couldn't find schema" not in line] == []
    assert unknown <= EXTENSIONS
    assert len([line for line in said if line.startswith("INFO")]) > 20
    assert run.returncode == 0


def test_the_base_and_each_component_can_be_put_together(tree: Path) -> None:
    assert Manifests.built(tree / "base").names("Deployment") == set(SERVICES)
    for component in (tree / "components").iterdir():
        own = tree / "overlays" / f"only-{component.name}"
        own.mkdir()
        (own / "kustomization.yaml").write_text(
            f"resources: [../../base]\ncomponents: [../../components/{component.name}]\n"
        )
        assert Manifests.built(own).documents


def test_what_production_needs_is_refused_until_it_is_set() -> None:
    """Nothing works by accident: settings, networks, names of hosts and images as they stand are no such thing."""
    kept = {"NATS_SEED": "x", "MONGO_URL": "x", "PROXY_ROUTERS": "[]"}
    outside = {"gateway-secrets": kept, "sessions-secrets": kept}
    production = Manifests.built(SOURCES / "overlays" / "production", outside=outside)
    with pytest.raises(SettingsError, match="trusted_proxies"):
        settings_of(production, production.pod("gateway"), GatewaySettings)
    with pytest.raises(ValidationError) as refused:
        settings_of(production, production.pod("sessions"), SessionsSettings)
    assert {problem["loc"][0] for problem in refused.value.errors()} >= {"stake_limit_per_user", "stake_limit_in_all"}
    networks = {text for text in production.strings() if text.endswith("_NETWORK")}
    assert len(networks) == 4
    for network in networks:
        with pytest.raises(ValueError, match="does not appear to be"):
            ipaddress.ip_network(network)
    [ingress] = production.of("Ingress")
    assert not re.fullmatch(r"[a-z0-9.-]+", ingress["spec"]["rules"][0]["host"])
    assert all(not re.match(r"[a-z0-9.:/-]+$", c["image"]) for pod in production.pods for c in pod.containers)
    assert "BEGIN CERTIFICATE" not in production.one("ConfigMap", "ca")["data"]["ca.crt"]


def test_all_that_has_to_be_set_is_listed_and_nothing_else() -> None:
    written = {
        found
        for path in SOURCES.rglob("*")
        if path.is_file() and SOURCES / "overlays" / "trial" / "secrets" not in path.parents
        for found in PLACEHOLDER.findall(path.read_text())
    } - {"REPLACE_"}
    assert written == set(VALUES)
    assert {
        found.strip("`") for found in re.findall(r"^\| (`REPLACE_\w+`) \|", PAGE.read_text(), re.MULTILINE)
    } == written


def test_nothing_is_left_to_set_once_an_operator_has_set_it(clusters: dict[str, Manifests]) -> None:
    for name, cluster in clusters.items():
        assert [text for text in cluster.strings() if PLACEHOLDER.search(text)] == [], name


def test_images_are_of_the_version_that_the_packages_have(clusters: dict[str, Manifests]) -> None:
    version = tomllib.loads((ROOT / "services" / "gateway" / "pyproject.toml").read_text())["project"]["version"]
    for cluster in clusters.values():
        images = {container["image"] for pod in cluster.pods for container in pod.containers}
        ours = {image for image in images if OURS.search(image)}
        assert {image.rpartition(":")[2] for image in ours} == {version}
        assert {OURS.search(image).group() for image in ours} >= {f"morpheus-{name}" for name in (*SERVICES, "ops")}  # type: ignore[union-attr]  # all of ours have it


def test_no_secret_is_in_the_repository() -> None:
    kept = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "deploy"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert "deploy/k8s/base/kustomization.yaml" in kept
    assert [name for name in kept if "/secrets/" in name] == []
    for name in kept:
        text = (ROOT / name).read_text()
        assert not SEED.search(text), name
        assert "PRIVATE KEY" not in text, name
        assert not re.search(r"^kind: Secret$", text, re.MULTILINE), name


def test_a_trials_secrets_are_nowhere_but_in_secrets(clusters: dict[str, Manifests], tree: Path) -> None:
    """Neither ConfigMaps nor arguments nor variables hold one."""
    trial = clusters["trial"]
    secret = {value.strip() for kept in secrets_of(tree).values() for value in kept.values()}
    others = Manifests([document for document in trial.documents if document["kind"] != "Secret"])
    assert len(secret) > 10
    assert [text for text in others.strings() if any(value in text for value in secret)] == []


def test_a_trials_secrets_are_made_once(tree: Path, clusters: dict[str, Manifests]) -> None:
    make_trial_secrets(tree)
    assert Manifests.built(tree / "overlays" / "trial").documents == clusters["trial"].documents


def test_a_changed_setting_and_a_changed_secret_roll_the_pods(tree: Path, clusters: dict[str, Manifests]) -> None:
    seed, config = tree / "overlays/trial/secrets/auth/NATS_SEED", tree / "base/config/gateway.env"
    before, kept = clusters["trial"], (seed.read_text(), config.read_text())
    seed.chmod(0o600)
    try:
        seed.write_text("another")
        config.write_text(kept[1] + "CHATS_PER_MINUTE=61\n")
        after = Manifests.built(tree / "overlays" / "trial")
    finally:
        seed.write_text(kept[0])
        config.write_text(kept[1])
    rolled = {pod.name for pod in after.pods if pod.spec != before.pod(pod.name).spec}
    assert rolled == {"auth", "gateway"}


def test_prometheus_finds_every_service_by_the_name_that_alerts_know(clusters: dict[str, Manifests]) -> None:
    production = clusters["production"]
    [monitor] = production.of("PodMonitor")
    selected = {
        pod.name
        for pod in production.pods
        for expression in monitor["spec"]["selector"]["matchExpressions"]
        if pod.labels.get(expression["key"]) in expression["values"]
    }
    assert selected == set(SERVICES)
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    assert all(endpoint["port"] in production.pod(name).ports for name in SERVICES)
    [relabeling] = endpoint["relabelings"]
    assert relabeling == {
        "sourceLabels": ["__meta_kubernetes_pod_label_app_kubernetes_io_name"],
        "targetLabel": "job",
        "replacement": "morpheus-$1",
    }


def test_the_operators_rules_are_those_that_are_tested(clusters: dict[str, Manifests]) -> None:
    [rule] = clusters["production"].of("PrometheusRule")
    assert rule["spec"] == yaml.safe_load(ALERTS.read_text())


def test_each_service_has_an_entry_of_its_own_in_the_store_of_secrets(clusters: dict[str, Manifests]) -> None:
    kept = {
        document["spec"]["target"]["name"]: document["spec"]["dataFrom"][0]["extract"]["key"]
        for document in clusters["production"].of("ExternalSecret")
    }
    assert kept == {f"{name}-secrets": f"morpheus/{name}" for name in (*SERVICES, "ops")}


def test_the_certificate_is_for_the_host_and_the_secret_of_the_ingress(clusters: dict[str, Manifests]) -> None:
    cluster = clusters["production and all components"]
    [certificate], [ingress] = cluster.of("Certificate"), cluster.of("Ingress")
    assert certificate["spec"]["dnsNames"] == [rule["host"] for rule in ingress["spec"]["rules"]]
    assert certificate["spec"]["secretName"] == ingress["spec"]["tls"][0]["secretName"]


def test_the_certificate_is_for_the_host_also_where_the_component_is_one_of_the_overlay(tmp_path: Path) -> None:
    tree = operators_tree(tmp_path)
    overlay = tree / "overlays" / "production"
    own = (overlay / "kustomization.yaml").read_text()
    (overlay / "kustomization.yaml").write_text(
        own.replace("components:\n", "components:\n  - ../../components/cert-manager\n", 1)
    )
    cluster = Manifests.built(overlay, outside=secrets_of(tree))
    [certificate], [ingress] = cluster.of("Certificate"), cluster.of("Ingress")
    assert certificate["spec"]["dnsNames"] == [rule["host"] for rule in ingress["spec"]["rules"]]


def test_gateways_can_be_scaled_by_streams_beside_cpu(clusters: dict[str, Manifests]) -> None:
    metrics = clusters["production and all components"].one("HorizontalPodAutoscaler", "gateway")["spec"]["metrics"]
    assert [metric["type"] for metric in metrics] == ["Resource", "Pods"]
    assert metrics[1]["pods"]["metric"]["name"] == "morpheus_streams"


def test_production_is_spread_over_three_zones(clusters: dict[str, Manifests]) -> None:
    production = clusters["production"]
    for name in SERVICES:
        [zone] = [
            spread
            for spread in production.pod(name).spec["topologySpreadConstraints"]
            if spread["topologyKey"] == "topology.kubernetes.io/zone"
        ]
        assert zone["whenUnsatisfiable"] == "DoNotSchedule"
        replicas = production.one("Deployment", name)["spec"].get("replicas")
        least = replicas or production.one("HorizontalPodAutoscaler", name)["spec"]["minReplicas"]
        assert least >= 3


def test_a_server_of_the_bus_hands_its_clients_over_before_it_goes(clusters: dict[str, Manifests]) -> None:
    """B24: SIGTERM alone cuts every connection at once."""
    nats = clusters["trial"].pod("nats")
    [container] = nats.spec["containers"]
    assert container["lifecycle"]["preStop"]["exec"]["command"][-1] == "ldm=/run/nats/nats.pid"
    config = clusters["trial"].secret(nats.spec["volumes"][-1]["secret"]["secretName"])["nats-server.conf"]
    [seconds] = re.findall(r'lame_duck_duration: "(\d+)s"', config)
    assert nats.spec["terminationGracePeriodSeconds"] >= int(seconds) + 30


def test_nats_server_takes_the_trials_configuration(tree: Path, tmp_path: Path) -> None:
    made = tree / "overlays" / "trial" / "secrets"
    config = (made / "nats" / "cluster.conf").read_text()
    files = {"tls.crt": made / "nats/server.crt", "tls.key": made / "nats/server.key", "ca.crt": made / "ca.crt"}
    for name, file in files.items():
        assert f"/etc/nats/{name}" in config
        config = config.replace(f"/etc/nats/{name}", str(file))
    (tmp_path / "nats.conf").write_text(config)
    run = subprocess.run(
        [find_nats_server(), "--config", tmp_path / "nats.conf", "-t"],
        env={"POD_NAME": "nats-0"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr


def test_the_simulator_takes_the_trials_arguments(clusters: dict[str, Manifests]) -> None:
    [container] = clusters["trial"].pod("proxy-router").spec["containers"]
    given = parser().parse_args(container["args"])
    assert (given.host, given.port) == ("0.0.0.0", container["ports"][0]["containerPort"])  # noqa: S104 - of a pod
    assert str(given.password_file) == "/run/secrets/morpheus/PASSWORD"


def test_servers_of_a_trial_speak_to_nobody_without_encryption(clusters: dict[str, Manifests]) -> None:
    trial = clusters["trial"]
    [mongod] = trial.pod("mongodb").spec["containers"]
    assert "--tlsMode=requireTLS" in mongod["command"]
    assert "--keyFile=/run/mongodb/member.key" in mongod["command"]
    config = trial.secret(trial.pod("nats").spec["volumes"][-1]["secret"]["secretName"])["nats-server.conf"]
    assert "verify: true" in config
    assert config.count("tls: {") == 2
    assert "server_name: $POD_NAME" in config
    for name in ("auth", "sessions", "automation", "apply", "prepare-mongo"):
        url = trial.secret_files(trial.pod(name))["MONGO_URL"]
        assert "tls=true" in url
        assert "tlsCAFile=/etc/morpheus/ca/ca.crt" in url
