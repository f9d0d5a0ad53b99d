"""The manifests as a cluster gets them: put together by kustomize, read, and asked about."""

import base64
import copy
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import yaml  # type: ignore[import-untyped]  # it has no annotations

ROOT: Final = Path(__file__).resolve().parents[3]
KUBECTL: Final = ROOT / ".venv-deploy" / "bin" / "kubectl"
SOURCES: Final = ROOT / "deploy" / "k8s"

SERVICES: Final = ("gateway", "auth", "sessions", "automation")

Document = dict[str, Any]


@dataclass(frozen=True)
class Pod:
    """What a Deployment, StatefulSet or Job starts."""

    kind: str
    name: str
    metadata: Document
    spec: Document

    @property
    def labels(self) -> Mapping[str, str]:
        """Its labels."""
        labels: Mapping[str, str] = self.metadata.get("labels", {})
        return labels

    @property
    def party(self) -> str:
        """What arrows call it."""
        return self.labels.get("app.kubernetes.io/name", f"{self.kind} {self.name}")

    @property
    def containers(self) -> list[Document]:
        """All containers, those that run before the others included."""
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]

    @property
    def ports(self) -> dict[str, int]:
        """Ports by name."""
        return {
            port["name"]: port["containerPort"]
            for container in self.spec["containers"]
            for port in container.get("ports", ())
        }


@dataclass
class Manifests:
    """Documents of one cluster. `outside` holds what others put into Secrets that are named and not in here."""

    documents: list[Document]
    outside: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def built(cls, folder: Path, *, outside: dict[str, dict[str, str]] | None = None) -> Self:
        """Put a folder together as `kubectl apply -k` does. Raises `AssertionError` with kustomize's own words."""
        run = subprocess.run([KUBECTL, "kustomize", folder], capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        return cls(list(yaml.safe_load_all(run.stdout)), outside or {})

    def copy(self) -> "Manifests":
        """Return the same, to be changed."""
        return copy.deepcopy(self)

    def of(self, *kinds: str) -> list[Document]:
        """Return all documents of these kinds."""
        return [document for document in self.documents if document["kind"] in kinds]

    def one(self, kind: str, name: str) -> Document:
        """Return a document by its name, with or without the hash that kustomize put behind it."""
        [found] = [
            document
            for document in self.of(kind)
            if document["metadata"]["name"] == name or document["metadata"]["name"].rpartition("-")[0] == name
        ]
        return found

    def names(self, kind: str) -> set[str]:
        """Return the names of all documents of a kind."""
        return {document["metadata"]["name"] for document in self.of(kind)}

    @property
    def pods(self) -> list[Pod]:
        """What is started."""
        return [
            Pod(
                document["kind"],
                document["metadata"]["name"],
                document["spec"]["template"]["metadata"],
                document["spec"]["template"]["spec"],
            )
            for document in self.of("Deployment", "StatefulSet", "Job")
        ]

    def pod(self, name: str) -> Pod:
        """Return a pod by the name of what starts it."""
        [found] = [pod for pod in self.pods if pod.name == name]
        return found

    def config(self, name: str) -> Mapping[str, str]:
        """Return what a ConfigMap says, by its whole name."""
        [found] = [document for document in self.of("ConfigMap") if document["metadata"]["name"] == name]
        data: Mapping[str, str] = found["data"]
        return data

    def secret(self, name: str) -> Mapping[str, str]:
        """Return what a Secret holds, by its whole name."""
        for document in self.of("Secret"):
            if document["metadata"]["name"] == name:
                return {key: base64.b64decode(value).decode() for key, value in document.get("data", {}).items()}
        return self.outside[name]

    def secret_names(self) -> set[str]:
        """Return the names of Secrets that are here, or are made of what is here."""
        stored = {document["spec"]["target"]["name"] for document in self.of("ExternalSecret")}
        issued = {document["spec"]["secretName"] for document in self.of("Certificate")}
        return self.names("Secret") | stored | issued

    def environment(self, pod: Pod) -> dict[str, str]:
        """Return the variables that a pod's only container is started with."""
        [container] = pod.spec["containers"]
        known: dict[str, str] = {}
        for source in container.get("envFrom", ()):
            known |= self.config(source["configMapRef"]["name"])
        for variable in container.get("env", ()):
            known[variable["name"]] = str(variable.get("value", pod.name))
        return known

    def secret_files(self, pod: Pod) -> dict[str, str]:
        """Return the files that a pod finds in SECRETS_DIR, and what they say."""
        folder = self.environment(pod).get("SECRETS_DIR")
        [container] = pod.spec["containers"]
        volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", ())}
        for mount in container.get("volumeMounts", ()):
            if mount["mountPath"] == folder:
                return dict(self.secret(volumes[mount["name"]]["secret"]["secretName"]))
        return {}

    def strings(self) -> Iterator[str]:
        """Yield every text that stands anywhere."""

        def below(value: Any) -> Iterator[str]:
            if isinstance(value, str):
                yield value
            elif isinstance(value, Mapping):
                for inner in value.values():
                    yield from below(inner)
            elif isinstance(value, list):
                for inner in value:
                    yield from below(inner)

        yield from below(self.documents)


def selects(selector: Document, labels: Mapping[str, str]) -> bool:
    """Tell whether a label selector fits; an empty one fits everything. Raises `AssertionError` for an operator not known."""
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for expression in selector.get("matchExpressions", ()):
        assert expression["operator"] == "In", "only In is understood here"
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return True
