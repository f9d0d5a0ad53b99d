"""Who may speak to whom: what the NetworkPolicies let through, and what docs/kubernetes.md says about it."""

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from tests.deploy.kubernetes.manifests import ROOT, Document, Manifests, Pod, selects

PAGE: Final = ROOT / "docs" / "kubernetes.md"
EVERY_POD: Final = "every pod"


class Arrow(NamedTuple):
    """Who opens a connection, to whom, to which port."""

    source: str
    target: str
    port: int


PEERS: Final = {
    ("kube-system", "kube-dns"): "DNS",
    ("ingress-nginx", ""): "ingress controller",
    ("monitoring", "prometheus"): "Prometheus",
    ("observability", "opentelemetry-collector"): "collector",
    ("vault", "vault"): "Vault",
}
"""Who is meant by a namespace and a pod's name in it."""

NETWORKS: Final = {
    "10.1.0.0/24": "nats",
    "10.2.0.0/24": "mongodb",
    "10.3.0.0/24": "valkey",
    "10.4.0.0/24": "proxy-router",
    "10.5.0.0/24": "KMS",
}
"""Whose networks they are in the tests' own copy of the production overlay."""


def documented(*places: str) -> set[Arrow]:
    """Return the arrows that the page shows for clusters with these parts; `always` is one of them."""
    [table] = re.findall(r"^\| from \| to \|.*?\n\n", PAGE.read_text() + "\n", flags=re.MULTILINE | re.DOTALL)
    arrows = set()
    for line in table.strip().splitlines()[2:]:
        sources, targets, port, place, _ = (cell.strip() for cell in line.strip("|").split("|"))
        if place in places:
            arrows |= {
                Arrow(source.strip("`"), target.strip("`"), int(port))
                for source in sources.split(", ")
                for target in targets.split(", ")
            }
    return arrows


def _peers(manifests: Manifests, rules: Iterable[Document], side: str) -> Iterator[tuple[str, Document]]:
    """Yield whom a policy's rules let through, and the rule; a rule without peers lets everybody through."""
    for rule in rules:
        for peer in rule.get(side) or [{}]:
            yield from ((party, rule) for party in _parties(manifests, peer))


def _parties(manifests: Manifests, peer: Document) -> list[str]:
    if not peer:
        return ["everybody"]
    if "ipBlock" in peer:
        return [NETWORKS.get(peer["ipBlock"]["cidr"], peer["ipBlock"]["cidr"])]
    pods = peer.get("podSelector", {})
    if "namespaceSelector" not in peer:
        return [pod.party for pod in manifests.pods if selects(pods, pod.labels)]
    namespace = peer["namespaceSelector"].get("matchLabels", {}).get("kubernetes.io/metadata.name", "any namespace")
    labels = pods.get("matchLabels", {})
    name = labels.get("app.kubernetes.io/name", labels.get("k8s-app", ""))
    return [PEERS.get((namespace, name), f"{namespace}/{name}")]


def _ports(rule: Document, pods: Iterable[Pod]) -> list[int]:
    """Return the ports of a rule: 0 stands for all of them, -1 for one that no pod has."""
    named = {name: number for pod in pods for name, number in pod.ports.items()}
    ports: list[Any] = [port.get("port", 0) for port in rule.get("ports") or [{}]]
    return [port if isinstance(port, int) else named.get(port, -1) for port in ports]


def outgoing(manifests: Manifests) -> set[Arrow]:
    """Return what pods may open connections to."""
    arrows = set()
    for policy in manifests.of("NetworkPolicy"):
        spec = policy["spec"]
        pods = [pod for pod in manifests.pods if selects(spec["podSelector"], pod.labels)]
        sources = [EVERY_POD] if not spec["podSelector"] else [pod.party for pod in pods]
        for target, rule in _peers(manifests, spec.get("egress", ()), "to"):
            targets = [pod for pod in manifests.pods if pod.party == target]
            arrows |= {Arrow(source, target, port) for source in sources for port in _ports(rule, targets)}
    return arrows


def incoming(manifests: Manifests) -> set[Arrow]:
    """Return what pods may be connected to by."""
    arrows = set()
    for policy in manifests.of("NetworkPolicy"):
        spec = policy["spec"]
        pods = [pod for pod in manifests.pods if selects(spec["podSelector"], pod.labels)]
        for source, rule in _peers(manifests, spec.get("ingress", ()), "from"):
            arrows |= {Arrow(source, pod.party, port) for pod in pods for port in _ports(rule, [pod])}
    return arrows
