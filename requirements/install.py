"""Makes `.venv` what the lock files say; does nothing, quickly, when it already is.

Needs only the standard library of the Python that is to run the project. pip installs uv from `bootstrap.lock`, uv the rest
from `dev.lock` (both with hashes), then every package of this repository is installed editable. With `clients` or `deploy` it
makes `.venv-clients` or `.venv-deploy` from the lock of that name instead, with the uv of `.venv`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
UV = VENV / "bin" / "uv"
REQUIREMENTS = ROOT / "requirements"
BOOTSTRAP = REQUIREMENTS / "bootstrap.lock"
DEV = REQUIREMENTS / "dev.lock"
APART = ("clients", "deploy")
"""What does not fit beside the product, or is not of its making: each has a lock and an environment of its own."""

UV_NAME_OF_PIP_SETTING = {
    "PIP_INDEX_URL": "UV_DEFAULT_INDEX",
    "PIP_EXTRA_INDEX_URL": "UV_INDEX",
    "PIP_CERT": "SSL_CERT_FILE",
}
"""Who has to use a mirror or a certificate of his own has usually told pip; uv reads other names."""


def packages() -> list[Path]:
    return sorted(path.parent for folder in ("libs", "services") for path in ROOT.glob(f"{folder}/*/pyproject.toml"))


def digest(*paths: Path) -> str:
    """The content of files, of this one, the Python that runs, and where the checkout stands (scripts in `.venv` name it)."""
    seen = hashlib.sha256(f"{ROOT}\0{sys.version}\0".encode())
    for path in (Path(__file__).resolve(), *paths):
        seen.update(f"{path.relative_to(ROOT)}\0".encode())
        seen.update(path.read_bytes())
    return seen.hexdigest()


def is_stamped(stamp: Path, value: str) -> bool:
    return PYTHON.exists() and stamp.is_file() and stamp.read_text() == value


def environment() -> dict[str, str]:
    """The caller's environment without what would lead pip or uv out of `.venv`."""
    unwanted = {
        "PYTHONHOME",
        "PYTHONPATH",
        "PIP_USER",
        "PIP_TARGET",
        "PIP_PREFIX",
        "PIP_REQUIRE_VIRTUALENV",
        "VIRTUAL_ENV",
    }
    kept = {name: value for name, value in os.environ.items() if name not in unwanted}
    for pip_name, uv_name in UV_NAME_OF_PIP_SETTING.items():
        if kept.get(pip_name):
            kept.setdefault(uv_name, kept[pip_name])
    return kept


def run(*command: str | Path) -> None:
    """Runs one step; its output is shown.

    Raises:
        SystemExit: the step failed; the message names it.
    """
    if subprocess.run([str(part) for part in command], cwd=ROOT, env=environment(), check=False).returncode != 0:
        sys.exit(f"install: this step failed: {' '.join(str(part) for part in command)}")


def uv_pip(command: str, *arguments: str | Path, python: Path = PYTHON) -> None:
    # Only nkeys has to be built; what it is built with has its hashes in bootstrap.lock.
    run(UV, "pip", command, "--quiet", "--no-config", "--python", python, "--build-constraints", BOOTSTRAP, *arguments)


def install_apart(name: str) -> None:
    environment_folder, lock = ROOT / f".venv-{name}", REQUIREMENTS / f"{name}.lock"
    installed, wanted = environment_folder / "installed", digest(BOOTSTRAP, lock)
    if is_stamped(installed, wanted):
        return
    print(f"install: {environment_folder.name} from requirements/{lock.name}", flush=True)
    run(UV, "venv", "--quiet", "--no-config", "--clear", "--python", PYTHON, environment_folder)
    uv_pip("sync", "--require-hashes", lock, python=environment_folder / "bin" / "python")
    installed.write_text(wanted)


def main() -> None:
    descriptions = [package / "pyproject.toml" for package in packages()]
    bootstrapped, bootstrap_digest = VENV / "bootstrapped", digest(BOOTSTRAP)
    installed, installed_digest = VENV / "installed", digest(BOOTSTRAP, DEV, *descriptions)
    if is_stamped(installed, installed_digest):
        return
    if not is_stamped(bootstrapped, bootstrap_digest):
        print(f"install: .venv with Python {sys.version.split()[0]}, uv from requirements/bootstrap.lock", flush=True)
        shutil.rmtree(VENV, ignore_errors=True)
        try:
            venv.create(VENV, with_pip=True)
        except subprocess.CalledProcessError:
            sys.exit(
                "install: this Python cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv"
            )
        pip = (PYTHON, "-m", "pip", "--disable-pip-version-check", "--quiet")
        run(*pip, "install", "--require-hashes", "--requirement", BOOTSTRAP)
        bootstrapped.write_text(bootstrap_digest)
    print("install: everything else from requirements/dev.lock", flush=True)
    uv_pip("sync", "--require-hashes", BOOTSTRAP, DEV)
    print("install: this repository's packages", flush=True)
    uv_pip("install", "--no-deps", *(argument for package in packages() for argument in ("--editable", package)))
    installed.write_text(installed_digest)
    print("install: done", flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    elif len(sys.argv) == 2 and sys.argv[1] in APART:
        install_apart(sys.argv[1])
    else:
        sys.exit(f"install: say nothing, or one of {', '.join(APART)}")
