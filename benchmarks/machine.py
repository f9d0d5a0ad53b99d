"""Where it was measured, and with what."""

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from morpheus_devstack.servers import find_mongod, find_nats_server

from benchmarks.peers import LITELLM, PORTKEY

PACKAGES = ("uvicorn", "fastapi", "starlette", "aiohttp", "httpx2", "nats-py", "pymongo", "uvloop")


def described() -> dict[str, str]:
    """Return what a reader needs to judge the figures, by name."""
    return {
        "machine": f"{_processor()}, {os.cpu_count()} cores, {_memory_gib():.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "load before": f"{os.getloadavg()[0]:.2f} (average of a minute)",
        "Python": platform.python_version(),
        "packages": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
        "servers": f"{_first([find_nats_server(), '--version'])}; {_first([find_mongod(), '--version'])}",
        "peers": f"LiteLLM {LITELLM}, Portkey {PORTKEY} (Node {_first(['node', '--version'])})",
        "commit": _first(["git", "describe", "--always", "--dirty"]),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _first(argv: Sequence[str]) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "not there"
    return done.stdout.partition("\n")[0].strip()
