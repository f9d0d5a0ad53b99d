"""What has to be true of every cluster. A policy returns what is wrong, a sentence each; nothing if it is kept."""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from morpheus_auth.settings import AuthSettings
from morpheus_automation.settings import AutomationServiceSettings
from morpheus_common.settings import SECRETS_DIR, CommonSettings, EnvironmentSettings
from morpheus_devstack.apply import ApplySettings
from morpheus_devstack.prepare_mongo import PrepareSettings
from morpheus_gateway.settings import GatewaySettings
from morpheus_sessions.settings import SessionsSettings
from pydantic import ValidationError
from pydantic_settings import SettingsError

from tests.deploy.kubernetes.arrows import EVERY_POD, Arrow, documented, incoming, outgoing
from tests.deploy.kubernetes.manifests import SERVICES, Document, Manifests, Pod, selects
from tests.deploy.kubernetes.settings_of import settings_of

Findings = Iterator[str]
Policy = Callable[[Manifests], Findings]

SETTINGS: Final[dict[str, type[EnvironmentSettings]]] = {
    "gateway": GatewaySettings,
    "auth": AuthSettings,
    "sessions": SessionsSettings,
    "automation": AutomationServiceSettings,
    "apply": ApplySettings,
    "prepare-mongo": PrepareSettings,
}
OF_TRACING: Final = re.compile(r"OTEL_[A-Z_]+")
"""Variables of OpenTelemetry's own specification."""
PRIVATE_PORT: Final = 9464
MIB: Final = 1024 * 1024
RESIDENT_MIB: Final = {"gateway": 128, "auth": 128, "sessions": 128, "automation": 96}
"""The most that each had, measured (docs/kubernetes.md), rounded up; auth without the hashes, which are counted apart."""
LEAVING_SECONDS: Final = 30
"""To leave the bus and give up leases, when everything has been answered."""


def _long_running(manifests: Manifests) -> Iterable[Pod]:
    return (pod for pod in manifests.pods if pod.kind != "Job")


def _services(manifests: Manifests) -> Iterable[Pod]:
    return (pod for pod in manifests.pods if pod.name in SERVICES)


def images_are_pinned(manifests: Manifests) -> Findings:
    """No `latest`, nor no tag at all, which is the same."""
    for pod in manifests.pods:
        for container in pod.containers:
            image = container["image"]
            name, _, tag = image.rpartition("/")[2].partition(":")
            if not ("@sha256:" in image or (tag and tag != "latest")):
                yield f"{pod.name}: {name} has no version"


def nobody_can_gain_rights(manifests: Manifests) -> Findings:
    """Pod Security's level `restricted`, and what it leaves open: a root that cannot be written."""
    [namespace] = manifests.of("Namespace")
    if namespace["metadata"]["labels"].get("pod-security.kubernetes.io/enforce") != "restricted":
        yield "the namespace admits pods that can gain rights"
    for pod in manifests.pods:
        whole = pod.spec.get("securityContext", {})
        if whole.get("runAsNonRoot") is not True or not whole.get("runAsUser"):
            yield f"{pod.name} may run as root"
        if whole.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{pod.name} may make every system call"
        yield from (f"{pod.name} shares {key}" for key in ("hostNetwork", "hostPID", "hostIPC") if pod.spec.get(key))
        yield from (f"{pod.name} sees its node's disk" for v in pod.spec.get("volumes", ()) if "hostPath" in v)
        for container in pod.containers:
            own, name = container.get("securityContext", {}), f"{pod.name}/{container['name']}"
            if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
                yield f"{name} may gain rights"
            if own.get("readOnlyRootFilesystem") is not True:
                yield f"{name} may write to its root"
            if own.get("capabilities") != {"drop": ["ALL"]}:
                yield f"{name} has capabilities"
            if own.keys() & {"runAsUser", "runAsNonRoot", "seccompProfile"}:
                yield f"{name} says otherwise than its pod who it is"


def nobody_speaks_to_kubernetes(manifests: Manifests) -> Findings:
    """No token of Kubernetes in a pod, an account of its own for each, and no variables that Kubernetes adds."""
    accounts = {account["metadata"]["name"]: account for account in manifests.of("ServiceAccount")}
    for pod in manifests.pods:
        account = accounts.get(pod.spec.get("serviceAccountName", ""))
        if account is None:
            yield f"{pod.name} runs as an account that is not there"
        if pod.spec.get("automountServiceAccountToken") is not False:
            yield f"{pod.name} has a token of Kubernetes"
        if pod.spec.get("enableServiceLinks") is not False:
            yield f"{pod.name} gets a variable for each Service, which can be taken for a setting"
    yield from (
        f"account {name} gives tokens away"
        for name, a in accounts.items()
        if a.get("automountServiceAccountToken") is not False
    )
    unused = accounts.keys() - {pod.spec.get("serviceAccountName") for pod in manifests.pods}
    yield from (f"nobody runs as {name}" for name in sorted(unused))


def resources_are_bounded(manifests: Manifests) -> Findings:
    """Requests and limits of CPU and memory, for each container."""
    for pod in manifests.pods:
        for container in pod.containers:
            resources = container.get("resources", {})
            for kind in ("requests", "limits"):
                for what in ("cpu", "memory"):
                    if what not in resources.get(kind, {}):
                        yield f"{pod.name}/{container['name']} has no {kind} of {what}"


def memory_suffices(manifests: Manifests) -> Findings:
    """A limit of memory has room for what was measured and for what settings let a process hold."""
    for pod in _services(manifests):
        settings = settings_of(manifests, pod, SETTINGS[pod.name])
        held = 0
        if isinstance(settings, GatewaySettings):
            held = settings.body_memory
        elif isinstance(settings, SessionsSettings):
            held = settings.body_bytes_at_once
        elif isinstance(settings, AuthSettings):
            held = settings.hashes_at_once * settings.argon2_memory_kib * 1024
        [container] = pod.spec["containers"]
        resources = container["resources"]
        if _mib(resources["limits"]["memory"]) < RESIDENT_MIB[pod.name] + held / MIB + 64:
            yield f"{pod.name} may hold more than it has memory for"
        if _mib(resources["requests"]["memory"]) < RESIDENT_MIB[pod.name]:
            yield f"{pod.name} asks for less memory than it was seen with"


def _mib(quantity: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", quantity).groups()  # type: ignore[union-attr]  # another form fails the test
    return float(number) * {"Mi": 1, "Gi": 1024}[unit]


def every_container_is_probed(manifests: Manifests) -> Findings:
    """Startup, live and ready; those of services at the private port, live not asking what ready asks."""
    for pod in _long_running(manifests):
        [container] = pod.spec["containers"]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            asked = container.get(probe)
            if asked is None:
                yield f"{pod.name} has no {probe}"
                continue
            [how] = asked.keys() & {"httpGet", "tcpSocket"}
            if asked[how]["port"] not in pod.ports:
                yield f"{pod.name}: {probe} asks a port that is not there"
            if pod.name in SERVICES:
                path = "/ready" if probe == "readinessProbe" else "/live"
                if asked.get("httpGet") != {"path": path, "port": "private"}:
                    yield f"{pod.name}: {probe} does not ask {path} at the private port"
        patience = container.get("startupProbe", {})
        if patience.get("periodSeconds", 0) * patience.get("failureThreshold", 0) < 60:
            yield f"{pod.name} has under a minute to start"


def every_variable_is_a_setting(manifests: Manifests) -> Findings:
    """Variables and files of SECRETS_DIR bear names of settings, of the very service that gets them."""
    for pod in manifests.pods:
        if pod.name not in SETTINGS:
            continue
        known = {name.upper() for name in SETTINGS[pod.name].model_fields} | {SECRETS_DIR}
        variables = manifests.environment(pod)
        for name in variables:
            if name not in known and not OF_TRACING.fullmatch(name):
                yield f"{pod.name} has no setting {name}"
        named = set(variables.values())
        folder = variables.get(SECRETS_DIR, "")
        for name in manifests.secret_files(pod):
            if name not in known and f"{folder}/{name}" not in named:
                yield f"{pod.name} has no setting {name}"
        secrets = {
            name.upper() for name, field in SETTINGS[pod.name].model_fields.items() if "Secret" in str(field.annotation)
        }
        yield from (
            f"{pod.name} is given {name} as a variable, which is a secret" for name in secrets & variables.keys()
        )


def settings_are_taken(manifests: Manifests) -> Findings:
    """Each service starts with what it is given, as production."""
    for pod in manifests.pods:
        if pod.name not in SETTINGS:
            continue
        try:
            settings = settings_of(manifests, pod, SETTINGS[pod.name])
        except ValidationError as error:
            yield from (f"{pod.name}: {'.'.join(map(str, p['loc'])) or 'settings'}: {p['msg']}" for p in error.errors())
            continue
        except SettingsError as error:
            yield f"{pod.name}: {error}"
            continue
        if isinstance(settings, CommonSettings):
            if settings.environment != "production":
                yield f"{pod.name} is not in production"
            if not settings.nats_url.startswith("tls://") or settings.nats_ca_file is None:
                yield f"{pod.name} speaks to the bus without encryption"
            if settings.worker_id != pod.name:
                yield f"{pod.name} does not bear the name of its pod"
            if (settings.metrics_host, settings.metrics_port) != ("0.0.0.0", pod.ports["private"]):  # noqa: S104 - the port of a pod
                yield f"{pod.name} does not answer at its private port"
        if isinstance(settings, GatewaySettings) and (settings.host, settings.port) != ("0.0.0.0", pod.ports["http"]):  # noqa: S104 - the port of a pod
            yield "gateway does not listen at its port"


def references_lead_somewhere(manifests: Manifests) -> Findings:
    """ConfigMaps, Secrets and claims that pods name are there, and all that are there are named."""
    config, secrets, used = manifests.names("ConfigMap"), manifests.secret_names(), set[str]()
    for pod in manifests.pods:
        volumes = pod.spec.get("volumes", ())
        named = {volume["configMap"]["name"] for volume in volumes if "configMap" in volume}
        named |= {s["configMapRef"]["name"] for c in pod.containers for s in c.get("envFrom", ())}
        yield from (f"{pod.name} names a ConfigMap {name} that is not there" for name in sorted(named - config))
        mounted = {volume["secret"]["secretName"] for volume in volumes if "secret" in volume}
        yield from (f"{pod.name} names a Secret {name} that is not there" for name in sorted(mounted - secrets))
        used |= named | mounted
        claims = {v["persistentVolumeClaim"]["claimName"] for v in volumes if "persistentVolumeClaim" in v}
        yield from (
            f"{pod.name} names a claim {n} that is not there"
            for n in sorted(claims - manifests.names("PersistentVolumeClaim"))
        )
        yield from _mounts(pod, {volume["name"] for volume in volumes} | _claimed(manifests, pod))
    entry = {tls["secretName"] for ingress in manifests.of("Ingress") for tls in ingress["spec"]["tls"]}
    yield from (f"nobody uses {name}" for name in sorted((config | secrets) - used - entry))


def _claimed(manifests: Manifests, pod: Pod) -> set[str]:
    return {
        claim["metadata"]["name"]
        for document in manifests.of("StatefulSet")
        if document["metadata"]["name"] == pod.name
        for claim in document["spec"].get("volumeClaimTemplates", ())
    }


def _mounts(pod: Pod, volumes: set[str]) -> Findings:
    mounted = {mount["name"] for container in pod.containers for mount in container.get("volumeMounts", ())}
    yield from (f"{pod.name} mounts {name}, which it has not" for name in sorted(mounted - volumes))
    yield from (f"{pod.name} has {name} and mounts it nowhere" for name in sorted(volumes - mounted))


def selectors_fit(manifests: Manifests) -> Findings:
    """Whatever selects pods selects those that it is named for, and whatever names an object names one that is there."""
    for document in manifests.of("Deployment", "StatefulSet"):
        pod = manifests.pod(document["metadata"]["name"])
        if not selects(document["spec"]["selector"], pod.labels):
            yield f"{pod.name} does not select its own pods"
        others = [
            p.name for p in manifests.pods if p.name != pod.name and selects(document["spec"]["selector"], p.labels)
        ]
        yield from (f"{pod.name} selects pods of {other}" for other in others)
        for spread in pod.spec.get("topologySpreadConstraints", ()):
            if not selects(spread["labelSelector"], pod.labels):
                yield f"{pod.name} is spread by labels that it has not"
        if document["kind"] == "StatefulSet" and document["spec"]["serviceName"] not in manifests.names("Service"):
            yield f"{pod.name} has no Service"
    for document in manifests.of("PodDisruptionBudget"):
        found = [pod.name for pod in manifests.pods if selects(document["spec"]["selector"], pod.labels)]
        if found != [document["metadata"]["name"]]:
            yield f"the disruption budget {document['metadata']['name']} is for {found}"
    for document in manifests.of("HorizontalPodAutoscaler"):
        target = document["spec"]["scaleTargetRef"]
        if target["name"] not in manifests.names(target["kind"]):
            yield f"the autoscaler {document['metadata']['name']} scales what is not there"
    for document in manifests.of("NetworkPolicy"):
        if not any(selects(document["spec"]["podSelector"], pod.labels) for pod in manifests.pods):
            yield f"the policy {document['metadata']['name']} is for nobody"
    yield from _services_lead_to_ports(manifests)


def _services_lead_to_ports(manifests: Manifests) -> Findings:
    ports: dict[str, set[str]] = {}
    for service in manifests.of("Service"):
        name, spec = service["metadata"]["name"], service["spec"]
        pods = [pod for pod in manifests.pods if selects({"matchLabels": spec["selector"]}, pod.labels)]
        if [pod.name for pod in pods] != [name]:
            yield f"the Service {name} leads to {[pod.name for pod in pods]}"
        ports[name] = {port["name"] for port in spec["ports"]}
        for port in spec["ports"]:
            if any(port["targetPort"] not in pod.ports for pod in pods):
                yield f"the Service {name} leads to a port {port['targetPort']} that is not there"
    for ingress in manifests.of("Ingress"):
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                target = path["backend"]["service"]
                if target["port"]["name"] not in ports.get(target["name"], ()):
                    yield f"the Ingress leads to {target['name']}, which has no such port"
            if not any(rule["host"] in tls["hosts"] for tls in ingress["spec"].get("tls", ())):
                yield f"the Ingress serves {rule['host']} without TLS"


def the_private_port_is_private(manifests: Manifests) -> Findings:
    """No Service has it, and nobody but Prometheus is let in."""
    for service in manifests.of("Service"):
        for port in service["spec"]["ports"]:
            if port["targetPort"] in {"private", PRIVATE_PORT} or port["port"] == PRIVATE_PORT:
                yield f"the Service {service['metadata']['name']} shows the private port"
    for arrow in incoming(manifests):
        if arrow.port in {PRIVATE_PORT, 0} and arrow.source != "Prometheus" and arrow.target in SERVICES:
            yield f"{arrow.source} reaches the private port of {arrow.target}"


def arrows_are_those_of_the_architecture(manifests: Manifests) -> Findings:
    """Every connection that a policy lets through is documented, and every documented one is let through at both ends."""
    places = {"always", "trial" if manifests.of("StatefulSet") else "production"}
    wanted = documented(*places, *_optional(manifests))
    inside = {pod.party for pod in manifests.pods}
    for what, found, expected in (
        ("out", outgoing(manifests), {a for a in wanted if a.source in inside or a.source == EVERY_POD}),
        ("in", incoming(manifests), {a for a in wanted if a.target in inside}),
    ):
        yield from (f"let {what} and not documented: {_told(arrow)}" for arrow in sorted(found - expected))
        yield from (f"documented and not let {what}: {_told(arrow)}" for arrow in sorted(expected - found))


def _optional(manifests: Manifests) -> set[str]:
    """Return the components that settings show to be there."""
    config = [document["data"] for document in manifests.of("ConfigMap")]
    providers = {data.get("AUTH_KEK_PROVIDER") for data in config}
    known = {"vault": "vault", "aws": "aws-kms"}
    found = {known[provider] for provider in providers if provider in known}
    return found | ({"tracing"} if any("OTEL_EXPORTER_OTLP_ENDPOINT" in data for data in config) else set())


def _told(arrow: Arrow) -> str:
    return f"{arrow.source} → {arrow.target}:{arrow.port}"


def what_is_not_allowed_is_denied(manifests: Manifests) -> Findings:
    """A policy for every pod that allows nothing, in either direction."""
    if not any(
        not policy["spec"]["podSelector"]
        and set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
        and not policy["spec"].keys() & {"ingress", "egress"}
        for policy in manifests.of("NetworkPolicy")
    ):
        yield "nothing denies what no policy allows"
    for policy in manifests.of("NetworkPolicy"):
        spec = policy["spec"]
        said = {kind for kind in ("Ingress", "Egress") if kind.lower() in spec}
        if not said <= set(spec["policyTypes"]):
            yield f"{policy['metadata']['name']} has rules of a type that it does not name"


def arrows_follow_from_settings(manifests: Manifests) -> Findings:
    """Who has an address of something among its settings may connect to it, and nobody else may."""
    wanted = {
        "nats": {name for name, model in SETTINGS.items() if "nats_url" in model.model_fields},
        "mongodb": {name for name, model in SETTINGS.items() if "mongo_url" in model.model_fields},
        "valkey": {name for name, model in SETTINGS.items() if "limits_url" in model.model_fields},
        "proxy-router": {name for name, model in SETTINGS.items() if "proxy_routers" in model.model_fields},
    }
    there = {pod.name for pod in manifests.pods}
    for target, sources in wanted.items():
        found = {arrow.source for arrow in outgoing(manifests) if arrow.target == target} - {target}
        yield from (f"{name} may not connect to {target}" for name in sorted(sources & there - found))
        yield from (f"{name} may connect to {target} and has no setting for it" for name in sorted(found - sources))


def grace_is_as_long_as_draining(manifests: Manifests) -> Findings:
    """Nobody is killed who still drains, and prompts are drained to their end, however long they take."""
    gateway = settings_of(manifests, manifests.pod("gateway"), GatewaySettings)
    sessions = settings_of(manifests, manifests.pod("sessions"), SessionsSettings)
    longest = sessions.queue_wait + sessions.first_byte_timeout + sessions.answer_timeout
    for name, drain in (("gateway", gateway.drain_seconds), ("sessions", sessions.drain_seconds)):
        if drain < longest:
            yield f"{name} cuts prompts after {drain:.0f} s that may take {longest:.0f}"
    if gateway.drain_notice < 10:
        yield "gateway goes before every node knows that it does"
    for pod in _services(manifests):
        settings = settings_of(manifests, pod, SETTINGS[pod.name])
        assert isinstance(settings, CommonSettings)
        needed = settings.drain_seconds + LEAVING_SECONDS
        if isinstance(settings, GatewaySettings):
            needed += settings.drain_notice
        elif isinstance(settings, SessionsSettings):
            needed += gateway.open_wait  # questions that wait for the chain are answered after the prompts
        else:
            needed += settings.drain_seconds  # once for what was asked, once for a bus that does not answer
        [container] = pod.spec["containers"]
        needed += container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        grace = pod.spec.get("terminationGracePeriodSeconds", 30)
        if grace < math.ceil(needed):
            yield f"{pod.name} is killed after {grace} s and may need {needed:.0f}"


def upgrades_take_nobody_away(manifests: Manifests) -> Findings:
    """New pods are ready before old ones go; at least two of each; a budget for each; what scales down does it slowly."""
    scaled = {hpa["spec"]["scaleTargetRef"]["name"]: hpa["spec"] for hpa in manifests.of("HorizontalPodAutoscaler")}
    budgets = manifests.names("PodDisruptionBudget")
    for name in SERVICES:
        spec = manifests.one("Deployment", name)["spec"]
        if spec.get("strategy", {}).get("rollingUpdate", {}).get("maxUnavailable") != 0:
            yield f"an upgrade takes away pods of {name}"
        if ("replicas" in spec) == (name in scaled):
            yield f"{name} has two who say how many there are, or nobody"
        if scaled.get(name, {}).get("minReplicas", spec.get("replicas", 0)) < 2:
            yield f"there can be less than two of {name}"
        if name not in budgets:
            yield f"{name} has no disruption budget"
        spreads = spec["template"]["spec"].get("topologySpreadConstraints", ())
        if {s["topologyKey"] for s in spreads} != {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}:
            yield f"{name} is not spread over zones and nodes"
    for name, hpa in scaled.items():
        down = hpa.get("behavior", {}).get("scaleDown", {})
        if down.get("stabilizationWindowSeconds", 0) < 600 or [p["value"] for p in down.get("policies", ())] != [1]:
            yield f"{name} is scaled down faster than it drains"
    yield from (
        f"{d['metadata']['name']} has a budget and is one alone" for d in _alone_with_budget(manifests, budgets)
    )


def _alone_with_budget(manifests: Manifests, budgets: set[str]) -> Iterable[Document]:
    return (
        document
        for document in manifests.of("Deployment", "StatefulSet")
        if document["metadata"]["name"] in budgets and document["spec"].get("replicas", 2) < 2
    )


def the_ingress_lets_answers_through(manifests: Manifests) -> Findings:
    """No buffers, time for the longest silence of an answer, room for the largest body: for both kinds of nginx."""
    gateway = settings_of(manifests, manifests.pod("gateway"), GatewaySettings)
    sessions = settings_of(manifests, manifests.pod("sessions"), SessionsSettings)
    silence = sessions.queue_wait + gateway.json_open_wait + sessions.first_byte_timeout + sessions.answer_timeout
    for ingress in manifests.of("Ingress"):
        said: dict[str, Any] = ingress["metadata"].get("annotations", {})
        ours = {
            name: said.get(f"nginx.ingress.kubernetes.io/{name}", "")
            for name in (
                "proxy-buffering",
                "proxy-request-buffering",
                "proxy-read-timeout",
                "proxy-send-timeout",
                "proxy-body-size",
            )
        }
        theirs = {
            name: said.get(f"nginx.org/{name}", "")
            for name in ("proxy-buffering", "proxy-read-timeout", "proxy-send-timeout", "client-max-body-size")
        }
        if (ours["proxy-buffering"], ours["proxy-request-buffering"], theirs["proxy-buffering"]) != (
            "off",
            "off",
            "false",
        ):
            yield "the Ingress holds streams back, or writes prompts to its disk"
        for known in (ours, theirs):
            if any(
                int(known[name].rstrip("s") or 0) < silence for name in ("proxy-read-timeout", "proxy-send-timeout")
            ):
                yield f"the Ingress gives up answers that are silent for {silence:.0f} s"
        for size in (ours["proxy-body-size"], theirs["client-max-body-size"]):
            if int(size.rstrip("m") or 0) * MIB <= gateway.body_limit:
                yield "the Ingress refuses bodies that the gateway takes"


def everything_is_in_one_namespace(manifests: Manifests) -> Findings:
    """`morpheus`, and everything says that it belongs together."""
    for document in manifests.documents:
        name = f"{document['kind']} {document['metadata']['name']}"
        if document["kind"] != "Namespace" and document["metadata"].get("namespace") != "morpheus":
            yield f"{name} is in no namespace of ours"


POLICIES: Final[tuple[Policy, ...]] = (
    images_are_pinned,
    nobody_can_gain_rights,
    nobody_speaks_to_kubernetes,
    resources_are_bounded,
    memory_suffices,
    every_container_is_probed,
    every_variable_is_a_setting,
    settings_are_taken,
    references_lead_somewhere,
    selectors_fit,
    the_private_port_is_private,
    arrows_are_those_of_the_architecture,
    what_is_not_allowed_is_denied,
    arrows_follow_from_settings,
    grace_is_as_long_as_draining,
    upgrades_take_nobody_away,
    the_ingress_lets_answers_through,
    everything_is_in_one_namespace,
)
