"""`deploy/k8s/command.sh`: an operators' command as a Job like `apply`. The cluster is a script, what changes the Job is kubectl."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.kubernetes.manifests import KUBECTL, SOURCES, Manifests
from tests.deploy.kubernetes.policies import POLICIES

COMMAND = SOURCES / "command.sh"
CLUSTER = """\
#!/bin/sh
set -eu
here=${0%/*}
printf '%s\\n' "$*" >> "$here/asked"
[ "$1" = patch ] && exec "$KUBECTL" "$@"
[ "$1 $2" = "-n ${WANTED:-morpheus}" ]
shift 2
case $1 in
get)
    if [ "$*" = "get job apply -o json" ]; then cat "$here/apply.json"; else printf '%s' "$ENDED"; fi
    ;;
create) cat > "$here/created.json" ;;
logs) echo "what the command said"; exit "${LOGS:-0}" ;;
delete) ;;
*) exit 9 ;;
esac
"""


@dataclass
class Cluster:
    """A `kubectl` that stands before the real one in PATH."""

    folder: Path

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", COMMAND, *words],
            env={
                "PATH": f"{self.folder}:{os.environ['PATH']}",
                "KUBECTL": str(KUBECTL),
                "HOME": str(self.folder),
                "ENDED": "Complete",
                **environment,
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    @property
    def created(self) -> dict[str, Any]:
        job: dict[str, Any] = json.loads((self.folder / "created.json").read_text())
        return job

    @property
    def asked(self) -> list[str]:
        file = self.folder / "asked"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def cluster(clusters: dict[str, Manifests], tmp_path: Path) -> Cluster:
    (job,) = [
        document
        for document in clusters["trial"].documents
        if document["kind"] == "Job" and document["metadata"]["name"] == "apply"
    ]
    # what a cluster adds to a Job that has run
    uid = {"batch.kubernetes.io/controller-uid": "6b1c"}
    template = job["spec"]["template"]
    metadata = {**template["metadata"], "labels": {**template["metadata"]["labels"], **uid}}
    there = {
        **job,
        "metadata": {**job["metadata"], "uid": "6b1c", "resourceVersion": "7"},
        "spec": {**job["spec"], "selector": {"matchLabels": uid}, "template": {**template, "metadata": metadata}},
        "status": {"succeeded": 1, "conditions": [{"type": "Complete", "status": "True"}]},
    }
    (tmp_path / "apply.json").write_text(json.dumps(there))
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(CLUSTER)
    kubectl.chmod(0o755)
    return Cluster(tmp_path)


def test_a_command_runs_once_as_what_apply_is_and_is_taken_away(
    cluster: Cluster, clusters: dict[str, Manifests]
) -> None:
    run = cluster.run("sessions", "closes", "--reason", "it's $HOME; `id`")
    assert (run.returncode, run.stdout) == (0, "what the command said\n"), run.stderr
    job, spec = cluster.created, cluster.created["spec"]
    assert job["metadata"]["name"].startswith("command-")
    assert set(job["metadata"]) <= {"name", "namespace", "labels", "creationTimestamp"}
    assert not spec.get("selector")
    assert not job.get("status")
    assert "controller-uid" not in json.dumps(job)
    assert spec["backoffLimit"] == 0
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    assert pod["containers"][0]["args"] == ["sessions", "closes", "--reason", "it's $HOME; `id`"]
    apply = clusters["trial"].pod("apply")
    assert spec["template"]["metadata"]["labels"] == dict(apply.labels)
    for changed in ("restartPolicy", "containers"):
        pod.pop(changed)
    assert pod == {name: value for name, value in apply.spec.items() if name not in {"restartPolicy", "containers"}}
    assert cluster.asked[-1] == f"-n morpheus delete job {job['metadata']['name']} --wait=false"


def test_what_is_created_keeps_to_the_policies(cluster: Cluster, clusters: dict[str, Manifests]) -> None:
    assert cluster.run("dlq", "list").returncode == 0
    there = clusters["trial"]
    with_it = Manifests([*there.documents, cluster.created], outside=there.outside)
    assert [problem for policy in POLICIES for problem in policy(with_it)] == []


def test_a_command_that_failed_says_so(cluster: Cluster) -> None:
    run = cluster.run("dlq", "list", ENDED="FailureTarget Failed")
    assert (run.returncode, run.stdout) == (1, "what the command said\n")


def test_a_command_that_does_not_begin_is_left_to_be_looked_at(cluster: Cluster) -> None:
    run = cluster.run("dlq", "list", LOGS="1")
    assert run.returncode == 3
    name = cluster.created["metadata"]["name"]
    assert f"kubectl -n morpheus describe job/{name}" in run.stderr
    assert not any("delete" in asked for asked in cluster.asked)


def test_another_namespace_is_asked_where_it_is_named(cluster: Cluster) -> None:
    assert cluster.run("dlq", "list", NAMESPACE="other", WANTED="other").returncode == 0


@pytest.mark.parametrize("words", [(), ('a"b',), ("a\\b",), ("a\nb",)], ids=repr)
def test_what_cannot_be_passed_on_is_refused_before_anything_is_asked(cluster: Cluster, words: tuple[str, ...]) -> None:
    run = cluster.run(*words)
    assert run.returncode == 2
    assert run.stderr
    assert cluster.asked == []
