"""The others: the floor, LiteLLM and Portkey, each started as its own documentation says, with one worker."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from morpheus_devstack.ports import LOOPBACK, free_ports

from benchmarks.processes import family
from benchmarks.programs import ROOT, NotStarted, running, wait_until_it_answers
from benchmarks.targets import Target

HERE = ROOT / "benchmarks"
PATH = "/v1/chat/completions"
SESSION = {"session_id": "0x" + "0" * 64}
LITELLM = "1.81.0"
PORTKEY = "1.15.2"
LITELLM_LOCK = HERE / "peers" / "litellm.lock"
LITELLM_SECONDS = 120.0
"""It takes about ten seconds to import; a cold disk takes longer."""
START_SECONDS = 30.0


def direct(upstream: str) -> Target:
    """Return the router itself, asked by nobody's help."""
    return Target("direct", upstream, PATH, "bench", (SESSION,))


@contextmanager
def floor(upstream: str, folder: Path, form: str = "floor") -> Iterator[Target]:
    """Run the floor; `form` is the module: `floor` or `floor_httpx2`."""
    (port,) = free_ports(1)
    argv = [sys.executable, "-m", "uvicorn", f"benchmarks.{form}:app", "--port", str(port), "--workers", "1"]
    argv += ["--no-access-log", "--log-level", "warning"]
    with running(form, argv, folder, env={"UPSTREAM": upstream}) as (process, log):
        url = f"http://{LOOPBACK}:{port}"
        wait_until_it_answers(form, process, log, url, seconds=START_SECONDS)
        yield Target(form, url, PATH, "bench", ({},), _pids(form, process))


@contextmanager
def litellm(upstream: str, folder: Path) -> Iterator[Target]:
    """Run LiteLLM's proxy: one worker, no database, no callbacks, no key."""
    program = _litellm_program(folder)
    (port,) = free_ports(1)
    config = {
        "model_list": [
            {
                "model_name": "bench",
                "litellm_params": {
                    "model": "openai/bench",
                    "api_base": f"{upstream}/v1",
                    "api_key": "none",
                    "extra_headers": SESSION,
                },
            }
        ],
        "litellm_settings": {"telemetry": False},
    }
    file = folder / "litellm.json"
    file.write_text(json.dumps(config))  # JSON is YAML
    argv = [str(program), "--config", str(file), "--host", LOOPBACK, "--port", str(port), "--num_workers", "1"]
    env = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": LOOPBACK, "NO_DOCS": "True"}
    with running("litellm", argv, folder, env=env) as (process, log):
        url = f"http://{LOOPBACK}:{port}"
        wait_until_it_answers("litellm", process, log, f"{url}/health/liveliness", seconds=LITELLM_SECONDS)
        yield Target("litellm", url, PATH, "bench", ({},), _pids("litellm", process))


def _litellm_program(folder: Path) -> Path:
    """Install LiteLLM in an environment of its own, as its lock says, unless it is there."""
    place = HERE / ".work" / "litellm"
    program, stamp = place / "bin" / "litellm", place / "installed"
    lock = LITELLM_LOCK.read_text()
    if program.is_file() and stamp.is_file() and stamp.read_text() == lock:
        return program
    uv = Path(sys.executable).with_name("uv")
    shutil.rmtree(place, ignore_errors=True)
    _install("litellm", [str(uv), "venv", "--quiet", "--no-config", "--python", sys.executable, str(place)], folder)
    sync = [str(uv), "pip", "sync", "--quiet", "--no-config", "--python", str(place / "bin" / "python")]
    _install("litellm", [*sync, "--require-hashes", str(LITELLM_LOCK)], folder)
    stamp.write_text(lock)
    return program


@contextmanager
def portkey(upstream: str, folder: Path) -> Iterator[Target]:
    """Run Portkey's gateway; it is told where to go by headers, as its documentation says."""
    program = _portkey_program(folder)
    (port,) = free_ports(1)
    argv = ["node", str(program), f"--port={port}", "--headless"]
    env = {"NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": LOOPBACK}
    with running("portkey", argv, folder, env=env) as (process, log):
        url = f"http://{LOOPBACK}:{port}"
        wait_until_it_answers("portkey", process, log, url, seconds=START_SECONDS)
        headers = {
            "Authorization": "Bearer none",
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": f"{upstream}/v1",
            "x-portkey-forward-headers": "session_id",
            **SESSION,
        }
        yield Target("portkey", url, PATH, "bench", (headers,), _pids("portkey", process))


def _portkey_program(folder: Path) -> Path:
    """Install Portkey as `package-lock.json` says, unless it is there."""
    modules, lock = HERE / "node_modules", (HERE / "package-lock.json").read_text()
    program, stamp = modules / "@portkey-ai" / "gateway" / "build" / "start-server.js", modules / ".installed"
    if program.is_file() and stamp.is_file() and stamp.read_text() == lock:
        return program
    # nothing of what is installed runs at installing
    _install("portkey", ["npm", "ci", "--prefix", str(HERE), "--ignore-scripts", "--no-audit", "--no-fund"], folder)
    stamp.write_text(lock)
    return program


_UV_NAME_OF_PIP_SETTING = {
    "PIP_INDEX_URL": "UV_DEFAULT_INDEX",
    "PIP_EXTRA_INDEX_URL": "UV_INDEX",
    "PIP_CERT": "SSL_CERT_FILE",
}
"""As in requirements/install.py: who has told pip of a mirror need not tell uv."""


def _install(name: str, argv: list[str], folder: Path) -> None:
    env = dict(os.environ)
    for pip_name, uv_name in _UV_NAME_OF_PIP_SETTING.items():
        if env.get(pip_name):
            env.setdefault(uv_name, env[pip_name])
    log = folder / f"install-{name}.log"
    try:
        with log.open("a") as output:
            done = subprocess.run(argv, cwd=ROOT, env=env, stdout=output, stderr=output, timeout=600, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotStarted(f"{name} could not be installed: {error}") from error
    if done.returncode != 0:
        lines = [line for line in log.read_text().splitlines() if line.strip()]
        raise NotStarted(f"{name} could not be installed: {lines[-1] if lines else argv[0]}")


def _pids(name: str, process: subprocess.Popen[str]) -> dict[str, int]:
    return {f"{name}-{number}": pid for number, pid in enumerate(family([process.pid]))}


FAR_PEERS = {"litellm": litellm, "portkey": portkey}
"""Those that are installed apart, and may be missing."""


def enter_those_there(
    stack: ExitStack, upstream: str, folder: Path, names: list[str]
) -> tuple[dict[str, Target], dict[str, str]]:
    """Start peers for as long as `stack` lives; return those that run, and why the others do not."""
    there, missing = {}, {}
    for name in names:
        try:
            there[name] = stack.enter_context(FAR_PEERS[name](upstream, folder))
        except NotStarted as error:
            missing[name] = str(error)
    return there, missing
