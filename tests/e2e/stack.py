"""A whole stack as its own processes, driven the way a user or an operator would."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
from morpheus_devstack.folder import StackFolder
from morpheus_devstack.waiting import poll

MORPHEUS = Path(sys.executable).with_name("morpheus")
END_SECONDS = 60.0
READY_SECONDS = 20.0
MANY_OPENS = {"OPENS_PER_MINUTE": "10000", "OPENS_PER_DAY": "10000"}
"""The tests of one stack share its demo user, and open more often than people."""


@dataclass(frozen=True)
class RunningStack:
    """What `morpheus up --json` said, and the process that said it."""

    process: subprocess.Popen[str]
    folder: StackFolder
    log: Path
    base_url: str
    api_key: str
    email: str
    password: str
    router_url: str
    nats_url: str
    mongo_url: str

    @property
    def gateway_url(self) -> str:
        """The gateway's address, without a path."""
        return self.base_url.removesuffix("/api/v1")

    @property
    def env(self) -> dict[str, str]:
        """What `stack.env` says: credentials of the router, of `ops` and of a subscriber."""
        return self.folder.env()

    def pid(self, name: str) -> int:
        """Return the process of a part that runs."""
        return self.folder.pids()[name]

    def send(self, name: str, signum: signal.Signals) -> int:
        """Send a signal to a part; return the process that got it."""
        pid = self.pid(name)
        os.kill(pid, signum)
        return pid

    def said(self) -> str:
        """Return all that was written to stderr."""
        return self.log.read_text()

    async def until_replaced(self, name: str, pid: int) -> bool:
        """Wait until a part runs as another process than `pid`."""

        async def is_replaced() -> bool:
            return self.folder.pids().get(name) not in {None, pid}

        return await poll(is_replaced, seconds=READY_SECONDS)

    async def until_ready(self) -> bool:
        """Wait until every service has answered the gateway. What it says can be 2 s old: just after a part was killed this
        proves nothing.
        """
        async with httpx2.AsyncClient(base_url=self.gateway_url, timeout=2) as http:

            async def is_ready() -> bool:
                try:
                    health = await http.get("/health")
                    ready = await http.get("/ready")
                except httpx2.HTTPError:
                    return False
                return ready.status_code == 200 and health.json()["status"] == "ok"

            return await poll(is_ready, seconds=READY_SECONDS, every=0.05)


@contextmanager
def running_stack(folder: Path, *arguments: str, settings: Mapping[str, str] | None = None) -> Iterator[RunningStack]:
    """Run `morpheus up --json` on free ports while the block runs, with its data in `folder`.

    `settings` of services, by the names of their environment variables, differ from what development has.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.with_name(folder.name + ".stderr")
    command = [str(MORPHEUS), "up", "--json", "--port", "0", "--data", str(folder), *arguments]
    with log.open("w") as stderr:
        environment = {**MANY_OPENS, **os.environ, **(settings or {})}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, f"the stack did not start: {log.read_text()}"
        yield RunningStack(process, StackFolder(folder), log, **json.loads(line))
    finally:
        process.terminate()
        try:
            process.wait(END_SECONDS)
        finally:
            process.kill()
            process.stdout.close()
