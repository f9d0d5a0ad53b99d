"""Every cluster keeps every policy, and every policy sees what breaks it."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.deploy.kubernetes import policies as p
from tests.deploy.kubernetes.clusters import CLUSTERS
from tests.deploy.kubernetes.manifests import Document, Manifests
from tests.deploy.kubernetes.policies import POLICIES, Policy

Change = Callable[[Manifests], Any]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.__name__)
@pytest.mark.parametrize("name", CLUSTERS)
def test_a_cluster_keeps_the_policy(clusters: dict[str, Manifests], name: str, policy: Policy) -> None:
    """C53: the private port is in no Service, and only Prometheus is let in. C43, C44, B24: probes, grace, upgrades."""
    assert list(policy(clusters[name])) == []


def container(manifests: Manifests, name: str) -> Document:
    found: Document = manifests.pod(name).spec["containers"][0]
    return found


def pod(manifests: Manifests, name: str) -> Document:
    return manifests.pod(name).spec


def spec(manifests: Manifests, kind: str, name: str) -> Document:
    found: Document = manifests.one(kind, name)["spec"]
    return found


def policy_spec(manifests: Manifests, name: str) -> Document:
    return spec(manifests, "NetworkPolicy", name)


def named(manifests: Manifests, policy: str) -> list[str]:
    """Return the pods that a policy is for."""
    found: list[str] = policy_spec(manifests, policy)["podSelector"]["matchExpressions"][0]["values"]
    return found


def annotations(manifests: Manifests) -> Document:
    found: Document = manifests.one("Ingress", "gateway")["metadata"]["annotations"]
    return found


def data(manifests: Manifests, name: str) -> Document:
    found: Document = manifests.one("ConfigMap", name)["data"]
    return found


def labels(manifests: Manifests, kind: str, name: str) -> Document:
    found: Document = spec(manifests, kind, name)["selector"]["matchLabels"]
    return found


def without(manifests: Manifests, kind: str, name: str) -> None:
    manifests.documents.remove(manifests.one(kind, name))


NAME = "app.kubernetes.io/name"
NGINX = "nginx.ingress.kubernetes.io"

MUTATIONS: dict[Policy, dict[str, Change]] = {
    p.images_are_pinned: {
        "latest": lambda m: container(m, "auth").update(image="registry/morpheus-auth:latest"),
        "no tag": lambda m: container(m, "auth").update(image="registry:5000/morpheus-auth"),
    },
    p.nobody_can_gain_rights: {
        "a namespace that admits anybody": lambda m: m.one("Namespace", "morpheus")["metadata"]["labels"].clear(),
        "root": lambda m: pod(m, "apply")["securityContext"].update(runAsUser=0),
        "perhaps root": lambda m: pod(m, "auth")["securityContext"].update(runAsNonRoot=False),
        "any system call": lambda m: pod(m, "gateway")["securityContext"].pop("seccompProfile"),
        "the node's network": lambda m: pod(m, "gateway").update(hostNetwork=True),
        "the node's disk": lambda m: pod(m, "auth")["volumes"].append({"name": "x", "hostPath": {"path": "/"}}),
        "a root that can be written": lambda m: container(m, "auth")["securityContext"].pop("readOnlyRootFilesystem"),
        "escalation": lambda m: container(m, "auth")["securityContext"].pop("allowPrivilegeEscalation"),
        "a capability": lambda m: container(m, "auth")["securityContext"]["capabilities"].update(add=["NET_RAW"]),
        "a container that says otherwise": lambda m: container(m, "auth")["securityContext"].update(runAsUser=0),
    },
    p.nobody_speaks_to_kubernetes: {
        "a token": lambda m: pod(m, "auth").update(automountServiceAccountToken=True),
        "links": lambda m: pod(m, "auth").pop("enableServiceLinks"),
        "no account": lambda m: without(m, "ServiceAccount", "auth"),
        "an account with a token": lambda m: m.one("ServiceAccount", "auth").pop("automountServiceAccountToken"),
        "one account for two": lambda m: pod(m, "auth").update(serviceAccountName="gateway"),
    },
    p.resources_are_bounded: {
        "no limit": lambda m: container(m, "apply")["resources"]["limits"].pop("memory"),
        "no request": lambda m: container(m, "auth")["resources"]["requests"].pop("cpu"),
    },
    p.memory_suffices: {
        "more bodies than memory": lambda m: data(m, "gateway").update(BODY_MEMORY=str(700 * p.MIB)),
        "more hashes than memory": lambda m: data(m, "auth").update(HASHES_AT_ONCE="8"),
        "a small request": lambda m: container(m, "sessions")["resources"]["requests"].update(memory="64Mi"),
    },
    p.every_container_is_probed: {
        "no probe": lambda m: container(m, "auth").pop("startupProbe"),
        "live asks what ready asks": lambda m: container(m, "auth")["livenessProbe"]["httpGet"].update(path="/ready"),
        "the public port": lambda m: container(m, "gateway")["readinessProbe"]["httpGet"].update(port="http"),
        "no such port": lambda m: container(m, "gateway")["readinessProbe"]["httpGet"].update(port="metrics"),
        "a hurry": lambda m: container(m, "gateway")["startupProbe"].update(failureThreshold=3),
    },
    p.every_variable_is_a_setting: {
        "a typo": lambda m: data(m, "gateway").update(BODY_LIMITS="1"),
        "a setting of another": lambda m: data(m, "automation").update(REGISTRATION="open"),
        "a secret": lambda m: data(m, "auth").update(NATS_SEED="SU"),
        "a file of another name": lambda m: m.outside["auth-secrets"].update(PEPPERS="1:"),
    },
    p.settings_are_taken: {
        "one that production needs": lambda m: data(m, "sessions").pop("STAKE_LIMIT_IN_ALL"),
        "development": lambda m: data(m, "common").update(ENVIRONMENT="development"),
        "no JSON": lambda m: data(m, "gateway").update(TRUSTED_PROXIES="10.0.0.0/8"),
        "a wrong value": lambda m: data(m, "gateway").update(DRAIN_SECONDS="long"),
        "another port": lambda m: data(m, "gateway").update(PORT="8080"),
        "another private port": lambda m: data(m, "common").update(METRICS_PORT="9000"),
        "loopback": lambda m: data(m, "common").pop("METRICS_HOST"),
        "no encryption": lambda m: data(m, "common").update(NATS_URL="nats://nats:4222"),
        "no name": lambda m: container(m, "auth").update(env=[]),
        "no secrets": lambda m: container(m, "auth").update(volumeMounts=[]),
    },
    p.references_lead_somewhere: {
        "no ConfigMap": lambda m: without(m, "ConfigMap", "automation"),
        "another Secret": lambda m: pod(m, "auth")["volumes"][0]["secret"].update(secretName="other"),
        "no volume": lambda m: pod(m, "auth")["volumes"].pop(),
        "mounted nowhere": lambda m: container(m, "auth")["volumeMounts"].pop(),
        "no claim": lambda m: pod(m, "auth")["volumes"].append(
            {"name": "x", "persistentVolumeClaim": {"claimName": "x"}}
        ),
    },
    p.selectors_fit: {
        "other labels": lambda m: labels(m, "Deployment", "auth").update({NAME: "x"}),
        "labels of all": lambda m: spec(m, "Deployment", "auth")["selector"].update(matchLabels={}),
        "a budget of another": lambda m: labels(m, "PodDisruptionBudget", "auth").update({NAME: "gateway"}),
        "an autoscaler of nobody": lambda m: spec(m, "HorizontalPodAutoscaler", "gateway")["scaleTargetRef"].update(
            name="x"
        ),
        "spread by other labels": lambda m: pod(m, "auth")["topologySpreadConstraints"][0]["labelSelector"].update(
            matchLabels={NAME: "x"}
        ),
        "a policy for nobody": lambda m: policy_spec(m, "sessions-to-routers").update(
            podSelector={"matchLabels": {NAME: "x"}}
        ),
        "a Service of another": lambda m: spec(m, "Service", "gateway").update(selector={NAME: "auth"}),
        "a Service to no port": lambda m: spec(m, "Service", "gateway")["ports"][0].update(targetPort="https"),
        "an Ingress to no port": lambda m: spec(m, "Ingress", "gateway")["rules"][0]["http"]["paths"][0]["backend"][
            "service"
        ].update(port={"name": "private"}),
        "an Ingress without TLS": lambda m: spec(m, "Ingress", "gateway")["tls"][0].update(hosts=["other"]),
    },
    p.the_private_port_is_private: {
        "a Service with it": lambda m: spec(m, "Service", "gateway")["ports"].append(
            {"name": "metrics", "port": 80, "targetPort": "private"}
        ),
        "the ingress controller": lambda m: policy_spec(m, "ingress-controller-to-gateway")["ingress"][0][
            "ports"
        ].append({"port": "private"}),
        "all ports": lambda m: policy_spec(m, "ingress-controller-to-gateway")["ingress"][0].pop("ports"),
    },
    p.arrows_are_those_of_the_architecture: {
        "one too many out": lambda m: policy_spec(m, "gateway-to-valkey").update(podSelector={}),
        "another port": lambda m: policy_spec(m, "services-to-mongodb")["egress"][0]["ports"][0].update(port=27018),
        "everywhere": lambda m: policy_spec(m, "sessions-to-routers")["egress"][0].pop("to"),
        "another network": lambda m: policy_spec(m, "services-to-nats")["egress"][0].update(
            to=[{"ipBlock": {"cidr": "0.0.0.0/0"}}]
        ),
        "one missing out": lambda m: without(m, "NetworkPolicy", "sessions-to-routers"),
        "one missing in": lambda m: without(m, "NetworkPolicy", "prometheus-to-services"),
        "one too many in": lambda m: policy_spec(m, "ingress-controller-to-gateway").update(podSelector={}),
        "a whole namespace": lambda m: policy_spec(m, "prometheus-to-services")["ingress"][0]["from"][0].pop(
            "podSelector"
        ),
    },
    p.what_is_not_allowed_is_denied: {
        "nothing denied": lambda m: without(m, "NetworkPolicy", "deny-all"),
        "one direction": lambda m: policy_spec(m, "deny-all").update(policyTypes=["Ingress"]),
        "everything allowed": lambda m: policy_spec(m, "deny-all").update(egress=[{}]),
        "rules that do not count": lambda m: policy_spec(m, "services-to-nats").update(policyTypes=["Ingress"]),
    },
    p.arrows_follow_from_settings: {
        "a database for the gateway": lambda m: named(m, "services-to-mongodb").append("gateway"),
        "no bus for automation": lambda m: named(m, "services-to-nats").remove("automation"),
    },
    p.grace_is_as_long_as_draining: {
        "short": lambda m: pod(m, "gateway").update(terminationGracePeriodSeconds=1_200),
        "Kubernetes' own": lambda m: pod(m, "auth").pop("terminationGracePeriodSeconds"),
        "a preStop that takes of it": lambda m: container(m, "gateway").update(
            lifecycle={"preStop": {"sleep": {"seconds": 10}}}
        ),
        "no notice": lambda m: data(m, "gateway").update(DRAIN_NOTICE="0"),
        "prompts that are cut": lambda m: data(m, "sessions").update(DRAIN_SECONDS="30"),
        "longer answers": lambda m: data(m, "sessions").update(ANSWER_TIMEOUT="3600"),
        "questions that wait longer": lambda m: data(m, "gateway").update(OPEN_WAIT="300"),
    },
    p.upgrades_take_nobody_away: {
        "one is taken away": lambda m: spec(m, "Deployment", "auth")["strategy"]["rollingUpdate"].update(
            maxUnavailable=1
        ),
        "two say how many": lambda m: spec(m, "Deployment", "gateway").update(replicas=3),
        "one alone": lambda m: spec(m, "Deployment", "auth").update(replicas=1),
        "no budget": lambda m: without(m, "PodDisruptionBudget", "sessions"),
        "all in one zone": lambda m: pod(m, "auth")["topologySpreadConstraints"].pop(0),
        "a rush down": lambda m: spec(m, "HorizontalPodAutoscaler", "sessions")["behavior"].pop("scaleDown"),
    },
    p.the_ingress_lets_answers_through: {
        "buffers": lambda m: annotations(m).update({f"{NGINX}/proxy-buffering": "on"}),
        "prompts on its disk": lambda m: annotations(m).pop(f"{NGINX}/proxy-request-buffering"),
        "a minute's patience": lambda m: annotations(m).update({"nginx.org/proxy-read-timeout": "60s"}),
        "small bodies": lambda m: annotations(m).update({f"{NGINX}/proxy-body-size": "16m"}),
    },
    p.everything_is_in_one_namespace: {
        "elsewhere": lambda m: m.one("Service", "gateway")["metadata"].update(namespace="default"),
    },
}
"""Each policy is broken in each way that it is to see."""

CASES = [
    pytest.param(policy, change, id=f"{policy.__name__}: {what}")
    for policy, changes in MUTATIONS.items()
    for what, change in changes.items()
]


@pytest.mark.parametrize(("policy", "change"), CASES)
def test_a_policy_sees_what_breaks_it(clusters: dict[str, Manifests], policy: Policy, change: Change) -> None:
    broken = clusters["production"].copy()
    change(broken)
    assert list(policy(broken))


def test_every_policy_is_broken_in_some_way() -> None:
    assert set(MUTATIONS) == set(POLICIES)
