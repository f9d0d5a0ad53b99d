"""`python -m deploy.docker.sbom`: what is in each image besides its base, as CycloneDX documents, from the lock files.

Runs in .venv-deploy (`make sbom`), without network. A lock is for every platform; what the image's Python on Linux leaves out is
left out here too. The packages of the base are listed by whoever publishes it.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Set as AbstractSet
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "gateway": "services/gateway",
    "auth": "services/auth",
    "sessions": "services/sessions",
    "automation": "services/automation",
    "ops": "libs/devstack",
    "simulator": "libs/proxy_router_sim",
}
"""The package that each image is made for: its name, version and license are the document's."""


def installed(lock: str, python: str) -> str:
    """Return the entries of a lock, with their hashes, that Linux with this Python (`3.13`) installs."""
    environment: dict[str, str | AbstractSet[str]] = {
        **{name: str(value) for name, value in default_environment().items()},
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
    }
    kept: list[str] = []
    for entry in lock.replace("\\\n", " ").splitlines():
        if not entry or entry.lstrip().startswith("#"):
            continue
        named, _, hashes = entry.partition(" --hash")
        marker = Requirement(named.strip()).marker
        if marker is None or marker.evaluate(environment):
            kept.append(f"{named.split(';')[0].strip()} --hash{hashes}" if hashes else named.strip())
    return "\n".join(kept) + "\n"


def main() -> None:
    """Write a document for each image into the folder that is named."""
    folder, python = Path(sys.argv[1]), sys.argv[2]
    folder.mkdir(parents=True, exist_ok=True)
    command = [str(Path(sys.executable).with_name("cyclonedx-py")), "requirements", "--output-reproducible"]
    # it warns that a lock does not say who needs whom
    quiet = {**os.environ, "PYTHONWARNINGS": "ignore::UserWarning"}
    for image, package in PACKAGES.items():
        lock = (ROOT / "requirements" / f"{image}.lock").read_text()
        document = folder / f"{image}.cdx.json"
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as requirements:
            requirements.write(installed(lock, python))
            requirements.flush()
            described = ["--pyproject", str(ROOT / package / "pyproject.toml"), "--output-file", str(document)]
            if subprocess.run([*command, *described, requirements.name], env=quiet, check=False).returncode != 0:
                sys.exit(f"sbom: {image} could not be described")
        print(f"sbom: {document}", flush=True)


if __name__ == "__main__":
    main()
