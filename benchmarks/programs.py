"""Programs that run while something is measured."""

import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx2
from morpheus_devstack.processes import die_with, last_words

ROOT = Path(__file__).resolve().parents[1]
END_SECONDS = 60.0
"""Longer than any program's own grace."""


class NotStarted(Exception):
    """A program did not start; the sentence says which, and its last words."""


@contextmanager
def running(
    name: str,
    argv: Sequence[str],
    folder: Path,
    *,
    env: Mapping[str, str] | None = None,
    is_read: bool = False,
) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Run a program while the block runs; yield it and its log. Its stdout goes there too, unless `is_read`: a pipe that
    nobody reads stops who writes into it.

    Raises:
        NotStarted: it cannot be run at all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{name}.log"
    try:
        with log.open("w") as output:
            process = subprocess.Popen(
                argv,
                cwd=ROOT,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if is_read else output,
                stderr=output,
                text=True,
                preexec_fn=die_with(os.getpid()),  # noqa: PLW1509 - it calls prctl and takes no lock
            )
    except OSError as error:
        raise NotStarted(f"{name}: {error.strerror}: {argv[0]}") from error
    try:
        yield process, log
    finally:
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def first_line(name: str, process: subprocess.Popen[str], log: Path) -> str:
    """Return the first line a program writes. Raises `NotStarted` if it ends without one."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise NotStarted(f"{name} did not start: {last_words(log)}")
    return line


def wait_until_it_answers(name: str, process: subprocess.Popen[str], log: Path, url: str, *, seconds: float) -> None:
    """Wait until a program answers anything over HTTP. Raises `NotStarted`."""
    until = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < until:
        try:
            httpx2.get(url, timeout=5, trust_env=False)
        except httpx2.HTTPError:
            time.sleep(0.1)
        else:
            return
    how = "did not answer in time" if process.poll() is None else f"ended with status {process.returncode}"
    raise NotStarted(f"{name} {how}: {last_words(log)}")
