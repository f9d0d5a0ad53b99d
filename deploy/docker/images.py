"""`python -m deploy.docker.images`: builds every image with Docker or Podman (`make images`) and says how much of each is ours.

Two builds of one commit have the same content: what is installed is locked, bytecode and times depend on the commit alone.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from requirements.install import ROOT, environment

TARGETS = ("gateway", "auth", "sessions", "automation", "ops", "simulator")
OUR_BYTES = 120_000_000
"""The most that an image may have over its base."""
DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"
CERTIFICATES = "/run/secrets/certificates"
"""Where the builder sees the file of certificates that this machine trusts."""
_CERTIFICATE_SETTINGS = ("PIP_CERT", "SSL_CERT_FILE")
_REGISTRY_SETTINGS = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX")


class BuildError(Exception):
    """An image could not be built, or is not what it should be."""


@dataclass(frozen=True)
class Engine:
    """A command that builds images: docker (with BuildKit) or podman."""

    command: str

    @property
    def is_podman(self) -> bool:
        """Whether it speaks as Podman does."""
        return Path(self.command).name.startswith("podman")

    def run(self, *arguments: str) -> None:
        """Run it, its output shown. Raises `BuildError` when it fails."""
        try:
            ended = subprocess.run([self.command, *arguments], cwd=ROOT, env=self._environment, check=False)
        except OSError as error:
            raise BuildError(f"{self.command} cannot be run: {error.strerror}; name another with ENGINE=…") from error
        if ended.returncode != 0:
            raise BuildError(f"this failed: {self.command} {shlex.join(arguments)}")

    def inspect(self, image: str) -> dict[str, object]:
        """Return what the engine knows of an image. Raises `BuildError` if there is none."""
        ended = subprocess.run(
            [self.command, "image", "inspect", image],
            capture_output=True,
            text=True,
            env=self._environment,
            check=False,
        )
        if ended.returncode != 0:
            raise BuildError(f"there is no image {image}")
        known: dict[str, object] = json.loads(ended.stdout)[0]
        return known

    @property
    def _environment(self) -> Mapping[str, str]:
        return {**os.environ, "DOCKER_BUILDKIT": "1"}


def version() -> str:
    """Return the version of what is built: that of the gateway's package."""
    with (ROOT / "services" / "gateway" / "pyproject.toml").open("rb") as file:
        return str(tomllib.load(file)["project"]["version"])


def default_base() -> str:
    """Return the image that the Dockerfile starts from unless it is told another."""
    lines = DOCKERFILE.read_text().splitlines()
    return next(line for line in lines if line.startswith("ARG BASE_IMAGE=")).removeprefix("ARG BASE_IMAGE=")


def _git(*arguments: str) -> str | None:
    try:
        ended = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return ended.stdout.strip() if ended.returncode == 0 else None


def build_arguments(base: str) -> dict[str, str]:
    """Return what an image is told about itself. Without git and without SOURCE_DATE_EPOCH it is from 1970."""
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or _git("log", "-1", "--format=%ct") or 0)
    return {
        "BASE_IMAGE": base,
        "CREATED": datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "REVISION": _git("rev-parse", "HEAD") or "unknown",
        "SOURCE_DATE_EPOCH": str(epoch),
        "VERSION": version(),
    }


@contextmanager
def _secrets() -> Iterator[list[str]]:
    """What the builder has to know of this machine's mirror and certificates and no image may: arguments for the engine."""
    known = environment()
    settings = {name: known[name] for name in _REGISTRY_SETTINGS if known.get(name)}
    certificates = next((known[name] for name in _CERTIFICATE_SETTINGS if known.get(name)), None)
    if certificates is not None:
        settings |= dict.fromkeys(_CERTIFICATE_SETTINGS, CERTIFICATES)
    with tempfile.TemporaryDirectory() as folder:
        registry = Path(folder) / "registry"
        registry.write_text("".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items()))
        arguments = ["--secret", f"id=registry,src={registry}"]
        if certificates is not None:
            arguments += ["--secret", f"id=certificates,src={certificates}"]
        yield arguments


def build(engine: Engine, target: str, image: str, base: str, *, network: str | None, fresh: bool) -> None:
    """Build one target. Raises `BuildError`."""
    arguments = ["build", "--file", str(DOCKERFILE), "--target", target, "--tag", image]
    if engine.is_podman:
        arguments += ["--format", "docker"]  # that of OCI has no health check
    if network is not None:
        arguments += ["--network", network]
    if fresh:
        arguments += ["--no-cache"]
    for name, value in build_arguments(base).items():
        arguments += ["--build-arg", f"{name}={value}"]
    with _secrets() as secrets:
        engine.run(*arguments, *secrets, ".")


def our_bytes(engine: Engine, image: str, base: str) -> int:
    """Return how much an image has over its base, in bytes."""
    sizes = [engine.inspect(name)["Size"] for name in (image, base)]
    ours, of_base = (size if isinstance(size, int) else 0 for size in sizes)
    return ours - of_base


def main() -> None:
    """Build what the command line names, all targets by default."""
    parser = argparse.ArgumentParser(prog="python -m deploy.docker.images", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"some of {', '.join(TARGETS)}; default: all")
    parser.add_argument("--engine", default="docker", help="docker, podman, or the path of one of them")
    parser.add_argument("--base-image", default=default_base(), help="default: %(default)s")
    parser.add_argument(
        "--prefix", default="morpheus-", help="what comes before a target in a name: registry/morpheus-"
    )
    parser.add_argument("--network", help="network of the build, where the engine has no bridge: host")
    parser.add_argument("--no-cache", action="store_true", help="build every step anew")
    parser.add_argument(
        "--release",
        action="store_true",
        help="build every step anew, and refuse a base that is not named by its digest",
    )
    options = parser.parse_args()
    engine = Engine(options.engine)
    try:
        if unknown := set(options.targets) - set(TARGETS):
            raise BuildError(f"there is no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
        if options.release and "@sha256:" not in options.base_image:
            raise BuildError("a release names its base by digest: BASE_IMAGE=python:…@sha256:…")
        # a step of before whose files are alike stands in for one of now, with the times of then
        fresh = options.no_cache or options.release
        # what BuildKit pulls has no name of its own, and what is ours is told by the difference
        base = f"{options.prefix}base:{version()}"
        build(engine, "base", base, options.base_image, network=options.network, fresh=False)
        for target in options.targets or TARGETS:
            image = f"{options.prefix}{target}:{version()}"
            build(engine, target, image, options.base_image, network=options.network, fresh=fresh)
            size = our_bytes(engine, image, base)
            print(f"images: {image}: {size / 1_000_000:.1f} MB over the base", flush=True)
            if size > OUR_BYTES:
                raise BuildError(f"{image} has {size} bytes of ours; it may have {OUR_BYTES}")
    except BuildError as error:
        sys.exit(f"images: {error}")


if __name__ == "__main__":
    main()
