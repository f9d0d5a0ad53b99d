"""From a fresh copy of the repository to the first answer: what `make run` does, on free ports."""

import asyncio
import os
import shutil
import subprocess
import time
from pathlib import Path

from benchmarks.findings import Finding, Outcome, Verdict, judged
from benchmarks.lab import Lab
from benchmarks.ours import stack
from benchmarks.programs import NotStarted

BAR_SECONDS = 20.0
INSTALL_SECONDS = 600.0


async def measure(lab: Lab) -> Outcome:
    """Seconds of `make install` in a copy without .venv, and of `morpheus up` there until it shows an answer."""
    figure = "make run with a warm package cache, to the first answer"
    if not lab.form.installs:
        value = f"{lab.ours.started_in:.1f} s, installed before"
        finding = Finding(
            "start", figure, f"≤ {BAR_SECONDS:g} s", value, Verdict.NOT_JUDGED, "without the installation"
        )
        return Outcome([finding], {"up_seconds": lab.ours.started_in})
    installing, starting = await asyncio.to_thread(_in_a_copy, lab)
    whole = installing + starting
    value = f"{whole:.1f} s (installation {installing:.1f}, start {starting:.1f}; installed before: {lab.ours.started_in:.1f})"
    finding = Finding("start", figure, f"≤ {BAR_SECONDS:g} s", value, judged(whole <= BAR_SECONDS))
    return Outcome([finding], {"install_seconds": installing, "up_seconds": starting})


def _in_a_copy(lab: Lab) -> tuple[float, float]:
    checkout, copy = lab.morpheus.parents[2], lab.folder / "copy"
    _copy(checkout, copy)
    env = {name: value for name, value in os.environ.items() if name not in {"VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL"}}
    log = lab.folder / "copy-install.log"
    began = time.monotonic()
    with log.open("w") as output:
        argv = ["make", "--no-print-directory", "install"]
        done = subprocess.run(
            argv, cwd=copy, env=env, stdout=output, stderr=output, timeout=INSTALL_SECONDS, check=False
        )
    if done.returncode != 0:
        raise NotStarted(f"the copy could not be installed; see {log}")
    installing = time.monotonic() - began
    lab.say(f"installed in {installing:.1f} s")
    try:
        with stack(lab.folder / "copy-run", copy / ".venv" / "bin" / "morpheus") as ours:
            return installing, ours.started_in
    finally:
        shutil.rmtree(copy)


def _copy(checkout: Path, copy: Path) -> None:
    """Copy what is under version control, as it stands, and what is new and not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=checkout, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (checkout / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(checkout / name, copy / name)
