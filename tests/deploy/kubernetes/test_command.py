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
read -r now < "$here/clock"
[ "$1" = patch ] && exec "$KUBECTL" "$@"
[ "$1 $2" = "-n ${WANTED:-morpheus}" ]
shift 2
case $1 in
get)
    [ "$*" = "get job apply -o json" ] && exec cat "$here/apply.json"
    job=$(sed -n 's/.*"name": "\\(command-[^"]*\\)".*/\\1/p' "$here/created.json")
    [ "$2 $3 $4" = "pods -l batch.kubernetes.io/job-name=$job" ]
    case $* in
    *status.phase*)
        if [ "$now" -lt "$BEGINS" ]; then printf Pending
        elif [ "$now" -lt "$ENDS" ]; then printf Running
        elif [ "$EXITS" = 0 ]; then printf Succeeded
        else printf Failed; fi
        ;;
    *state.terminated.exitCode*) [ "$now" -lt "$ENDS" ] || printf '%s' "$EXITS" ;;
    *) exit 9 ;;
    esac
    ;;
create) cat > "$here/created.json" ;;
logs)
    [ "$now" -lt "$BEGINS" ] || echo "what the command said"
    exit "$LOGS"
    ;;
delete) ;;
*) exit 9 ;;
esac
"""
# Time passes where the script waits, and nowhere else.
DATE = """\
#!/bin/sh
exec cat "${0%/*}/clock"
"""
SLEEP = """\
#!/bin/sh
read -r now < "${0%/*}/clock"
echo $((now + 20)) > "${0%/*}/clock"
"""


@dataclass
class Cluster:
    """A `kubectl`, a `date` and a `sleep` that stand before the real ones in PATH.

    The pod runs from second BEGINS on and has ended in second ENDS with the status EXITS; `kubectl logs` ends with LOGS.
    """

    folder: Path

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", COMMAND, *words],
            env={
                "PATH": f"{self.folder}:{os.environ['PATH']}",
                "KUBECTL": str(KUBECTL),
                "HOME": str(self.folder),
                "BEGINS": "40",
                "ENDS": "60",
                "EXITS": "0",
                "LOGS": "0",
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
    (tmp_path / "clock").write_text("0\n")
    for name, script in (("kubectl", CLUSTER), ("date", DATE), ("sleep", SLEEP)):
        program = tmp_path / name
        program.write_text(script)
        program.chmod(0o755)
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


@pytest.mark.parametrize("status", [0, 1, 3])
def test_it_ends_as_the_command_ended(cluster: Cluster, status: int) -> None:
    run = cluster.run("sessions", "audit", EXITS=str(status))
    assert (run.returncode, run.stdout) == (status, "what the command said\n"), run.stderr


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({"BEGINS": "100000"}, "it has not begun"),
        ({"LOGS": "1"}, "what it says cannot be shown"),
        ({"ENDS": "100000"}, "nothing says how it ended"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_a_command_of_which_nobody_knows_how_it_ends_is_left_to_be_looked_at(
    cluster: Cluster, environment: dict[str, str], why: str
) -> None:
    run = cluster.run("dlq", "list", **environment)
    assert run.returncode == 75
    name = cluster.created["metadata"]["name"]
    assert f"{why}; kubectl -n morpheus describe job/{name}" in run.stderr
    assert not any("delete" in asked for asked in cluster.asked)


def test_another_namespace_is_asked_where_it_is_named(cluster: Cluster) -> None:
    assert cluster.run("dlq", "list", NAMESPACE="other", WANTED="other").returncode == 0


@pytest.mark.parametrize("words", [(), ('a"b',), ("a\\b",), ("a\nb",)], ids=repr)
def test_what_cannot_be_passed_on_is_refused_before_anything_is_asked(cluster: Cluster, words: tuple[str, ...]) -> None:
    run = cluster.run(*words)
    assert run.returncode == 2
    assert run.stderr
    assert cluster.asked == []
